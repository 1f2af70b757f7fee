package rating

import (
	"strconv"
	"strings"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Derivation is one step from what was measured to what is charged, as a
// statement shows it, with all that it takes to compute it again: what was
// measured, and the plan's terms. Quantities are decimals in the meter's base
// unit; money is exact, a decimal or a quotient, until the rule "share" rounds it.
type Derivation struct {
	Rule string `json:"rule"` // start, percentile, higher, rank, minimum, included, price, cap, top-up, tenant-cap, discount, share
	// Of a start, by resource, component and meter.
	Resource  metering.ResourceID `json:"resource,omitempty"`
	Start     string              `json:"start,omitempty"`
	Component string              `json:"component,omitempty"`
	Meter     metering.Meter      `json:"meter,omitempty"`    // also the side that a percentile ranks; of "higher", the other one
	Windows   []string            `json:"windows,omitempty"`  // when it was measured
	Gaps      []string            `json:"gaps,omitempty"`     // between them
	Before    string              `json:"before,omitempty"`   // measured in earlier periods
	Measured  string              `json:"measured,omitempty"` // here, under this rate
	Life      string              `json:"life,omitempty"`     // measured until the period's end, under all rates and none
	Covered   string              `json:"covered,omitempty"`  // charged in earlier periods by granularity or minimum
	Added     string              `json:"added,omitempty"`    // by granularity or minimum
	Quantity  string              `json:"quantity,omitempty"`
	// Terms of the plan.
	Minimum  string `json:"minimum,omitempty"`
	Multiple string `json:"multiple,omitempty"` // what is counted in whole: granularity, a package
	Of       string `json:"of,omitempty"`       // whose minimum and granularity: resource, tenant
	// Minimum and granularity of each start, which one of the resource counts on.
	StartMinimum  string `json:"start_minimum,omitempty"`
	StartMultiple string `json:"start_multiple,omitempty"`
	Grandfathered string `json:"grandfathered,omitempty"` // billed by earlier rates, counts towards a commitment
	// Of slots: used in each, and on which days where only such days count.
	Percentile int      `json:"percentile,omitempty"`
	Slots      []string `json:"slots,omitempty"`
	Days       []string `json:"days,omitempty"`
	Each       string   `json:"each,omitempty"`    // what is granted for the whole,
	Portion    string   `json:"portion,omitempty"` // and what of it here
	Allowed    string   `json:"allowed,omitempty"` // by included
	Step       int      `json:"step,omitempty"`    // from 1
	Tiers      string   `json:"tiers,omitempty"`
	From       string   `json:"from,omitempty"` // where the step begins and ends
	UpTo       string   `json:"up_to,omitempty"`
	Nano       int64    `json:"nano,omitempty"` // the price in billionths of the currency unit
	Per        int64    `json:"per,omitempty"`  // base units
	Bound      string   `json:"bound,omitempty"`
	Discount   string   `json:"discount,omitempty"` // its name
	Percent    string   `json:"percent,omitempty"`
	All        string   `json:"all,omitempty"`   // what all lines of the rate come to
	Whole      string   `json:"whole,omitempty"` // All, rounded
	Rounding   string   `json:"rounding,omitempty"`
	Exact      string   `json:"exact,omitempty"`  // before rounding
	Amount     string   `json:"amount,omitempty"` // what the step adds to the charge; after "share", the line's
	Text       string   `json:"text"`             // the same for people
}

// Explain is the derivation of the charge, before rounding.
func (c *Charge) Explain() []Derivation {
	unit, _ := c.Rate.Meter.BaseUnit()
	steps := make([]Derivation, 0, len(c.Starts)+len(c.Parts)+3)
	for i := range c.Starts {
		steps = append(steps, c.Starts[i].explain(unit, c.Rate))
	}
	if c.Percentile != nil {
		unit += " in 5 min"
	}
	for i := range c.Slots {
		steps = append(steps, c.explainSlots(&c.Slots[i], unit))
	}
	if c.Rate.OrHigher != "" {
		steps = append(steps, Derivation{Rule: "higher", Meter: c.Rate.OrHigher, Quantity: c.unraised().String(),
			Text: text("the higher of ", string(c.Rate.Meter), " and ", string(c.Rate.OrHigher), " counts: ", c.unraised().String(), " ", unit)})
	}
	if c.Raise != nil {
		steps = append(steps, c.explainMinimum(unit))
	}
	if c.Allowance != nil {
		steps = append(steps, c.explainIncluded(unit))
	}
	for i := range c.Parts {
		steps = append(steps, c.explainPart(&c.Parts[i], unit))
	}
	return c.explainAllowances(steps)
}

func (s *Start) explain(unit string, r *Rate) Derivation {
	d := Derivation{Rule: "start", Resource: s.Resource, Start: s.Start, Before: s.Before.String(),
		Measured: s.Measured.String(), Covered: s.Covered.String(), Added: s.Added.String(),
		Quantity: exactly(s.Measured).Sub(s.Covered).Add(s.Added).String(), Windows: make([]string, 0, len(s.Windows))}
	for i, w := range s.Windows {
		d.Windows = append(d.Windows, w.String())
		if i > 0 {
			d.Gaps = append(d.Gaps, metering.Window{Start: s.Windows[i-1].End, End: w.Start}.String())
		}
	}
	words := []string{string(s.Resource)}
	if s.Start != "" {
		words = append(words, " start ", s.Start)
	}
	if len(r.Also) > 0 || r.OrHigher != "" {
		words = append(words, " ", string(s.Meter))
		d.Meter = s.Meter
	}
	if s.ruling.rounds() {
		d.Component, d.Life = r.Component, s.life.String()
		d.Minimum, d.Multiple = s.ruling.terms(ForStart)
	}
	words = append(words, ": measured ", d.Measured, " ", unit,
		" from ", s.Windows[0].Start.UTC().Format(time.RFC3339), " to ", s.Windows[len(s.Windows)-1].End.UTC().Format(time.RFC3339))
	if len(d.Gaps) > 0 {
		words = append(words, ", gaps: ", strconv.Itoa(len(d.Gaps)))
	}
	if !s.Before.IsZero() {
		words = append(words, ", after ", d.Before, " in earlier periods")
	}
	if !s.Covered.IsZero() {
		words = append(words, ", ", d.Covered, " of it charged there")
	}
	if !s.Added.IsZero() {
		words = append(words, ", ", d.Added, " added by ", r.roundingText())
	}
	d.Text = text(words...)
	return d
}

func text(words ...string) string { return strings.Join(words, "") }

// roundingText names what makes more count than was measured.
func (r *Rate) roundingText() string {
	var words []string
	if !r.Granularity.IsZero() {
		words = append(words, "granularity "+r.Granularity.Text)
	}
	if !r.Minimum.IsZero() {
		words = append(words, "minimum "+r.Minimum.Text)
	}
	return strings.Join(words, ", ")
}

// terms are minimum and granularity of a start, a resource or the tenant, "" for none.
func (r *priced) terms(of For) (minimum, multiple string) {
	if r.Minimum.For == of && !r.minimum.IsZero() {
		minimum = r.minimum.String()
	}
	if r.Rounds == of && !r.granularity.IsZero() {
		multiple = r.granularity.String()
	}
	return minimum, multiple
}

// explainSlots is what is ranked, and of a percentile what it comes to.
func (c *Charge) explainSlots(s *Slots, unit string) Derivation {
	d := Derivation{Rule: "rank", Slots: make([]string, len(s.Used))}
	for i, q := range s.Used {
		d.Slots[i] = q.String()
	}
	p := s.Percentile
	if p == nil {
		d.Text = text("all ", strconv.Itoa(len(s.Used)), " slots are ranked by usage, the highest first")
		return d
	}
	for _, day := range s.Days {
		d.Days = append(d.Days, day.String())
	}
	d.Rule, d.Meter, d.Percentile, d.Quantity = "percentile", s.Meter, c.Rate.Percentile, p.Billable.String()
	words := []string{"percentile ", strconv.Itoa(d.Percentile), " of ", string(s.Meter), ": of ", strconv.Itoa(p.Slots), " slots (",
		strconv.Itoa(p.Measured), " measured) the highest ", strconv.Itoa(p.Dropped), " are dropped, the next counts: ", d.Quantity, " ", unit}
	if p.Month > 0 {
		words = append(words, ", for ", strconv.Itoa(p.Days), " of ", strconv.Itoa(p.Month), " days")
	}
	if p.Thin() {
		words = append(words, "; fewer than 90 % of the slots were measured")
	}
	d.Text = text(words...)
	return d
}

// unraised is what is billable before a minimum per resource or per tenant.
func (c *Charge) unraised() Exact {
	if c.Raise == nil {
		return c.Billable
	}
	return c.Billable.Add(c.Raise.Covered).Sub(c.Raise.Added)
}

func (c *Charge) explainMinimum(unit string) Derivation {
	before := c.unraised()
	d := Derivation{Rule: "minimum", Added: c.Raise.Added.String(), Covered: c.Raise.Covered.String(), Quantity: c.Billable.String(), Of: "resource"}
	if c.Rate.Pool != PoolResource {
		d.Of = "tenant"
		d.Minimum, d.Multiple = c.rate.terms(ForTenant)
	} else {
		d.Minimum, d.Multiple = c.rate.terms(ForResource)
		d.StartMinimum, d.StartMultiple = c.rate.terms(ForStart)
	}
	d.Text = text(c.Rate.roundingText(), " over all: ", before.String(), " + ", d.Added, " − ", d.Covered, " = ", d.Quantity, " ", unit)
	if !c.Raise.Grandfathered.IsZero() {
		d.Grandfathered = c.Raise.Grandfathered.String()
		d.Text = text(d.Text, "; ", d.Grandfathered, " ", unit, " under earlier rates count towards it")
	}
	return d
}

func (c *Charge) explainIncluded(unit string) Derivation {
	a := c.Allowance
	d := Derivation{Rule: "included", Each: a.Each.String(), Portion: a.Portion.text(), Allowed: a.Granted.String(), Quantity: a.Used.String()}
	d.Text = text("included ", c.Rate.Included.text(), ": ", d.Allowed, " ", unit, "; ", c.Billable.String(), " − ", d.Quantity,
		" = ", c.Billable.Sub(a.Used).String(), " ", unit, " remain")
	return d
}

func (c *Charge) explainPart(p *Part, unit string) Derivation {
	s := &c.Rate.Steps[p.Step]
	d := Derivation{Rule: "price", Step: p.Step + 1, Quantity: p.Quantity.String(), Nano: p.Price.Nano, Per: p.Price.Per, Amount: p.Exact.Text()}
	d.Text = text(d.Quantity, " ", unit, " at ", s.Text, ": ", d.Quantity, " × ", money.Frac(p.Price.Nano, 1_000_000_000).Text(),
		" ÷ ", strconv.FormatInt(p.Price.Per, 10), " = ", d.Amount)
	if c.Rate.Tiers != Graduated {
		d.Tiers = c.Rate.Tiers.String()
	}
	if c.Rate.Tiers == Package {
		d.Multiple = c.rate.steps[p.Step].unit.String()
	}
	if len(c.Rate.Steps) > 1 {
		d.Text = text("step ", strconv.Itoa(d.Step), ": ", d.Text)
		if p.Step > 0 {
			d.From = c.rate.steps[p.Step-1].upTo.String()
		}
		if p.Step < len(c.Rate.Steps)-1 {
			d.UpTo = c.rate.steps[p.Step].upTo.String()
		}
	}
	return d
}

// explainAllowances adds what caps, minimum spend and discounts take off, in
// their order.
func (c *Charge) explainAllowances(steps []Derivation) []Derivation {
	gross, off := c.Exact, money.Fraction{}
	for i := range c.Parts {
		gross = gross.Add(c.Parts[i].Allowance)
	}
	off = gross.Sub(c.Exact) // by cap or minimum spend: by all but the others
	for i := range c.Discounts {
		off = off.Sub(c.Discounts[i].Amount)
	}
	if c.TenantCap != nil {
		off = off.Sub(c.TenantCap.Off)
	}
	left := gross
	take := func(d Derivation, off money.Fraction) {
		from := left
		left = from.Sub(off)
		d.Amount = off.Neg().Text()
		d.Text = text(d.Text, ": ", from.Text(), " − ", off.Text(), " = ", left.Text())
		steps = append(steps, d)
	}
	if c.Rate.TopUp {
		take(Derivation{Rule: "top-up", Text: "all other charges count towards it"}, off)
	} else if c.Rate.Cap.Set {
		take(c.explainCap(), off)
	}
	if t := c.TenantCap; t != nil {
		d := Derivation{Rule: "tenant-cap", All: t.Of.Text(), Bound: t.Bound.Text()}
		d.Text = text("cap ", c.Rate.TenantCap.Text, " (here ", d.Bound, ") of all, which come to ", d.All)
		if !c.Rate.TenantCap.Units.IsZero() {
			d.Quantity, d.Bound = d.Bound, ""
		}
		take(d, t.Off)
	}
	for _, one := range c.Discounts {
		d := Derivation{Rule: "discount", Discount: one.Discount.Name, Text: "discount " + one.Discount.Text}
		if one.Discount.Percent > 0 {
			d.Percent = money.Frac(int64(one.Discount.Percent), 1000).Text()
		} else {
			d.Bound = one.Whole.Text()
		}
		take(d, one.Amount)
	}
	return steps
}

// explainCap is the rate's cap, in money or in units.
func (c *Charge) explainCap() Derivation {
	d := Derivation{Rule: "cap", Bound: c.Bound.Text(), Portion: c.Portion.text()}
	d.Text = text("cap ", c.Rate.Cap.Text, " (here ", d.Bound, ")")
	each := c.rate.capMoney
	if !c.Rate.Cap.Units.IsZero() {
		each = c.rate.capUnits.fraction()
		d.Quantity, d.Bound = d.Bound, ""
	}
	if d.Portion != "" {
		d.Each = each.Text()
	}
	return d
}

// share is the last derivation of one resource: d, which rounds the rate's sum
// over all resources, with this resource's share.
func (d Derivation) share(exact money.Fraction, share money.Sum, several bool) Derivation {
	d.Exact, d.Amount = exact.Text(), share.String()
	d.Text = text(d.All, " rounded ", d.Rounding, ": ", d.Whole)
	if several {
		d.Text = text("all resources ", d.All, ", rounded ", d.Rounding, ": ", d.Whole, "; of which ", d.Exact, " here: ", d.Amount)
	}
	return d
}
