package rating

import (
	"math/big"
	"slices"
	"time"

	"github.com/usance/usance/metering"
)

// A rate by percentile bills the traffic of one slot: of all slots of the
// period, the highest (100 − Percentile) % are dropped and the next is billed.
// Its quantities, thresholds and allowances are bytes in a slot, so that a unit
// such as Mbit/s has a size like any other.

// sample is one usage as it came: percentiles need to know when.
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
}

// Thin reports whether too few slots were measured to trust the percentile: an
// operator should look.
func (p *Percentile) Thin() bool { return p.Measured*10 < p.Slots*9 }

// traffic is the usage of a pool by slot, for the meters of a rate apart.
type traffic struct {
	bytes    [2][]metering.Quantity // by side and slot
	measured [2][]bool
}

// addTraffic puts a stretch into its slots. Growth after missing slots is
// spread over them; usage over several slots, over those.
func (c *charging) addTraffic(p *pool, side int, s *stretch) {
	slots := int(c.window.Length() / metering.SlotLength)
	if p.traffic == nil {
		p.traffic = &traffic{}
	}
	t := p.traffic
	if t.bytes[side] == nil {
		t.bytes[side], t.measured[side] = make([]metering.Quantity, slots), make([]bool, slots)
	}
	slices.SortFunc(s.samples, func(a, b sample) int { return a.window.Start.Compare(b.window.Start) })
	var until time.Time
	for i, one := range s.samples {
		w := one.window
		for at := w.Start; at.Before(w.End); at = c.slotEnd(at) {
			t.measured[side][c.slot(at)] = true
		}
		if i > 0 && w.Start.After(until) {
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

// percentile is what the pool's traffic comes to, in bytes in a slot. Where the
// rate has two sides they are ranked apart, and the higher counts.
func (c *charging) percentile(p *pool) {
	rate := &c.rates[p.charge.index]
	for side, bytes := range p.traffic.bytes {
		if bytes == nil {
			continue
		}
		info := Percentile{Meter: rate.Meter, Slots: len(bytes)}
		if side == 1 {
			info.Meter = rate.OrHigher
		}
		ranked := slices.Clone(bytes)
		if rate.ValidDays {
			ranked, info.Days, info.Month = c.validDays(bytes, p.traffic.measured[side])
			info.Slots = len(ranked)
		}
		for _, m := range p.traffic.measured[side] {
			if m {
				info.Measured++
			}
		}
		slices.SortFunc(ranked, func(a, b metering.Quantity) int { return b.Cmp(a) })
		info.Dropped = len(ranked) * (100 - rate.Percentile) / 100
		q := exactly(ranked[info.Dropped])
		if rate.ValidDays {
			q = q.part(metering.Thousandths(uint64(info.Days)), metering.Thousandths(uint64(info.Month)))
		}
		if p.charge.Percentile == nil || q.Cmp(p.charge.Billable) > 0 {
			p.charge.Billable, p.charge.Measured, p.charge.Percentile = q, p.measured[side], &info
		}
	}
}

// validDays are the slots of days on which anything was measured, how many such
// days there are, and how many the month has.
func (c *charging) validDays(bytes []metering.Quantity, measured []bool) (ranked []metering.Quantity, days, month int) {
	used, all := make(map[Date]bool), make(map[Date]bool)
	for i, m := range measured {
		all[c.date(i)] = true
		if m {
			used[c.date(i)] = true
		}
	}
	for i, b := range bytes {
		if used[c.date(i)] {
			ranked = append(ranked, b)
		}
	}
	return ranked, len(used), len(all)
}

// date is the day of a slot, in the plan's zone.
func (c *charging) date(slot int) Date {
	year, month, day := c.window.Start.Add(time.Duration(slot) * metering.SlotLength).In(c.plan.Zone).Date()
	return Date{year, month, day}
}
