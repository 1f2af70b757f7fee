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

// allowance is the quantity that is free of charge, of a rate that includes some.
func (r *priced) allowance(rater *Rater, resources uint64, share, whole metering.Quantity, stretches []*stretch) Exact {
	switch {
	case r.Included.Per == PerInstanceMonth:
		return r.accrued(rater, stretches)
	case r.Included.Per == PerResource && r.Pool == PoolTenant:
		return r.included.part(metering.Thousandths(resources), metering.Thousandths(1))
	}
	return r.included.part(share, whole)
}

// accrued is an allowance per instance-month, for the time that instances ran.
func (r *priced) accrued(rater *Rater, stretches []*stretch) Exact {
	month, fixed := metering.Thousandths(rater.seconds*1000), !r.month.IsZero()
	if fixed {
		month = r.month.whole // times have no parts of a thousandth
	}
	var all, own metering.Quantity // own is of one resource
	for i, s := range stretches {
		if s.fit.meter == metering.InstanceRunning && r.Where.fits(&s.fit.labels) {
			own = own.Add(s.measured)
		}
		if i == len(stretches)-1 || stretches[i+1].resource != s.resource {
			if fixed && own.Cmp(month) > 0 {
				own = month
			}
			all, own = all.Add(own), metering.Quantity{}
		}
	}
	return r.included.part(all, month)
}

// raise applies what is stated per resource or per tenant: billable is
// G(before + q) − G(before), where G is granularity and minimum.
func (r *priced) raise(c *Charge) {
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
	if r.Pool == PoolTenant {
		life = r.least(c.Billable, ForTenant)
	} else {
		life = r.least(life, ForResource)
		if !before.IsZero() {
			paid = r.least(before, ForResource)
		}
	}
	billable := life.Sub(paid)
	if billable.Cmp(c.Billable) != 0 {
		c.Raise = &Raise{Added: billable.Sub(c.Billable), Covered: c.Billable.Sub(billable)}
		c.Billable = billable
	}
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

// bound takes off, from the last step back, what the parts cost beyond the cap,
// and returns the cap in the units it is stated in.
func (r *priced) bound(parts []Part, share, whole metering.Quantity) money.Fraction {
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
			over = over.Sub(off)
		}
		return limit.fraction()
	}
	limit := r.capMoney
	if share != whole {
		limit = limit.Mul(money.FracRat(new(big.Rat).SetFrac(share.Big(), whole.Big())))
	}
	over := limit.Neg()
	for i := range parts {
		over = over.Add(parts[i].Exact)
	}
	for i := len(parts) - 1; i >= 0 && over.Sign() > 0; i-- {
		parts[i].Allowance = over.Min(parts[i].Exact)
		over = over.Sub(parts[i].Allowance)
	}
	return limit
}
