package rating_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/planfile"
)

// december has 744 hours.
var december = metering.Window{
	Start: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC),
	End:   time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
}

// perSecond is the usual rate: by the second, with a minimum and a cap.
const perSecond = "price: 0.0119 per hour, granularity: 1 s, minimum: 60 s, cap: 8.50 per month"

// What is done beyond charging: lines are the charges rounded, with a share for
// each VM; a statement is all of the derivation written out for people and
// machines.
const (
	toCharges = iota
	toLines
	toStatement
)

var benchmarks = []struct {
	name, rate string
	to         int
}{
	{"hourly", "price: 0.0119 per hour, granularity: 1 h, cap: 8.50 per month", toCharges},
	{"second", perSecond, toCharges},
	{"tiers", "steps: [{up to: 186 h, price: 0.0119 per hour}, {up to: 372 h, price: 0.0095 per hour}, {up to: 558 h, price: 0.0071 per hour}, {price: 0.0048 per hour}]", toCharges},
	{"explain", perSecond, toLines},
	{"statement", perSecond, toStatement},
}

func benchPlan(b *testing.B, rate string) *rating.Plan {
	b.Helper()
	plan, _, err := planfile.Parse("bench", []byte("plan: bench\ncurrency: EUR\nrates:\n  - {id: small, meter: instance.running, where: {flavor: small}, "+
		rate+"}\n  - {id: large, meter: instance.running, where: {flavor: large}, price: 1 per hour}\n"))
	if err != nil {
		b.Fatal(err)
	}
	return plan
}

// hours are usages of one hour each, VM by VM.
func hours(vms, each int) []metering.Usage {
	usage := make([]metering.Usage, 0, vms*each)
	for vm := range vms {
		resource := metering.ResourceID(fmt.Sprintf("ins_%017x", vm))
		for hour := range each {
			start := december.Start.Add(time.Duration(hour) * time.Hour)
			usage = append(usage, metering.Usage{
				Resource: resource, Meter: metering.InstanceRunning, Start: "1",
				Window:   metering.Window{Start: start, End: start.Add(time.Hour)},
				Quantity: metering.Thousandths(3_600_000 - uint64(hour%7)),
				Labels:   metering.Labels{Flavor: "small", Image: "debian", Region: "eu", HostClass: "std"},
			})
		}
	}
	return usage
}

func run(b *testing.B, vms, each int, metric string, count int) {
	usage := hours(vms, each)
	for _, bm := range benchmarks {
		b.Run(bm.name, func(b *testing.B) {
			rater, err := benchPlan(b, bm.rate).For(december)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				result, err := rater.Rate(usage)
				if err != nil || len(result.Charges) != vms {
					b.Fatal(len(result.Charges), err)
				}
				switch bm.to {
				case toLines:
					if lines, err := result.Lines(); err != nil || len(lines[0].Shares) != vms {
						b.Fatal(err)
					}
				case toStatement:
					if s := result.Statement(true); len(s.Lines[0].Steps) < 3 {
						b.Fatal(s.Lines[0])
					}
				}
			}
			b.ReportMetric(float64(count)*float64(b.N)/b.Elapsed().Seconds(), metric)
		})
	}
}

// BenchmarkVMHours rates one hour each of 1000 VMs. Every charge carries its
// whole derivation: windows, gaps, what granularity, minimum, allowance, steps
// and cap made of them. explain adds rounding and shares, the last of it.
func BenchmarkVMHours(b *testing.B) { run(b, 1000, 1, "vmhours/s", 1000) }

// BenchmarkVMMonths rates months of 744 hourly usages each of 100 VMs.
func BenchmarkVMMonths(b *testing.B) { run(b, 100, 744, "vmmonths/s", 100) }
