package rating_test

import (
	"strings"
	"testing"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
)

// versions are three of one plan, each of which grandfathers what came before.
var versions = []string{`
plan: p
currency: EUR
timezone: Europe/Berlin
effective: 2026-01-01
calendar: {night: {daily: "22:00-06:00"}}
rates:
  - {id: running, meter: instance.running, price: 0.01 per hour}
  - {id: night, meter: instance.running, where: {time: night}, price: 0.005 per hour}
minimum_spend: 1.00 per month
`, `
plan: p
currency: EUR
timezone: UTC
effective: 2026-05-01
grandfathered: {until: 2026-12-01}
calendar: {night: {daily: "00:00-01:00"}}
rates:
  - {id: running, meter: instance.running, price: 0.02 per hour}
  - {id: night, meter: instance.running, where: {time: night}, price: 0.015 per hour}
minimum_spend: 2.00 per month
`, `
plan: p
currency: EUR
effective: 2026-10-01
grandfathered: {until: 2027-03-01}
rates:
  - {id: running, meter: instance.running, price: 0.04 per hour}
minimum_spend: 3.00 per month
`}

// inForce is the last version with what the others left it, in a period.
func inForce(t *testing.T, start time.Time, sources ...string) *rating.Plan {
	t.Helper()
	var plan *rating.Plan
	for _, source := range sources {
		next := mustParse(t, source)
		if plan != nil {
			var err error
			if next, err = next.Grandfather(plan, start); err != nil {
				t.Fatal(err)
			}
		}
		plan = next
	}
	return plan
}

// TestGrandfatherRates: which version's price an hour of running has, by when its
// resource was created and by period.
func TestGrandfatherRates(t *testing.T) {
	for _, tc := range []struct{ created, at, want string }{
		{"2026-04-30T23:59:59Z", "2026-11-03T12", "running@2026-01-01"},
		{"2026-05-01T00:00:00Z", "2026-11-03T12", "running@2026-05-01"},
		{"2026-09-30T23:59:59Z", "2026-11-03T12", "running@2026-05-01"},
		{"2026-10-01T00:00:00Z", "2026-11-03T12", "running"},
		{"", "2026-11-03T12", "running"},
		// The second version's word has ended, the third's has not.
		{"2026-04-30T23:59:59Z", "2026-12-03T12", "running@2026-05-01"},
		{"2026-04-30T23:59:59Z", "2027-02-28T12", "running@2026-05-01"},
		{"2026-04-30T23:59:59Z", "2027-03-03T12", "running"},
		// Nights are those of each version, in its own zone.
		{"2026-04-30T23:59:59Z", "2026-11-03T21", "night@2026-01-01"},
		{"2026-05-01T00:00:00Z", "2026-11-03T21", "running@2026-05-01"},
		{"2026-05-01T00:00:00Z", "2026-11-03T00", "night@2026-05-01"},
		{"", "2026-11-03T00", "running"},
	} {
		start, err := time.Parse("2006-01-02T15", tc.at)
		if err != nil {
			t.Fatal(err)
		}
		period := metering.Month(start, time.UTC)
		result, err := inForce(t, period.Start, versions...).Rate(period, []metering.Usage{{Resource: "ins_1", Meter: metering.InstanceRunning,
			Window: metering.Window{Start: start, End: start.Add(time.Hour)}, Quantity: metering.Thousandths(3_600_000), Labels: metering.Labels{Created: tc.created}}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range result.Charges {
			got = append(got, c.Rate.ID)
		}
		if want := "minimum-spend " + tc.want; strings.Join(got, " ") != want {
			t.Errorf("created %q, used %s: %v, want %s", tc.created, tc.at, got, want)
		}
	}
}

func TestGrandfatherRefuses(t *testing.T) {
	newer := mustParse(t, versions[2])
	for want, source := range map[string]string{
		"it is in EUR":             strings.ReplaceAll(versions[1], "EUR", "USD"),
		"not of an earlier day":    strings.ReplaceAll(versions[1], "2026-05-01", "2026-10-01"),
		"is not of an earlier day": strings.ReplaceAll(versions[0], "effective: 2026-01-01\n", ""),
	} {
		if _, err := newer.Grandfather(mustParse(t, source), november.Start); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestGrandfatherPreview: what is planned is new, and costs what it costs under
// the newer version alone; what is agreed with a tenant is grandfathered too.
func TestGrandfatherPreview(t *testing.T) {
	newer := mustParse(t, versions[2])
	joined, err := newer.Grandfather(mustParse(t, versions[1]), november.Start)
	if err != nil {
		t.Fatal(err)
	}
	planned := rating.Planned{Running: rating.Always}
	got, err := joined.Preview(november, planned)
	want, err2 := newer.Preview(november, planned)
	if err != nil || err2 != nil || got.Month != want.Month || got.Hour.Cmp(want.Hour) != 0 || got.Month.String() != "28.80" {
		t.Errorf("%v %v, want %v %v", got, err, want, err2)
	}
	const agreed = "\ntenants: {ten_00000000000000001: {rates: [{id: running, meter: instance.running, price: 0.001 per hour}]}}\n"
	joined, err = newer.Grandfather(mustParse(t, versions[1]+agreed), november.Start)
	if err != nil {
		t.Fatal(err)
	}
	old := rating.Planned{Running: rating.Always, Labels: metering.Labels{Created: "2026-09-01T00:00:00Z"}}
	for tenant, want := range map[metering.TenantID]string{"ten_00000000000000001": "3.00", "ten_00000000000000002": "14.25"} { // nights are 0.015
		if v, err := joined.ForTenant(tenant).Preview(november, old); err != nil || v.Month.String() != want {
			t.Errorf("%s: %v %v, want %s", tenant, v.Month, err, want)
		}
	}
	if len(newer.Tenants) != 0 || newer.Rates[0].Where.CreatedFrom != "" {
		t.Error("the plan was changed")
	}
}

// TestGrandfatherInWords: what a diff says of it.
func TestGrandfatherInWords(t *testing.T) {
	plain := mustParse(t, strings.Replace(versions[2], "grandfathered: {until: 2027-03-01}\n", "", 1))
	changes := rating.Diff(plain, mustParse(t, versions[2]))
	const want = "grandfathered: none → resources created before 2026-10-01, in periods that begin before 2027-03-01"
	if len(changes) != 1 || changes[0].String() != want {
		t.Errorf("%v\nwant %s", changes, want)
	}
}
