package rating

import (
	"slices"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// discount takes one discount off the charges it is for.
func (c *charging) discount(d *Discount) {
	if c.period.Start.Before(d.From) || !d.Until.IsZero() && !c.period.Start.Before(d.Until) {
		return
	}
	whole := money.Frac(d.Nano, 1_000_000_000).Mul(c.part())
	left := whole
	for i := range c.result.Charges {
		charge := &c.result.Charges[i]
		if len(d.Rates) > 0 && !slices.Contains(d.Rates, charge.Rate.ID) && !slices.Contains(d.Rates, charge.Rate.Former) {
			continue
		}
		var off money.Fraction
		for k := len(charge.Parts) - 1; k >= 0; k-- {
			part := &charge.Parts[k]
			net := part.Exact.Sub(part.Allowance)
			take := net.Mul(money.Frac(int64(d.Percent), 100_000))
			if d.Percent == 0 {
				take = left.Min(net)
				left = left.Sub(take)
			}
			part.Allowance = part.Allowance.Add(take)
			off = off.Add(take)
		}
		charge.Exact = charge.Exact.Sub(off)
		charge.Discounts = append(charge.Discounts, Discounted{d, whole, off})
	}
}

// topUp charges what all other charges lack of a minimum spend.
func (c *charging) topUp() {
	last := len(c.rates) - 1
	if last < 0 || !c.rates[last].TopUp {
		return
	}
	var sum money.Fraction
	for i := range c.result.Charges {
		sum = sum.Add(c.result.Charges[i].Exact)
	}
	r := &c.rates[last]
	one := r.part(0, exactly(metering.Thousandths(1000)))
	one.Allowance = sum.Min(one.Exact)
	top := Charge{Rate: r.Rate, Parts: []Part{one}, Exact: one.Exact.Sub(one.Allowance), Billable: one.Quantity, index: last, rate: r}
	// After all pools: it has no resource either, and the plan has it last.
	after := slices.IndexFunc(c.result.Charges, func(charge Charge) bool { return charge.Resource != "" })
	if after < 0 {
		after = len(c.result.Charges)
	}
	c.result.Charges = slices.Insert(c.result.Charges, after, top)
}
