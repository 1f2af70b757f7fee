package rating

import (
	"math/big"
	"slices"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// share is the part of the resource that the pool's flavors have, where a
// resource had several flavors in the period: by its usage of the rate's own
// meters, as far as rates rate it.
func (p *pool) share(meters []metering.Meter, stretches []*stretch) (share, whole metering.Quantity) {
	one := metering.Thousandths(1)
	if len(stretches) == 1 {
		return one, one
	}
	var mine []string
	for _, s := range stretches {
		if s.rate == p.charge.index {
			mine = append(mine, s.fit.labels.Flavor)
		}
	}
	for _, s := range stretches {
		if s.rate < 0 || !slices.Contains(meters, s.fit.meter) {
			continue
		}
		whole = whole.Add(s.measured)
		if slices.Contains(mine, s.fit.labels.Flavor) {
			share = share.Add(s.measured)
		}
	}
	if whole.IsZero() {
		return one, one
	}
	return share, whole
}

// allowance is what makes how many of the quantity that a rate includes.
func (r *priced) allowance(rater *Rater, p *pool, share, whole metering.Quantity, stretches []*stretch) Portion {
	switch {
	case r.Included.Per == PerInstanceMonth:
		return r.accrued(rater, p.charge.Like, stretches)
	case r.Included.Per == PerResource && r.Pool != PoolResource:
		return Portion{metering.Thousandths(1000 * p.resources), metering.Thousandths(1000)}
	}
	return Portion{share, whole}
}

// accrued is an allowance per instance-month, for the time that instances ran.
func (r *priced) accrued(rater *Rater, like *metering.Labels, stretches []*stretch) Portion {
	month, fixed := metering.Thousandths(rater.seconds*1000), !r.month.IsZero()
	if fixed {
		month = r.month.whole // times have no parts of a thousandth
	}
	var all, own metering.Quantity // own is of one resource
	for i, s := range stretches {
		if s.fit.meter == metering.InstanceRunning && r.Where.fits(&s.fit.labels) && (like == nil || only(r.Like, &s.fit.labels) == *like) {
			own = own.Add(s.measured)
		}
		if i == len(stretches)-1 || stretches[i+1].resource != s.resource {
			if fixed && own.Cmp(month) > 0 {
				own = month
			}
			all, own = all.Add(own), metering.Quantity{}
		}
	}
	return Portion{all, month}
}

// raise applies what is stated per resource or per tenant: billable is
// G(before + q) − G(before), where G is granularity and minimum. What earlier
// rates that are grandfathered bill counts towards a commitment.
func (r *priced) raise(c *Charge, grandfathered Exact) {
	if r.Minimum.For != ForTenant && (c.Billable.IsZero() || r.Minimum.For == ForStart && r.Rounds == ForStart) {
		return
	}
	var before, paid Exact
	for i := range c.Starts {
		s := &c.Starts[i]
		if i == 0 || s.Start != c.Starts[i-1].Start || s.Meter != c.Starts[i-1].Meter {
			before = before.Add(r.lifelong(s.Before))
		}
	}
	life := before.Add(c.Billable)
	if r.Pool != PoolResource {
		life = r.least(c.Billable.Add(grandfathered), ForTenant).Sub(grandfathered)
	} else {
		life = r.least(life, ForResource)
		if !before.IsZero() {
			paid = r.least(before, ForResource)
		}
	}
	billable := life.Sub(paid)
	if billable.Cmp(c.Billable) != 0 {
		c.Raise = &Raise{Added: billable.Sub(c.Billable), Covered: c.Billable.Sub(billable), Grandfathered: grandfathered}
		c.Billable = billable
	}
}

// grandfathered is what earlier rates of the rate's id bill, of one that has a
// commitment. They come first, and so have been charged.
func (c *charging) grandfathered(r *priced) (sum Exact) {
	if r.Minimum.For != ForTenant {
		return sum
	}
	for i := range c.result.Charges {
		if charge := &c.result.Charges[i]; charge.Rate.Former == r.ID {
			sum = sum.Add(charge.Billable)
		}
	}
	return sum
}

// parts prices a quantity by the rate's steps, appending to an empty slice.
func (r *priced) parts(parts []Part, q Exact) []Part {
	last := len(r.steps) - 1
	if r.Tiers == Volume {
		i := 0
		for i < last && q.Cmp(r.steps[i].upTo) > 0 {
			i++
		}
		return append(parts, r.part(i, q))
	}
	var from Exact
	for i := range r.steps {
		here := q.Sub(from)
		if i < last {
			here = smaller(q, r.steps[i].upTo).Sub(from)
		}
		if here.IsZero() && i > 0 {
			break
		}
		parts = append(parts, r.part(i, here))
		from = r.steps[i].upTo
	}
	return parts
}

func (r *priced) part(step int, q Exact) Part {
	s := &r.steps[step]
	if r.Tiers == Package {
		q = q.roundUp(s.unit)
	}
	return Part{Step: step, Quantity: q, Exact: q.at(s.each), Price: &s.price}
}

// bound takes off, from the last step back, what the parts cost beyond the cap.
// It returns the cap in the units it is stated in, and what of gross, the cost of
// all parts, is left.
func (r *priced) bound(parts []Part, gross money.Fraction, share, whole metering.Quantity) (limit, net money.Fraction) {
	if !r.capUnits.IsZero() {
		limit := r.capUnits.part(share, whole)
		var over Exact
		for i := range parts {
			over = over.Add(parts[i].Quantity)
		}
		over = over.Sub(limit)
		for i := len(parts) - 1; i >= 0; i-- {
			off := smaller(over, parts[i].Quantity)
			parts[i].Allowance = off.at(r.steps[parts[i].Step].each)
			gross = gross.Sub(parts[i].Allowance)
			over = over.Sub(off)
		}
		return limit.fraction(), gross
	}
	limit = r.capMoney
	if share != whole {
		limit = limit.Mul(money.FracRat(new(big.Rat).SetFrac(share.Big(), whole.Big())))
	}
	if gross.Cmp(limit) <= 0 {
		return limit, gross
	}
	over := gross.Sub(limit)
	for i := len(parts) - 1; i >= 0 && over.Sign() > 0; i-- {
		parts[i].Allowance = over.Min(parts[i].Exact)
		over = over.Sub(parts[i].Allowance)
	}
	return limit, limit
}

// boundTenant takes off, from each charge of the rate its part, what they cost
// together beyond the rate's cap of all.
func (r *priced) boundTenant(charges []Charge) {
	var of money.Fraction
	for i := range charges {
		if c := &charges[i]; c.Rate == r.Rate {
			of = of.Add(r.counts(c))
		}
	}
	bound := r.tenantCapMoney
	if !r.tenantCapUnits.IsZero() {
		bound = r.tenantCapUnits.fraction()
	}
	var part money.Fraction // of each charge, that is taken off
	if over := of.Sub(bound); over.Sign() > 0 {
		part = over.Over(of)
	}
	for i := range charges {
		c := &charges[i]
		if c.Rate != r.Rate {
			continue
		}
		c.TenantCap = &TenantCap{Bound: bound, Of: of, Off: c.Exact.Mul(part)}
		c.Exact = c.Exact.Sub(c.TenantCap.Off)
		for k := range c.Parts {
			p := &c.Parts[k]
			p.Allowance = p.Allowance.Add(p.Exact.Sub(p.Allowance).Mul(part))
		}
	}
}

// counts is what of a charge counts towards the rate's cap of all.
func (r *priced) counts(c *Charge) money.Fraction {
	if r.tenantCapUnits.IsZero() {
		return c.Exact
	}
	var priced Exact
	for i := range c.Parts {
		priced = priced.Add(c.Parts[i].Quantity)
	}
	return priced.fraction()
}
