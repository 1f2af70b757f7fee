package invoicing_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
)

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
