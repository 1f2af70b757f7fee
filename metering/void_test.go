package metering

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestCounted(t *testing.T) {
	reg := func(v uint64) Registers { return Registers{RunningMS: v} }
	e := EpochRecord{Epoch: Epoch{ID: "e", Opening: reg(5)}}
	voided := e
	void := e.NewVoid(monthStart2026.Add(1500*time.Microsecond), reg(20), Reading{At: monthStart2026.Add(time.Hour), Registers: reg(90)})
	voided.Void = &void
	for _, test := range []struct {
		name       string
		e          EpochRecord
		says, want uint64
	}{
		{"no reading", e, 0, 5}, {"above the opening", e, 90, 90}, {"voided, no reading", voided, 0, 5},
		{"before the instant", voided, 19, 19}, {"at the instant", voided, 20, 20}, {"after it", voided, 90, 20},
		{"replacing, no reading", voided.Replacing(), 0, 90}, {"replacing", voided.Replacing(), 91, 91},
	} {
		if got := test.e.Counted(reg(test.says)); got != reg(test.want) {
			t.Errorf("%s: %d counts as %d, want %d", test.name, test.says, got[RunningMS], test.want)
		}
	}
	next := voided.Replacing()
	if next.ID == e.ID || next.Void != nil || !next.Opened.Equal(monthStart2026.Add(time.Hour)) || !void.From.Equal(monthStart2026.Add(time.Millisecond)) {
		t.Errorf("replaced by %+v, voided from %s on", next, void.From)
	}
	// Without a reading after the instant, what comes later is the replacing epoch's.
	void = e.NewVoid(monthStart2026, reg(20), Reading{At: monthStart2026.Add(-time.Hour), Registers: reg(20)})
	if !void.NextOpened.Equal(monthStart2026) || void.NextOpening != reg(20) {
		t.Errorf("with nothing to take back: %+v", void)
	}
}

// A register goes wrong after an instant, by leaps that pass and by an error that
// stays. Once the epoch is voided there, usage is never above the truth, never
// below what was billed, and grows as the truth does; in whatever order, however
// often and in whatever pieces readings arrive.
func TestVoidedUsage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const reg = NetPublicTxBytes
		steps := rapid.IntRange(3, 30).Draw(t, "steps")
		good := rapid.IntRange(0, steps-2).Draw(t, "last good step")
		void := rapid.IntRange(good+1, steps-1).Draw(t, "voided after step")
		at := func(i int) time.Time { return monthStart2026.Add(time.Duration(i) * time.Minute) }
		opening := rapid.Uint64Max(1000).Draw(t, "opening")
		truth := make([]uint64, steps) // used until each step
		readings := make([]Reading, steps)
		var used, stays uint64
		for i := range steps {
			used += rapid.Uint64Max(1000).Draw(t, "used")
			truth[i] = used
			wrong := stays
			if i > good && i <= void {
				stays += rapid.Uint64Max(1<<40).Draw(t, "stays")
				wrong = stays
				if i < void {
					wrong += rapid.Uint64Max(1<<50).Draw(t, "passes")
				}
			}
			readings[i] = Reading{Epoch: "e", At: at(i), Registers: Registers{reg: opening + used + wrong}}
		}
		e := EpochRecord{Epoch: Epoch{ID: "e", Opening: Registers{reg: opening}}}

		// What came in until it was voided, and what a closing billed of it.
		seen := newHistory(e.Opening)
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, void), 0, 2*steps).Draw(t, "arrive before") {
			seen.arriveAt(readings[i])
		}
		for i := range void + 1 {
			seen.arriveAt(readings[i])
		}
		billed := e.Opening
		if i := rapid.IntRange(-1, void).Draw(t, "closed at"); i >= 0 {
			billed = billed.Join(e.Counted(seen.atInstant(at(i))))
		}

		v := e.NewVoid(at(good), seen.atInstant(at(good)), readings[void])
		e.Void = &v
		next := e.Replacing()
		after := newHistory(next.Opening)
		late := rapid.SliceOfN(rapid.IntRange(0, steps-1), 0, 2*steps).Draw(t, "arrive after")
		for _, i := range append(late, steps-1) {
			if readings[i].At.After(next.Opened) {
				after.arriveAt(readings[i])
			} else {
				seen.arriveAt(readings[i])
			}
		}
		now := at(steps - 1)
		old := Unbilled(e.Opening, e.Counted(seen.atInstant(now)), billed)[reg]
		grown := Unbilled(next.Opening, next.Counted(after.atInstant(now)), next.Opening)[reg]
		paid := billed[reg] - opening
		total := paid + old + grown
		if total < paid {
			t.Fatalf("%d is less than the %d that were billed", total, paid)
		}
		if want := truth[steps-1] - truth[void]; grown != want {
			t.Fatalf("the replacing epoch holds %d, and %d were used", grown, want)
		}
		if wrongly := billed[reg] > v.Cap[reg]; !wrongly && total > truth[steps-1] {
			t.Fatalf("%d used, %d counted", truth[steps-1], total)
		} else if wrongly && old != 0 {
			t.Fatalf("%d more are billed of an epoch that was billed above what it counts for", old)
		}
		// Splitting the time changes nothing, and no part is negative or above the whole.
		cuts := rapid.SliceOfN(rapid.IntRange(0, steps-1), 0, 5).Draw(t, "cuts")
		slices.Sort(cuts)
		sum, from := uint64(0), e.Opening
		for _, i := range append(cuts, steps-1) {
			to := e.Counted(seen.atInstant(at(i)))
			sum += Unbilled(from, to, billed)[reg]
			from = from.Join(to)
		}
		if sum != old {
			t.Fatalf("parts sum to %d, want %d", sum, old)
		}
	})
}

// arriveAt and atInstant are history to the instant instead of the slot.
func (h *history) arriveAt(r Reading) { h.slots[r.At] = h.slots[r.At].Join(r.Registers) }

func (h *history) atInstant(t time.Time) Registers { return h.at(t) }
