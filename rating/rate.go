package rating

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Rate is what the usage of one tenant in one period costs. Period is the whole
// billing month, also while it is still open: it gives "month" its length. The
// order of usage, its splitting into windows and its merging do not matter. All
// usage of one start states the same Before, or none. An error about one usage
// is a *UsageError.
func (p *Plan) Rate(period metering.Window, usage []metering.Usage) (*Result, error) {
	r, err := p.For(period)
	if err != nil {
		return nil, err
	}
	return r.Rate(usage)
}

// UsageError tells which usage cannot be rated, and why.
type UsageError struct {
	Index int // in the usage given
	Err   error
}

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap is the reason.
func (e *UsageError) Unwrap() error { return e.Err }

// Rate is Plan.Rate for the rater's plan and period.
func (r *Rater) Rate(usage []metering.Usage) (*Result, error) {
	g := gatherer{Rater: r, fits: make(map[fitKey]*fit), index: make(map[stretchKey]*stretch)}
	for i := range usage {
		if err := g.add(&usage[i]); err != nil {
			return nil, &UsageError{i, fmt.Errorf("%s of %s: %w", usage[i].Meter, usage[i].Resource, err)}
		}
	}
	c := charging{Rater: r, result: Result{Plan: r.plan, Period: r.period}, tenant: make([]*pool, len(r.rates))}
	all := g.sorted()
	for rest := all; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].resource == rest[0].resource {
			n++
		}
		c.resource(rest[:n])
		rest = rest[n:]
	}
	for _, p := range c.tenant {
		if p != nil {
			c.close(p, all)
		}
	}
	slices.SortStableFunc(c.result.Charges, func(a, b Charge) int {
		return cmp.Or(strings.Compare(string(a.Resource), string(b.Resource)), cmp.Compare(a.index, b.index))
	})
	return &c.result, nil
}

// charging turns stretches into charges, resource by resource.
type charging struct {
	*Rater
	result Result
	tenant []*pool // by rate: the pools over the tenant
}

// pool is a charge in the making: everything that is added up before steps and cap.
type pool struct {
	rate      *priced
	charge    Charge
	resources uint64 // how many have usage here
	latest    metering.ResourceID
}

// resource adds all usage of one resource.
func (c *charging) resource(stretches []*stretch) {
	own := make([]*pool, len(c.rates))
	for rest := stretches; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].fit.meter == rest[0].fit.meter && rest[n].start == rest[0].start {
			n++
		}
		c.start(rest[:n], own)
		rest = rest[n:]
	}
	for _, p := range own {
		if p != nil {
			c.close(p, stretches)
		}
	}
}

// start adds the stretches of one start of one meter, as far as a rate fits.
// Minimum and granularity count its whole life: G(before + q) − G(before) is
// billable, where what G added in earlier periods covers usage from its first
// on, and what it adds now falls to the rate in force at the end.
func (c *charging) start(stretches []*stretch, own []*pool) {
	var last *stretch
	var before, measured metering.Quantity
	for _, s := range stretches {
		if s.rate < 0 {
			c.unrated(s)
			continue
		}
		before = larger(before, s.before)
		measured = measured.Add(s.measured)
		if last == nil || !s.end().Before(last.end()) {
			last = s
		}
	}
	if last == nil {
		return
	}
	rate, life := &c.rates[last.rate], before.Add(measured)
	paid := rate.lifelong(before)
	covered := paid.Sub(before)
	added := rate.lifelong(life).Sub(larger(life, paid))
	for _, s := range stretches {
		if s.rate < 0 {
			continue
		}
		entry := Start{Resource: s.resource, Start: s.start, Before: before, Measured: s.measured,
			Covered: smaller(covered, s.measured), Windows: s.windows}
		covered = covered.Sub(entry.Covered)
		if s == last {
			entry.Added = added
		}
		c.pool(s, own).add(entry)
	}
}

// lifelong is G: what a start is charged for that was measured so long.
func (r *priced) lifelong(q metering.Quantity) metering.Quantity {
	if q.IsZero() {
		return q
	}
	return larger(roundUp(q, r.granularity), r.minimum)
}

func (c *charging) unrated(s *stretch) {
	list := c.result.Unrated
	u := Unrated{Resource: s.resource, Meter: s.fit.meter, Labels: s.fit.labels, Quantity: s.measured}
	for i := len(list) - 1; i >= 0 && list[i].Resource == u.Resource && list[i].Meter == u.Meter; i-- {
		if list[i].Labels == u.Labels {
			list[i].Quantity = list[i].Quantity.Add(u.Quantity)
			return
		}
	}
	c.result.Unrated = append(list, u)
}

// pool is where the stretch's rate adds it up.
func (c *charging) pool(s *stretch, own []*pool) *pool {
	pools, resource := own, s.resource
	if c.rates[s.rate].Pool == PoolTenant {
		pools, resource = c.tenant, ""
	}
	p := pools[s.rate]
	if p == nil {
		rate := &c.rates[s.rate]
		p = &pool{rate: rate, charge: Charge{Rate: rate.Rate, Resource: resource, index: s.rate}}
		pools[s.rate] = p
	}
	return p
}

func (p *pool) add(s Start) {
	if p.resources == 0 || p.latest != s.Resource {
		p.resources++
		p.latest = s.Resource
	}
	c := &p.charge
	c.Measured = c.Measured.Add(s.Measured)
	c.Billable = c.Billable.Add(s.Measured.Sub(s.Covered)).Add(s.Added)
	c.Starts = append(c.Starts, s)
}

// close computes the charge of a pool; stretches is the usage that allowances
// per instance-month and shares of flavors follow from.
func (c *charging) close(p *pool, stretches []*stretch) {
	share, whole := metering.Thousandths(1), metering.Thousandths(1)
	if p.rate.prorates() {
		share, whole = p.share(stretches)
	}
	charge := &p.charge
	charge.Allowed = p.rate.allowance(c.Rater, p.resources, share, whole, stretches)
	charge.Included = smaller(charge.Allowed, charge.Billable)
	charge.Parts = p.rate.parts(charge.Billable.Sub(charge.Included))
	if p.rate.Cap.Set {
		charge.Bound = p.rate.bound(charge.Parts, share, whole)
	}
	for i := range charge.Parts {
		charge.Exact = charge.Exact.Add(charge.Parts[i].Exact).Sub(charge.Parts[i].Allowance)
	}
	c.result.Charges = append(c.result.Charges, *charge)
}

// share is the part of the resource that the pool's flavors have, by running
// time, where a resource had several flavors in the period; by the meter itself
// where running time does not tell of all of them.
func (p *pool) share(stretches []*stretch) (share, whole metering.Quantity) {
	one := metering.Thousandths(1)
	var mine, all, ran []string
	for _, s := range stretches {
		flavor := s.fit.labels.Flavor
		if s.fit.meter == p.rate.Meter {
			all = append(all, flavor)
			if s.rate == p.charge.index {
				mine = append(mine, flavor)
			}
		}
		if s.fit.meter == metering.InstanceRunning {
			ran = append(ran, flavor)
		}
	}
	basis := metering.InstanceRunning
	for _, flavor := range all {
		if !slices.Contains(ran, flavor) {
			basis = p.rate.Meter
		}
	}
	for _, s := range stretches {
		if s.fit.meter != basis {
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

// allowance is the quantity that is free of charge.
func (r *priced) allowance(rater *Rater, resources uint64, share, whole metering.Quantity, stretches []*stretch) metering.Quantity {
	switch {
	case r.included.IsZero():
		return metering.Quantity{}
	case r.Included.Per == PerInstanceMonth:
		var running metering.Quantity
		for _, s := range stretches {
			if s.fit.meter == metering.InstanceRunning && r.Where.fits(&s.fit.labels) {
				running = running.Add(s.measured)
			}
		}
		return part(r.included, running, metering.Thousandths(rater.seconds*1000))
	case r.Included.Per == PerResource && r.Pool == PoolTenant:
		n := r.included.Big()
		return ceilQuo(n.Mul(n, new(big.Int).SetUint64(resources)), big.NewInt(1))
	}
	return part(r.included, share, whole)
}

// parts prices a quantity by the rate's steps.
func (r *priced) parts(q metering.Quantity) []Part {
	if r.Tiers == Volume {
		for i := range r.steps {
			if i == len(r.steps)-1 || q.Cmp(r.steps[i].upTo) <= 0 {
				return []Part{r.part(i, q)}
			}
		}
	}
	parts := make([]Part, 0, len(r.steps))
	var from metering.Quantity
	for i := range r.steps {
		here := q.Sub(from)
		if i < len(r.steps)-1 {
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

func (r *priced) part(step int, q metering.Quantity) Part {
	s := &r.steps[step]
	if r.Tiers == Package {
		q = roundUp(q, s.unit)
	}
	return Part{Step: step, Quantity: q, Exact: s.price.Times(q), Price: s.price}
}

// bound takes off, from the last step back, what the parts cost beyond the cap,
// and returns the cap in the units it is stated in.
func (r *priced) bound(parts []Part, share, whole metering.Quantity) money.Fraction {
	if !r.capUnits.IsZero() {
		limit := part(r.capUnits, share, whole)
		var over metering.Quantity
		for i := range parts {
			over = over.Add(parts[i].Quantity)
		}
		over = over.Sub(limit)
		for i := len(parts) - 1; i >= 0; i-- {
			off := smaller(over, parts[i].Quantity)
			parts[i].Allowance = parts[i].Price.Times(off)
			over = over.Sub(off)
		}
		return money.FracOf(limit, 1, 1000)
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
