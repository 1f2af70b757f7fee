package rating_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
	"github.com/usance/usance/rating/planfile"
)

var november = metering.Window{
	Start: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
	End:   time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC),
}

// plans are drawn from parts that can all meet.
func plans() *rapid.Generator[*rating.Plan] {
	return rapid.Custom(func(t *rapid.T) *rating.Plan {
		pick := func(name string, options ...string) string { return rapid.SampledFrom(options).Draw(t, name) }
		source := "plan: p\ncurrency: " + pick("currency", "EUR", "JPY", "KWD") + "\ncalendar: {night: {daily: '22:00-06:00'}}\nrates:\n"
		for _, flavor := range []string{"small", "medium"} {
			source += fmt.Sprintf("  - {id: %s, meter: instance.running, where: {flavor: %[1]s}, price: %s%s%s%s%s}\n", flavor,
				pick("price", "0.0119 per hour", "7 per month", "0.000000001 per s", "0.1 per month(730 h)"),
				pick("minimum", "", ", minimum: 60 s"), pick("granularity", "", ", granularity: 1 h", ", granularity: 7 s"),
				pick("cap", "", ", cap: 3.5 per month", ", cap: 300 h", ", cap: 5 per month per tenant", ", cap: [0.1 per month, 20 h per tenant]"), pick("resize", "", ", on_resize: restart"))
		}
		if rapid.Bool().Draw(t, "night") {
			source += "  - {id: night, meter: instance.running, where: {flavor: small, time: night}, price: 0.003 per hour}\n"
		}
		source += fmt.Sprintf("  - {id: egress, meter: network.public.tx, %s%s%s%s}\n",
			pick("tiers", "price: 0.01 per GiB", "steps: [{up to: 20 GB, price: 0.02 per GB}, {up to: 100 GB, price: 0.01 per GB}, {price: 0.05 per GB}]",
				"tiers: volume, steps: [{up to: 20 GB, price: 0.02 per GB}, {price: 0.01 per GB}]", "tiers: package, price: 0.3 per 7 GB"),
			pick("pool", "", ", pool: tenant", ", pool: region"),
			pick("included", "", ", included: 10 GB", ", included: 30 GB per instance-month", ", included: 5 GB per resource"),
			pick("egress cap", "", "", ", cap: 1.5 per month per tenant"))
		source += "rounding: " + pick("rounding", "half-away", "half-even", "up", "down") + "\n"
		plan, _, err := planfile.Parse("drawn", []byte(source))
		if err != nil {
			t.Fatalf("%v\n%s", err, source)
		}
		return plan
	})
}

// usages are hours of November of a few resources.
func usages() *rapid.Generator[[]metering.Usage] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) metering.Usage {
		hour := rapid.IntRange(0, 719).Draw(t, "hour")
		u := metering.Usage{
			Resource: metering.ResourceID(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "resource")),
			Window:   metering.Window{Start: november.Start.Add(time.Duration(hour) * time.Hour), End: november.Start.Add(time.Duration(hour+1) * time.Hour)},
			Labels: metering.Labels{Flavor: rapid.SampledFrom([]string{"small", "small", "medium", "none"}).Draw(t, "flavor"),
				Region: rapid.SampledFrom([]string{"", "eu", "us"}).Draw(t, "region")},
			Start: rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "start"),
		}
		if rapid.Bool().Draw(t, "traffic") {
			u.Meter, u.Quantity = metering.NetworkPublicTx, metering.Thousandths(rapid.Uint64Range(0, 60_000_000_000_000).Draw(t, "bytes"))
		} else {
			u.Meter, u.Quantity = metering.InstanceRunning, metering.Thousandths(rapid.Uint64Range(0, 3_600_000).Draw(t, "ms"))
		}
		return u
	}), 0, 40)
}

// mustState is everything a statement says but the windows, which splitting may
// change.
func mustState(t *rapid.T, plan *rating.Plan, usage []metering.Usage) (*rating.Result, string) {
	t.Helper()
	result, err := plan.Rate(november, usage)
	if err != nil {
		t.Fatal(err)
	}
	return result, statementText(plan, november, usage)
}

// TestOrderAndSplitting: shuffling usage, and splitting each in two, changes nothing.
func TestOrderAndSplitting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, usage := plans().Draw(t, "plan"), usages().Draw(t, "usage")
		whole, want := mustState(t, plan, usage)
		var split []metering.Usage
		for _, u := range usage {
			first, second := u, u
			cut := rapid.IntRange(1, 59).Draw(t, "cut")
			first.Window.End = u.Window.Start.Add(time.Duration(cut) * time.Minute)
			second.Window.Start = first.Window.End
			first.Quantity = metering.Thousandths(u.Quantity.Lo / 60 * uint64(cut))
			second.Quantity = u.Quantity.Sub(first.Quantity)
			split = append(split, first, second)
		}
		rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed"))).Shuffle(len(split), func(i, j int) { split[i], split[j] = split[j], split[i] })
		parts, got := mustState(t, plan, split)
		if got != want {
			t.Fatal(cmp.Diff(want, got))
		}
		for i := range whole.Charges {
			if whole.Charges[i].Exact.Cmp(parts.Charges[i].Exact) != 0 {
				t.Fatalf("charge %d: %s, split %s", i, whole.Charges[i].Exact.Text(), parts.Charges[i].Exact.Text())
			}
		}
	})
}

// TestLinesHold: shares sum to their line, quantity × price − allowance is what
// is rounded, keys are unique, and lines and statement agree before rounding.
func TestLinesHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, usage := plans().Draw(t, "plan"), usages().Draw(t, "usage")
		result, _ := mustState(t, plan, usage)
		lines, err := result.Lines()
		if err != nil {
			t.Fatal(err)
		}
		keys := make(map[string]bool)
		var exact money.Fraction
		for _, l := range lines {
			if keys[l.Key] {
				t.Fatalf("key %s twice", l.Key)
			}
			keys[l.Key] = true
			price := money.Frac(l.Rate.Steps[l.Step].Nano, 1_000_000_000)
			if l.Quantity.Mul(price).Cmp(l.Exact) != 0 {
				t.Fatalf("%s: %s × %s is not %s", l.Key, l.Quantity.Text(), price.Text(), l.Exact.Text())
			}
			net := l.Exact.Sub(l.Allowance)
			if round, err := money.Round(net, plan.Currency, plan.Rounding); err != nil || round != l.Net {
				t.Fatalf("%s: %s is not %s rounded, %v", l.Key, l.Net, net.Text(), err)
			}
			var sum money.Amount
			for _, s := range l.Shares {
				if sum, err = sum.Add(s.Net); err != nil {
					t.Fatal(err)
				}
			}
			if sum.Minor != l.Net.Minor {
				t.Fatalf("%s: shares sum to %s of %s", l.Key, sum, l.Net)
			}
			exact = exact.Add(net)
		}
		for _, c := range result.Charges {
			exact = exact.Sub(c.Exact)
		}
		if exact.Sign() != 0 {
			t.Fatalf("lines and charges differ by %s", exact.Text())
		}
	})
}

// TestMayFall: which caps of a tenant make a step fall while another grows.
func TestMayFall(t *testing.T) {
	for body, want := range map[string]bool{
		"price: 1 per GB, cap: 5 per month per tenant":                                            false,
		"price: 1 per GB, cap: 5 GB per tenant":                                                   false,
		"price: 1 per GB, cap: [1 per month, 5 per month per tenant]":                             false,
		"price: 1 per GB, cap: [1 per month, 5 GB per tenant]":                                    true,
		"steps: [{up to: 1 GB, price: 2 per GB}, {price: 1 per GB}], cap: 5 per month per tenant": true,
		"pool: region, price: 1 per GB":                                                           false,
		"pool: region, price: 1 per GB, included: 1 GB per resource":                              true,
	} {
		plan := mustParse(t, "plan: p\ncurrency: EUR\nrates:\n  - {id: a, meter: disk.read, "+body+"}\n")
		if got := plan.MayFall(&plan.Rates[0]); got != want {
			t.Errorf("%s: %v", body, got)
		}
	}
}

// TestNeverFalls: what a rate charges that MayFall does not except never falls
// while usage grows.
func TestNeverFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, usage := plans().Draw(t, "plan"), usages().Draw(t, "usage")
		less, _ := mustState(t, plan, usage[:rapid.IntRange(0, len(usage)).Draw(t, "first")])
		more, _ := mustState(t, plan, usage)
		for i := range plan.Rates {
			rate := &plan.Rates[i]
			if plan.MayFall(rate) {
				continue
			}
			for step := range rate.Steps {
				if before, after := stepTotal(less, rate, step), stepTotal(more, rate, step); after.Cmp(before) < 0 {
					t.Fatalf("step %d of rate %s fell from %s to %s", step+1, rate.ID, before.Text(), after.Text())
				}
			}
		}
	})
}

// stepTotal is what one step of a rate comes to: a line.
func stepTotal(r *rating.Result, rate *rating.Rate, step int) money.Fraction {
	var sum money.Fraction
	for _, c := range r.Charges {
		for _, p := range c.Parts {
			if c.Rate == rate && p.Step == step {
				sum = sum.Add(p.Exact).Sub(p.Allowance)
			}
		}
	}
	return sum
}

func total(r *rating.Result, rate *rating.Rate) money.Fraction {
	var sum money.Fraction
	for _, c := range r.Charges {
		if c.Rate == rate {
			sum = sum.Add(c.Exact)
		}
	}
	return sum
}

// TestCapped: a cap never makes dearer, and what it takes off is its allowance.
func TestCapped(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, usage := plans().Draw(t, "plan"), usages().Draw(t, "usage")
		open := *plan
		open.Rates = nil
		for _, r := range plan.Rates {
			r.Cap, r.TenantCap = rating.Cap{}, rating.Cap{}
			open.Rates = append(open.Rates, r)
		}
		capped, _ := mustState(t, plan, usage)
		uncapped, _ := mustState(t, &open, usage)
		for i, c := range capped.Charges {
			var allowance money.Fraction
			for _, p := range c.Parts {
				allowance = allowance.Add(p.Allowance)
			}
			if allowance.Sign() < 0 || c.Exact.Sign() < 0 || c.Exact.Add(allowance).Cmp(uncapped.Charges[i].Exact) != 0 {
				t.Fatalf("%s: %s and allowance %s against %s", c.Rate.ID, c.Exact.Text(), allowance.Text(), uncapped.Charges[i].Exact.Text())
			}
		}
	})
}

// TestTenantCap: all resources of a rate together cost what they cost without the
// tenant's cap, or the cap; each its part.
func TestTenantCap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, usage := plans().Draw(t, "plan"), usages().Draw(t, "usage")
		open := *plan
		open.Rates = nil
		for _, r := range plan.Rates {
			r.TenantCap = rating.Cap{}
			open.Rates = append(open.Rates, r)
		}
		capped, _ := mustState(t, plan, usage)
		uncapped, _ := mustState(t, &open, usage)
		for i := range plan.Rates {
			c := &plan.Rates[i].TenantCap
			if !c.Set || c.Nano == 0 {
				continue
			}
			without, with := total(uncapped, &open.Rates[i]), total(capped, &plan.Rates[i])
			if want := without.Min(money.Frac(c.Nano, 1_000_000_000)); with.Cmp(want) != 0 {
				t.Fatalf("%s: %s of %s, want %s", plan.Rates[i].ID, with.Text(), without.Text(), want.Text())
			}
			for k, charge := range capped.Charges {
				if charge.Rate == &plan.Rates[i] && charge.Exact.Mul(without).Cmp(uncapped.Charges[k].Exact.Mul(with)) != 0 {
					t.Fatalf("%s of %s: %s of %s is not its part", charge.Resource, charge.Rate.ID, charge.Exact.Text(), uncapped.Charges[k].Exact.Text())
				}
			}
		}
	})
}

// TestSustained: machines that run in turns cost what one costs, at once what so
// many cost, and more use never less.
func TestSustained(t *testing.T) {
	plan := mustParse(t, "plan: p\ncurrency: EUR\nrates:\n  - {id: r, meter: instance.running, pool: region, tiers: sustained, steps: [{up to: 0.25 month, price: 0.04 per hour}, {up to: 0.5 month, price: 0.03 per hour}, {price: 0.01 per hour}]}\n")
	rapid.Check(t, func(t *rapid.T) {
		hour := func(vm, at int) metering.Usage {
			w := metering.Window{Start: november.Start.Add(time.Duration(at) * time.Hour), End: november.Start.Add(time.Duration(at+1) * time.Hour)}
			return metering.Usage{Resource: metering.ResourceID(fmt.Sprint(vm)), Meter: metering.InstanceRunning, Window: w, Quantity: metering.Thousandths(3_600_000)}
		}
		cost := func(usage []metering.Usage) money.Fraction {
			result, err := plan.Rate(metering.Window{Start: november.Start, End: november.Start.AddDate(0, 0, 7)}, usage)
			if err != nil {
				t.Fatal(err)
			}
			return total(result, &plan.Rates[0])
		}
		hours, n := rapid.IntRange(1, 168).Draw(t, "hours"), rapid.IntRange(1, 4).Draw(t, "machines")
		var one, turns, atOnce, more []metering.Usage
		for at := range hours {
			one, turns = append(one, hour(0, at)), append(turns, hour(at%n, at))
			for vm := range n {
				atOnce = append(atOnce, hour(vm, at))
			}
		}
		more = append(one, hour(1, rapid.IntRange(0, 167).Draw(t, "more")))
		if a, b := cost(one), cost(turns); a.Cmp(b) != 0 {
			t.Fatalf("%d h cost %s of one machine and %s in turns", hours, a.Text(), b.Text())
		}
		if a, b := cost(one).Mul(money.Frac(int64(n), 1)), cost(atOnce); a.Cmp(b) != 0 {
			t.Fatalf("%d machines cost %s and should cost %s", n, b.Text(), a.Text())
		}
		if a, b := cost(one), cost(more); a.Cmp(b) >= 0 {
			t.Fatalf("an hour more makes %s of %s", b.Text(), a.Text())
		}
	})
}

// TestStartsOverTwoMonths: what a start costs in two periods is what its whole
// life costs, wherever the month's end falls.
func TestStartsOverTwoMonths(t *testing.T) {
	plan, _, err := planfile.Parse("p", []byte("plan: p\ncurrency: EUR\nrates:\n  - {id: r, meter: instance.running, price: 0.0119 per hour, granularity: 1 h, minimum: 5000 s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		before := metering.Thousandths(rapid.Uint64Range(0, 20_000_000).Draw(t, "before"))
		now := metering.Thousandths(rapid.Uint64Range(0, 20_000_000).Draw(t, "now"))
		cost := func(quantity, before metering.Quantity) money.Fraction {
			r, err := plan.Rate(november, []metering.Usage{{Resource: "a", Meter: metering.InstanceRunning, Window: november, Quantity: quantity, Before: before}})
			if err != nil {
				t.Fatal(err)
			}
			return r.Charges[0].Exact
		}
		parts, whole := cost(before, metering.Quantity{}).Add(cost(now, before)), cost(before.Add(now), metering.Quantity{})
		if parts.Cmp(whole) != 0 {
			t.Fatalf("%s in two months, %s in one", parts.Text(), whole.Text())
		}
	})
}

// TestNoFloats: nothing that computes money knows a float.
func TestNoFloats(t *testing.T) {
	for _, dir := range []string{".", "money", "planfile", "usagefile", "plandb"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", dir, files, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			set := token.NewFileSet()
			tree, err := parser.ParseFile(set, file, source, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range floats(tree) {
				t.Errorf("%s: a float", set.Position(found))
			}
		}
	}
}

// floats finds the types, the literals and the functions that make one.
func floats(tree *ast.File) []token.Pos {
	var found []token.Pos
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			switch n.Name {
			case "float32", "float64", "complex64", "complex128", "ParseFloat", "SetFloat64", "Float64":
				found = append(found, n.Pos())
			}
		case *ast.CallExpr: // of a time.Duration
			if method, ok := n.Fun.(*ast.SelectorExpr); ok && strings.Contains(" Seconds Minutes Hours ", " "+method.Sel.Name+" ") {
				found = append(found, n.Pos())
			}
		case *ast.BasicLit:
			// 1e18 is a whole constant; it counts where it has a point.
			if n.Kind == token.FLOAT && strings.Contains(n.Value, ".") || n.Kind == token.IMAG {
				found = append(found, n.Pos())
			}
		}
		return true
	})
	return found
}

// TestFloatsAreFound: the test above can fail.
func TestFloatsAreFound(t *testing.T) {
	tree, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nvar a float64 = 0.5\nvar b = d.Seconds()\n", 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(floats(tree)); got != 3 {
		t.Errorf("found %d of 3", got)
	}
}
