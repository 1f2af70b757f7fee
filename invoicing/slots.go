package invoicing

import (
	"fmt"
	"math"
	"time"

	"github.com/usance/usance/metering"
)

// Slots is how what a segment climbed by one meter lies in slots: for rates that
// bill a percentile of them.
type Slots struct {
	Meter metering.Meter
	First time.Time // end of the first slot
	// Growth by slot, in thousandths of the meter's base unit; Unread where nothing
	// new was read in the slot.
	Growth []int64
}

// Unread is the growth of a slot in which nothing was read. That is not 0: what
// grew in it shows in a later slot, and is spread.
const Unread = -1

// each calls f for every slot that was read, cut to the window that the climb lies in.
func (s *Slots) each(window metering.Window, f func(metering.Window, metering.Quantity)) {
	for i, growth := range s.Growth {
		if growth == Unread {
			continue
		}
		end := s.First.Add(time.Duration(i) * metering.SlotLength)
		if w, ok := window.Overlap(metering.Window{Start: end.Add(-metering.SlotLength), End: end}); ok {
			f(w, metering.Thousandths(uint64(growth)))
		}
	}
}

// slots are the segment's slots of a meter, nil where it has none.
func (s *Segment) slots(m metering.Meter) *Slots {
	for i := range s.Slots {
		if s.Slots[i].Meter == m {
			return &s.Slots[i]
		}
	}
	return nil
}

// Lay lays what the segment climbed by some meters over the slots of its window.
// read are the largest registers read in each slot, by time, At being the slot's
// end: all that the segment's levels of these meters come from, and perhaps more, which is left
// to the next closing; what a meter does not follow from may be missing. A slot counts as read where any register climbed in it, so that a
// late reading of what is billed already changes nothing. What was read before
// the window, as only an account's first can have it, lies in its first slot.
func (s *Segment) Lay(meters []metering.Meter, read []metering.Reading) error {
	s.Slots = make([]Slots, len(meters))
	for i, m := range meters {
		s.Slots[i].Meter = m
	}
	var within []metering.Reading
	top := s.From
	for _, r := range read {
		if r.At.After(s.Window.Start) && r.At.Before(s.Window.End.Add(metering.SlotLength)) {
			within = append(within, r)
			top = top.Join(r.Registers)
		}
	}
	level := s.From
	climb := func(to Level, end time.Time) error {
		for i := range s.Slots {
			q := s.quantity(s.Slots[i].Meter, level, to)
			if q.Hi != 0 || q.Lo > math.MaxInt64 {
				return fmt.Errorf("%s of %s in the slot to %s: %s does not fit in 63 bits", s.Slots[i].Meter, s.ID, end.UTC(), q)
			}
			if to != level {
				s.Slots[i].put(end, int64(q.Lo))
			}
		}
		level = to
		return nil
	}
	before := s.From
	for _, m := range meters {
		for _, i := range s.places(m) {
			if top[i] < s.To[i] {
				before[i] = s.To[i]
			}
		}
	}
	if err := climb(before, metering.SlotOf(s.Window.Start.Add(1))); err != nil {
		return err
	}
	for _, r := range within {
		if err := climb(level.Join(r.Registers).Meet(s.To), r.At); err != nil {
			return err
		}
	}
	return s.CheckSlots()
}

// put adds growth in the slot that ends at an instant, none of them earlier than
// those before.
func (s *Slots) put(end time.Time, growth int64) {
	if len(s.Growth) == 0 {
		s.First = end
	}
	at := int(end.Sub(s.First) / metering.SlotLength)
	for len(s.Growth) <= at {
		s.Growth = append(s.Growth, Unread)
	}
	s.Growth[at] = max(s.Growth[at], 0) + growth
}

// CheckSlots reports slots that do not sum to what the segment climbed.
func (s *Segment) CheckSlots() error {
	for i := range s.Slots {
		var sum metering.Quantity
		for _, growth := range s.Slots[i].Growth {
			sum = sum.Add(metering.Thousandths(uint64(max(growth, 0)))) // Unread is none
		}
		if climb := s.quantity(s.Slots[i].Meter, s.From, s.To); sum != climb {
			return fmt.Errorf("%s of %s in %s: its slots sum to %s, it climbed %s", s.Slots[i].Meter, s.ID, s.Window, sum, climb)
		}
	}
	return nil
}
