package rating

import (
	"fmt"
	"slices"
	"time"

	"github.com/usance/usance/metering"
)

// Grandfather is the plan for a period that begins at start, with what resources
// of earlier days keep: where the plan grandfathers and the period begins before
// it ends that, resources created before the plan took effect are rated by the
// rates of the earlier version, and by none of its own; those created since, and
// those of which nobody knows, by its own alone. Otherwise it is the plan itself.
//
// Earlier is the version in force until this one takes effect, itself with what
// it grandfathers in that period: so resources go on under the rates they were
// created under for as long as every version since allows. For a plan changed
// within a period, start is the period's, not the part's.
//
// The result is one plan like any other, to be rated, explained and previewed
// (a resource that is planned is new). The earlier rates come first, named after
// the day they took effect: "egress@2026-11-01". Pools, thresholds, allowances
// and caps are of each rate, and so of the resources of its days; rates for time
// classes keep their calendars and zone. What is of the tenant and no resource's
// comes from the newer version alone: minimum spend, discounts, rounding, and the
// commitment of a rate, towards which usage under the earlier rate of that id
// counts. A discount on some rates is also on the earlier ones of their ids.
//
// It changes neither plan. Plans of two currencies, and an earlier one that does
// not say when it took effect, or not before this one, are an error.
func (p *Plan) Grandfather(earlier *Plan, start time.Time) (*Plan, error) {
	if p.Grandfathered.IsZero() || !start.Before(p.Grandfathered) {
		return p, nil
	}
	switch {
	case earlier.Currency != p.Currency:
		return nil, fmt.Errorf("plan %s cannot grandfather rates in %s: it is in %s", p.Name, earlier.Currency, p.Currency)
	case earlier.Effective.IsZero() || !earlier.Effective.Before(p.Effective):
		return nil, fmt.Errorf("plan %s of %s cannot grandfather a version that is not of an earlier day", p.Name, dayText(p.Effective))
	}
	joined := p.join(earlier)
	joined.Tenants = make(map[metering.TenantID]*Plan)
	for _, agreed := range []map[metering.TenantID]*Plan{p.Tenants, earlier.Tenants} {
		for id := range agreed {
			joined.Tenants[id] = p.ForTenant(id).join(earlier.ForTenant(id))
		}
	}
	return joined, nil
}

// join is the plan with the rates of an earlier version.
func (p *Plan) join(earlier *Plan) *Plan {
	joined := *p
	joined.Rates, joined.Calendars = nil, slices.Clone(p.Calendars)
	joined.take(earlier, metering.CreatedAt(p.Effective))
	for _, r := range p.Rates {
		if !r.TopUp {
			r.Where.CreatedFrom = metering.CreatedAt(p.Effective)
		}
		joined.Rates = append(joined.Rates, r)
	}
	return &joined
}

// take puts the earlier plan's rates and time classes first, for resources
// created before an instant.
func (p *Plan) take(earlier *Plan, before string) {
	day := "@" + dayText(earlier.Effective)
	renamed := make(map[string]string)
	for _, c := range earlier.Calendars {
		if c.Zone == nil { // else it is of a version before, and named so
			c.Zone = earlier.Zone
			renamed[c.Name], c.Name = c.Name+day, c.Name+day
		}
		p.Calendars = append(p.Calendars, c)
	}
	for _, r := range earlier.Rates {
		if r.TopUp {
			continue
		}
		if r.Where.CreatedBefore == "" {
			r.Former, r.ID = r.ID, r.ID+day
			r.Where.CreatedBefore = before
			r.Where.Time = slices.Clone(r.Where.Time)
			for i, name := range r.Where.Time {
				r.Where.Time[i] = renamed[name]
			}
		}
		if r.Minimum.For == ForTenant {
			r.Minimum = Minimum{}
		}
		p.Rates = append(p.Rates, r)
	}
}
