package planfile

import (
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
)

// tenants reads what is agreed with single tenants: rates in place of the
// plan's of the same id, further rates, further discounts, another minimum
// spend. Each gives a whole plan, checked like any other.
func (d *decoder) tenants(n *yaml.Node, plan *rating.Plan, places []*yaml.Node, flavors map[string]*yaml.Node) {
	plan.Tenants = make(map[metering.TenantID]*rating.Plan)
	d.each(n, "tenants", func(key, value *yaml.Node) {
		if err := metering.CheckID(metering.PrefixTenant, key.Value); err != nil {
			d.errorf(key, "%v", err)
		}
		own := *plan
		own.Tenants = nil
		own.Rates, own.Discounts = slices.Clone(plan.Rates), slices.Clone(plan.Discounts)
		mine := slices.Clone(places)
		var rates, discounts, spend *yaml.Node
		d.mapping(value, "a tenant's agreement", fields{
			"rates":         func(n *yaml.Node) { rates = n },
			"discounts":     func(n *yaml.Node) { discounts = n },
			"minimum_spend": func(n *yaml.Node) { spend = n },
		})
		if rates != nil {
			list := rating.Plan{Currency: own.Currency}
			for i, place := range d.rates(rates, &list) {
				mine = put(&own, mine, list.Rates[i], place)
			}
		}
		if discounts != nil {
			own.Discounts = append(own.Discounts, d.discounts(discounts, &own)...)
		}
		if spend != nil {
			mine = put(&own, mine, d.minimumSpend(spend), spend)
		}
		d.checkClasses(&own)
		if d.err() == nil {
			d.together(&own, mine, flavors)
		}
		plan.Tenants[metering.TenantID(key.Value)] = &own
	})
}

// put gives the plan a rate in place of the one of its id, or as a further one
// before the minimum spend, which stays the last.
func put(plan *rating.Plan, places []*yaml.Node, r rating.Rate, place *yaml.Node) []*yaml.Node {
	at := slices.IndexFunc(plan.Rates, func(o rating.Rate) bool { return o.ID == r.ID })
	if at >= 0 {
		plan.Rates[at], places[at] = r, place
		return places
	}
	at = len(plan.Rates)
	if !r.TopUp && at > 0 && plan.Rates[at-1].TopUp {
		at--
	}
	plan.Rates = slices.Insert(plan.Rates, at, r)
	return slices.Insert(places, at, place)
}
