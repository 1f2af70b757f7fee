package rating

import (
	"math/big"
	"slices"
	"time"

	"github.com/usance/usance/metering"
)

// Rates by slots rank the slots of the period by their usage. One by percentile
// bills the traffic of one slot: the highest (100 − Percentile) % are dropped and
// the next is billed. Its quantities, thresholds and allowances are bytes in a
// slot, so that a unit such as Mbit/s has a size like any other. One of sustained
// use bills all slots, and its steps count slots.

// MetersBySlot are the meters of which some rate by slots is for resources with
// these labels: their usage has to say which slot it lies in, and of each slot
// that was measured, also where it is zero.
func (p *Plan) MetersBySlot(l *metering.Labels) []metering.Meter {
	var all []metering.Meter
	for i := range p.Rates {
		r := &p.Rates[i]
		if !r.BySlots() || !r.Where.fits(l) {
			continue
		}
		for _, m := range r.meters() {
			if !slices.Contains(all, m) {
				all = append(all, m)
			}
		}
	}
	return all
}

// sample is one usage as it came: ranks need to know when.
type sample struct {
	window   metering.Window
	quantity metering.Quantity
}

// Percentile tells how a percentile came about.
type Percentile struct {
	Meter    metering.Meter // the side that counts, where two are ranked apart
	Slots    int            // ranked
	Dropped  int            // the highest
	Measured int            // slots with usage of their own; the others had it spread over them, or none
	Days     int            // with usage, where only such days count, and
	Month    int            // how many the month has
	Billable Exact
}

// Thin reports whether too few slots were measured to trust the percentile: an
// operator should look.
func (p *Percentile) Thin() bool { return p.Measured*10 < p.Slots*9 }

// traffic is the usage of a pool by slot, for the meters of a rate apart.
type traffic struct {
	bytes    [2][]metering.Quantity // by side and slot
	measured [2][]bool
}

// addTraffic puts a stretch into its slots: usage over several, evenly. Of a
// percentile, growth after missing slots is spread over them too.
func (c *charging) addTraffic(p *pool, side int, s *stretch) {
	slots := int(c.window.Length() / metering.SlotLength)
	if p.traffic == nil {
		p.traffic = &traffic{}
	}
	t := p.traffic
	if t.bytes[side] == nil {
		t.bytes[side], t.measured[side] = make([]metering.Quantity, slots), make([]bool, slots)
	}
	spread := c.rates[s.rate].Percentile > 0
	slices.SortFunc(s.samples, func(a, b sample) int { return a.window.Start.Compare(b.window.Start) })
	var until time.Time
	for i, one := range s.samples {
		w := one.window
		for at := w.Start; at.Before(w.End); at = c.slotEnd(at) {
			t.measured[side][c.slot(at)] = true
		}
		if spread && i > 0 && w.Start.After(until) {
			w.Start = until
		}
		if w.End.After(until) {
			until = w.End
		}
		length, spent := w.Length(), metering.Quantity{}
		for at := w.Start; at.Before(w.End); at = c.slotEnd(at) {
			end := c.slotEnd(at)
			if end.After(w.End) {
				end = w.End
			}
			// What was used until the end of the slot, if it grew evenly.
			n := one.quantity.Big()
			n.Mul(n, big.NewInt(int64(end.Sub(w.Start))))
			upTo := quotient(n, big.NewInt(int64(length))).whole
			slot := &t.bytes[side][c.slot(at)]
			*slot = slot.Add(upTo.Sub(spent))
			spent = upTo
		}
	}
}

func (c *charging) slot(at time.Time) int {
	return int(at.Sub(c.window.Start) / metering.SlotLength)
}

func (c *charging) slotEnd(at time.Time) time.Time {
	return c.window.Start.Add(time.Duration(c.slot(at)+1) * metering.SlotLength)
}

// rank notes what is ranked of a pool, and of a percentile picks the slot. Where
// the rate has two sides they are ranked apart, and the higher counts.
func (c *charging) rank(p *pool) {
	rate, charge := p.charge.rate, p.charge
	for side, used := range p.traffic.bytes {
		if used == nil {
			continue
		}
		slots := Slots{Meter: rate.Meter, Used: used}
		if side == 1 {
			slots.Meter = rate.OrHigher
		}
		if rate.Percentile > 0 {
			of := c.percentile(rate, &slots, p.traffic.measured[side])
			if charge.Percentile == nil || of.Billable.Cmp(charge.Billable) > 0 {
				charge.Billable, charge.Measured, charge.Percentile = of.Billable, p.measured[side], of
			}
			slots.Percentile = of
		} else {
			charge.Billable = exactly(charge.Measured)
		}
		charge.Slots = append(charge.Slots, slots)
	}
}

// percentile is what one side comes to, in bytes in a slot. Of valid days, only
// their slots are left.
func (c *charging) percentile(rate *priced, slots *Slots, measured []bool) *Percentile {
	info := &Percentile{Meter: slots.Meter}
	if rate.ValidDays {
		c.validDays(slots, measured)
		info.Days, info.Month = len(slots.Days), c.days()
	}
	for _, m := range measured {
		if m {
			info.Measured++
		}
	}
	ranked := ranked(slots.Used)
	info.Slots, info.Dropped = len(ranked), len(ranked)*(100-rate.Percentile)/100
	info.Billable = exactly(ranked[info.Dropped])
	if rate.ValidDays {
		info.Billable = info.Billable.part(metering.Thousandths(uint64(info.Days)), metering.Thousandths(uint64(info.Month)))
	}
	return info
}

// ranked is the highest first.
func ranked(used []metering.Quantity) []metering.Quantity {
	used = slices.Clone(used)
	slices.SortFunc(used, func(a, b metering.Quantity) int { return b.Cmp(a) })
	return used
}

// sustained prices slots by rank, appending to an empty slice: each step has as
// many as it is long.
func (r *priced) sustained(parts []Part, slots []Slots) []Part {
	if len(slots) == 0 { // a commitment that nothing was used of
		return append(parts, r.part(0, Exact{}))
	}
	used, last := ranked(slots[0].Used), len(r.steps)-1
	var before Exact // in the steps before
	for i := range r.steps {
		upTo := highest(used, r.steps[i].upTo)
		if i == last {
			upTo = highest(used, exactly(metering.Quantity{Hi: 1}))
		}
		here := upTo.Sub(before)
		if here.IsZero() && i > 0 {
			break
		}
		parts, before = append(parts, r.part(i, here)), upTo
	}
	return parts
}

// highest is the usage of the first ranked slots, as many as fit in a time; of
// the one that it ends in, a part.
func highest(ranked []metering.Quantity, length Exact) Exact {
	slots := length.rat()
	slots.Quo(slots, new(big.Rat).SetInt64(metering.SlotLength.Milliseconds()))
	whole, rest := new(big.Int).QuoRem(slots.Num(), slots.Denom(), new(big.Int))
	var sum metering.Quantity
	for i, q := range ranked {
		if whole.Cmp(big.NewInt(int64(i))) <= 0 {
			return exactly(sum).Add(quotient(rest.Mul(rest, q.Big()), slots.Denom()))
		}
		sum = sum.Add(q)
	}
	return exactly(sum)
}

// validDays leaves the slots of days on which anything was measured.
func (c *charging) validDays(slots *Slots, measured []bool) {
	valid := make(map[Date]bool)
	for i, m := range measured {
		if day := c.date(i); m && !valid[day] {
			valid[day] = true
			slots.Days = append(slots.Days, day)
		}
	}
	all := slots.Used
	slots.Used = nil
	for i, q := range all {
		if valid[c.date(i)] {
			slots.Used = append(slots.Used, q)
		}
	}
}

// days is how many days the window has, in the plan's zone.
func (c *charging) days() (n int) {
	for i, last := 0, (Date{}); i < int(c.window.Length()/metering.SlotLength); i++ {
		if day := c.date(i); day != last {
			n, last = n+1, day
		}
	}
	return n
}

// date is the day of a slot, in the plan's zone.
func (c *charging) date(slot int) Date {
	year, month, day := c.window.Start.Add(time.Duration(slot) * metering.SlotLength).In(c.plan.Zone).Date()
	return Date{year, month, day}
}
