package planfile

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/usance/usance/rating"
)

// head is a plan up to its rates, 3 lines.
const head = "plan: p\ncurrency: EUR\nrates:\n"

func TestParse(t *testing.T) {
	plan, warnings, err := Parse("standard.yaml", []byte(`
plan: standard
currency: EUR
timezone: Europe/Berlin
effective: 2026-12-15 mid-period
flavors:
  small: {vcpus: 1, memory: 1 GiB, disk: 10 GiB}
  large: {vcpus: 4, memory: 8 GiB, disk: 80 GiB}
calendar:
  off-peak: {daily: "22:00-06:00", weekends: true, holidays: [DE-BY, 2026-12-24], weekly: [wed 12:00-14:00, fri-mon 20:00-08:00]}
rates:
  - id: small
    meter: instance.running
    where: {flavor: [small, tiny], time: off-peak}
    price: 0.0075 per month(730 h)
    minimum: 60 s
    granularity: 1.5 min
    cap: 672 h
    on_resize: restart
  - id: egress
    meter: network.public.tx
    pool: tenant
    included: 500 GiB per instance-month
    tiers: volume
    cap: 4.90 per month
    steps:
      - {up to: 10 TiB, price: 0.01 per 100 GiB}
      - {price: 0.008 per GiB}
  - {id: ops, meter: disk.operations, price: 0.01 per 100}
  - {id: ops2, meter: disk.operations, where: {flavor: small}, price: 0.01 per 100 thousand operations}
  - {id: volume, meter: volume.allocated, price: 0.05 per GB-month}
  - {id: cpu, meter: instance.vcpu, price: 0.02 per vCPU-hour}
rounding: half-even
`))
	if err != nil {
		t.Fatal(err)
	}
	if want := []Warning{
		"standard.yaml:12:5: rate small is for flavor tiny, which is not among the plan's flavors",
		"standard.yaml:7:3: no rate for instance.running fits flavor small at all times: it would run unrated at the others",
		"standard.yaml:8:3: no rate for instance.running fits flavor large: it would run unrated",
	}; !slices.Equal(warnings, want) {
		t.Errorf("warnings: %q", warnings)
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 12, 15, 0, 0, 0, 0, berlin); !plan.Effective.Equal(want) || !plan.MidPeriod || plan.Rounding.String() != "half-even" {
		t.Errorf("effective %v, mid-period %v, %v", plan.Effective, plan.MidPeriod, plan.Rounding)
	}
	if f := plan.Flavors[1]; f != (rating.Flavor{Name: "large", VCPUs: 4, MemoryMiB: 8192, DiskMiB: 81920}) {
		t.Errorf("flavor: %+v", f)
	}
	c := plan.Calendars[0]
	if _, ok := c.Holidays[rating.Date{Year: 2026, Month: 1, Day: 6}]; !ok || len(c.Weekly) != 4 || c.Weekly[0].From != 1320 || c.Weekly[0].To != 360 {
		t.Errorf("calendar: %+v", c.Weekly)
	}
	if !c.Weekly[3].Days[time.Saturday] || !c.Weekly[3].Days[time.Monday] || c.Weekly[3].Days[time.Tuesday] {
		t.Errorf("fri-mon: %v", c.Weekly[3].Days)
	}
	for i, want := range []rating.Step{
		{Nano: 7_500_000, Count: 1, Unit: rating.Unit{Name: "month(730 h)", Num: 2628000, Den: 1}, Text: "0.0075 per month(730 h)"},
		{Nano: 10_000_000, Count: 100, Unit: rating.Unit{Name: "GiB", Num: 1 << 30, Den: 1}, Text: "0.01 per 100 GiB"},
		{Nano: 10_000_000, Count: 100, Unit: rating.Unit{Num: 1, Den: 1}, Text: "0.01 per 100"},
		{Nano: 10_000_000, Count: 100, Unit: rating.Unit{Name: "thousand operations", Num: 1000, Den: 1}, Text: "0.01 per 100 thousand operations"},
		{Nano: 50_000_000, Count: 1, Unit: rating.Unit{Name: "GB-month", Num: 1953125, Den: 2048, Month: true}, Text: "0.05 per GB-month"},
		{Nano: 20_000_000, Count: 1, Unit: rating.Unit{Name: "vCPU-hour", Num: 3600, Den: 1}, Text: "0.02 per vCPU-hour"},
	} {
		got := plan.Rates[i].Steps[0]
		got.UpTo = rating.Span{}
		if got != want {
			t.Errorf("rate %d: %+v, want %+v", i, got, want)
		}
	}
	r := plan.Rates[0]
	if r.Granularity.Thousandths != 1500 || r.Cap.Units.Text != "672 h" || r.OnResize != rating.Restart || len(r.Where.Flavor) != 2 {
		t.Errorf("small: %+v", r)
	}
	if e := plan.Rates[1]; e.Pool != rating.PoolTenant || e.Included.Per != rating.PerInstanceMonth || e.Tiers != rating.Volume || e.Cap.Nano != 4_900_000_000 {
		t.Errorf("egress: %+v", e)
	}
}

// TestRefused: each wrong plan, where it is wrong, and what would be right.
func TestRefused(t *testing.T) {
	rate := func(body string) string { return head + "  - {id: a, " + body + "}\n" }
	for name, tc := range map[string]struct{ source, want string }{
		"nothing":                       {"", "p.yaml:1:1: the file is empty"},
		"not YAML":                      {"plan: p\n  x: [", "p.yaml:2:1: not YAML"},
		"a list":                        {"- 1", "p.yaml:1:1: a plan must be keys with values"},
		"two documents":                 {rate("meter: disk.read, price: 1 per GB") + "---\nplan: q\n", "a second document"},
		"no rates":                      {"plan: p\ncurrency: EUR\n", "p.yaml:1:1: a plan has no rates"},
		"empty rates":                   {"plan: p\ncurrency: EUR\nrates: []\n", "p.yaml:3:8: rates must be a list"},
		"unknown key":                   {"plan: p\ncurrency: EUR\nprices: 1\n" + "rates:\n  - {id: a, meter: disk.read, price: 1 per GB}\n", `p.yaml:3:1: a plan has no key "prices"; its keys are calendar`},
		"unknown key of rate":           {rate("meter: disk.read, price: 1 per GB, colour: red"), `p.yaml:4:48: a rate has no key "colour"`},
		"twice the same key":            {"plan: p\nplan: q\n", `p.yaml:2:1: a second "plan", which line 1 has already`},
		"twice the same id":             {rate("meter: disk.read, price: 1 per GB") + "  - {id: a, meter: disk.write, price: 1 per GB}\n", "p.yaml:5:5: a second rate with the id a, which line 4 has"},
		"unknown currency":              {strings.Replace(rate("meter: disk.read, price: 1 per GB"), "EUR", "EURO", 1), `p.yaml:2:11: wrong currency: "EURO"`},
		"unknown zone":                  {"timezone: Mars/Base\n" + rate("meter: disk.read, price: 1 per GB"), `p.yaml:1:11: "Mars/Base" is not a time zone`},
		"a bad date":                    {"effective: 2026-02-30\n" + rate("meter: disk.read, price: 1 per GB"), `p.yaml:1:12: "2026-02-30" is not a date; 2026-12-01`},
		"unknown rounding":              {"rounding: nearest\n" + rate("meter: disk.read, price: 1 per GB"), `p.yaml:1:11: "nearest" is not a rounding; half-away`},
		"unknown meter":                 {rate("meter: instance.runing, price: 1 per hour"), `p.yaml:4:20: there is no meter "instance.runing"; the meters are instance.running`},
		"no meter":                      {rate("price: 1 per hour"), "p.yaml:4:5: a rate has no meter, which it needs"},
		"no price":                      {rate("meter: disk.read"), "p.yaml:4:5: a rate needs a price, such as 0.01 per GiB, or steps"},
		"price and steps":               {rate("meter: disk.read, price: 1 per GB, steps: [{price: 1 per GB}]"), "a rate has either a price or steps"},
		"negative price":                {rate("meter: disk.read, price: -1 per GB"), `p.yaml:4:38: price: "-1" is negative; a price is 0 or more`},
		"10 decimals":                   {rate("meter: disk.read, price: 0.0000000001 per GB"), "10 decimals; at most 9"},
		"no number":                     {rate("meter: disk.read, price: cheap per GB"), `"cheap" is not a decimal`},
		"a float":                       {rate("meter: disk.read, price: 1e-3 per GB"), `"1e-3" is not a decimal`},
		"too dear":                      {rate("meter: disk.read, price: 10000000001 per GB"), "too large"},
		"no unit":                       {rate("meter: disk.read, price: 1"), `"1" is not a price; 0.01 per GiB is`},
		"bytes for time":                {rate("meter: instance.running, price: 1 per GiB"), `p.yaml:4:45: price: unit "GiB" does not fit a meter in s; s, min, hour, day and month do`},
		"time for bytes":                {rate("meter: disk.read, price: 1 per hour"), `unit "hour" does not fit a meter in B; B, kB`},
		"a size without time":           {rate("meter: volume.allocated, price: 1 per GiB"), `does not fit a meter in MiB·s`},
		"an unknown unit":               {rate("meter: instance.running, price: 1 per fortnight"), `unit "fortnight"`},
		"a month of months":             {rate("meter: instance.running, price: 1 per month(1 month)"), `unit "month(1 month)"`},
		"a count of nothing":            {rate("meter: disk.operations, price: 1 per 0"), "a price per 0 units"},
		"minimum in bytes":              {rate("meter: instance.running, price: 1 per hour, minimum: 1 GiB"), `p.yaml:4:66: minimum: unit "GiB"`},
		"minimum of nothing":            {rate("meter: instance.running, price: 1 per hour, minimum: 0 s"), `"0 s" is nothing`},
		"minimum without unit":          {rate("meter: instance.running, price: 1 per hour, minimum: 60"), `"60" has no unit`},
		"cap per day":                   {rate("meter: instance.running, price: 1 per hour, cap: 1 per day"), `a cap per "day" is not known; 4.90 per month is`},
		"negative cap":                  {rate("meter: instance.running, price: 1 per hour, cap: -1 per month"), "negative"},
		"cap below minimum":             {rate("meter: instance.running, price: 1 per hour, minimum: 3 h, cap: 2.99 per month"), "p.yaml:4:5: rate a: the cap 2.99 per month is below what the minimum 3 h costs"},
		"cap in units below":            {rate("meter: instance.running, price: 1 per hour, minimum: 3 h, cap: 2 h"), "the cap 2 h is below what the minimum 3 h costs"},
		"included per tenant":           {rate("meter: disk.read, price: 1 per GB, included: 1 GB per tenant"), "included per tenant needs pool: tenant"},
		"included per what":             {rate("meter: disk.read, price: 1 per GB, included: 1 GB per customer"), `included per "customer" is not known; per tenant`},
		"unknown pool":                  {rate("meter: disk.read, price: 1 per GB, pool: zone"), `"zone" is nothing to pool over; resource and tenant are, and lists of flavor, image, region and host_class`},
		"a pool over nothing":           {rate("meter: disk.read, price: 1 per GB, pool: []"), "an empty list fits nothing"},
		"a pool over a label twice":     {rate("meter: disk.read, price: 1 per GB, pool: [region, region]"), `"region" stands in this list already`},
		"a pool and its allowance":      {rate("meter: disk.read, price: 1 per GB, pool: [region], included: 1 GB per tenant"), "included per tenant needs pool: tenant"},
		"cap below a month":             {rate("meter: instance.running, price: 1 per hour, minimum: 1 month, cap: 700.00"), "the cap 700.00 is below what the minimum 1 month costs"},
		"a minimum that buys nothing":   {rate("meter: instance.running, price: 0 per hour, minimum: 3.00 EUR"), "p.yaml:4:5: a minimum in money is the usage that it buys in the first step"},
		"two caps of the same":          {rate("meter: instance.running, price: 1 per hour, cap: [1 per month, 2 per month]"), "a second cap of the same"},
		"two caps of a pool":            {rate("meter: instance.running, pool: tenant, price: 1 per hour, cap: [1 per month, 2 per month per tenant]"), "a second cap of the same"},
		"a cap per customer":            {rate("meter: instance.running, price: 1 per hour, cap: 1 per month per customer"), `a cap per "month per customer" is not known; 4.90 per month is, 672 h, and 50.00 per month per tenant`},
		"a tenant's cap below minimum":  {rate("meter: instance.running, price: 1 per hour, minimum: 3 h, cap: 2.99 per month per tenant"), "the cap 2.99 per month per tenant is below what the minimum 3 h costs"},
		"sustained use of bytes":        {rate("meter: disk.read, tiers: sustained, steps: [{up to: 1 h, price: 1 per GB}, {price: 1 per GB}]"), "sustained use is of a meter in s, vCPU·s or MiB·s, and not in B"},
		"sustained use by bytes":        {rate("meter: instance.memory, tiers: sustained, steps: [{up to: 1 GiB-hour, price: 1 per GiB-hour}, {price: 1 per GiB-hour}]"), `unit "GiB-hour" does not fit a meter in s`},
		"sustained use by starts":       {rate("meter: instance.running, granularity: 1 h, tiers: sustained, steps: [{up to: 1 h, price: 1 per hour}, {price: 1 per hour}]"), "have nothing to apply to"},
		"sustained use, the higher":     {rate("meter: instance.running, or_higher: instance.paused, tiers: sustained, steps: [{price: 1 per hour}]"), "go without percentile and or_higher"},
		"grandfathered since never":     {"grandfathered: {until: 2027-01-01}\n" + rate("meter: disk.read, price: 1 per GB"), "p.yaml:1:24: grandfathered needs effective"},
		"grandfathered until before":    {"effective: 2027-01-01\ngrandfathered: {until: 2027-01-01}\n" + rate("meter: disk.read, price: 1 per GB"), "until 2027-01-01 nothing is kept"},
		"grandfathered for ever":        {"effective: 2027-01-01\ngrandfathered: {}\n" + rate("meter: disk.read, price: 1 per GB"), "p.yaml:2:16: grandfathered has no until, which it needs"},
		"grandfathered in a period":     {"effective: 2027-01-01\ngrandfathered: {until: 2027-02-01 mid-period}\n" + rate("meter: disk.read, price: 1 per GB"), "rates are kept for whole periods"},
		"two discounts of a name":       {rate("meter: disk.read, price: 1 per GB") + "discounts: [{name: x, percent: 1}, {name: x, percent: 2}]\n", "p.yaml:5:36: a second discount x"},
		"a tenant's discount's name":    {rate("meter: disk.read, price: 1 per GB") + "discounts: [{name: x, percent: 1}]\ntenants: {ten_0123456789abcdef0: {discounts: [{name: x, percent: 1}]}}\n", "a second discount x"},
		"unknown tiers":                 {rate("meter: disk.read, tiers: steep, steps: [{price: 1 per GB}]"), `"steep" is not known here; graduated, volume, package and sustained are`},
		"tiers without steps":           {rate("meter: disk.read, tiers: volume, price: 1 per GB"), "tiers need steps in place of a price"},
		"unknown on_resize":             {rate("meter: disk.read, price: 1 per GB, on_resize: keep"), "prorate and restart are"},
		"steps out of order":            {rate("meter: disk.read, steps: [{up to: 2 GB, price: 2 per GB}, {up to: 1 GB, price: 1 per GB}, {price: 1 per GB}]"), "p.yaml:4:79: steps out of order: up to 1 GB does not lie above up to 2 GB"},
		"steps the same":                {rate("meter: disk.read, steps: [{up to: 1 GB, price: 2 per GB}, {up to: 1000 MB, price: 1 per GB}, {price: 1 per GB}]"), "steps out of order"},
		"steps without end":             {rate("meter: disk.read, steps: [{price: 2 per GB}, {price: 1 per GB}]"), "p.yaml:4:39: only the last step goes without up to"},
		"steps with an end":             {rate("meter: disk.read, steps: [{up to: 1 GB, price: 2 per GB}]"), "the last step has an end"},
		"no steps":                      {rate("meter: disk.read, steps: []"), "steps must be a list"},
		"a step without price":          {rate("meter: disk.read, steps: [{up to: 1 GB}, {price: 1 per GB}]"), "a step has no price"},
		"unknown label":                 {rate("meter: disk.read, price: 1 per GB, where: {colour: red}"), `where has no key "colour"`},
		"where fits nothing":            {rate("meter: disk.read, price: 1 per GB, where: {flavor: []}"), "an empty list fits nothing"},
		"where without value":           {rate("meter: disk.read, price: 1 per GB, where: {flavor: }"), "a value is missing"},
		"unknown class":                 {rate("meter: disk.read, price: 1 per GB, where: {time: night}"), `time class "night" is not defined; define it under calendar`},
		"bad hours":                     {"calendar: {night: {daily: 22-6}}\n" + rate("meter: disk.read, price: 1 per GB"), `p.yaml:1:27: "22-6" are not hours; 22:00-06:00 are`},
		"hours of no length":            {"calendar: {night: {daily: '06:00-06:00'}}\n" + rate("meter: disk.read, price: 1 per GB"), "are not hours"},
		"bad weekly":                    {"calendar: {night: {weekly: mo 06:00-07:00}}\n" + rate("meter: disk.read, price: 1 per GB"), "are not weekly hours; mon-fri 08:00-18:00 are"},
		"a class of nothing":            {"calendar: {night: {}}\n" + rate("meter: disk.read, price: 1 per GB"), "time class night has no rule"},
		"unknown holidays":              {"calendar: {night: {holidays: Bavaria}}\n" + rate("meter: disk.read, price: 1 per GB"), `no public holidays are known for "Bavaria"`},
		"flavor in bytes":               {"flavors: {small: {vcpus: 1, memory: 1000 B}}\n" + rate("meter: disk.read, price: 1 per GB"), `"1000 B" is not a size in whole MiB`},
		"no vcpus":                      {"flavors: {small: {vcpus: 0, memory: 1 GiB}}\n" + rate("meter: disk.read, price: 1 per GB"), `"0" is not a whole number from 1`},
		"an alias":                      {"plan: &p p\ncurrency: *p\n" + "rates:\n  - {id: a, meter: disk.read, price: 1 per GB}\n", "aliases are not read"},
		"an anchor":                     {strings.Replace(rate("meter: disk.read, price: 1 per GB"), "plan: p", "plan: &p p", 1), "p.yaml:1:7: anchors such as &p are not read"},
		"a tag":                         {strings.Replace(rate("meter: disk.read, price: 1 per GB"), "plan: p", "plan: !!str p", 1), "p.yaml:1:7: tags such as !!str are not read"},
		"a name with blanks":            {strings.Replace(rate("meter: disk.read, price: 1 per GB"), "plan: p", "plan: my plan", 1), `"my plan" is not a name`},
		"a minimum in another currency": {rate("meter: instance.running, price: 1 per hour, minimum: 1 USD"), `minimum: unit "USD" does not fit`},
		"a minimum that buys too much":  {rate("meter: volume.allocated, price: 0.000000001 per 1000000 TiB-month, minimum: 1000000000 EUR"), "minimum 1000000000 EUR: it buys more than can be counted"},
		"a minimum per day":             {rate("meter: instance.running, price: 1 per hour, minimum: 1 h per day"), `a minimum per "day" is not known; per start, per resource and per tenant are`},
		"a minimum per tenant alone":    {rate("meter: instance.running, price: 1 per hour, minimum: 1 h per tenant"), "needs pool: tenant"},
		"a minimum per resource pooled": {rate("meter: instance.running, pool: tenant, price: 1 per hour, minimum: 1 h per resource"), "needs pool: resource"},
		"two kinds of minimum":          {rate("meter: instance.running, price: 1 per hour, minimum: [1 h, 1 EUR per resource]"), "all per start, all per resource or all per tenant"},
		"two minimums of usage":         {rate("meter: instance.running, price: 1 per hour, minimum: [1 h, 2 h]"), "a second minimum of usage"},
		"granularity per tenant":        {rate("meter: instance.running, price: 1 per hour, granularity: 1 h per tenant"), `granularity per "tenant" is not known; per start and per resource are`},
		"granularity of a pool":         {rate("meter: instance.running, pool: tenant, price: 1 per hour, granularity: 1 h per resource"), "needs pool: resource"},
		"an instance-month of GiB":      {rate("meter: disk.read, price: 1 per GB, included: 1 GB per instance-month(1 GiB)"), "per instance-month(672 h) is"},
		"meters of two units":           {rate("meter: [disk.read, instance.running], price: 1 per GB"), "meter instance.running is in s and not in B as disk.read is"},
		"a meter twice":                 {rate("meter: [disk.read, disk.read], price: 1 per GB"), "meter disk.read twice"},
		"no meters":                     {rate("meter: [], price: 1 per GB"), "an empty list fits nothing"},
		"or_higher of another unit":     {rate("meter: disk.read, or_higher: instance.cpu, price: 1 per GB"), `"instance.cpu" is not another meter in B`},
		"or_higher of itself":           {rate("meter: disk.read, or_higher: disk.read, price: 1 per GB"), `"disk.read" is not another meter in B`},
		"a percentile of 100":           {rate("meter: disk.read, percentile: 100, price: 1 per Mbit/s"), `"100" is not a percentile from 1 to 99; 95 is`},
		"a percentile of hours":         {rate("meter: instance.cpu, percentile: 95, price: 1 per Mbit/s"), "a percentile is of a meter in B, and not in s"},
		"a percentile per GB":           {rate("meter: disk.read, percentile: 95, price: 1 per GB"), "kbit/s, Mbit/s and Gbit/s do"},
		"a percentile by starts":        {rate("meter: disk.read, percentile: 95, price: 1 per Mbit/s, granularity: 1 Mbit/s"), "a percentile has no starts"},
		"speed without a percentile":    {rate("meter: disk.read, price: 1 per Mbit/s"), `unit "Mbit/s" does not fit a meter in B`},
		"rates that share a meter":      {rate("meter: [disk.read, disk.write], price: 1 per GB") + "  - {id: b, meter: network.public.tx, or_higher: disk.write, price: 1 per GB}\n", "rates a and b both fit some usage"},
		"a discount of nothing":         {rate("meter: disk.read, price: 1 per GB") + "discounts: [{name: x}]\n", "p.yaml:5:13: a discount has either a percent or an amount"},
		"a discount of both":            {rate("meter: disk.read, price: 1 per GB") + "discounts: [{name: x, percent: 1, amount: 1}]\n", "either a percent or an amount"},
		"a discount of 101 percent":     {rate("meter: disk.read, price: 1 per GB") + "discounts: [{name: x, percent: 101}]\n", `"101" is not a percentage above 0 and up to 100`},
		"a discount of no rate":         {rate("meter: disk.read, price: 1 per GB") + "discounts: [{name: x, percent: 1, rates: b}]\n", `there is no rate "b" in this plan`},
		"a discount that never is":      {rate("meter: disk.read, price: 1 per GB") + "discounts: [{name: x, percent: 1, from: 2027-01-01, until: 2026-01-01}]\n", "a discount until 2026-01-01 never applies"},
		"a discount within a period":    {rate("meter: disk.read, price: 1 per GB") + "discounts: [{name: x, percent: 1, from: 2027-01-01 mid-period}]\n", "begins and ends with a period"},
		"no discounts":                  {rate("meter: disk.read, price: 1 per GB") + "discounts: []\n", "discounts must be a list"},
		"a minimum spend of hours":      {rate("meter: disk.read, price: 1 per GB") + "minimum_spend: 3 h\n", `p.yaml:5:16: "3 h" is not an amount per month; 5.00 per month is`},
		"a rate called minimum-spend":   {strings.Replace(rate("meter: disk.read, price: 1 per GB"), "id: a", "id: minimum-spend", 1), "minimum-spend is the id of the minimum spend"},
		"a tenant that is none":         {rate("meter: disk.read, price: 1 per GB") + "tenants: {acme: {}}\n", `p.yaml:5:11: "acme" is not an id`},
		"a tenant's unknown key":        {rate("meter: disk.read, price: 1 per GB") + "tenants: {ten_0123456789abcdef0: {price: 1}}\n", `a tenant's agreement has no key "price"`},
		"a tenant's wrong rate":         {rate("meter: disk.read, price: 1 per GB") + "tenants: {ten_0123456789abcdef0: {rates: [{id: a, meter: disk.read, price: -1 per GB}]}}\n", "negative"},
		"a tenant's conflict":           {rate("meter: disk.read, price: 1 per GB") + "tenants: {ten_0123456789abcdef0: {rates: [{id: b, meter: disk.read, price: 1 per GB}]}}\n", "p.yaml:5:43: rates a and b both fit"},
		"two rates that fit": {rate("meter: disk.read, where: {flavor: s}, price: 1 per GB") + "  - {id: b, meter: disk.read, where: {region: r}, price: 1 per GB}\n",
			"p.yaml:5:5: rates a and b both fit some usage of disk.read and neither is more specific"},
		"the same rate twice": {rate("meter: disk.read, price: 1 per GB") + "  - {id: b, meter: disk.read, price: 1 per GB}\n", "rates a and b both fit"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Parse("p.yaml", []byte(tc.source))
			var at *Error
			if err == nil || !strings.Contains(err.Error(), tc.want) || !errors.As(err, &at) {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
		})
	}
}

// TestSold: a flavor runs unrated where only a component has a rate for it, or
// rates leave out some time.
func TestSold(t *testing.T) {
	const plan = "plan: p\ncurrency: EUR\nflavors: {s: {vcpus: 1, memory: 1 GiB}}\ncalendar: {day: {daily: '06:00-22:00'}, night: {daily: '22:00-06:00'}}\nrates:\n"
	for rates, want := range map[string]int{
		"  - {id: a, meter: instance.running, price: 1 per hour}\n":                                                                                                               0,
		"  - {id: a, component: x, meter: instance.running, price: 1 per hour}\n":                                                                                                 1,
		"  - {id: a, meter: instance.running, where: {time: day}, price: 1 per hour}\n":                                                                                           1,
		"  - {id: a, meter: instance.running, where: {time: day}, price: 1 per hour}\n  - {id: b, meter: instance.running, where: {flavor: s, time: night}, price: 1 per hour}\n": 0,
	} {
		if _, warnings, err := Parse("p.yaml", []byte(plan+rates)); err != nil || len(warnings) != want {
			t.Errorf("%s: %v, %q", rates, err, warnings)
		}
	}
}

// TestOneMistakeOneError: what follows from a mistake is not reported too.
func TestOneMistakeOneError(t *testing.T) {
	_, _, err := Parse("p.yaml", []byte(head+"  - {id: a, meter: disk.read, steps: [{upto: 1 GB, price: 2 per GB}, {price: 1 per GB}]}\n"))
	if err == nil || err.Error() != `p.yaml:4:40: a step has no key "upto"; its keys are price and up to` {
		t.Errorf("got %v", err)
	}
}

// TestLongErrors: what an error quotes of the plan is cut.
func TestLongErrors(t *testing.T) {
	_, _, err := Parse("p.yaml", []byte("plan: "+strings.Repeat("x", 1<<19)+"\n"+head[len("plan: p\n"):]+"  - {id: a, meter: disk.read, price: 1 per GB}\n"))
	if err == nil || len(err.Error()) > maxText+20 || !strings.Contains(err.Error(), "is not a name: up to 63 letters") {
		t.Errorf("got %v", err)
	}
}

// TestDoubledValue: a value twice in a list is probably another one misspelt.
func TestDoubledValue(t *testing.T) {
	plan, warnings, err := Parse("p.yaml", []byte(head+"  - {id: a, meter: disk.read, where: {flavor: [small, large, small]}, price: 1 per GB}\n"))
	if err != nil || len(warnings) != 1 || warnings[0] != `p.yaml:4:62: "small" stands in this list already` || len(plan.Rates[0].Where.Flavor) != 2 {
		t.Errorf("got %q, %v", warnings, err)
	}
}

// TestAllErrorsAtOnce: by place, one a line.
func TestAllErrorsAtOnce(t *testing.T) {
	_, _, err := Parse("p.yaml", []byte("plan: p\ncurrency: X\nrates:\n  - {id: a, meter: disk.read, price: -1 per GB}\n  - {id: b, meter: nothing, price: 1}\n"))
	if err == nil {
		t.Fatal("not refused")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "p.yaml:2:11: ") || !strings.HasPrefix(lines[1], "p.yaml:4:") || !strings.HasPrefix(lines[2], "p.yaml:5:") {
		t.Errorf("got:\n%v", err)
	}
}

// TestTimeClassesThatNeverMeet: two rates for classes that share no instant do
// not stand against each other; two that share one do.
func TestTimeClassesThatNeverMeet(t *testing.T) {
	source := func(day string) []byte {
		return []byte("calendar:\n  day: {daily: " + day + "}\n  night: {daily: '20:00-08:00'}\n" + head +
			"  - {id: a, meter: disk.read, where: {time: day}, price: 1 per GB}\n" +
			"  - {id: b, meter: disk.read, where: {time: night}, price: 1 per GB}\n")
	}
	if _, _, err := Parse("p.yaml", source("'08:00-20:00'")); err != nil {
		t.Errorf("apart: %v", err)
	}
	if _, _, err := Parse("p.yaml", source("'08:00-20:05'")); err == nil || !strings.Contains(err.Error(), "rates a and b both fit") {
		t.Errorf("together: %v", err)
	}
}

// TestTenants: an agreement replaces, adds, and leaves the plan as it is.
func TestTenants(t *testing.T) {
	plan, _, err := Parse("p.yaml", []byte(head+"  - {id: a, meter: disk.read, price: 1 per GB}\n  - {id: b, meter: disk.write, price: 1 per GB}\nminimum_spend: 5.00\n"+`
tenants:
  ten_0123456789abcdef0:
    rates:
      - {id: b, meter: disk.write, price: 0.5 per GB}
      - {id: c, meter: instance.cpu, price: 1 per hour}
    discounts: [{name: friend, percent: 5, rates: c}]
    minimum_spend: 2.00 per month
`))
	if err != nil {
		t.Fatal(err)
	}
	own := plan.ForTenant("ten_0123456789abcdef0")
	var got []string
	for _, p := range []*rating.Plan{plan, own} {
		for _, r := range p.Rates {
			got = append(got, r.ID+" "+r.Steps[0].Text)
		}
	}
	want := "a 1 per GB, b 1 per GB, minimum-spend 5.00, a 1 per GB, b 0.5 per GB, c 1 per hour, minimum-spend 2.00 per month"
	if strings.Join(got, ", ") != want || len(own.Discounts) != 1 || len(plan.Discounts) != 0 {
		t.Errorf("got %s", strings.Join(got, ", "))
	}
	if plan.ForTenant("ten_ffffffffffffffff0") != plan {
		t.Error("a tenant without an agreement has another plan")
	}
}

// TestThirdRateDecides: two rates may overlap where a third is narrower than both.
func TestThirdRateDecides(t *testing.T) {
	_, _, err := Parse("p.yaml", []byte(head+
		"  - {id: a, meter: disk.read, where: {flavor: s}, price: 1 per GB}\n"+
		"  - {id: b, meter: disk.read, where: {region: r}, price: 1 per GB}\n"+
		"  - {id: c, meter: disk.read, where: {flavor: s, region: r}, price: 1 per GB}\n"))
	if err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(head + "  - {id: a, meter: disk.read, steps: [{up to: 1 GB, price: 1 per GB}, {price: 1 per 5 GB}], cap: 1, included: 3 GB}\n"))
	f.Add([]byte("calendar: {n: {daily: '22:00-06:00', holidays: [US, 2026-01-01]}}\n" + head + "  - {id: a, meter: instance.running, where: {time: n}, price: 1 per month(730 h)}\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? {x: y}\n: z\n"))
	f.Fuzz(func(t *testing.T, source []byte) {
		plan, _, err := Parse("p.yaml", source)
		if (plan == nil) == (err == nil) {
			t.Errorf("plan %v, error %v", plan, err)
		}
	})
}

func FuzzUnits(f *testing.F) {
	for _, s := range []string{"60 s", "0.5 per 100 GiB", "1 month(730 h)", "1 GiB-month", "9999999999999 TiB", "1 per month(month(1 h))"} {
		f.Add(s, "s")
		f.Add(s, "MiB·s")
		f.Add(s, "1")
	}
	f.Fuzz(func(t *testing.T, s, base string) {
		if span, err := parseSpan(s, base); err == nil && (span.Unit.Num == 0 || span.Unit.Den == 0 || span.IsZero()) {
			t.Errorf("span %q in %s: %+v", s, base, span)
		}
		if step, err := parsePrice(s, base); err == nil && (step.Count == 0 || step.Unit.Num == 0 || step.Unit.Den == 0 || step.Nano < 0) {
			t.Errorf("price %q in %s: %+v", s, base, step)
		}
	})
}
