package metering

import (
	"fmt"
	"time"
)

// SlotLength is the length of a slot. Hours, days and months of every time zone
// are made of whole slots.
const SlotLength = 5 * time.Minute

// SlotOf is the end of the slot that the instant lies in. A slot is (start, end],
// since a reading describes the time up to and including its instant: an instant
// on a boundary belongs to the slot that ends there.
func SlotOf(at time.Time) time.Time {
	at = at.UTC()
	end := at.Truncate(SlotLength)
	if end.Equal(at) {
		return end
	}
	return end.Add(SlotLength)
}

// Window is a span of UTC time, half-open. As a window of usage it holds the
// growth of registers from Start to End: readings with Start < time ≤ End.
type Window struct {
	Start, End time.Time
}

// Check reports an error unless End is after Start.
func (w Window) Check() error {
	if !w.End.After(w.Start) {
		return fmt.Errorf("window %s: the end is not after the start", w)
	}
	return nil
}

// String is "start/end" in RFC 3339.
func (w Window) String() string {
	return w.Start.UTC().Format(time.RFC3339) + "/" + w.End.UTC().Format(time.RFC3339)
}

// Length is End − Start.
func (w Window) Length() time.Duration { return w.End.Sub(w.Start) }

// Overlap is the part both windows share; ok is false when there is none.
func (w Window) Overlap(o Window) (both Window, ok bool) {
	both = w
	if o.Start.After(both.Start) {
		both.Start = o.Start
	}
	if o.End.Before(both.End) {
		both.End = o.End
	}
	return both, both.End.After(both.Start)
}

// Month is the billing month in zone that the instant t lies in; a month starts
// at local midnight of the first and holds its first instant. As usage, growth
// up to t belongs to the month before when t is that instant.
func Month(t time.Time, zone *time.Location) Window {
	l := t.In(zone)
	return Window{Start: dayStart(l.Year(), l.Month(), 1, zone), End: dayStart(l.Year(), l.Month()+1, 1, zone)}
}

// Days are the instants at which the window is split into the days of a zone:
// its start, every local midnight within, and its end.
func (w Window) Days(zone *time.Location) []time.Time {
	instants := []time.Time{w.Start}
	l := w.Start.In(zone)
	for i := 1; ; i++ {
		next := dayStart(l.Year(), l.Month(), l.Day()+i, zone)
		if !next.Before(w.End) {
			return append(instants, w.End)
		}
		if next.After(instants[len(instants)-1]) { // a zone may leave out a day
			instants = append(instants, next)
		}
	}
}

// Hours are the instants at which the window is split into the hours of a zone:
// its start, every full local hour within, and its end. Where the clock is
// changed by half an hour, the hour around it is split there.
func (w Window) Hours(zone *time.Location) []time.Time {
	instants := []time.Time{w.Start}
	for t := w.Start; ; {
		l := t.In(zone)
		past := time.Duration(l.Minute())*time.Minute + time.Duration(l.Second())*time.Second + time.Duration(l.Nanosecond())
		if t = t.Add(time.Hour - past); !t.Before(w.End) {
			return append(instants, w.End)
		}
		instants = append(instants, t)
	}
}

// dayStart is the first instant of a day. Where the clock jumps over its
// midnight, that is the jump; where midnight comes twice, the first.
func dayStart(year int, month time.Month, day int, zone *time.Location) time.Time {
	want := time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Day()
	t := time.Date(year, month, day, 0, 0, 0, 0, zone)
	change, next := t.ZoneBounds()
	if t.Day() != want && t.Sub(change) < 24*time.Hour { // the jump left the day out or its midnight, and t lies behind it
		return change.UTC()
	} else if t.Day() != want {
		return next.UTC()
	}
	if !change.IsZero() {
		_, offset := t.Zone()
		_, before := change.Add(-1).Zone()
		if first := t.Add(time.Duration(offset-before) * time.Second); first.Before(change) && before > offset {
			return first.UTC()
		}
	}
	return t.UTC()
}
