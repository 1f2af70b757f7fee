package rating_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/planfile"
	"github.com/usance/usance/rating/presets"
)

const diffPlan = `plan: p
currency: EUR
timezone: Europe/Berlin
effective: 2026-12-01
flavors:
  small: {vcpus: 1, memory: 1 GiB, disk: 10 GiB}
calendar: {night: {daily: '22:00-06:00', holidays: [2026-12-24, 2026-12-31]}}
rates:
  - {id: small, meter: instance.running, where: {flavor: small}, price: 0.0075 per hour, minimum: 60 s, granularity: 1 s, cap: 4.90 per month}
  - {id: night, meter: instance.running, where: {flavor: small, time: night}, price: 0.005 per hour}
  - id: egress
    meter: network.public.tx
    pool: tenant
    included: 500 GiB per instance-month
    steps: [{up to: 10 TiB, price: 0.010 per GiB}, {price: 0.010 per GiB}]
discounts: [{name: launch, percent: 10, until: 2027-01-01}]
minimum_spend: 5.00 per month
`

func mustParse(t *testing.T, source string) *rating.Plan {
	t.Helper()
	plan, _, err := planfile.Parse("p.yaml", []byte(source))
	if err != nil {
		t.Fatalf("%v\n%s", err, source)
	}
	return plan
}

func TestDiff(t *testing.T) {
	for name, tc := range map[string]struct{ replace, want []string }{
		"nothing":                 {nil, nil},
		"other words":             {[]string{"0.0075 per hour", "7.5 per 1000 h", "60 s", "1 min", "10 TiB", "10240 GiB", "4.90", "4.9"}, nil},
		"one step":                {[]string{"{price: 0.010 per GiB}]", "{price: 0.008 per GiB}]"}, []string{"egress above 10 TiB: 0.010 → 0.008 per GiB"}},
		"price":                   {[]string{"0.0075 per hour", "0.008 per hour"}, []string{"small price: 0.0075 → 0.008 per hour"}},
		"price in another unit":   {[]string{"0.0075 per hour", "5 per month"}, []string{"small price: 0.0075 per hour → 5 per month"}},
		"month of another length": {[]string{"0.005 per hour", "1 per month"}, []string{"night price: 0.005 per hour → 1 per month"}},
		"a further step":          {[]string{"{price: 0.010 per GiB}]", "{up to: 50 TiB, price: 0.010 per GiB}, {price: 0.007 per GiB}]"}, []string{"egress above 50 TiB: 0.010 → 0.007 per GiB"}},
		"a threshold moves":       {[]string{"{up to: 10 TiB, price: 0.010 per GiB}", "{up to: 5 TiB, price: 0.020 per GiB}"}, []string{"egress up to 5 TiB: 0.010 → 0.020 per GiB"}},
		"minimum":                 {[]string{"minimum: 60 s", "minimum: 1 h per resource"}, []string{"small minimum: 60 s → 1 h per resource"}},
		"granularity":             {[]string{"granularity: 1 s", "granularity: 1 h"}, []string{"small granularity: 1 s → 1 h"}},
		"cap":                     {[]string{"cap: 4.90 per month", "cap: 5.90 per month"}, []string{"small cap: 4.90 → 5.90 per month"}},
		"no cap":                  {[]string{", cap: 4.90 per month", ""}, []string{"small cap: 4.90 per month → none"}},
		"cap in hours":            {[]string{"cap: 4.90 per month", "cap: 672 h"}, []string{"small cap: 4.90 per month → 672 h"}},
		"included":                {[]string{"500 GiB per instance-month", "1 TiB per instance-month"}, []string{"egress included: 500 GiB → 1 TiB per instance-month"}},
		"included over the pool":  {[]string{"500 GiB per instance-month", "500 GiB"}, []string{"egress included: 500 GiB per instance-month → 500 GiB"}},
		"pool":                    {[]string{"pool: tenant", "pool: resource"}, []string{"egress counted over: tenant → resource"}},
		"tiers":                   {[]string{"pool: tenant", "pool: tenant\n    tiers: volume"}, []string{"egress tiers: graduated → volume"}},
		"flavor":                  {[]string{"vcpus: 1, memory: 1 GiB", "vcpus: 2, memory: 1536 MiB"}, []string{"flavor small vCPUs: 1 → 2", "flavor small memory: 1 GiB → 1536 MiB"}},
		"flavors":                 {[]string{"flavors:\n", "flavors:\n  large: {vcpus: 4, memory: 8 GiB, disk: 80 GiB}\n"}, []string{"flavor large added: 4 vCPUs, 8 GiB memory, 80 GiB disk"}},
		"hours":                   {[]string{"22:00-06:00", "21:00-06:00"}, []string{"time class night hours: daily 22:00-06:00 → daily 21:00-06:00"}},
		"holidays":                {[]string{"2026-12-24, 2026-12-31", "2026-12-24, 2026-12-25"}, []string{"time class night no longer holidays: 2026-12-31", "time class night new holidays: 2026-12-25"}},
		"where":                   {[]string{"small, time: night}", "small, image: debian, time: night}"}, []string{"night for: flavor small, time night → flavor small, image debian, time night"}},
		"an agreement": {[]string{"minimum_spend", "tenants: {ten_00000000000000001: {rates: [{id: night, meter: instance.running, where: {flavor: small, time: night}, price: 0.004 per hour}]}}\nminimum_spend"},
			[]string{"tenant ten_00000000000000001: night price: 0.005 → 0.004 per hour"}},
		"rounding":                  {[]string{"minimum_spend", "rounding: up\nminimum_spend"}, []string{"rounding: half-away → up"}},
		"effective":                 {[]string{"effective: 2026-12-01", "effective: 2026-12-15 mid-period"}, []string{"effective: 2026-12-01 → 2026-12-15 mid-period"}},
		"discount":                  {[]string{"percent: 10, until: 2027-01-01", "percent: 12.5"}, []string{"discount launch 10 % → 12.5 %", "discount launch until: 2027-01-01 → none"}},
		"minimum spend":             {[]string{"minimum_spend: 5.00", "minimum_spend: 10.00"}, []string{"minimum-spend price: 5.00 → 10.00 per month"}},
		"no minimum spend":          {[]string{"minimum_spend: 5.00 per month\n", ""}, []string{"minimum-spend removed: 5.00 per month"}},
		"currency, zone, name":      {[]string{"plan: p", "plan: q", "EUR", "USD", "Europe/Berlin", "Europe/Paris"}, []string{"plan: p → q", "currency: EUR → USD", "time zone: Europe/Berlin → Europe/Paris"}},
		"a rate more, another less": {[]string{"id: night", "id: dark"}, []string{"night removed: instance.running for flavor small, time night, 0.005 per hour", "dark added: instance.running for flavor small, time night, 0.005 per hour"}},
		"a rate with steps": {[]string{"id: egress", "id: out"}, []string{
			"egress removed: network.public.tx, up to 10 TiB 0.010 per GiB, above 10 TiB 0.010 per GiB, included 500 GiB per instance-month",
			"out added: network.public.tx, up to 10 TiB 0.010 per GiB, above 10 TiB 0.010 per GiB, included 500 GiB per instance-month"}},
	} {
		t.Run(name, func(t *testing.T) {
			changed := diffPlan
			for i := 0; i < len(tc.replace); i += 2 {
				if !strings.Contains(changed, tc.replace[i]) {
					t.Fatalf("the plan has no %q", tc.replace[i])
				}
				changed = strings.Replace(changed, tc.replace[i], tc.replace[i+1], 1)
			}
			var got []string
			for _, c := range rating.Diff(mustParse(t, diffPlan), mustParse(t, changed)) {
				got = append(got, c.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestDiffOfPresets: what is the same has no differences, and all others have some.
func TestDiffOfPresets(t *testing.T) {
	for _, a := range presets.Names() {
		for _, b := range presets.Names() {
			older, err := presets.Plan(a)
			if err != nil {
				t.Fatal(err)
			}
			newer, err := presets.Plan(b)
			if err != nil {
				t.Fatal(err)
			}
			if changes := rating.Diff(older, newer); (len(changes) == 0) != (a == b) {
				t.Errorf("from %s to %s: %v", a, b, changes)
			}
		}
	}
}

// TestDiffSeesEveryField changes each field that has a meaning of its own, also
// those that are added later.
func TestDiffSeesEveryField(t *testing.T) {
	of := map[string]func(p *rating.Plan) reflect.Value{
		"Plan":     func(p *rating.Plan) reflect.Value { return reflect.ValueOf(p).Elem() },
		"Rate":     func(p *rating.Plan) reflect.Value { return reflect.ValueOf(&p.Rates[0]).Elem() },
		"Where":    func(p *rating.Plan) reflect.Value { return reflect.ValueOf(&p.Rates[0].Where).Elem() },
		"Flavor":   func(p *rating.Plan) reflect.Value { return reflect.ValueOf(&p.Flavors[0]).Elem() },
		"Discount": func(p *rating.Plan) reflect.Value { return reflect.ValueOf(&p.Discounts[0]).Elem() },
	}
	fields := 0
	for name, find := range of {
		shape := find(mustParse(t, diffPlan)).Type()
		for i := range shape.NumField() {
			field := shape.Field(i)
			if !field.IsExported() || field.Name == "Text" {
				continue
			}
			plan, changed := mustParse(t, diffPlan), mustParse(t, diffPlan)
			if field.Name == "ValidDays" { // it says something of a percentile
				plan.Rates[0].Percentile, changed.Rates[0].Percentile = 95, 95
			}
			another(t, find(changed).Field(i), name+"."+field.Name)
			if field.Name == "Rounds" { // the notation has both in one text
				changed.Rates[0].Granularity.Text += " per resource"
			}
			fields++
			if len(rating.Diff(plan, changed)) == 0 {
				t.Errorf("%s.%s changes unseen", name, field.Name)
			}
		}
	}
	if fields < 35 {
		t.Errorf("only %d fields were changed", fields)
	}
}

// another makes a value differ.
func another(t *testing.T, v reflect.Value, name string) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = x.AddDate(0, 0, 3)
	case **time.Location:
		*x = time.FixedZone("elsewhere", 0)
	case *rating.Minimum:
		x.Nano, x.Text = 77, "another"
	case *rating.Included:
		x.Amount = rating.Span{Thousandths: 77, Unit: rating.Unit{Num: 1, Den: 1}, Text: "another"}
	case *rating.Cap:
		x.Nano, x.Text = 77, "another"
	case *rating.Span:
		x.Thousandths, x.Unit, x.Text = 77, rating.Unit{Num: 1, Den: 1}, "another"
	case *map[metering.TenantID]*rating.Plan:
		own := *mustParse(t, diffPlan)
		own.Rounding++
		*x = map[metering.TenantID]*rating.Plan{"ten_00000000000000001": &own}
	case *rating.Where:
		x.Flavor = []string{"another"}
	case *[]rating.Step:
		(*x)[0].Nano, (*x)[0].Text = 77, "another"
	case *[]metering.Meter:
		*x = append(*x, "another")
	case *[]string:
		*x = append(*x, "another")
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString("another")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Uint8, reflect.Uint64:
			v.SetUint(v.Uint() + 1)
		case reflect.Slice:
			v.SetLen(v.Len() - 1)
		default:
			t.Fatalf("%s is a %s: say how it is changed", name, v.Type())
		}
	}
}
