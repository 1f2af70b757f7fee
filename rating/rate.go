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
	c := charging{Rater: r, own: make([]pool, len(r.rates)), tenant: make([]pool, len(r.rates))}
	c.result = Result{Plan: r.plan, Period: r.period}
	for _, component := range r.components {
		if err := c.component(component, usage); err != nil {
			return nil, err
		}
	}
	if len(r.components) > 1 {
		slices.SortStableFunc(c.result.Charges, func(a, b Charge) int {
			return cmp.Or(strings.Compare(string(a.Resource), string(b.Resource)), cmp.Compare(a.index, b.index))
		})
	}
	for i := range r.plan.Discounts {
		c.discount(&r.plan.Discounts[i])
	}
	c.topUp()
	return &c.result, nil
}

// component charges all usage under the rates of one component.
func (c *charging) component(name string, usage []metering.Usage) error {
	g := gatherer{Rater: c.Rater, component: name, endUnix: c.period.End.Unix(),
		fits: make(map[fitKey]*fit), index: make(map[stretchKey]*stretch, min(len(usage), 1024))}
	for i := range usage {
		if err := g.add(&usage[i]); err != nil {
			return &UsageError{i, fmt.Errorf("%s of %s: %w", usage[i].Meter, usage[i].Resource, err)}
		}
	}
	all := g.sorted()
	first := len(c.result.Charges)
	c.main = name == mainComponent
	c.result.Charges = slices.Grow(c.result.Charges, len(all))
	for rest := all; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].resource == rest[0].resource {
			n++
		}
		c.resource(rest[:n])
		rest = rest[n:]
	}
	resources := len(c.result.Charges)
	for i := range c.rates {
		if r := &c.rates[i]; r.Component == name && r.Minimum.For == ForTenant && !r.minimum.IsZero() {
			c.open(i, "") // a commitment is charged without usage
		}
	}
	c.close(c.tenant, all)
	if len(c.result.Charges) > resources {
		// Resources came by id, and their rates in the plan's order; pools go first.
		own, pools := c.result.Charges[first:resources], c.result.Charges[resources:]
		c.result.Charges = slices.Concat(c.result.Charges[:first], pools, own)
	}
	return nil
}

// charging turns stretches into charges, resource by resource.
type charging struct {
	*Rater
	result Result
	main   bool    // the component at hand is the one that usage must have a rate of
	own    []pool  // by rate, of the resource at hand
	tenant []pool  // by rate, over the tenant
	starts []Start // room for the first start of each charge
	parts  []Part  // room for the parts of some charges
}

// pool is a charge in the making: everything that is added up before steps and cap.
type pool struct {
	used      bool
	charge    Charge
	resources uint64 // how many have usage here
	latest    metering.ResourceID
	measured  [2]metering.Quantity // of the rate's meter, and of its other one
	billable  [2]metering.Quantity // likewise, after granularity and minimum
	traffic   *traffic             // where the rate is of a percentile
}

// resource adds all usage of one resource.
func (c *charging) resource(stretches []*stretch) {
	for rest := stretches; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].fit.meter == rest[0].fit.meter && rest[n].start == rest[0].start {
			n++
		}
		c.start(rest[:n])
		rest = rest[n:]
	}
	c.close(c.own, stretches)
}

// start adds the stretches of one start of one meter, as far as a rate fits.
// Minimum and granularity count its whole life: G(before + q) − G(before) is
// billable, where what G added in earlier periods covers usage from its first
// on, and what it adds now falls to the rate in force at the end.
func (c *charging) start(stretches []*stretch) {
	var last *stretch
	var before, measured metering.Quantity
	for _, s := range stretches {
		if s.rate < 0 {
			if c.main {
				c.unrated(s)
			}
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
		entry := Start{Resource: s.resource, Meter: s.fit.meter, Start: s.start, Before: before, Measured: s.measured,
			Covered: smaller(covered, s.measured), Windows: s.windows}
		covered = covered.Sub(entry.Covered)
		if s == last {
			entry.Added = added
		}
		c.enter(s, entry)
	}
}

// lifelong is G: what a start is charged for that was measured so long.
func (r *priced) lifelong(q metering.Quantity) metering.Quantity {
	if q.IsZero() {
		return q
	}
	return r.least(q, ForStart)
}

// least is what the granularity and the minimum of a start, a resource or the
// tenant make of a quantity.
func (r *priced) least(q metering.Quantity, of For) metering.Quantity {
	if r.Rounds == of {
		q = roundUp(q, r.granularity)
	}
	if r.Minimum.For == of {
		q = larger(q, r.minimum)
	}
	return q
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

// room is how many starts and parts are allocated at once.
const room = 64

// enter adds a start's stretch up where its rate does.
func (c *charging) enter(s *stretch, entry Start) {
	rate, resource := &c.rates[s.rate], s.resource
	if rate.Pool == PoolTenant {
		resource = ""
	}
	p, side := c.open(s.rate, resource), 0
	if s.fit.meter == rate.OrHigher {
		side = 1
	}
	p.add(side, entry)
	if rate.Percentile > 0 {
		c.addTraffic(p, side, s)
	}
}

// open is the pool of a rate and a resource, "" for the tenant's.
func (c *charging) open(rate int, resource metering.ResourceID) *pool {
	p := &c.own[rate]
	if resource == "" {
		p = &c.tenant[rate]
	}
	if !p.used {
		if len(c.starts) == 0 {
			c.starts = make([]Start, room)
		}
		p.used = true
		p.charge = Charge{Rate: c.rates[rate].Rate, Resource: resource, index: rate, Starts: c.starts[:0:1]}
		c.starts = c.starts[1:]
	}
	return p
}

func (p *pool) add(side int, s Start) {
	if p.resources == 0 || p.latest != s.Resource {
		p.resources++
		p.latest = s.Resource
	}
	p.measured[side] = p.measured[side].Add(s.Measured)
	p.billable[side] = p.billable[side].Add(s.Measured.Sub(s.Covered)).Add(s.Added)
	p.charge.Starts = append(p.charge.Starts, s)
}

// close computes the charges of pools and empties them; stretches is the usage
// that allowances per instance-month and shares of flavors follow from.
func (c *charging) close(pools []pool, stretches []*stretch) {
	for i := range pools {
		if !pools[i].used {
			continue
		}
		c.price(&pools[i], stretches)
		c.result.Charges = append(c.result.Charges, pools[i].charge)
		pools[i] = pool{}
	}
}

// price goes from what is billable to what it costs.
func (c *charging) price(p *pool, stretches []*stretch) {
	charge, rate := &p.charge, &c.rates[p.charge.index]
	share, whole := metering.Thousandths(1), metering.Thousandths(1)
	if rate.prorates() {
		share, whole = p.share(rate.all, stretches)
	}
	side := 0
	if p.billable[1].Cmp(p.billable[0]) > 0 {
		side = 1
	}
	charge.Measured, charge.Billable = p.measured[side], p.billable[side]
	if p.traffic != nil {
		c.percentile(p)
	}
	rate.raise(charge)
	charge.Allowed = rate.allowance(c.Rater, p.resources, share, whole, stretches)
	charge.Included = smaller(charge.Allowed, charge.Billable)
	if cap(c.parts) < len(rate.steps) {
		c.parts = make([]Part, 0, room+len(rate.steps))
	}
	charge.Parts = rate.parts(c.parts[:0], charge.Billable.Sub(charge.Included))
	charge.Parts = charge.Parts[:len(charge.Parts):len(charge.Parts)]
	c.parts = c.parts[len(charge.Parts):cap(c.parts)]
	if rate.Cap.Set {
		charge.Bound = rate.bound(charge.Parts, share, whole)
	}
	for i := range charge.Parts {
		part := &charge.Parts[i]
		charge.Exact = charge.Exact.Add(part.Exact)
		if !part.Allowance.IsZero() {
			charge.Exact = charge.Exact.Sub(part.Allowance)
		}
	}
}

// share is the part of the resource that the pool's flavors have, where a
// resource had several flavors in the period: by running time, unless the rate
// is of running time itself, or that does not tell of all flavors; then by what
// the rate measures.
func (p *pool) share(meters []metering.Meter, stretches []*stretch) (share, whole metering.Quantity) {
	one := metering.Thousandths(1)
	if len(stretches) == 1 {
		return one, one
	}
	var mine, all, ran []string
	for _, s := range stretches {
		flavor := s.fit.labels.Flavor
		if slices.Contains(meters, s.fit.meter) {
			all = append(all, flavor)
			if s.rate == p.charge.index {
				mine = append(mine, flavor)
			}
		}
		if s.fit.meter == metering.InstanceRunning {
			ran = append(ran, flavor)
		}
	}
	basis := meters
	told := !slices.ContainsFunc(all, func(flavor string) bool { return !slices.Contains(ran, flavor) })
	if told && !slices.Contains(meters, metering.InstanceRunning) {
		basis = []metering.Meter{metering.InstanceRunning}
	}
	for _, s := range stretches {
		if !slices.Contains(basis, s.fit.meter) {
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
		return r.accrued(rater, stretches)
	case r.Included.Per == PerResource && r.Pool == PoolTenant:
		n := r.included.Big()
		return ceilQuo(n.Mul(n, new(big.Int).SetUint64(resources)), big.NewInt(1))
	}
	return part(r.included, share, whole)
}

// accrued is an allowance per instance-month, for the time that instances ran.
func (r *priced) accrued(rater *Rater, stretches []*stretch) metering.Quantity {
	month, fixed := metering.Thousandths(rater.seconds*1000), !r.month.IsZero()
	if fixed {
		month = r.month
	}
	var all, own metering.Quantity // own is of one resource
	for i, s := range stretches {
		if s.fit.meter == metering.InstanceRunning && r.Where.fits(&s.fit.labels) {
			own = own.Add(s.measured)
		}
		if i == len(stretches)-1 || stretches[i+1].resource != s.resource {
			if fixed {
				own = smaller(own, month)
			}
			all, own = all.Add(own), metering.Quantity{}
		}
	}
	return part(r.included, all, month)
}

// raise applies what is stated per resource or per tenant: billable is
// G(before + q) − G(before), where G is granularity and minimum.
func (r *priced) raise(c *Charge) {
	if r.Minimum.For != ForTenant && (c.Billable.IsZero() || r.Minimum.For == ForStart && r.Rounds == ForStart) {
		return
	}
	var before, paid metering.Quantity
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
	c.Raised, c.Relieved = billable.Sub(c.Billable), c.Billable.Sub(billable)
	c.Billable = billable
}

// parts prices a quantity by the rate's steps, appending to an empty slice.
func (r *priced) parts(parts []Part, q metering.Quantity) []Part {
	last := len(r.steps) - 1
	if r.Tiers == Volume {
		i := 0
		for i < last && q.Cmp(r.steps[i].upTo) > 0 {
			i++
		}
		return append(parts, r.part(i, q))
	}
	var from metering.Quantity
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

// discount takes one discount off the charges it is for.
func (c *charging) discount(d *Discount) {
	if c.period.Start.Before(d.From) || !d.Until.IsZero() && !c.period.Start.Before(d.Until) {
		return
	}
	left := money.Frac(d.Nano, 1_000_000_000)
	for i := range c.result.Charges {
		charge := &c.result.Charges[i]
		if len(d.Rates) > 0 && !slices.Contains(d.Rates, charge.Rate.ID) {
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
		charge.Discounts = append(charge.Discounts, Discounted{d, off})
	}
}

// topUp charges what all other charges lack of a minimum spend.
func (c *charging) topUp() {
	var sum money.Fraction
	for i := range c.result.Charges {
		sum = sum.Add(c.result.Charges[i].Exact)
	}
	for i := range c.rates {
		r := &c.rates[i]
		if !r.TopUp {
			continue
		}
		one := r.part(0, metering.Thousandths(1000))
		one.Allowance = sum.Min(one.Exact)
		top := Charge{Rate: r.Rate, Parts: []Part{one}, Exact: one.Exact.Sub(one.Allowance), Billable: one.Quantity, index: i}
		after, _ := slices.BinarySearchFunc(c.result.Charges, top, func(a, b Charge) int {
			return cmp.Or(strings.Compare(string(a.Resource), string(b.Resource)), cmp.Compare(a.index, b.index))
		})
		c.result.Charges = slices.Insert(c.result.Charges, after, top)
	}
}
