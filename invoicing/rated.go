package invoicing

import (
	"fmt"
	"slices"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
)

// Rated is a period and what it is rated under: one plan, or several where the
// plan changes within. The parts follow each other and make up the period.
type Rated struct {
	Period metering.Window
	Parts  []rating.InForce
}

// Whole is a period that is rated under one plan.
func Whole(period metering.Window, plan *rating.Plan) Rated {
	return Rated{period, []rating.InForce{{Plan: plan, Window: period}}}
}

// At is the part that an instant lies in: the first before the period, the last after it.
func (r Rated) At(t time.Time) rating.InForce {
	for _, p := range r.Parts {
		if t.Before(p.Window.End) {
			return p
		}
	}
	return r.Parts[len(r.Parts)-1]
}

// Ends are the instants, by time, up to which prices stay the same: where the
// plan changes, where a time class begins or ends, and the period's end. Usage is
// split there.
func (r Rated) Ends() (all []time.Time) {
	for _, p := range r.Parts {
		all = append(append(all, p.Plan.Boundaries(p.Window)...), p.Window.End)
	}
	return all
}

// Spans are the periods up to the span that holds at, the fine ones split at their
// ends; instants are where the odometers are read.
func Spans(rated []Rated, fine []bool, at time.Time) (spans []Span, instants []time.Time) {
	for i, p := range rated {
		start, ends := p.Period.Start, []time.Time{p.Period.End}
		if fine[i] {
			ends = p.Ends()
		}
		for _, end := range ends {
			spans = append(spans, Span{Period: p.Period, Window: metering.Window{Start: start, End: end}})
			if !end.Before(at) {
				return spans, append(instants, at)
			}
			instants = append(instants, end)
			start = end
		}
	}
	return spans, instants
}

// Refine makes the periods fine in which something climbed, but those of one
// span. It reports whether some were not: then the odometers have to be read again.
func Refine(rated []Rated, fine []bool, segments []Segment) (again bool) {
	for _, s := range segments {
		i := slices.IndexFunc(rated, func(r Rated) bool { return r.Period.Start.Equal(s.Period.Start) })
		if !fine[i] && s.From != s.To && len(rated[i].Ends()) > 1 {
			fine[i], again = true, true
		}
	}
	return again
}

// usageKey tells apart what rating tells apart.
type usageKey struct {
	resource metering.ResourceID
	meter    metering.Meter
	start    string
	labels   metering.Labels
	window   metering.Window
}

// startKey is what "before" is counted for.
type startKey struct {
	resource metering.ResourceID
	meter    metering.Meter
	start    string
}

// Usage is the usage that segments amount to in the period, in their order.
// Before is that of the same start in earlier periods.
func (r Rated) Usage(segments []Segment) []metering.Usage {
	var all []metering.Usage
	at := map[usageKey]int{}
	before := map[startKey]metering.Quantity{}
	add := func(s *Segment, m metering.Meter, w metering.Window, q metering.Quantity) {
		k := usageKey{s.Resource, m, s.Start, s.Labels, w}
		i, ok := at[k]
		if !ok {
			i = len(all)
			at[k] = i
			all = append(all, metering.Usage{Resource: s.Resource, Meter: m, Window: w, Labels: s.Labels, Start: s.Start})
		}
		all[i].Quantity = all[i].Quantity.Add(q)
	}
	for i := range segments {
		s := &segments[i]
		if s.Period.Start.After(r.Period.Start) {
			continue
		}
		for _, m := range s.Meters() {
			q := s.quantity(m, s.From, s.To)
			switch slots := s.slots(m); {
			case s.Period.Start.Before(r.Period.Start):
				k := startKey{s.Resource, m, s.Start}
				before[k] = before[k].Add(q)
			case slots != nil:
				slots.each(s.Window, func(w metering.Window, q metering.Quantity) { add(s, m, w, q) })
			case !q.IsZero():
				add(s, m, r.within(s.Window), q)
			}
		}
	}
	for i := range all {
		all[i].Before = before[startKey{all[i].Resource, all[i].Meter, all[i].Start}]
	}
	return all
}

// within is a segment's window within the part that it begins in. A window that
// goes on beyond it was billed before the next part's version was published;
// since that takes effect no earlier than any cut, all of the climb is before it.
func (r Rated) within(w metering.Window) metering.Window {
	if end := r.At(w.Start).Window.End; end.Before(w.End) {
		w.End = end
	}
	return w
}

// Rate is what usage of the period comes to: one result for each part.
func (r Rated) Rate(usage []metering.Usage) ([]*rating.Result, error) {
	results, err := rating.RateParts(r.Period, r.Parts, usage)
	if err != nil {
		return nil, fmt.Errorf("rate %s under plan %s: %w", r.Period, r.Parts[0].Plan.Name, err)
	}
	return results, nil
}

// Bill is what a period comes to.
type Bill struct {
	Lines []rating.Line // in the order of the parts
	Findings
}

// Findings are what an operator should look at.
type Findings struct {
	Unrated []rating.Unrated // usage that no rate fits: a leak
	Thin    []Thin
}

// Thin is a percentile of so few measured slots that it is not to be trusted
// without a look.
type Thin struct {
	Period   metering.Window
	Rate     string
	Resource metering.ResourceID // "" for one over the tenant
	rating.Percentile
}

// Bill rates usage of the period, line by line.
func (r Rated) Bill(usage []metering.Usage) (b Bill, err error) {
	results, err := r.Rate(usage)
	if err != nil {
		return b, err
	}
	for _, result := range results {
		lines, err := result.Lines()
		if err != nil {
			return b, fmt.Errorf("rate %s under plan %s: %w", r.Period, result.Plan.Name, err)
		}
		b.Lines = append(b.Lines, lines...)
		for _, u := range result.Unrated {
			if !u.Quantity.IsZero() || u.Of != nil {
				b.Unrated = append(b.Unrated, u)
			}
		}
		for i := range result.Charges {
			if c := &result.Charges[i]; c.Percentile != nil && c.Percentile.Thin() {
				b.Thin = append(b.Thin, Thin{r.Period, c.Rate.ID, c.Resource, *c.Percentile})
			}
		}
	}
	return b, nil
}
