package rating

import (
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Rater is a plan made ready for one period: units have their size in base
// units of that month, time classes their instants. It may be used by many
// goroutines.
type Rater struct {
	plan       *Plan
	period     metering.Window // the billing month, which "month" is the length of
	window     metering.Window // the part of it that is rated: all, unless the plan changes within
	seconds    uint64          // of the period
	rates      []priced
	components []string   // mainComponent first
	timelines  []timeline // of the calendars that rates name
	ages       []string   // the instants of creation that rates tell apart, rising
}

// mainComponent is the component that usage must have a rate of, else it is unrated.
const mainComponent = ""

// priced is a rate with all quantities in thousandths of base units, exact.
type priced struct {
	*Rate
	all                  []metering.Meter
	steps                []pricedStep
	minimum, granularity Exact
	included, month      Exact
	capUnits             Exact
	capMoney             money.Fraction
	tenantCapUnits       Exact
	tenantCapMoney       money.Fraction
}

type pricedStep struct {
	upTo  Exact
	price money.Price
	each  money.Fraction // price of a thousandth of the base unit
	unit  Exact          // of one price unit, for packages
}

// For makes the plan ready for the period, which is a whole billing month.
func (p *Plan) For(period metering.Window) (*Rater, error) {
	return p.forPart(period, period)
}

// forPart makes the plan ready for a window of the period. Of what the plan
// grants or bounds by the month, the window has its share.
func (p *Plan) forPart(period, window metering.Window) (*Rater, error) {
	if err := window.Check(); err != nil {
		return nil, fmt.Errorf("period: %w", err)
	}
	r := &Rater{plan: p, period: period, window: window, seconds: uint64(period.Length() / time.Second), components: []string{mainComponent}}
	for _, c := range p.usedCalendars() {
		r.timelines = append(r.timelines, c.timeline(window, p.zoneOf(c)))
	}
	for i := range p.Rates {
		rate, err := r.price(&p.Rates[i])
		if err != nil {
			return nil, fmt.Errorf("plan %s: rate %s: %w", p.Name, p.Rates[i].ID, err)
		}
		r.rates = append(r.rates, rate)
		if from := rate.Where.CreatedFrom; from != "" {
			r.ages = append(r.ages, from) // where one rate ends, another begins
		}
		if !slices.Contains(r.components, rate.Component) {
			r.components = append(r.components, rate.Component)
		}
	}
	slices.Sort(r.ages)
	r.ages = slices.Compact(r.ages)
	return r, nil
}

// maxMinimum bounds a minimum, in 2^64 thousandths of the base unit, so that sums
// over many starts fit; a plan that states a larger one is refused.
const maxMinimum = 1 << 49

func (r *Rater) price(rate *Rate) (priced, error) {
	share := r.share
	if rate.Percentile > 0 {
		share = func(e Exact) Exact { return e } // traffic in a slot is not less in half a month: its price is
	}
	p := priced{
		Rate:        rate,
		all:         rate.meters(),
		minimum:     r.quantity(rate.Minimum.Usage),
		granularity: r.quantity(rate.Granularity),
		included:    r.quantity(rate.Included.Amount),
		month:       r.quantity(rate.Included.Month),
		capUnits:    share(r.quantity(rate.Cap.Units)),
		capMoney:    money.Frac(rate.Cap.Nano, 1_000_000_000).Mul(r.part()),

		tenantCapUnits: share(r.quantity(rate.TenantCap.Units)),
		tenantCapMoney: money.Frac(rate.TenantCap.Nano, 1_000_000_000).Mul(r.part()),
	}
	if rate.Included.Per != PerInstanceMonth {
		p.included = share(p.included)
	}
	if rate.Minimum.For == ForTenant {
		p.minimum = share(p.minimum)
	}
	for i := range rate.Steps {
		s := &rate.Steps[i]
		num, den := r.size(s.Unit)
		num.Mul(num, new(big.Int).SetUint64(s.Count))
		rat := new(big.Rat).SetFrac(num, den)
		if rate.byMonth(s) {
			rat.Quo(rat, r.part().Rat()) // the part of it that falls into the window, for the same unit
		}
		nano := new(big.Int).Mul(big.NewInt(s.Nano), rat.Denom())
		if !nano.IsInt64() || !rat.Num().IsInt64() {
			return priced{}, fmt.Errorf("price %s: beyond 64 bits in base units", s.Text)
		}
		price := money.Price{Nano: nano.Int64(), Per: rat.Num().Int64(), Currency: r.plan.Currency}
		p.steps = append(p.steps, pricedStep{
			upTo:  share(r.quantity(s.UpTo)),
			price: price,
			each:  price.Times(metering.Thousandths(1)),
			unit:  r.quantity(Span{Thousandths: 1000 * s.Count, Unit: s.Unit}),
		})
	}
	prices := []*money.Fraction{&p.capMoney}
	for i := range p.steps {
		prices = append(prices, &p.steps[i].each)
	}
	money.Common(prices...)
	if nano := rate.Minimum.Nano; nano > 0 && p.steps[0].price.Nano > 0 {
		first := p.steps[0].price
		n := new(big.Int).Mul(big.NewInt(nano), big.NewInt(first.Per))
		bought := quotient(n.Mul(n, big.NewInt(1000)), big.NewInt(first.Nano))
		if rate.Minimum.For == ForTenant {
			bought = r.share(bought)
		}
		p.minimum = larger(p.minimum, bought)
	}
	if p.minimum.whole.Hi >= maxMinimum {
		return priced{}, fmt.Errorf("minimum %s: it buys more than can be counted at %s", rate.Minimum.Text, rate.Steps[0].Text)
	}
	return p, nil
}

// byMonth reports whether the step's price is for a whole month, however little of
// it anything was used: a fee, or traffic. A part of the month has its part of it.
func (r *Rate) byMonth(s *Step) bool {
	return r.TopUp || r.Percentile > 0 || r.Tiers == Package && s.Unit.Month
}

// part is the window's part of the period.
func (r *Rater) part() money.Fraction {
	return money.Frac(int64(r.window.Length()/time.Second), int64(r.seconds))
}

// share is the window's part of a quantity by the month.
func (r *Rater) share(e Exact) Exact {
	return e.part(metering.Thousandths(uint64(r.window.Length()/time.Second)), metering.Thousandths(r.seconds))
}

// size is the unit in base units: num ÷ den.
func (r *Rater) size(u Unit) (num, den *big.Int) {
	num = new(big.Int).SetUint64(u.Num)
	if u.Month {
		num.Mul(num, new(big.Int).SetUint64(r.seconds))
	}
	return num, new(big.Int).SetUint64(u.Den)
}

// quantity is the span in thousandths of the base unit.
func (r *Rater) quantity(s Span) Exact {
	if s.IsZero() {
		return Exact{}
	}
	num, den := r.size(s.Unit)
	return quotient(num.Mul(num, new(big.Int).SetUint64(s.Thousandths)), den)
}

// CapBelowMinimum is the cap of the rate that one start of its minimum alone
// costs more than, in the shortest or the longest month; nil for none.
func (p *Plan) CapBelowMinimum(r *Rate) (*Cap, error) {
	for _, month := range []time.Month{time.January, time.February} {
		start := time.Date(2027, month, 1, 0, 0, 0, 0, time.UTC)
		rater, err := (&Plan{Name: p.Name, Currency: p.Currency, Zone: time.UTC, Rates: []Rate{*r}}).For(metering.Month(start, time.UTC))
		if err != nil {
			return nil, err
		}
		if c := rater.rates[0].capBelowMinimum(); c != nil {
			return c, nil
		}
	}
	return nil, nil
}

func (r *priced) capBelowMinimum() *Cap {
	one := metering.Thousandths(1)
	own, tenant := *r, *r
	tenant.capUnits, tenant.capMoney = r.tenantCapUnits, r.tenantCapMoney
	for _, c := range []struct {
		cap  *Cap
		rate *priced
	}{{&r.Cap, &own}, {&r.TenantCap, &tenant}} {
		parts := r.parts(nil, r.minimum)
		gross := cost(parts)
		if _, net := c.rate.bound(parts, gross, one, one); c.cap.Set && !r.Minimum.IsZero() && net.Cmp(gross) < 0 {
			return c.cap
		}
	}
	return nil
}
