package planfile

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	_ "time/tzdata" // plans name zones, also where the machine has none

	"gopkg.in/yaml.v3"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
)

// Warning is something in a plan that is allowed and probably wrong, with its
// place: "plan.yaml:7:3: no rate fits …".
type Warning string

// maxSource bounds the text of a plan in bytes; a larger one is refused.
const maxSource = 1 << 20

// Parse reads a plan; name stands in errors and warnings. All errors found are
// reported together, one a line, each an *Error.
func Parse(name string, src []byte) (*rating.Plan, []Warning, error) {
	d := &decoder{file: name}
	plan := d.document(src)
	if err := d.err(); err != nil {
		return nil, nil, err
	}
	return plan, d.warnings, nil
}

// document reads the one YAML document of a plan.
func (d *decoder) document(src []byte) *rating.Plan {
	root := d.root(src)
	if root == nil {
		return nil
	}
	plan := &rating.Plan{Zone: time.UTC, Rounding: money.HalfAway}
	var rates *yaml.Node
	flavors := make(map[string]*yaml.Node)
	d.mapping(root, "a plan", fields{
		"plan":     func(n *yaml.Node) { plan.Name = d.name(n) },
		"currency": func(n *yaml.Node) { plan.Currency = d.currency(n) },
		"timezone": func(n *yaml.Node) { plan.Zone = d.zone(n) },
		// Read after the zone, whatever the order of keys.
		"effective":     nil,
		"grandfathered": nil,
		"flavors":       func(n *yaml.Node) { plan.Flavors = d.flavors(n, flavors) },
		"calendar":      func(n *yaml.Node) { plan.Calendars = d.calendars(n) },
		"rates":         func(n *yaml.Node) { rates = n },
		"rounding":      func(n *yaml.Node) { plan.Rounding = d.rounding(n) },
		// Read after the rates and the zone.
		"discounts":     nil,
		"minimum_spend": nil,
		"tenants":       nil,
	}, "plan", "currency", "rates")
	if n := child(root, "effective"); n != nil {
		plan.Effective, plan.MidPeriod = d.effective(n, plan.Zone)
	}
	if n := child(root, "grandfathered"); n != nil {
		plan.Grandfathered = d.grandfathered(n, plan)
	}
	if rates == nil {
		return plan
	}
	places := d.rates(rates, plan)
	d.checkClasses(plan)
	if n := child(root, "discounts"); n != nil {
		plan.Discounts = d.discounts(n, plan)
	}
	if n := child(root, "minimum_spend"); n != nil {
		plan.Rates = append(plan.Rates, d.minimumSpend(n))
		places = append(places, n)
	}
	if d.err() == nil {
		d.together(plan, places, flavors)
	}
	if n := child(root, "tenants"); n != nil && d.err() == nil {
		d.tenants(n, plan, places, flavors)
	}
	return plan
}

// together checks what only the rates of a plan together show.
func (d *decoder) together(plan *rating.Plan, places []*yaml.Node, flavors map[string]*yaml.Node) {
	place := make(map[*rating.Rate]*yaml.Node)
	for i := range plan.Rates {
		place[&plan.Rates[i]] = places[i]
	}
	for _, c := range plan.Conflicts() {
		d.errorf(place[c.B], "rates %s and %s both fit some usage of %s and neither is more specific; give one of them all the conditions of the other and more",
			c.A.ID, c.B.ID, c.A.Meter)
	}
	for i := range plan.Rates {
		r := &plan.Rates[i]
		below, err := plan.CapBelowMinimum(r)
		if err != nil {
			d.errorf(places[i], "%v", errors.Unwrap(err))
		} else if below != nil {
			d.errorf(places[i], "rate %s: the cap %s is below what the minimum %s costs; raise the cap or lower the minimum",
				r.ID, below.Text, r.Minimum.Text)
		}
		for _, name := range r.Where.Flavor {
			if len(plan.Flavors) > 0 && flavors[name] == nil {
				d.warnf(places[i], "rate %s is for flavor %s, which is not among the plan's flavors", r.ID, name)
			}
		}
	}
	for _, f := range plan.Flavors {
		switch ever, always := plan.Sells(metering.InstanceRunning, f.Name); {
		case !ever:
			d.warnf(flavors[f.Name], "no rate for %s fits flavor %s: it would run unrated", metering.InstanceRunning, f.Name)
		case !always:
			d.warnf(flavors[f.Name], "no rate for %s fits flavor %s at all times: it would run unrated at the others", metering.InstanceRunning, f.Name)
		}
	}
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// name is an identifier: of a plan, a rate, a flavor, a time class.
func (d *decoder) name(n *yaml.Node) string {
	s, ok := d.scalar(n)
	if ok && !namePattern.MatchString(s) {
		d.errorf(n, "%q is not a name: up to 63 letters, digits, dots, dashes and underscores are, beginning with a letter or digit", s)
	}
	return s
}

func (d *decoder) currency(n *yaml.Node) money.Currency {
	s, ok := d.scalar(n)
	if !ok {
		return ""
	}
	c, err := money.ParseCurrency(s)
	if err != nil {
		d.errorf(n, "%v", err)
	}
	return c
}

func (d *decoder) zone(n *yaml.Node) *time.Location {
	s, ok := d.scalar(n)
	if !ok {
		return time.UTC
	}
	zone, err := time.LoadLocation(s)
	if err != nil || s == "" || s == "Local" {
		d.errorf(n, "%q is not a time zone; Europe/Berlin and UTC are", s)
		return time.UTC
	}
	return zone
}

func (d *decoder) rounding(n *yaml.Node) money.Rounding {
	s, ok := d.scalar(n)
	if !ok {
		return 0
	}
	m, err := money.ParseRounding(s)
	if err != nil {
		d.errorf(n, "%v", err)
	}
	return m
}

// effective is the first instant of a day in the zone, and whether it may lie
// within a period.
func (d *decoder) effective(n *yaml.Node, zone *time.Location) (time.Time, bool) {
	s, ok := d.scalar(n)
	if !ok {
		return time.Time{}, false
	}
	day, mid := strings.CutSuffix(s, " mid-period")
	t, err := time.ParseInLocation(time.DateOnly, strings.TrimSpace(day), zone)
	if err != nil {
		d.errorf(n, "%q is not a date; 2026-12-01 and 2026-12-15 mid-period are", s)
	}
	return t, mid
}

// grandfathered reads {until: 2027-06-01}: the first instant of that day.
func (d *decoder) grandfathered(n *yaml.Node, plan *rating.Plan) (until time.Time) {
	d.mapping(n, "grandfathered", fields{"until": func(n *yaml.Node) {
		var mid bool
		until, mid = d.effective(n, plan.Zone)
		switch {
		case mid:
			d.errorf(n, "rates are kept for whole periods; 2027-06-01 is read")
		case plan.Effective.IsZero():
			d.errorf(n, "grandfathered needs effective: resources created before that day keep their rates")
		case !until.IsZero() && !until.After(plan.Effective):
			d.errorf(n, "until %s nothing is kept: the plan takes effect on %s", until.Format(time.DateOnly), plan.Effective.Format(time.DateOnly))
		}
	}}, "until")
	return until
}

func (d *decoder) flavors(n *yaml.Node, places map[string]*yaml.Node) []rating.Flavor {
	var list []rating.Flavor
	d.each(n, "flavors", func(key, value *yaml.Node) {
		f := rating.Flavor{Name: d.name(key)}
		places[f.Name] = key
		d.mapping(value, "flavor "+f.Name, fields{
			"vcpus":  func(n *yaml.Node) { f.VCPUs = int(d.count(n, 1, maxVCPUs)) },
			"memory": func(n *yaml.Node) { f.MemoryMiB = d.mebibytes(n) },
			"disk":   func(n *yaml.Node) { f.DiskMiB = d.mebibytes(n) },
		}, "vcpus", "memory")
		list = append(list, f)
	})
	return list
}

// maxVCPUs bounds a flavor; QEMU has no larger guest.
const maxVCPUs = 4096

// mebibytes is a size in whole MiB.
func (d *decoder) mebibytes(n *yaml.Node) uint64 {
	s, ok := d.scalar(n)
	if !ok {
		return 0
	}
	span, err := parseSpan(s, "B")
	mib := uint64(1<<20) * 1000
	bytes, whole := uint64(0), false
	if err == nil {
		bytes, whole = mulDiv(span.Thousandths, span.Unit.Num, mib)
	}
	if err != nil || !whole || bytes == 0 {
		d.errorf(n, "%q is not a size in whole MiB; 512 MiB and 4 GiB are", s)
	}
	return bytes
}

// rates reads all rates and returns where each stands.
func (d *decoder) rates(n *yaml.Node, plan *rating.Plan) []*yaml.Node {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		d.errorf(n, "rates must be a list of at least one rate, each beginning with a dash")
		return nil
	}
	var places []*yaml.Node
	seen := make(map[string]int)
	for _, item := range n.Content {
		r := d.rate(item, plan)
		if r.ID == minimumSpendID {
			d.errorf(item, "%s is the id of the minimum spend; give the rate another", r.ID)
		}
		if line, ok := seen[r.ID]; ok && r.ID != "" {
			d.errorf(item, "a second rate with the id %s, which line %d has; ids are unique in a plan", r.ID, line)
		}
		seen[r.ID] = item.Line
		plan.Rates = append(plan.Rates, r)
		places = append(places, item)
	}
	return places
}

// quoted lists what would have been right.
func quoted(list []string) string {
	list = slices.Clone(list)
	if len(list) > 1 {
		last := len(list) - 1
		return fmt.Sprintf("%s and %s", strings.Join(list[:last], ", "), list[last])
	}
	return strings.Join(list, "")
}
