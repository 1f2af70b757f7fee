package rating_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
)

// verifiedPlan has every rule that verify computes again.
const verifiedPlan = `
plan: p
currency: EUR
rates:
  - {id: running, meter: instance.running, price: 0.01 per hour, granularity: 1 h, cap: [3.00 per month, 4.00 per month per tenant]}
  - {id: medium, meter: instance.running, where: {flavor: medium}, price: 0.02 per hour, granularity: 1 h, cap: 100 h, on_resize: prorate}
  - {id: paused, meter: instance.paused, price: 0.02 per hour, minimum: 1 h per resource, granularity: 7 s, cap: 100 h per tenant}
  - {id: egress, meter: network.public.tx, pool: tenant, included: 10 GB per instance-month, steps: [{up to: 10 GB, price: 0.1 per GB}, {price: 0.05 per GB}]}
  - {id: stopped, meter: instance.stopped, pool: tenant, minimum: 900 h per tenant, tiers: volume, steps: [{up to: 10 h, price: 0.003 per hour}, {price: 0.001 per hour}]}
  - {id: ingress, meter: network.public.rx, minimum: 1 GB, tiers: package, steps: [{up to: 10 GB, price: 0.03 per 3 GB}, {price: 0.01 per 3 GB}]}
  - {id: either, component: x, meter: disk.read, or_higher: disk.write, price: 1 per GB}
discounts: [{name: launch, percent: 10, rates: egress}, {name: voucher, amount: 5.00}, {name: other, amount: 0.50, rates: [egress, stopped]}]
minimum_spend: 60.00 per month
`

// verifiedSlots are its rules by slots, for a period of two days.
const verifiedSlots = `
plan: p
currency: EUR
rates:
  - {id: memory, meter: instance.memory, pool: [region], tiers: sustained, steps: [{up to: 0.25 month, price: 0.004 per GiB-hour}, {price: 0.002 per GiB-hour}]}
  - {id: line, meter: network.private.tx, or_higher: network.private.rx, percentile: 95 of valid days, price: 1 per kbit/s}
  - {id: disk, meter: disk.read, or_higher: disk.write, percentile: 91, price: 1 per kbit/s, pool: tenant}
`

// verifiedStatements are of one tenant each, in which every rule changes something.
func verifiedStatements(t *testing.T) []rating.Statement {
	t.Helper()
	use := func(resource, meter, flavor string, from, hours, quantity int) metering.Usage {
		start := november.Start.Add(time.Duration(from) * time.Hour)
		return metering.Usage{Resource: metering.ResourceID(resource), Meter: metering.Meter(meter), Quantity: metering.Thousandths(uint64(quantity) * 1000),
			Window: metering.Window{Start: start, End: start.Add(time.Duration(hours) * time.Hour)}, Labels: metering.Labels{Flavor: flavor, Region: "eu"}}
	}
	usage := []metering.Usage{
		use("a", "instance.running", "small", 0, 500, 1_500_000), use("b", "instance.running", "small", 0, 2, 1234), use("b", "instance.running", "small", 4, 1, 1),
		use("c", "instance.running", "small", 0, 100, 360_000-30), use("c", "instance.running", "medium", 100, 100, 360_001),
		use("b", "instance.paused", "small", 3, 2, 4000), use("a", "instance.paused", "small", 3, 400, 800_000), use("a", "network.public.tx", "", 0, 720, 35_000_000_000),
		use("a", "instance.stopped", "", 500, 1, 3600), use("a", "network.public.rx", "", 0, 1, 16_000_000_000),
		use("a", "disk.read", "", 0, 400, 2_000_000_000), use("b", "disk.read", "", 0, 100, 1_000_000_000), use("b", "disk.write", "", 0, 100, 3_000_000_000),
		use("a", "disk.write", "", 0, 100, 1000), use("d", "network.public.rx", "", 0, 1, 1000),
	}
	usage[3].Before = metering.Thousandths(1_234_567)
	usage[4].Before = metering.Thousandths(1_234_567)
	usage[5].Before = metering.Thousandths(60_000)
	days := metering.Window{Start: november.Start, End: november.Start.AddDate(0, 0, 2)}
	var slots []metering.Usage
	for hour := range 40 {
		slots = append(slots, use("a", "instance.memory", "", hour, 1, 1024*(5+hour)), use("b", "instance.memory", "", hour/2, 1, 1024*hour),
			use("a", "disk.read", "", hour, 1, 1_000_000*hour), use("b", "disk.write", "", hour, 1, 1_500_000*hour))
		if hour < 20 {
			slots = append(slots, use("a", "network.private.tx", "", hour, 1, 1_000_000*hour), use("a", "network.private.rx", "", hour/2, 1, 1_000_000*hour))
		}
	}
	var statements []rating.Statement
	for _, of := range []struct {
		plan   string
		period metering.Window
		usage  []metering.Usage
	}{{verifiedPlan, november, usage}, {verifiedSlots, days, slots}} {
		result, err := mustParse(t, of.plan).Rate(of.period, of.usage)
		if err != nil {
			t.Fatal(err)
		}
		statements = append(statements, *result.Statement(true))
	}
	return statements
}

func verifiedStatement(t *testing.T) rating.Statement { return verifiedStatements(t)[0] }

// notVerified are the fields that nothing can be compared with: names, and what
// is said for people.
var notVerified = []string{"Rule", "Resource", "Start", "Component", "Text", "Discount"}

// mattersNot reports whether a field of a line is a term that comes to nothing
// there, or what was measured before but counts for nothing.
func mattersNot(l *rating.StatementLine, d *rating.Derivation, field string) bool {
	switch field {
	case "Before":
		return d.Life == "" && l.Rate != "paused"
	case "Step", "From":
		return d.Tiers == "volume"
	case "Bound", "Quantity":
		return d.Amount == "0" && d.Rule != "price"
	case "Minimum":
		return d.Rule == "start" && d.Added == "0" && d.Covered == "0"
	case "UpTo": // not reached
		return d.Step == 1 && !slices.ContainsFunc(l.Steps, func(o rating.Derivation) bool { return o.Step == 2 })
	}
	return false
}

// TestVerifyFindsWhatIsChanged changes every field of a statement, one at a time.
func TestVerifyFindsWhatIsChanged(t *testing.T) {
	changed := make(map[string]int)
	for _, s := range verifiedStatements(t) {
		if differences, err := s.Verify(); err != nil || len(differences) > 0 {
			t.Fatalf("the statement itself: %v, %v", differences, err)
		}
		for i := range s.Lines {
			l := &s.Lines[i]
			for k := range l.Steps {
				d := &l.Steps[k]
				step := reflect.ValueOf(d).Elem()
				for f := range step.NumField() {
					name, field := step.Type().Field(f).Name, step.Field(f)
					if slices.Contains(notVerified, name) || field.IsZero() || mattersNot(l, d, name) {
						continue
					}
					changed[d.Rule+" "+name]++
					back := change(field)
					if differences, err := s.Verify(); err == nil && len(differences) == 0 {
						t.Errorf("%s of step %d (%s) of line %d (%s): %v is not found", name, k+1, d.Rule, i+1, l.Rate, field)
					}
					back()
				}
			}
			for _, text := range []*string{&l.Amount, &l.Quantity} {
				old := *text
				*text = "99.99"
				if differences, _ := s.Verify(); len(differences) == 0 && l.Rate != "minimum-spend" {
					t.Errorf("line %d: %s → 99.99 is not found", i+1, old)
				}
				*text = old
			}
		}
		s.Total = "0.01"
		if differences, _ := s.Verify(); len(differences) != 1 || !strings.HasPrefix(differences[0], "total: ") {
			t.Errorf("a wrong total: %v", differences)
		}
	}
	for _, rule := range []string{"start Minimum", "start Multiple", "start Life", "start Before", "start Covered", "start Added", "start Gaps", "percentile Slots", "percentile Days", "higher Meter",
		"rank Slots", "minimum StartMultiple", "included Portion", "price Multiple", "price Tiers", "price UpTo", "cap Quantity", "cap Portion", "cap Each", "tenant-cap All",
		"tenant-cap Bound", "tenant-cap Quantity", "discount Bound", "discount Percent", "top-up Amount", "share Whole", "minimum Of"} {
		if changed[rule] == 0 {
			t.Errorf("no %s was changed", rule)
		}
	}
}

// change makes a field, or the middle of a list, another value; back undoes it.
func change(field reflect.Value) (back func()) {
	old := reflect.New(field.Type()).Elem()
	old.Set(field)
	one := field
	if field.Kind() == reflect.Slice {
		field.Set(reflect.AppendSlice(reflect.MakeSlice(field.Type(), 0, field.Len()), field))
		one = field.Index(field.Len() / 2)
	}
	if one.Kind() == reflect.String {
		one.SetString(different(one.String()))
	} else {
		one.SetInt(one.Int() + 1)
	}
	return func() { field.Set(old) }
}

// different is another value of the same kind.
func different(s string) string {
	if strings.ContainsAny(s, ".") {
		return s + "7"
	}
	if _, err := strconv.Atoi(s); err == nil {
		return s + ".7"
	}
	return "7" + s
}

func TestVerifyRefuses(t *testing.T) {
	bare := verifiedStatement(t)
	bare.Lines[1].Steps = nil
	if _, err := bare.Verify(); err == nil || !strings.Contains(err.Error(), "not explained") {
		t.Errorf("a statement without derivations: %v", err)
	}
	wrong := verifiedStatement(t)
	wrong.Currency = "XXQ"
	if _, err := wrong.Verify(); err == nil {
		t.Error("an unknown currency is taken")
	}
	mixed := verifiedStatement(t)
	last := mixed.Lines[1].Steps
	last[len(last)-1].Rounding = "up"
	if _, err := mixed.Verify(); err == nil || !strings.Contains(err.Error(), "line 2 is rounded up and others half-away") {
		t.Errorf("two ways of rounding: %v", err)
	}
	for _, text := range []string{"1e999999999", "1/0", "x", "--1"} {
		s := verifiedStatement(t)
		s.Lines[0].Steps[0].Measured = text
		if differences, err := s.Verify(); err != nil || len(differences) == 0 {
			t.Errorf("%q as a number: %v, %v", text, differences, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	plain, err := json.Marshal(rating.Statement{Currency: "EUR"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte(`{"currency":"EUR","total":"1","lines":[{"rate":"a","steps":[{"rule":"price","per":1,"nano":1,"quantity":"1"},{"rule":"share","rounding":"up"}]}]}`))
	f.Fuzz(func(t *testing.T, source []byte) {
		var s rating.Statement
		if json.Unmarshal(source, &s) == nil {
			_, _ = s.Verify()
		}
	})
}
