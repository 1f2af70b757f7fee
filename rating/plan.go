package rating

import (
	"slices"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Plan is one version of a price plan. It is made by planfile, which has
// checked all that this package relies on, and never changes afterwards.
type Plan struct {
	Name      string
	Currency  money.Currency
	Zone      *time.Location // rules calendars and dates
	Effective time.Time      // the first instant of the day it takes effect, in Zone; zero when not said
	MidPeriod bool           // takes effect within a running period, which is split there
	// Grandfathered is until when resources created before Effective keep the rates
	// of the version before, in periods that begin earlier; zero for not at all. See
	// Grandfather.
	Grandfathered time.Time
	Flavors       []Flavor // as ordered in the plan
	Calendars     []Calendar
	Rates         []Rate     // as ordered in the plan; a minimum spend is the last
	Discounts     []Discount // taken off one after the other
	Rounding      money.Rounding
	Tenants       map[metering.TenantID]*Plan // where something else is agreed with a tenant
}

// ForTenant is the plan with what is agreed with the tenant.
func (p *Plan) ForTenant(id metering.TenantID) *Plan {
	if own := p.Tenants[id]; own != nil {
		return own
	}
	return p
}

// Discount takes part of what rates charge off, after caps.
type Discount struct {
	Name        string
	Rates       []string  // ids; none means all
	Percent     uint64    // thousandths of a percent, or
	Nano        int64     // billionths of the currency unit in a month, of all charges together
	From, Until time.Time // for periods that begin in [From, Until); zero has no bound
	Text        string    // as written in the plan
}

// Flavor is a size on sale.
type Flavor struct {
	Name      string
	VCPUs     int
	MemoryMiB uint64
	DiskMiB   uint64
}

// Rate is one price rule for one meter.
type Rate struct {
	ID          string
	Former      string // the id in its own version, of a rate that is grandfathered
	Component   string // rates of one component exclude each other, those of several add up
	Meter       metering.Meter
	Also        []metering.Meter // counted together with Meter
	OrHigher    metering.Meter   // counts instead where it comes to more; "" for none
	Percentile  int              // bills this percentile of the period's slots; 0 bills what was used
	ValidDays   bool             // ranks the slots of days with usage only, and prorates by them
	Where       Where
	Steps       []Step // at least one; only the last has no UpTo
	Tiers       Tiers
	Pool        Pool
	Like        []string // of PoolLike: the labels that must be the same, as Labels names them
	Minimum     Minimum
	Granularity Span // zero for none
	Rounds      For  // what granularity rounds: ForStart or ForResource
	Included    Included
	Cap         Cap // of each pool
	TenantCap   Cap // of all pools together
	OnResize    OnResize
	// TopUp makes the rate one of no usage: it charges what the charges of all
	// others lack of its price.
	TopUp bool
}

// Minimum is the least that is charged for, where anything is used at all. In
// money, it is the usage that the money buys in the first step.
type Minimum struct {
	Usage Span  // zero for none
	Nano  int64 // billionths of the currency unit, zero for none; the larger of both counts
	For   For
	Text  string // as written in the plan
}

// IsZero reports whether there is no minimum.
func (m Minimum) IsZero() bool { return m.Usage.IsZero() && m.Nano == 0 }

// For says what a minimum or a granularity is applied to.
type For uint8

// ForStart is each start over its whole life, ForResource each resource
// likewise, ForTenant each period, also without any usage: a commitment.
const (
	ForStart For = iota
	ForResource
	ForTenant
)

// Where says which usage a rate fits. An empty list fits every value; a list
// fits each of its values.
type Where struct {
	Flavor, Image, Region, HostClass []string
	Time                             []string // calendar names: the usage lies in one of them
	// CreatedFrom and CreatedBefore bound when the resource was created, written as
	// in labels; "" does not. What is created nobody knows when is new. No plan
	// states them: they are what Grandfather joins versions by.
	CreatedFrom, CreatedBefore string
}

// Step is one price, for usage up to a threshold.
type Step struct {
	UpTo Span // counted after included; zero in the last step
	// Price in billionths of the currency unit for Count × Unit.
	Nano  int64
	Count uint64
	Unit  Unit
	Text  string // as written in the plan: "0.010 per GiB"
}

// Tiers says how steps work together.
type Tiers uint8

// Graduated prices each part of the usage in its own step; Volume prices all of
// it in the step its total lies in; Package is Graduated by started price units.
// Sustained has steps of time: the slots of the period are ranked by usage, and
// the highest, as many as fit in the first step, are priced in it, and so on.
// What is used in turns so counts as one, and what is used at once does not.
const (
	Graduated Tiers = iota
	Volume
	Package
	Sustained
)

// Pool says over what a rate's usage is added before steps and cap.
type Pool uint8

// PoolResource rates each resource for itself, PoolTenant all of them together,
// PoolLike those together that have some labels in common.
const (
	PoolResource Pool = iota
	PoolTenant
	PoolLike
)

// OnResize says what becomes of a cap and an allowance when a resource changes
// its flavor within a period.
type OnResize uint8

// Prorate gives each flavor's rate its share, by usage of the rate's own meters
// as far as rates rate it; Restart gives each the whole.
const (
	Prorate OnResize = iota
	Restart
)

// Per says what an allowance is granted for.
type Per uint8

// PerPool grants an allowance once per pool, PerResource for each resource in
// it, PerInstanceMonth for each month that instances of the pool ran, prorated.
const (
	PerPool Per = iota
	PerResource
	PerInstanceMonth
)

// Included is usage that costs nothing.
type Included struct {
	Amount Span // zero for none
	Per    Per
	Month  Span // what counts as an instance's month, and at most one of it; zero for the billing month
}

// Cap bounds what a rate charges of one pool, or of all, in a period: in money or
// in usage. Of all, each pool has its part by what it costs before. The zero
// value is no bound.
type Cap struct {
	Set   bool
	Nano  int64 // billionths of the currency unit, where Units is zero
	Units Span  // what is used beyond it costs nothing
	Text  string
}

// Unit is a unit of a price: Num ÷ Den base units, times the seconds of the
// billing month where Month is set.
type Unit struct {
	Name     string // as written in the plan: "GiB-month"
	Num, Den uint64
	Month    bool
}

// Span is a quantity as a plan states it: thousandths of a unit.
type Span struct {
	Thousandths uint64
	Unit        Unit
	Text        string // as written in the plan: "60 s"
}

// IsZero reports whether no quantity is stated.
func (s Span) IsZero() bool { return s.Thousandths == 0 }

// BySlots reports whether the rate's charge follows from when in the period
// something was used: its usage must be given slot by slot.
func (r *Rate) BySlots() bool { return r.Percentile > 0 || r.Tiers == Sustained }

// MayFall reports whether the rate's charge for a period, or one step of it, can
// fall while usage grows. An interim cut bills only the others.
func (p *Plan) MayFall(r *Rate) bool {
	allowed := !r.Included.Amount.IsZero()
	switch {
	case r.TopUp || r.BySlots():
		return true
	case r.TenantCap.Set && (len(r.Steps) > 1 || r.Cap.Set && !r.TenantCap.Units.IsZero()):
		return true // more in one step, or of what another cap bounds, leaves less of the cap to others
	case r.Minimum.For == ForTenant && slices.ContainsFunc(p.Rates, func(o Rate) bool { return o.Former == r.ID }):
		return true // more under a rate that is grandfathered leaves less of the commitment
	case r.Tiers == Volume:
		return true // a later step is cheaper for all of it
	case allowed && (r.Included.Per == PerInstanceMonth || r.Included.Per == PerResource && r.Pool != PoolResource):
		return true // running time, or a further resource, brings allowance with it
	}
	resized, rounded := false, r.rounds()
	if rounded && r.Component == mainComponent && !r.Where.isEmpty() {
		return true // a start may go on where no rate fits, likewise
	}
	for i := range p.Rates {
		o := &p.Rates[i]
		if o.ID == r.ID || !r.rivals(o) {
			continue
		}
		// A start that goes on under another rate takes along what minimum and
		// granularity add; a resource that goes on in another flavor, a share of
		// cap and allowance.
		if rounded || o.rounds() {
			return true
		}
		resized = resized || len(o.Where.Flavor) > 0 || len(r.Where.Flavor) > 0
	}
	return resized && r.prorates()
}

// rounds reports whether a start is charged for more than was measured.
func (r *Rate) rounds() bool {
	return r.Minimum.For == ForStart && !r.Minimum.IsZero() || r.Rounds == ForStart && !r.Granularity.IsZero()
}

// meters are all that the rate fits.
func (r *Rate) meters() []metering.Meter {
	all := append([]metering.Meter{r.Meter}, r.Also...)
	if r.OrHigher != "" {
		all = append(all, r.OrHigher)
	}
	return all
}

// rivals reports whether the rates exclude each other for some meter.
func (r *Rate) rivals(o *Rate) bool {
	return r.Component == o.Component && r.Where.sameAge(&o.Where) && slices.ContainsFunc(r.meters(), func(m metering.Meter) bool {
		return slices.Contains(o.meters(), m)
	})
}

// prorates reports whether a change of flavor divides the rate's cap or allowance.
func (r *Rate) prorates() bool {
	granted := !r.Included.Amount.IsZero() && r.Included.Per != PerInstanceMonth
	return r.Pool == PoolResource && r.OnResize == Prorate && (r.Cap.Set || granted)
}
