package invoicing_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
)

// TestLay: what an epoch climbed lies in the slots that it was read in; what was
// read before the window in its first, what is beyond the levels nowhere, and a
// reading that says nothing new does not count.
func TestLay(t *testing.T) {
	start := at("2026-10-01 00:00")
	read := func(slot int, minutes, mib uint64) metering.Reading { // in the slots of the window, counted from 1
		r := metering.Reading{At: start.Add(time.Duration(slot) * metering.SlotLength)}
		r.Registers[metering.RunningMS], r.Registers[metering.NetPublicTxBytes] = minutes*60_000, mib<<20
		return r
	}
	level := func(minutes, mib uint64) invoicing.Level {
		l := read(0, minutes, mib).Registers
		l[metering.CPUNS] = minutes * 1_000_000 // nobody asks for it
		return l
	}
	const mib = 1 << 20 * 1000
	for _, tc := range []struct {
		name     string
		from, to invoicing.Level
		read     []metering.Reading
		first    int
		want     []int64
	}{
		{"two slots and a gap", level(10, 10), level(30, 17), []metering.Reading{read(3, 15, 12), read(5, 30, 17)}, 3, []int64{2 * mib, invoicing.Unread, 5 * mib}},
		{"nothing sent", level(10, 10), level(20, 10), []metering.Reading{read(3, 15, 10), read(4, 20, 10)}, 3, []int64{0, 0}},
		{"nothing new", level(10, 10), level(20, 11), []metering.Reading{read(2, 5, 7), read(3, 10, 10), read(4, 20, 11)}, 4, []int64{mib}},
		{"more than the levels", level(10, 10), level(20, 11), []metering.Reading{read(4, 25, 13), read(5, 30, 14)}, 4, []int64{mib}},
		{"before the window", level(10, 10), level(20, 15), []metering.Reading{read(-7, 20, 15)}, 1, []int64{5 * mib}},
		{"before the window and less within", level(10, 10), level(20, 15), []metering.Reading{read(-7, 11, 15), read(3, 20, 12)}, 1, []int64{5 * mib, invoicing.Unread, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := invoicing.Segment{Source: invoicing.Source{ID: "e"}, From: tc.from, To: tc.to,
				Span: invoicing.Span{Window: metering.Window{Start: start, End: start.Add(time.Hour)}}}
			if err := g.Lay([]metering.Meter{metering.NetworkPublicTx}, tc.read); err != nil {
				t.Fatal(err)
			}
			if got := g.Slots[0]; !got.First.Equal(start.Add(time.Duration(tc.first)*metering.SlotLength)) || !slices.Equal(got.Growth, tc.want) {
				t.Errorf("got %v from %s, want %v from slot %d", got.Growth, got.First, tc.want, tc.first)
			}
		})
	}
}

// What Advance bills of each span is what metering.Unbilled says of it, register
// by register; a span that nothing is billed of has no segment.
func TestAdvanceBillsWhatIsUnbilled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spans := make([]invoicing.Span, rapid.IntRange(1, 4).Draw(t, "spans"))
		for i := range spans {
			spans[i].Window.Start = spans[i].Window.Start.AddDate(0, i, 0) // tells them apart
		}
		o := invoicing.Odometer{Source: invoicing.Source{ID: "e"}, Seen: true}
		var at metering.Registers
		for r := range o.Billed {
			o.Billed[r] = rapid.Uint64Range(0, 20).Draw(t, "billed")
		}
		for range spans {
			for r := range at {
				at[r] += rapid.Uint64Range(0, 9).Draw(t, "growth")
			}
			o.At = append(o.At, at)
		}
		segments, err := invoicing.Advance([]invoicing.Odometer{o}, spans)
		if err != nil {
			t.Fatal(err)
		}
		billed := map[invoicing.Span]metering.Registers{}
		for _, s := range segments {
			billed[s.Span] = billed[s.Span].Add(s.To.Sub(s.From))
		}
		var before metering.Registers
		for i, span := range spans {
			if got, want := billed[span], metering.Unbilled(before, o.At[i], o.Billed); got != want {
				t.Fatalf("span %d: billed %v, unbilled is %v", i, got, want)
			}
			before = o.At[i]
		}
	})
}
