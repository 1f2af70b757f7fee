package rating_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
	"github.com/usance/usance/rating/planfile"
)

func mustPlan(t testing.TB, source string) *rating.Plan {
	t.Helper()
	plan, _, err := planfile.Parse("plan.yaml", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

const splitPlan = `
plan: old
currency: EUR
rates:
  - {id: running, meter: instance.running, price: 0.01 per hour, cap: 4.90 per month, minimum: 2 h}
  - {id: licence, component: licence, meter: instance.running, where: {image: windows}, tiers: package, price: 12.00 per month}
  - {id: egress, meter: network.public.tx, included: 100 GB, steps: [{up to: 100 GB, price: 0.10 per GB}, {price: 0.05 per GB}]}
  - {id: committed, meter: instance.vcpu, pool: tenant, minimum: 100 vCPU-hours per tenant, price: 0.01 per vCPU-hour}
discounts: [{name: welcome, amount: 1.00 per month, rates: egress}]
minimum_spend: 10.00 per month
`

var middle = november.Start.Add(15 * 24 * time.Hour)

func halves(first, second *rating.Plan) []rating.InForce {
	return []rating.InForce{
		{Plan: first, Window: metering.Window{Start: november.Start, End: middle}},
		{Plan: second, Window: metering.Window{Start: middle, End: november.End}},
	}
}

// TestPlanChange: caps, allowances, thresholds, fees, commitments and minimum
// spend of each half of the month are halves.
func TestPlanChange(t *testing.T) {
	plan := mustPlan(t, splitPlan)
	newer := mustPlan(t, strings.Replace(splitPlan, "cap: 4.90 per month", "cap: 8.00 per month", 1))
	at := func(m metering.Meter, first bool, quantity uint64) metering.Usage {
		u := metering.Usage{Resource: "vm", Meter: m, Window: halves(plan, plan)[1].Window, Quantity: metering.Thousandths(quantity * 1000), Start: "1"}
		if m == metering.InstanceRunning {
			u.Labels.Image = "windows"
		}
		if first {
			u.Window = halves(plan, plan)[0].Window
		}
		return u
	}
	results, err := rating.RateParts(november, halves(plan, newer), []metering.Usage{
		at(metering.InstanceRunning, false, 360*3600), at(metering.InstanceRunning, true, 360*3600),
		at(metering.NetworkPublicTx, true, 120_000_000_000),
	})
	if err != nil || len(results) != 2 {
		t.Fatal(results, err)
	}
	want := []map[string]string{
		// 3.60 of use; 12.00; 70 GB remain: 50 at 0.10 and 20 at 0.05 less 0.50; 100 vCPU-hours; all more than 5.00.
		{"running": "2.45", "licence": "6.00", "egress": "5.50", "committed": "0.50", "minimum-spend": "0.00"},
		{"running": "3.60", "licence": "6.00", "committed": "0.50", "minimum-spend": "0.00"},
	}
	keys := make(map[string]bool)
	for i, r := range results {
		lines, err := r.Lines()
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]money.Amount)
		for _, l := range lines {
			sum, err := got[l.Rate.ID].Add(l.Net)
			if err != nil {
				t.Fatal(err)
			}
			got[l.Rate.ID] = sum
			if keys[l.Key] {
				t.Errorf("key %s is of both parts", l.Key)
			}
			keys[l.Key] = true
		}
		for rate, amount := range want[i] {
			if got[rate].String() != amount {
				t.Errorf("part %d, %s: %s, want %s", i+1, rate, got[rate], amount)
			}
		}
		if len(got) != len(want[i]) {
			t.Errorf("part %d: %v", i+1, got)
		}
	}
}

// TestPlanChangeOfPercentiles: each half of the month has its own percentile at
// half the price, with allowance and thresholds as they are; and a line's quantity
// times its price is what it costs.
// TestReady: a part made ready rates as one that is not, also after its plan, its
// window or the period became another.
func TestReady(t *testing.T) {
	const source = "plan: p\ncurrency: EUR\nrates: [{id: running, meter: instance.running, price: 0.01 per hour, cap: 4.90 per month}]\n"
	plan, dearer := mustPlan(t, source), mustPlan(t, strings.Replace(source, "4.90", "5.90", 1))
	usage := []metering.Usage{{Resource: "vm", Meter: metering.InstanceRunning, Window: november, Quantity: metering.Thousandths(3_600_000 * 800), Start: "1"}}
	ready, err := rating.InForce{Plan: plan, Window: november}.Ready(november)
	if err != nil {
		t.Fatal(err)
	}
	other := ready
	other.Plan = dearer
	early := metering.Window{Start: november.Start, End: middle}
	firstHalf := ready
	firstHalf.Window = early
	for name, tc := range map[string]struct {
		part  rating.InForce
		month metering.Window
	}{"ready": {ready, november}, "of another plan": {other, november}, "of a part": {firstHalf, early}} {
		usage[0].Window = tc.month
		got, err := rating.RateParts(tc.month, []rating.InForce{tc.part}, usage)
		if err != nil {
			t.Fatal(name, err)
		}
		want, err := tc.part.Plan.Rate(tc.month, usage)
		if err != nil {
			t.Fatal(name, err)
		}
		if got, want := got[0].Statement(false).Total, want.Statement(false).Total; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestPlanChangeOfPercentiles(t *testing.T) {
	plan := mustPlan(t, `
plan: p
currency: EUR
rates:
  - id: line
    meter: network.public.tx
    percentile: 95
    included: 10 Mbit/s
    steps: [{up to: 20 Mbit/s, price: 2.00 per Mbit/s}, {price: 1.00 per Mbit/s}]
  - {id: fee, component: fee, meter: network.public.tx, pool: tenant, percentile: 50, minimum: 30 Mbit/s per tenant, price: 1.00 per Mbit/s}
`)
	const slot = 37_500_000 * 1000 // thousandths of a byte in a slot at 1 Mbit/s
	var usage []metering.Usage
	for i, part := range halves(plan, plan) {
		for at := part.Window.Start; at.Before(part.Window.End); at = at.Add(metering.SlotLength) {
			usage = append(usage, metering.Usage{Resource: "vm", Meter: metering.NetworkPublicTx, Start: "1",
				Window: metering.Window{Start: at, End: at.Add(metering.SlotLength)}, Quantity: metering.Thousandths(uint64(50-35*i) * slot)})
		}
	}
	results, err := rating.RateParts(november, halves(plan, plan), usage)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range results {
		lines, err := r.Lines()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			got = append(got, l.Rate.ID+" "+l.Net.String())
			price := money.Frac(l.Rate.Steps[l.Step].Nano, 1_000_000_000)
			if l.Quantity.Mul(price).Cmp(l.Exact) != 0 {
				t.Errorf("%s: %s %s at %s is not %s", l.Key, l.Quantity.Text(), l.Unit, price.Text(), l.Exact.Text())
			}
		}
	}
	// 50 Mbit/s: 20 at 2.00, 20 at 1.00, half a month; 15: 5 at 2.00. Half of 50 and of the minimum of 30.
	want := []string{"line 20.00", "line 10.00", "fee 25.00", "line 5.00", "fee 15.00"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestPlanChangeKeepsStarts: a start's minimum is charged once, though the plan
// changes while it runs.
func TestPlanChangeKeepsStarts(t *testing.T) {
	plan := mustPlan(t, "plan: p\ncurrency: EUR\nrates:\n  - {id: r, meter: instance.running, price: 1.00 per hour, minimum: 2 h}\n")
	hour := func(start time.Time) metering.Usage {
		return metering.Usage{Resource: "vm", Meter: metering.InstanceRunning, Start: "1", Quantity: metering.Thousandths(1_800_000),
			Window: metering.Window{Start: start, End: start.Add(time.Hour)}}
	}
	results, err := rating.RateParts(november, halves(plan, plan), []metering.Usage{hour(middle.Add(-time.Hour)), hour(middle)})
	if err != nil {
		t.Fatal(err)
	}
	if first, second := results[0].Charges[0].Exact.Text(), results[1].Charges[0].Exact.Text(); first != "2" || second != "0" {
		t.Errorf("half an hour before the change costs %s, half an hour after it %s; want 2 and 0", first, second)
	}
}

func TestPlanChangeRefuses(t *testing.T) {
	plan := mustPlan(t, splitPlan)
	parts := halves(plan, plan)
	across := metering.Usage{Resource: "vm", Meter: metering.DiskRead, Window: metering.Window{Start: middle.Add(-time.Hour), End: middle.Add(time.Hour)}}
	early := metering.Usage{Resource: "vm", Meter: metering.NetworkPublicTx, Window: metering.Window{Start: november.Start.Add(-time.Hour), End: november.Start}}
	var bad *rating.UsageError
	for name, usage := range map[string]metering.Usage{"across": across, "early": early} {
		fine := metering.Usage{Resource: "vm", Meter: metering.NetworkPublicTx, Window: parts[0].Window}
		if _, err := rating.RateParts(november, parts, []metering.Usage{fine, usage}); !errors.As(err, &bad) || bad.Index != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, parts := range map[string][]rating.InForce{"none": nil, "a gap": parts[1:], "no end": parts[:1], "twice": {parts[0], parts[0], parts[1]}} {
		if _, err := rating.RateParts(november, parts, nil); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

// billed is what a line of the rate amounts to, by key.
func billed(t *rapid.T, plan *rating.Plan, usage []metering.Usage) map[string]rating.Line {
	t.Helper()
	result, err := plan.Rate(november, usage)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := result.Lines()
	if err != nil {
		t.Fatal(err)
	}
	byKey := make(map[string]rating.Line)
	for _, l := range lines {
		byKey[l.Key] = l
	}
	return byKey
}

// TestCutsAndLateUsage: whatever the cuts of a period bill on the way, and
// however late usage comes, the differences sum to the period's amount; and a
// line that may not fall never has a negative difference.
func TestCutsAndLateUsage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, usage := plans().Draw(t, "plan"), usages().Draw(t, "usage") // in any order: what stands last is late
		sums := make(map[string]int64)
		for from := 0; ; {
			to := min(len(usage), from+rapid.IntRange(1, 15).Draw(t, "cut"))
			for key, line := range billed(t, plan, usage[:to]) {
				difference := line.Net.Minor - sums[key]
				if difference < 0 && !line.MayFall {
					t.Fatalf("%s falls by %d", key, difference)
				}
				sums[key] += difference
			}
			if from = to; from >= len(usage) {
				break
			}
		}
		for key, line := range billed(t, plan, usage) {
			if sums[key] != line.Net.Minor {
				t.Fatalf("%s: cuts billed %d of %s", key, sums[key], line.Net)
			}
		}
	})
}
