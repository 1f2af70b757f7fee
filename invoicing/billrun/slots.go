package billrun

import (
	"context"
	"fmt"
	"slices"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
)

// slotEpochs is how many epochs are read by slot at once, each 8,928 slots in a
// month of 31 days; more are read after them.
const slotEpochs = 32

// lay lays segments over slots where rates of their periods bill by slot; others
// cost nothing. held are the allocations by id.
//
// It reads after the levels were read. What arrived in between is more than they
// are, and left out, so that the segments stay those of one answer.
func (r *Run) lay(ctx context.Context, tenant metering.TenantID, rated []invoicing.Rated, segments []invoicing.Segment, held map[string]metering.Allocation) error {
	of := map[metering.EpochID][]laid{}
	var epochs []metering.EpochID
	for i := range segments {
		g := laid{&segments[i], metersBySlot(rated, &segments[i])}
		if len(g.meters) == 0 {
			continue
		}
		if a, ok := held[g.ID]; ok {
			if err := g.Lay(g.meters, inSlots(a, g.Segment)); err != nil {
				return err
			}
			continue
		}
		id := metering.EpochID(g.ID)
		if of[id] == nil {
			epochs = append(epochs, id)
		}
		of[id] = append(of[id], g)
	}
	for some := range slices.Chunk(epochs, slotEpochs) {
		if err := r.layEpochs(ctx, tenant, some, of); err != nil {
			return err
		}
	}
	return nil
}

// laid is a segment and the meters that it is to be laid by.
type laid struct {
	*invoicing.Segment
	meters []metering.Meter
}

// metersBySlot are the source's meters that rates of the segment's period bill by slot.
func metersBySlot(rated []invoicing.Rated, g *invoicing.Segment) (meters []metering.Meter) {
	for _, p := range rated {
		if !p.Period.Start.Equal(g.Period.Start) {
			continue
		}
		for _, m := range p.At(g.Window.Start).Plan.MetersBySlot(&g.Labels) {
			if slices.Contains(g.Meters(), m) && !slices.Contains(meters, m) {
				meters = append(meters, m)
			}
		}
	}
	return meters
}

// layEpochs lays the segments of some epochs over the slots they were read in.
func (r *Run) layEpochs(ctx context.Context, tenant metering.TenantID, epochs []metering.EpochID, of map[metering.EpochID][]laid) error {
	registers := []metering.Register{metering.RunningMS, metering.PausedMS} // that they climb says that a slot was measured
	var window metering.Window
	for _, id := range epochs {
		for _, g := range of[id] {
			for _, m := range g.meters {
				registers = append(registers, m.Registers()...)
			}
			if window.Start.IsZero() || g.Window.Start.Before(window.Start) {
				window.Start = g.Window.Start
			}
			if g.Window.End.After(window.End) {
				window.End = g.Window.End
			}
		}
	}
	slices.Sort(registers)
	read, err := r.cfg.Readings.InSlots(ctx, tenant, epochs, window, slices.Compact(registers))
	if err != nil {
		return err
	}
	for _, id := range epochs {
		for _, g := range of[id] {
			if err := g.Lay(g.meters, read[id]); err != nil {
				return fmt.Errorf("lay usage over slots: %w", err)
			}
		}
	}
	return nil
}

// inSlots is how far an allocation was held at the end of each slot of a
// segment's window.
func inSlots(a metering.Allocation, g *invoicing.Segment) (read []metering.Reading) {
	start := g.Window.Start
	if a.Start.After(start) {
		start = a.Start
	}
	for end := metering.SlotOf(start.Add(1)); end.Before(g.Window.End.Add(metering.SlotLength)); end = end.Add(metering.SlotLength) {
		read = append(read, metering.Reading{At: end, Registers: metering.Registers{a.At(end)}})
	}
	return read
}
