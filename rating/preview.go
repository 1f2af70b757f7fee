package rating

import (
	"fmt"
	"slices"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Always is the running time of a resource that is never switched off.
const Always = time.Duration(1<<63 - 1)

// Planned is an instance that somebody thinks of: it is created when the period
// begins, runs for Running from then on in one start, and then stays switched off.
type Planned struct {
	Labels  metering.Labels
	Running time.Duration // in the period; the period's length and more is always
}

// Preview is what a planned instance costs. What it will read, write and send
// nobody knows beforehand, and is in none of it.
type Preview struct {
	Currency money.Currency
	// Hour is what an hour of running adds while neither allowance nor cap nor
	// minimum nor discount matters, in the dearest time class.
	Hour money.Fraction
	// Day is the most that the first day of running costs, in the dearest time
	// class and without allowance, cap or discount; minimums count.
	Day money.Fraction
	// Lines and Month are the bill of the period if the instance runs as planned
	// and is all that the tenant has.
	Lines []Line
	Month money.Amount
	// Stopped is the bill if it is switched off for the whole period.
	Stopped money.Amount
	// Unrated is planned usage that no rate fits: it would be a leak.
	Unrated []Unrated
}

// Preview prices an instance in a period, which is a whole billing month. The
// error wraps money.ErrOverflow.
func (p *Plan) Preview(period metering.Window, planned Planned) (*Preview, error) {
	return PreviewParts(period, []InForce{{Plan: p, Window: period}}, period.Start, planned)
}

// PreviewParts is Preview in a period in which the plan changes, as in RateParts;
// Hour and Day are those of the part that now lies in, or of the nearest.
func PreviewParts(period metering.Window, parts []InForce, now time.Time, planned Planned) (*Preview, error) {
	v := &Preview{Currency: parts[0].Plan.Currency}
	var err error
	if v.Lines, v.Month, v.Unrated, err = bill(period, parts, planned); err != nil {
		return nil, fmt.Errorf("preview of %+v: %w", planned, err)
	}
	if _, v.Stopped, _, err = bill(period, parts, Planned{Labels: planned.Labels}); err != nil {
		return nil, fmt.Errorf("preview of %+v, stopped: %w", planned, err)
	}
	present := parts[0].Plan
	for _, part := range parts {
		if !now.Before(part.Window.Start) {
			present = part.Plan
		}
	}
	if v.Hour, v.Day, err = present.RunningCost(period, planned.Labels); err != nil {
		return nil, err
	}
	return v, nil
}

// RunningCost is Preview's Hour and Day alone, for those who ask often.
func (p *Plan) RunningCost(period metering.Window, labels metering.Labels) (hour, day money.Fraction, err error) {
	bare := *p
	bare.Discounts, bare.Rates = nil, slices.DeleteFunc(slices.Clone(p.Rates), func(r Rate) bool { return r.TopUp })
	for i := range bare.Rates {
		r := &bare.Rates[i]
		r.Included, r.Cap, r.TenantCap = Included{}, Cap{}, Cap{}
		if r.Minimum.For == ForTenant {
			r.Minimum = Minimum{} // the tenant pays it without this instance
		}
	}
	if day, err = bare.dearest(period, labels, 24*3_600_000); err != nil {
		return hour, day, err
	}
	for i := range bare.Rates {
		r := &bare.Rates[i]
		r.Minimum, r.Granularity = Minimum{}, Span{}
		if r.Tiers == Package {
			r.Tiers = Graduated // an hour's part of a started unit
		}
	}
	hour, err = bare.dearest(period, labels, 3_600_000)
	return hour, day, err
}

// dearest is what running for some milliseconds costs in the dearest of the
// period's time classes.
func (p *Plan) dearest(period metering.Window, labels metering.Labels, ms uint64) (most money.Fraction, err error) {
	start := period.Start
	for _, end := range append(p.Boundaries(period), period.End) {
		result, err := p.Rate(period, p.runningUsage(labels, metering.Window{Start: start, End: end}, ms))
		if err != nil {
			return most, fmt.Errorf("rate running %+v under plan %s: %w", labels, p.Name, err)
		}
		var cost money.Fraction
		for i := range result.Charges {
			cost = cost.Add(result.Charges[i].Exact)
		}
		if cost.Cmp(most) > 0 {
			most = cost
		}
		start = end
	}
	return most, nil
}

// bill is the lines of a period in which an instance does as planned, and what
// they sum to.
func bill(period metering.Window, parts []InForce, planned Planned) (lines []Line, sum money.Amount, unrated []Unrated, err error) {
	off := period.End
	if planned.Running < period.Length() {
		off = period.Start.Add(max(planned.Running, 0))
	}
	var usage []metering.Usage
	for _, part := range parts {
		usage = append(usage, part.Plan.plannedUsage(part.Window, off, planned.Labels)...)
	}
	results, err := RateParts(period, parts, usage)
	if err != nil {
		return nil, sum, nil, err
	}
	sum.Currency = parts[0].Plan.Currency
	for _, r := range results {
		own, err := r.Lines()
		if err != nil {
			return nil, sum, nil, err
		}
		for i := range own {
			if sum, err = sum.Add(own[i].Net); err != nil {
				return nil, sum, nil, err
			}
		}
		lines, unrated = append(lines, own...), append(unrated, r.Unrated...)
	}
	return lines, sum, unrated, nil
}

// plannedUsage is what is measured within a window of an instance that runs until
// off and stays switched off then, split where a time class of the plan begins or ends.
func (p *Plan) plannedUsage(window metering.Window, off time.Time, labels metering.Labels) []metering.Usage {
	var all []metering.Usage
	start := window.Start
	for _, end := range append(p.Boundaries(window), window.End) {
		on := end
		if off.Before(on) {
			on = off
		}
		if on.After(start) {
			w := metering.Window{Start: start, End: on}
			all = append(all, p.runningUsage(labels, w, uint64(w.Length().Milliseconds()))...)
			start = on
		}
		if end.After(start) {
			all = append(all, plannedOne(metering.InstanceStopped, labels, metering.Window{Start: start, End: end}, 1,
				uint64(end.Sub(start).Milliseconds())))
		}
		start = end
	}
	return all
}

// runningUsage is what is known beforehand of running for some milliseconds: time,
// and of a flavor that the plan sells vCPUs and memory.
func (p *Plan) runningUsage(labels metering.Labels, window metering.Window, ms uint64) []metering.Usage {
	all := []metering.Usage{plannedOne(metering.InstanceRunning, labels, window, 1, ms)}
	for _, f := range p.Flavors {
		if f.Name == labels.Flavor {
			all = append(all, plannedOne(metering.InstanceVCPU, labels, window, uint64(f.VCPUs), ms),
				plannedOne(metering.InstanceMemory, labels, window, f.MemoryMiB, ms))
		}
	}
	return all
}

func plannedOne(m metering.Meter, labels metering.Labels, window metering.Window, per, ms uint64) metering.Usage {
	u := metering.Usage{Resource: "planned", Meter: m, Window: window, Quantity: metering.Thousandths(per * ms), Labels: labels}
	if m != metering.InstanceStopped {
		u.Start = "1" // as an allocation belongs to none
	}
	return u
}
