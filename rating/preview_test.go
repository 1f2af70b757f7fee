package rating_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
	"github.com/usance/usance/rating/presets"
)

const previewPlan = `plan: p
currency: EUR
flavors:
  small: {vcpus: 2, memory: 4 GiB}
  fee: {vcpus: 1, memory: 1 GiB}
calendar: {night: {daily: '22:00-06:00'}}
rates:
  - {id: small, meter: instance.running, where: {flavor: small}, price: 0.0075 per hour, minimum: 60 s, cap: 4.90 per month}
  - {id: night, meter: instance.running, where: {flavor: small, time: night}, price: 0.005 per hour}
  - {id: fee, meter: instance.running, where: {flavor: fee}, tiers: package, price: 7.20 per month}
  - {id: vcpu, meter: instance.vcpu, included: 100 vCPU-h per tenant, pool: tenant, price: 0.001 per vCPU-hour}
  - {id: off, meter: instance.stopped, price: 0.0010 per hour, cap: 0.60 per month}
  - {id: memory, meter: instance.memory, price: 0 per GiB-hour}
minimum_spend: 1.00 per month
`

func TestPreview(t *testing.T) {
	for _, tc := range []struct {
		name, flavor              string
		running                   time.Duration
		hour, day, month, stopped string
		unrated                   int
	}{
		// 2 vCPUs at 0.001 beside 0.0075; a month of 720 h: capped at 4.90 by day, 0.005 × 240 h by night, 1340 vCPU-h.
		{name: "always", flavor: "small", running: rating.Always, hour: "0.0095", day: "0.228", month: "6.14", stopped: "1.00"},
		{name: "ten hours from midnight", flavor: "small", running: 10 * time.Hour, hour: "0.0095", day: "0.228", month: "1.00", stopped: "1.00"},
		{name: "a month's fee", flavor: "fee", running: time.Minute, hour: "0.011", day: "7.224", month: "7.80", stopped: "1.00"},
		{name: "not for sale", flavor: "huge", running: rating.Always, hour: "0", day: "0", month: "1.00", stopped: "1.00", unrated: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v, err := mustParse(t, previewPlan).Preview(november, rating.Planned{Labels: metering.Labels{Flavor: tc.flavor}, Running: tc.running})
			if err != nil {
				t.Fatal(err)
			}
			if v.Hour.Text() != tc.hour || v.Day.Text() != tc.day || v.Month.String() != tc.month || v.Stopped.String() != tc.stopped || len(v.Unrated) != tc.unrated {
				t.Errorf("got %s an hour, %s the first day, %s a month, %s stopped, %d unrated", v.Hour.Text(), v.Day.Text(), v.Month, v.Stopped, len(v.Unrated))
				for _, l := range v.Lines {
					t.Logf("%s %s", l.Key, l.Net)
				}
			}
		})
	}
}

// TestPreviewIsTheBill: an instance that ran as planned, measured piece by
// piece, costs what the preview said, under the rules of every preset that
// names flavors.
func TestPreviewIsTheBill(t *testing.T) {
	var plans []*rating.Plan
	for _, name := range presets.Names() {
		plan, err := presets.Plan(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(flavorsOf(plan)) > 0 {
			plans = append(plans, plan)
		}
	}
	if plans = append(plans, mustParse(t, previewPlan)); len(plans) < 8 {
		t.Fatalf("only %d plans name flavors", len(plans))
	}
	priced, drawn := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		plan := plans[rapid.IntRange(0, len(plans)-1).Draw(t, "plan")]
		flavors := flavorsOf(plan)
		flavor := flavors[rapid.IntRange(0, len(flavors)-1).Draw(t, "flavor")]
		planned := rating.Planned{Labels: metering.Labels{Flavor: flavor.Name, Image: "debian"},
			Running: time.Duration(rapid.SampledFrom([]int{0, 1, 29, 240, 671, 719}).Draw(t, "hours"))*time.Hour +
				time.Duration(rapid.IntRange(0, 3_600_001).Draw(t, "ms"))*time.Millisecond}
		preview, err := plan.Preview(november, planned)
		if err != nil {
			t.Fatal(err)
		}
		result, err := plan.Rate(november, measuredAs(plan, flavor, planned))
		if err != nil {
			t.Fatal(err)
		}
		lines, err := result.Lines()
		if err != nil {
			t.Fatal(err)
		}
		bill := money.Amount{Currency: plan.Currency}
		for _, l := range lines {
			if bill, err = bill.Add(l.Net); err != nil {
				t.Fatal(err)
			}
		}
		if bill != preview.Month {
			t.Fatalf("%s under plan %s: the bill is %s, the preview was %s", flavor.Name, plan.Name, bill, preview.Month)
		}
		drawn++
		if bill.Minor > 0 {
			priced++
		}
	})
	if 2*priced < drawn {
		t.Errorf("only %d bills of %d were of anything", priced, drawn)
	}
}

// flavorsOf are the flavors that a plan sells, and those that its rates are for.
func flavorsOf(plan *rating.Plan) []rating.Flavor {
	all := slices.Clone(plan.Flavors)
	for _, r := range plan.Rates {
		for _, name := range r.Where.Flavor {
			if !slices.ContainsFunc(all, func(f rating.Flavor) bool { return f.Name == name }) {
				all = append(all, rating.Flavor{Name: name})
			}
		}
	}
	return all
}

// measuredAs is the usage of an instance in pieces, as
// measuring would give it: running first, then stopped.
func measuredAs(plan *rating.Plan, flavor rating.Flavor, planned rating.Planned) []metering.Usage {
	off := november.Start.Add(min(planned.Running, november.Length()))
	var all []metering.Usage
	add := func(m metering.Meter, start string, from, to time.Time, per uint64) {
		if per > 0 && to.After(from) {
			all = append(all, metering.Usage{Resource: "ins_1", Meter: m, Start: start, Window: metering.Window{Start: from, End: to},
				Quantity: metering.Thousandths(per * uint64(to.Sub(from).Milliseconds())), Labels: planned.Labels})
		}
	}
	ends := append(plan.Boundaries(november), november.End)
	for at := november.Start.Add(6 * time.Hour); at.Before(november.End); at = at.Add(6 * time.Hour) {
		ends = append(ends, at)
	}
	slices.SortFunc(ends, time.Time.Compare)
	at := november.Start
	for _, end := range ends {
		on := minTime(end, off)
		between := at.Add(max(on.Sub(at), 0) / 3).Truncate(time.Millisecond)
		for _, piece := range [][2]time.Time{{at, between}, {between, on}} {
			add(metering.InstanceRunning, "7", piece[0], piece[1], 1)
			add(metering.InstanceVCPU, "7", piece[0], piece[1], uint64(flavor.VCPUs))
			add(metering.InstanceMemory, "7", piece[0], piece[1], flavor.MemoryMiB)
		}
		add(metering.InstanceStopped, "", maxTime(at, off), end, 1)
		at = end
	}
	return all
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
