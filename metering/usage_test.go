package metering

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestUnbilled(t *testing.T) {
	for _, test := range []struct {
		name                        string
		start, end, billed, wantNew uint64
	}{
		{"nothing yet", 0, 0, 0, 0},
		{"first window", 0, 10, 0, 10},
		{"opened at 5", 5, 10, 5, 5},
		{"a later window", 10, 25, 10, 15},
		{"all of it billed", 10, 25, 40, 0},
		{"a part of it billed", 10, 25, 15, 10},
		{"late usage of a billed window", 12, 12, 10, 0},
		{"standing still", 7, 7, 0, 0},
		{"the largest register", 0, math.MaxInt64, 0, math.MaxInt64},
	} {
		got := Unbilled(Registers{RunningMS: test.start}, Registers{RunningMS: test.end}, Registers{RunningMS: test.billed})
		if got != (Registers{RunningMS: test.wantNew}) {
			t.Errorf("%s: got %d, want %d", test.name, got[RunningMS], test.wantNew)
		}
	}
}

// history is what a store knows of one epoch: the join of the readings of each slot.
type history struct {
	opening Registers
	slots   map[time.Time]Registers
}

func newHistory(opening Registers) *history {
	return &history{opening, make(map[time.Time]Registers)}
}

func (h *history) arrive(r Reading) {
	slot := SlotOf(r.At)
	h.slots[slot] = h.slots[slot].Join(r.Registers)
}

// at is R(t) at the end of a slot.
func (h *history) at(t time.Time) Registers {
	value := h.opening
	for slot, r := range h.slots {
		if !slot.After(t) {
			value = value.Join(r)
		}
	}
	return value
}

var monthStart2026 = utc("2026-11-01T00:00:00Z")

// anyLife draws an epoch's opening reading and the readings a host took of it,
// in their order. Now and then the host's clock is stepped back.
var anyLife = rapid.Custom(func(t *rapid.T) (l struct {
	opening  Registers
	readings []Reading
}) {
	l.opening[RunningMS] = rapid.Uint64Max(1000).Draw(t, "opening")
	value, at := l.opening, monthStart2026
	for range rapid.IntRange(1, 30).Draw(t, "readings") {
		at = at.Add(time.Duration(rapid.IntRange(-60, 600).Draw(t, "step")) * time.Second)
		value[RunningMS] += rapid.Uint64Max(600_000).Draw(t, "running")
		value[NetPublicTxBytes] += rapid.Uint64Max(1<<40).Draw(t, "bytes")
		l.readings = append(l.readings, Reading{Epoch: "e", At: at, Registers: value})
	}
	return l
})

// allSlots are the slot ends of the hours in which anyLife plays.
func allSlots() []time.Time {
	var all []time.Time
	for t := monthStart2026.Add(-time.Hour); t.Before(monthStart2026.Add(6 * time.Hour)); t = t.Add(SlotLength) {
		all = append(all, t)
	}
	return all
}

// Invariant 1: any permutation, repetition, splitting or delay of a stream of
// readings, and any thinning that keeps the last of each slot, yields the same
// usage in every slot.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		life := anyLife.Draw(t, "life")
		want := newHistory(life.opening)
		for _, r := range life.readings {
			want.arrive(r)
		}

		arriving := slices.Clone(life.readings)
		for range rapid.IntRange(0, 10).Draw(t, "repeated") {
			arriving = append(arriving, rapid.SampledFrom(life.readings).Draw(t, "again"))
		}
		arriving = rapid.Permutation(arriving).Draw(t, "order")
		got := newHistory(life.opening)
		for _, r := range arriving {
			got.arrive(r)
		}

		slots := allSlots()
		for i := 1; i < len(slots); i++ {
			a := Unbilled(got.at(slots[i-1]), got.at(slots[i]), life.opening)
			b := Unbilled(want.at(slots[i-1]), want.at(slots[i]), life.opening)
			if a != b {
				t.Fatalf("slot %s: %v, want %v", slots[i].Format(time.TimeOnly), a, b)
			}
		}
	})
}

// Invariant 3: the parts of any partition of time sum to the whole, whatever was billed.
func TestPartsSumToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		life := anyLife.Draw(t, "life")
		h := newHistory(life.opening)
		for _, r := range life.readings {
			h.arrive(r)
		}
		slots := allSlots()
		end := slots[len(slots)-1]
		billed := h.at(rapid.SampledFrom(slots).Draw(t, "billed until"))

		cuts := rapid.SliceOf(rapid.SampledFrom(slots)).Draw(t, "cuts")
		slices.SortFunc(cuts, time.Time.Compare)
		var sum Registers
		before := slots[0]
		for _, cut := range append(cuts, end) {
			sum = sum.Add(Unbilled(h.at(before), h.at(cut), billed))
			before = cut
		}
		if want := h.at(end).Sub(billed); sum != want {
			t.Fatalf("the parts sum to %v, the whole is %v", sum, want)
		}
	})
}

// Closings at any time, while readings arrive in any order, bill every unit once:
// the sum over all invoices is the last reading less the opening one. And what is
// accrued never falls while readings arrive.
func TestClosingsBillOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		life := anyLife.Draw(t, "life")
		h := newHistory(life.opening)
		slots := allSlots()
		end := slots[len(slots)-1]
		billed := life.opening // W
		var invoiced Registers
		cut := slots[0]
		closeAt := func(next time.Time) {
			// The window since the last cut, and what came late of the time before.
			late := Unbilled(life.opening, h.at(cut), billed)
			fresh := Unbilled(h.at(cut), h.at(next), billed)
			invoiced = invoiced.Add(late).Add(fresh)
			billed = billed.Join(h.at(next))
			cut = next
		}
		for _, r := range rapid.Permutation(life.readings).Draw(t, "order") {
			before := Unbilled(life.opening, h.at(end), billed)
			h.arrive(r)
			if after := Unbilled(life.opening, h.at(end), billed); after != after.Join(before) {
				t.Fatalf("accrued fell from %v to %v", before, after)
			}
			if next := rapid.SampledFrom(slots).Draw(t, "cut"); next.After(cut) && rapid.IntRange(0, 3).Draw(t, "close") == 0 {
				closeAt(next)
			}
		}
		closeAt(end)
		if want := h.at(end).Sub(life.opening); invoiced != want {
			t.Fatalf("all invoices hold %v, the meter shows %v", invoiced, want)
		}
	})
}

func TestMeterOf(t *testing.T) {
	r := Registers{
		RunningMS: 3_600_500, PausedMS: 1, VCPUMS: 7_200_000, CPUNS: 1_999_999,
		MemoryMiBMS: 1024 * 1000, MemoryUsedMiBMS: 512 * 1000,
		DiskReadBytes: 10, DiskReadOps: 3, DiskWriteBytes: 20, DiskWriteOps: 4,
		NetPublicRxBytes: 31, NetPublicTxBytes: 32, NetPrivateRxBytes: 33, NetPrivateTxBytes: 34,
	}
	for meter, want := range map[Meter]string{
		InstanceRunning: "3600.5", InstancePaused: "0.001", InstanceVCPU: "7200", InstanceCPU: "0.001",
		InstanceMemory: "1024", InstanceMemoryUsed: "512", DiskRead: "10", DiskWrite: "20", DiskOperations: "7",
		NetworkPublicRx: "31", NetworkPublicTx: "32", NetworkPrivateRx: "33", NetworkPrivateTx: "34",
		InstanceStopped: "0", VolumeAllocated: "0", "no.such": "0",
	} {
		if got := meter.Of(r).String(); got != want {
			t.Errorf("%s: got %s, want %s", meter, got, want)
		}
	}
	largest := Registers{DiskReadOps: math.MaxInt64, DiskWriteOps: math.MaxInt64, CPUNS: math.MaxInt64}
	if got := DiskOperations.Of(largest).String(); got != "18446744073709551614" {
		t.Errorf("the largest registers make %s operations", got)
	}
	if got := InstanceCPU.Of(largest).String(); got != "9223372036.854" {
		t.Errorf("the largest register makes %s s", got)
	}
}

// The quantities of parts sum to that of the whole, also where nanoseconds are cut off.
func TestMeterParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := anyRegisters.Draw(t, "a")
		b := a.Join(anyRegisters.Draw(t, "b"))
		c := b.Join(anyRegisters.Draw(t, "c"))
		for _, m := range RegisterMeters() {
			parts := m.Of(b).Sub(m.Of(a)).Add(m.Of(c).Sub(m.Of(b)))
			if whole := m.Of(c).Sub(m.Of(a)); parts != whole {
				t.Fatalf("%s: the parts are %s, the whole is %s", m, parts, whole)
			}
		}
	})
}

func TestMeters(t *testing.T) {
	seen := make(map[Meter]bool)
	for _, m := range Meters() {
		if unit, ok := m.BaseUnit(); seen[m] || !ok || unit == "" {
			t.Errorf("%s: unit %q, %v, twice: %v", m, unit, ok, seen[m])
		}
		seen[m] = true
	}
	if _, ok := Meter("instance.runing").BaseUnit(); ok || len(seen) != 18 {
		t.Errorf("%d meters", len(seen))
	}
	for _, m := range RegisterMeters() {
		if m.Of(Registers{}) != (Quantity{}) {
			t.Errorf("%s of nothing is not 0", m)
		}
	}
}

func TestAllocationAt(t *testing.T) {
	start := utc("2026-11-01T00:00:00Z")
	held := Allocation{Amount: 10, Start: start}
	ended := Allocation{Amount: 10, Start: start, End: start.Add(time.Second)}
	for _, test := range []struct {
		name  string
		a     Allocation
		after time.Duration
		want  uint64
	}{
		{"before it began", held, -time.Hour, 0},
		{"at its start", held, 0, 0},
		{"while it is held", held, 1500 * time.Millisecond, 15_000},
		{"after its end", ended, time.Hour, 10_000},
		{"within a millisecond", held, 999 * time.Microsecond, 0},
	} {
		if got := test.a.At(start.Add(test.after)); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

func TestMeasure(t *testing.T) {
	at := func(h int) time.Time { return monthStart2026.Add(time.Duration(h) * time.Hour) }
	small := Labels{Flavor: "small"}
	epochs := []EpochRecord{
		{Epoch: Epoch{ID: "a", Instance: "ins_a", Start: 1, Opening: Registers{RunningMS: 500}}, Labels: small},
		{Epoch: Epoch{ID: "b", Instance: "ins_b", Start: 2}, Void: &Void{Cap: Registers{RunningMS: 1000}}},
		{Epoch: Epoch{ID: "c", Instance: "ins_c", Start: 1}}, // without a reading
	}
	levels := map[EpochID][]Registers{
		"a": {{}, {RunningMS: 1500, DiskReadOps: 3}, {RunningMS: 1500, DiskReadOps: 3, DiskWriteOps: 4}},
		"b": {{RunningMS: 900}, {RunningMS: 5000}, {RunningMS: 6000}},
	}
	allocations := []Allocation{
		{ID: "all_1", Resource: "ins_c", Meter: InstanceStopped, Amount: 1, Start: at(1)},
		{ID: "all_2", Resource: "ins_c", Meter: InstanceStopped, Amount: 1, Start: at(-5), End: at(0)},
	}
	var got []Usage
	for u := range Measure([]time.Time{at(0), at(1), at(2)}, epochs, levels, allocations) {
		got = append(got, u)
	}
	first, second := Window{at(0), at(1)}, Window{at(1), at(2)}
	want := []Usage{
		{Resource: "ins_a", Meter: InstanceRunning, Window: first, Quantity: Thousandths(1000), Labels: small, Start: "1"},
		{Resource: "ins_a", Meter: DiskOperations, Window: first, Quantity: Thousandths(3000), Labels: small, Start: "1"},
		{Resource: "ins_a", Meter: DiskOperations, Window: second, Quantity: Thousandths(4000), Labels: small, Start: "1"},
		{Resource: "ins_b", Meter: InstanceRunning, Window: first, Quantity: Thousandths(100), Start: "2"},
		{Resource: "ins_c", Meter: InstanceStopped, Window: second, Quantity: Thousandths(3_600_000)},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for range Measure([]time.Time{at(0), at(1)}, epochs, levels, allocations) {
		break // it stops
	}
}
