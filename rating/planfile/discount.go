package planfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/usance/usance/rating"
)

// discounts reads the discounts of a plan.
func (d *decoder) discounts(n *yaml.Node, plan *rating.Plan) []rating.Discount {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		d.errorf(n, "discounts must be a list such as [{name: launch, percent: 10, until: 2027-01-01}]")
		return nil
	}
	var list []rating.Discount
	for _, item := range n.Content {
		one := d.discount(item, plan)
		if slices.ContainsFunc(slices.Concat(plan.Discounts, list), func(o rating.Discount) bool { return o.Name == one.Name }) && one.Name != "" {
			d.errorf(item, "a second discount %s; give it a name of its own", one.Name)
		}
		list = append(list, one)
	}
	return list
}

func (d *decoder) discount(n *yaml.Node, plan *rating.Plan) rating.Discount {
	var c rating.Discount
	day := func(to *time.Time) func(*yaml.Node) {
		return func(n *yaml.Node) {
			var mid bool
			if *to, mid = d.effective(n, plan.Zone); mid {
				d.errorf(n, "a discount begins and ends with a period; 2026-12-01 is read")
			}
		}
	}
	d.mapping(n, "a discount", fields{
		"name":    func(n *yaml.Node) { c.Name = d.name(n) },
		"rates":   func(n *yaml.Node) { c.Rates = d.rateIDs(n, plan) },
		"percent": func(n *yaml.Node) { c.Percent = d.percent(n) },
		"amount":  func(n *yaml.Node) { c.Nano = d.monthly(n) },
		"from":    day(&c.From),
		"until":   day(&c.Until),
	}, "name")
	if n.Kind == yaml.MappingNode && (child(n, "percent") == nil) == (child(n, "amount") == nil) {
		d.errorf(n, "a discount has either a percent or an amount")
	}
	if !c.Until.IsZero() && !c.Until.After(c.From) {
		d.errorf(child(n, "until"), "a discount until %s never applies; it must end after it begins", c.Until.Format(time.DateOnly))
	}
	c.Text = c.Name + " " + textOf(child(n, "amount"))
	if c.Percent > 0 {
		c.Text = fmt.Sprintf("%s %s %%", c.Name, textOf(child(n, "percent")))
	}
	return c
}

func textOf(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

func (d *decoder) rateIDs(n *yaml.Node, plan *rating.Plan) []string {
	var ids []string
	for _, item := range d.list(n) {
		s, ok := d.scalar(item)
		if ok && !slices.ContainsFunc(plan.Rates, func(r rating.Rate) bool { return r.ID == s }) {
			d.errorf(item, "there is no rate %q in this plan", s)
		}
		ids = append(ids, s)
	}
	return ids
}

// percent is a percentage with at most 3 decimals, in thousandths.
func (d *decoder) percent(n *yaml.Node) uint64 {
	s, ok := d.scalar(n)
	if !ok {
		return 0
	}
	whole, frac, dot := strings.Cut(s, ".")
	if allDigits(whole) && (!dot || allDigits(frac)) && len(frac) <= 3 {
		v, err := strconv.ParseUint(whole+frac+strings.Repeat("0", 3-len(frac)), 10, 64)
		if err == nil && v > 0 && v <= 100_000 {
			return v
		}
	}
	d.errorf(n, "%q is not a percentage above 0 and up to 100 with at most 3 decimals; 12.5 is", s)
	return 0
}

// monthly is an amount of money per month: "5.00 per month", "5.00".
func (d *decoder) monthly(n *yaml.Node) int64 {
	s, ok := d.scalar(n)
	if !ok {
		return 0
	}
	nano, err := parseDecimal(strings.TrimSuffix(s, " per month"))
	if err != nil || nano == 0 {
		d.errorf(n, "%q is not an amount per month; 5.00 per month is", s)
	}
	return nano
}

// minimumSpendID is the id of the rate that a minimum spend is.
const minimumSpendID = "minimum-spend"

// minimumSpend is the rate that charges what all others lack of an amount.
func (d *decoder) minimumSpend(n *yaml.Node) rating.Rate {
	nano := d.monthly(n)
	return rating.Rate{ID: minimumSpendID, TopUp: true, Pool: rating.PoolTenant, Steps: []rating.Step{{
		Nano: nano, Count: 1, Unit: rating.Unit{Name: "month", Num: 1, Den: 1}, Text: n.Value,
	}}}
}
