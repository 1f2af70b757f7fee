package rating_test

import (
	"fmt"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/planfile"
)

// limit is a drawn quantity as a plan writes it, and in MiB·s.
type limit struct {
	text string
	size *big.Rat
}

func limits() *rapid.Generator[limit] {
	sizes := map[string]*big.Rat{
		"MiB-s": big.NewRat(1, 1), "B-s": big.NewRat(1, 1<<20), "MB-s": big.NewRat(1_000_000, 1<<20),
		"MB-min": big.NewRat(60_000_000, 1<<20), "kB-day": big.NewRat(86_400_000, 1<<20),
	}
	return rapid.Custom(func(t *rapid.T) limit {
		number := rapid.IntRange(1, 999_999).Draw(t, "thousandths")
		unit := rapid.SampledFrom([]string{"MiB-s", "B-s", "MB-s", "MB-min", "kB-day"}).Draw(t, "unit")
		return limit{fmt.Sprintf("%d.%03d %s", number/1000, number%1000, unit), new(big.Rat).Mul(big.NewRat(int64(number), 1000), sizes[unit])}
	})
}

// TestLimitsAreExact: granularity, minimum, allowance, threshold and cap of any
// units give to the last part what the rule gives in rational numbers.
func TestLimitsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := ""
		draw := func(key, form string) *big.Rat {
			if !rapid.Bool().Draw(t, key) {
				return nil
			}
			l := limits().Draw(t, key+" of")
			rate += fmt.Sprintf(form, l.text)
			return l.size
		}
		granule, least, free := draw("granularity", ", granularity: %s"), draw("minimum", ", minimum: %s"), draw("included", ", included: %s")
		upTo := draw("steps", ", steps: [{up to: %s, price: 0.07 per MiB-s}, {price: 0.03 per MB-s}]")
		if upTo == nil {
			rate += ", price: 0.07 per MiB-s"
		}
		var bound *big.Rat
		if least == nil { // a cap below the minimum is refused
			bound = draw("cap", ", cap: %s")
		}
		plan, _, err := planfile.Parse("drawn", []byte("plan: p\ncurrency: EUR\nrates:\n  - {id: a, meter: volume.allocated"+rate+"}\n"))
		if err != nil {
			t.Fatalf("%v in %s", err, rate)
		}
		thousandths := rapid.Uint64Range(1, 1<<40).Draw(t, "quantity")
		result, err := plan.Rate(november, []metering.Usage{{Resource: "v", Meter: "volume.allocated", Window: november, Quantity: metering.Thousandths(thousandths)}})
		if err != nil {
			t.Fatal(err)
		}
		want := costOf(big.NewRat(int64(thousandths), 1000), granule, least, free, upTo, bound)
		if got := result.Charges[0].Exact.Rat(); got.Cmp(want) != 0 {
			t.Fatalf("%d thousandths under %s: %s, want %s", thousandths, rate, got, want)
		}
		if differences, err := result.Statement(true).Verify(); err != nil || len(differences) > 0 {
			t.Fatalf("%q, %v", differences, err)
		}
	})
}

// costOf is the rule in rational numbers; nil is no limit.
func costOf(q, granule, least, free, upTo, bound *big.Rat) *big.Rat {
	less := func(a, b *big.Rat) *big.Rat {
		if b == nil || a.Cmp(b) < 0 {
			return a
		}
		return b
	}
	beyond := func(a, b *big.Rat) *big.Rat {
		if b == nil {
			return new(big.Rat)
		}
		return new(big.Rat).Sub(a, less(a, b))
	}
	if granule != nil {
		n := new(big.Rat).Quo(q, granule)
		units := new(big.Int).Neg(new(big.Int).Div(new(big.Int).Neg(n.Num()), n.Denom())) // rounded up
		q = new(big.Rat).Mul(new(big.Rat).SetInt(units), granule)
	}
	if least != nil && q.Cmp(least) < 0 {
		q = least
	}
	if free != nil {
		q = beyond(q, free)
	}
	q = less(q, bound) // taken off from the last step back
	second := beyond(q, upTo)
	cost := new(big.Rat).Mul(less(q, upTo), big.NewRat(7, 100))
	return cost.Add(cost, second.Mul(second, new(big.Rat).Mul(big.NewRat(3, 100), big.NewRat(1<<20, 1_000_000))))
}

// TestAStartMayGoOnUnrated: then a minimum that was due is no longer, so the
// rate is not one that never falls.
func TestAStartMayGoOnUnrated(t *testing.T) {
	plan, _, err := planfile.Parse("p", []byte("plan: p\ncurrency: EUR\nrates:\n  - {id: a, meter: instance.running, where: {flavor: small}, price: 1 per s, minimum: 60 s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	usage := make([]metering.Usage, 2)
	for i, flavor := range []string{"small", "odd"} {
		window := metering.Window{Start: november.Start.AddDate(0, 0, i), End: november.Start.AddDate(0, 0, i+1)}
		usage[i] = metering.Usage{Resource: "vm", Meter: metering.InstanceRunning, Window: window, Quantity: metering.Thousandths(50_000), Labels: metering.Labels{Flavor: flavor}}
	}
	var cost []string
	for n := 1; n <= 2; n++ {
		result, err := plan.Rate(november, usage[:n])
		if err != nil {
			t.Fatal(err)
		}
		cost = append(cost, result.Charges[0].Exact.Text())
	}
	if cost[0] != "60" || cost[1] != "50" || !plan.MayFall(&plan.Rates[0]) {
		t.Errorf("cost %q, may fall %v", cost, plan.MayFall(&plan.Rates[0]))
	}
}
