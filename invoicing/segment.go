package invoicing

import (
	"fmt"

	"github.com/usance/usance/metering"
)

// Source says what an odometer measures: an epoch's registers, or one meter
// of an allocation. It never changes.
type Source struct {
	ID       string // epoch or allocation id
	Resource metering.ResourceID
	Start    string         // the start an epoch belongs to; "" for an allocation
	Meter    metering.Meter // an allocation's meter; "" for an epoch
	Labels   metering.Labels
}

// Level is where an odometer stands. An epoch's is its registers; an
// allocation's is one number, thousandths of its meter's base unit, in the
// first place.
type Level = metering.Registers

// EpochSource is an epoch as a source.
func EpochSource(e metering.EpochRecord) Source {
	return Source{ID: string(e.ID), Resource: e.Resource(), Start: e.StartID(), Labels: e.Labels}
}

// AllocationSource is an allocation as a source.
func AllocationSource(a metering.Allocation) Source {
	return Source{ID: a.ID, Resource: a.Resource, Meter: a.Meter, Labels: a.Labels}
}

// registerMeters is asked for every segment.
var registerMeters = metering.RegisterMeters()

// Meters are what the source is counted by.
func (s Source) Meters() []metering.Meter {
	if s.Meter != "" {
		return []metering.Meter{s.Meter}
	}
	return registerMeters
}

// places are where a meter's numbers stand in a level.
func (s Source) places(m metering.Meter) []metering.Register {
	if s.Meter != "" {
		return []metering.Register{0}
	}
	return m.Registers()
}

func (s Source) quantity(m metering.Meter, from, to Level) metering.Quantity {
	if s.Meter != "" {
		return metering.Thousandths(to[0]).Sub(metering.Thousandths(from[0]))
	}
	return m.Of(to).Sub(m.Of(from))
}

// Odometer is a source as a closing reads it.
type Odometer struct {
	Source
	Billed Level   // W: what closings have billed it up to; its opening before the first
	Seen   bool    // whether a closing has a segment of it
	At     []Level // R at the end of each span, the last at the cut
}

// Span is a piece of a period under one set of prices: all of it, or what lies
// between two changes of the plan or of time classes.
type Span struct {
	Period metering.Window
	Window metering.Window // within Period
}

// Segment is the climb of an odometer that one closing billed in one span. The
// usage of a meter in it is the meter at To less the meter at From.
type Segment struct {
	Source
	Span
	From, To Level
	Slots    []Slots // for meters of which a rate bills a percentile
	Seq      int     // of the closing that billed it; 0 while none has
}

// Advance splits what is not billed of the odometers (metering.Unbilled) over the
// spans it lies in, which follow each other; the last one is read at the cut. An odometer that no closing has seen
// yields at least one segment, an empty one in the last span, so that every
// epoch seen is on record; others only yield segments that climb.
func Advance(odometers []Odometer, spans []Span) ([]Segment, error) {
	var all []Segment
	for _, o := range odometers {
		if len(o.At) != len(spans) {
			return nil, fmt.Errorf("%s has %d levels for %d spans", o.ID, len(o.At), len(spans))
		}
		seen, from := o.Seen, o.Billed
		for i, span := range spans {
			to := from.Join(o.At[i])
			last := i == len(spans)-1
			if to != from || last && !seen {
				all = append(all, Segment{Source: o.Source, Span: span, From: from, To: to})
				seen = true
			}
			from = to
		}
	}
	return all, nil
}
