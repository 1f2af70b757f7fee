package rating

import (
	"cmp"
	"fmt"
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
	c.result = Result{Plan: r.plan, Period: r.period, Window: r.window}
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
	g := gatherer{Rater: c.Rater, component: name, endUnix: c.window.End.Unix(),
		fits: make(map[fitKey]*fit), index: make(map[metering.ResourceID]*stretch, min(len(usage), 1024))}
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
			c.open(i, &c.tenant[i], nil) // a commitment is charged without usage
		}
	}
	c.close(c.tenant, all)
	c.closeLike(resources, all)
	if len(c.result.Charges) > resources {
		// Resources came by id, and their rates in the plan's order; pools go first.
		own, pools := c.result.Charges[first:resources], c.result.Charges[resources:]
		c.result.Charges = slices.Concat(c.result.Charges[:first], pools, own)
	}
	for i := range c.rates {
		if r := &c.rates[i]; r.Component == name && r.TenantCap.Set {
			r.boundTenant(c.result.Charges[first:])
		}
	}
	return nil
}

// charging turns stretches into charges, resource by resource.
type charging struct {
	*Rater
	result Result
	main   bool   // the component at hand is the one that usage must have a rate of
	own    []pool // by rate, of the resource at hand
	tenant []pool // by rate, over the tenant
	like   map[likeKey]*pool
	starts []Start // room for the first start of each charge
	parts  []Part  // room for the parts of some charges
}

// likeKey is a rate that pools like resources, and what they have in common.
type likeKey struct {
	rate   int
	labels metering.Labels
}

// pool is a charge in the making: everything that is added up before steps and cap.
type pool struct {
	charge    *Charge // nil where nothing is added yet
	resources uint64  // how many have usage here
	latest    metering.ResourceID
	measured  [2]metering.Quantity // of the rate's meter, and of its other one
	billable  [2]Exact             // likewise, after granularity and minimum
	traffic   *traffic             // where the rate is of a percentile
}

// resource adds all usage of one resource.
func (c *charging) resource(stretches []*stretch) {
	first := len(c.result.Charges)
	for rest := stretches; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].fit.meter == rest[0].fit.meter && rest[n].start == rest[0].start {
			n++
		}
		c.start(rest[:n])
		rest = rest[n:]
	}
	for i := range c.own {
		if p := &c.own[i]; p.charge != nil {
			c.price(p, stretches)
			*p = pool{}
		}
	}
	if charges := c.result.Charges[first:]; len(charges) > 1 {
		slices.SortFunc(charges, byIndex)
	}
}

func byIndex(a, b Charge) int { return cmp.Compare(a.index, b.index) }

// start adds the stretches of one start of one meter. Minimum and granularity
// count its whole life, under whatever rate or none: G(before + q) − G(before)
// is billable, where what G added in earlier periods covers usage from its first
// on, and what it adds now falls to the rate in force at the end. Where none is
// in force then, G is of the last one, and what it adds is unrated.
func (c *charging) start(stretches []*stretch) {
	var ruling, last *stretch
	var before, measured metering.Quantity
	for _, s := range stretches {
		if s.rate < 0 && !c.main {
			continue // a component is only of what it has rates for
		}
		if s.before.Cmp(before) > 0 {
			before = s.before
		}
		measured = measured.Add(s.measured)
		if s.rate >= 0 && (ruling == nil || !s.end().Before(ruling.end())) {
			ruling = s
		}
		if last == nil || !s.end().Before(last.end()) {
			last = s
		}
	}
	if last == nil {
		return
	}
	var covered, added Exact
	var of *priced
	if ruling != nil {
		if last != ruling && !ruling.end().Before(last.end()) {
			last = ruling
		}
		of = &c.rates[ruling.rate]
		if life := exactly(before.Add(measured)); before.IsZero() {
			added = of.lifelong(measured).Sub(life)
		} else {
			paid := of.lifelong(before)
			covered = paid.Sub(exactly(before))
			added = of.lifelong(life.whole).Sub(larger(life, paid))
		}
	}
	for _, s := range stretches {
		if s.rate < 0 && !c.main {
			continue
		}
		entry := Start{Resource: s.resource, Meter: s.fit.meter, Start: s.start, Before: before, Measured: s.measured,
			Windows: s.windows, life: before.Add(measured), ruling: of}
		if !covered.IsZero() {
			entry.Covered = smaller(covered, exactly(s.measured))
			covered = covered.Sub(entry.Covered)
		}
		if s == last {
			entry.Added = added
		}
		if s.rate < 0 {
			c.unrated(s, entry.Added, of)
		} else {
			c.enter(s, &entry)
		}
	}
}

// lifelong is G: what a start is charged for that was measured so long.
func (r *priced) lifelong(q metering.Quantity) Exact {
	if q.IsZero() {
		return Exact{}
	}
	return r.least(exactly(q), ForStart)
}

// least is what the granularity and the minimum of a start, a resource or the
// tenant make of a quantity.
func (r *priced) least(q Exact, of For) Exact {
	if r.Rounds == of {
		q = q.roundUp(r.granularity)
	}
	if r.Minimum.For == of {
		q = larger(q, r.minimum)
	}
	return q
}

func (c *charging) unrated(s *stretch, added Exact, of *priced) {
	u := Unrated{Resource: s.resource, Meter: s.fit.meter, Labels: s.fit.labels, Quantity: s.measured}
	u.Labels.Created = ""
	if !added.IsZero() {
		u.Added, u.Of = added, of.Rate
	}
	list := c.result.Unrated
	for i := len(list) - 1; i >= 0 && list[i].Resource == u.Resource && list[i].Meter == u.Meter; i-- {
		if list[i].Labels == u.Labels && (list[i].Of == u.Of || u.Of == nil) {
			list[i].Quantity = list[i].Quantity.Add(u.Quantity)
			list[i].Added = list[i].Added.Add(u.Added)
			return
		}
	}
	c.result.Unrated = append(list, u)
}

// room is how many starts and parts are allocated at once.
const room = 64

// enter adds a start's stretch up where its rate does.
func (c *charging) enter(s *stretch, entry *Start) {
	rate, p, side := &c.rates[s.rate], &c.own[s.rate], 0
	switch rate.Pool {
	case PoolTenant:
		p = &c.tenant[s.rate]
	case PoolLike:
		p = c.poolLike(s.rate, &s.fit.labels)
	}
	c.open(s.rate, p, s)
	if s.fit.meter == rate.OrHigher {
		side = 1
	}
	p.add(side, entry)
	if rate.BySlots() {
		c.addTraffic(p, side, s)
	}
}

// poolLike is the pool of a rate for all that has the labels in common.
func (c *charging) poolLike(rate int, labels *metering.Labels) *pool {
	if c.like == nil {
		c.like = make(map[likeKey]*pool)
	}
	k := likeKey{rate, only(c.rates[rate].Like, labels)}
	if c.like[k] == nil {
		c.like[k] = &pool{}
		c.open(rate, c.like[k], nil)
		c.like[k].charge.Like = &k.labels
	}
	return c.like[k]
}

// closeLike is close of pools of like resources; they come after the charges
// before first, in the plan's order, and there by labels.
func (c *charging) closeLike(first int, stretches []*stretch) {
	if len(c.like) == 0 {
		return
	}
	for _, p := range c.like {
		c.close([]pool{*p}, stretches)
	}
	c.like = nil
	slices.SortFunc(c.result.Charges[first:], func(a, b Charge) int {
		if a.index != b.index || a.Like == nil {
			return cmp.Compare(a.index, b.index)
		}
		return compareLabels(a.Like, b.Like)
	})
}

// open makes a rate's pool ready where it is not. Charges of a resource are made
// where they stay: there is room for one of each stretch.
func (c *charging) open(rate int, p *pool, s *stretch) {
	if p.charge != nil {
		return
	}
	if len(c.starts) == 0 {
		c.starts = make([]Start, room)
	}
	r := &c.rates[rate]
	if r.Pool == PoolResource {
		last := len(c.result.Charges)
		c.result.Charges = c.result.Charges[:last+1]
		p.charge = &c.result.Charges[last]
		p.charge.Resource = s.resource
	} else {
		p.charge = &Charge{}
	}
	p.charge.Rate, p.charge.index, p.charge.rate = r.Rate, rate, r
	p.charge.Starts, c.starts = c.starts[:0:1], c.starts[1:]
}

func (p *pool) add(side int, s *Start) {
	if p.resources == 0 || p.latest != s.Resource {
		p.resources++
		p.latest = s.Resource
	}
	p.measured[side] = p.measured[side].Add(s.Measured)
	p.billable[side] = p.billable[side].Add(exactly(s.Measured).Sub(s.Covered)).Add(s.Added)
	p.charge.Starts = append(p.charge.Starts, *s)
}

// close computes the charges of pools of several resources; stretches is the
// usage that allowances per instance-month follow from.
func (c *charging) close(pools []pool, stretches []*stretch) {
	for i := range pools {
		if pools[i].charge != nil {
			c.price(&pools[i], stretches)
			c.result.Charges = append(c.result.Charges, *pools[i].charge)
			pools[i] = pool{}
		}
	}
}

// price goes from what is billable to what it costs.
func (c *charging) price(p *pool, stretches []*stretch) {
	charge, rate := p.charge, p.charge.rate
	share, whole := metering.Thousandths(1), metering.Thousandths(1)
	if rate.prorates() {
		share, whole = p.share(rate.all, stretches)
		if share != whole {
			charge.Portion = &Portion{share, whole}
		}
	}
	side := 0
	if p.billable[1].Cmp(p.billable[0]) > 0 {
		side = 1
	}
	charge.Measured, charge.Billable = p.measured[side], p.billable[side]
	if rate.BySlots() && p.traffic != nil {
		c.rank(p)
	}
	rate.raise(charge, c.grandfathered(rate))
	rest := charge.Billable
	if !rate.included.IsZero() {
		a := &Allowance{Each: rate.included, Portion: rate.allowance(c.Rater, p, share, whole, stretches)}
		a.Granted = a.Each.part(a.Portion.Of, a.Portion.Whole)
		a.Used = smaller(a.Granted, rest)
		charge.Allowance, rest = a, rest.Sub(a.Granted)
	}
	if cap(c.parts) < len(rate.steps) {
		c.parts = make([]Part, 0, room+len(rate.steps))
	}
	if rate.Tiers == Sustained {
		charge.Parts = rate.sustained(c.parts[:0], charge.Slots)
	} else {
		charge.Parts = rate.parts(c.parts[:0], rest)
	}
	charge.Parts = charge.Parts[:len(charge.Parts):len(charge.Parts)]
	c.parts = c.parts[len(charge.Parts):cap(c.parts)]
	charge.Exact = cost(charge.Parts)
	if rate.Cap.Set {
		charge.Bound, charge.Exact = rate.bound(charge.Parts, charge.Exact, share, whole)
	}
}

// cost is what parts cost together, without what is taken off.
func cost(parts []Part) money.Fraction {
	sum := parts[0].Exact
	for i := range parts[1:] {
		sum = sum.Add(parts[i+1].Exact)
	}
	return sum
}
