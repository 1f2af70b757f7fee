package rating

import (
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Result is what a tenant's usage of one period costs under a plan, exact.
type Result struct {
	Plan    *Plan
	Period  metering.Window // the billing month
	Window  metering.Window // what of it is rated here: all, unless the plan changes within
	Charges []Charge        // by resource, then in the plan's order of rates
	Unrated []Unrated
}

// Charge is what the usage of one pool costs under one rate.
type Charge struct {
	Rate       *Rate
	Resource   metering.ResourceID // "" for a rate that pools several
	Like       *metering.Labels    // what they have in common, of a rate that pools like ones
	Measured   metering.Quantity
	Billable   Exact          // after granularity and minimum
	Percentile *Percentile    // where the rate is of one: Billable and what follows are bytes in a slot
	Slots      []Slots        // of a rate by slots: what it ranks
	Raise      *Raise         // where a minimum or a granularity is of the resource or the tenant, and changes something
	Allowance  *Allowance     // where the rate includes usage
	Portion    *Portion       // of a resource with several flavors, what of cap and allowance is the rate's
	Parts      []Part         // one per step that was reached; at least one
	Bound      money.Fraction // where the rate has a cap: in currency units, or in base units
	TenantCap  *TenantCap     // where the rate has one
	Discounts  []Discounted
	Exact      money.Fraction // Σ of Parts, Exact − Allowance each
	Starts     []Start        // how Billable came about, by resource and start
	index      int            // of Rate in the plan
	rate       *priced        // Rate, made ready
}

// Raise is what a minimum or a granularity per resource or per tenant makes of
// what is billable; one of both is zero.
type Raise struct {
	Added         Exact // to Billable
	Covered       Exact // charged by it in earlier periods; no longer in Billable
	Grandfathered Exact // what counts towards a commitment under earlier rates
}

// Portion is what of a plan's terms is granted here: Of ÷ Whole.
type Portion struct{ Of, Whole metering.Quantity }

// isWhole reports whether it is all.
func (p *Portion) isWhole() bool { return p == nil || p.Of == p.Whole }

// text is the quotient, "" for all.
func (p *Portion) text() string {
	if p.isWhole() {
		return ""
	}
	return p.Of.String() + "/" + p.Whole.String()
}

// TenantCap is what a cap over all pools of a rate makes of one of them.
type TenantCap struct {
	Bound money.Fraction // in currency units, or in base units
	Of    money.Fraction // what all pools come to: cost, or usage that is priced
	Off   money.Fraction // taken off this one: its cost × the part of Of beyond Bound
}

// Slots is what a rate by slots ranks, of one meter.
type Slots struct {
	Meter metering.Meter
	Used  []metering.Quantity // by slot; of a percentile of valid days, of those days only
	Days  []Date              // those, by date
	// Percentile is what it comes to, of a rate by percentile.
	Percentile *Percentile
}

// Allowance is usage that costs nothing.
type Allowance struct {
	Each    Exact   // as the plan says it, in this period
	Portion Portion // of it, by resources, running time or a flavor's usage
	Granted Exact
	Used    Exact // by Billable
}

// Part is what one step contributes to a charge.
type Part struct {
	Step      int
	Quantity  Exact
	Price     *money.Price
	Exact     money.Fraction // quantity × price
	Allowance money.Fraction // what cap and discounts take off; not negative
}

// Discounted is what a discount takes off a charge.
type Discounted struct {
	Discount *Discount
	Whole    money.Fraction // an absolute one, off all charges
	Amount   money.Fraction
}

// Start is one start's share in a charge.
type Start struct {
	Resource metering.ResourceID
	Meter    metering.Meter
	Start    string
	Before   metering.Quantity // billed in earlier periods
	Measured metering.Quantity
	Covered  Exact             // of Measured, already charged in earlier periods by granularity or minimum
	Added    Exact             // by granularity or minimum
	Windows  []metering.Window // when it was measured, adjacent windows joined, by time
	life     metering.Quantity // Before, and what all rates and none measured of the start
	ruling   *priced           // whose granularity and minimum it has
}

// Unrated is usage that no rate fits: a leak in the plan.
type Unrated struct {
	Resource metering.ResourceID
	Meter    metering.Meter
	Labels   metering.Labels // without Created
	Quantity metering.Quantity
	// Added is what minimum and granularity of Of, the last rate of the start,
	// would have added to it; the start ended where no rate is in force, so
	// nothing of it is charged.
	Added Exact
	Of    *Rate // nil where Added is zero
}

// Line is one rate, price and step over all resources: a line item before it
// has a place on an invoice. Exact − Allowance is what is rounded to Net, once.
type Line struct {
	Key       string // stable: the same rate, price and step of a part have it in every cut of a period
	Rate      *Rate
	Step      int
	Price     money.Price
	PriceText string         // as written in the plan: "0.0075 per hour"
	Unit      string         // of Quantity, as written in the plan: "hour"
	Quantity  money.Fraction // billed, in Unit
	Exact     money.Fraction // quantity × price, currency units
	Allowance money.Fraction // what cap and discounts take off
	Net       money.Amount
	Shares    []Share // by resource; they sum to Net
	MayFall   bool
}

// Share is a resource's part of a line.
type Share struct {
	Resource metering.ResourceID // "" for a rate that pools several
	Quantity Exact               // billed
	Exact    money.Fraction      // net, before rounding
	Net      money.Amount
}
