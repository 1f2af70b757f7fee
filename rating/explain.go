package rating

import (
	"strconv"
	"strings"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Derivation is one step from what was measured to what is charged, as a
// statement shows it. Quantities are decimals in the meter's base unit; money is
// exact, a decimal or a quotient, until the rule "share" rounds it.
type Derivation struct {
	Rule     string              `json:"rule"` // start, higher, percentile, minimum, included, price, cap, top-up, discount, share
	Resource metering.ResourceID `json:"resource,omitempty"`
	Start    string              `json:"start,omitempty"`
	Windows  []string            `json:"windows,omitempty"` // when it was measured
	Gaps     []string            `json:"gaps,omitempty"`    // between them
	Before   string              `json:"before,omitempty"`  // measured in earlier periods
	Measured string              `json:"measured,omitempty"`
	Covered  string              `json:"covered,omitempty"` // charged in earlier periods by granularity or minimum
	Added    string              `json:"added,omitempty"`   // by granularity or minimum
	Allowed  string              `json:"allowed,omitempty"` // by included
	Quantity string              `json:"quantity,omitempty"`
	Step     int                 `json:"step,omitempty"` // from 1
	Nano     int64               `json:"nano,omitempty"` // the price in billionths of the currency unit
	Per      int64               `json:"per,omitempty"`  // base units
	Bound    string              `json:"bound,omitempty"`
	Percent  string              `json:"percent,omitempty"`
	Of       string              `json:"of,omitempty"`    // of all resources together
	Whole    string              `json:"whole,omitempty"` // Of, rounded
	Rounding string              `json:"rounding,omitempty"`
	Exact    string              `json:"exact,omitempty"`  // before rounding
	Amount   string              `json:"amount,omitempty"` // what the step adds to the charge; after "share", the line's
	Text     string              `json:"text"`             // the same for people
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
		steps = append(steps, c.Percentile.explain(c, unit))
	} else if c.Rate.OrHigher != "" {
		steps = append(steps, Derivation{Rule: "higher", Quantity: c.unraised().String(),
			Text: text("the higher of ", string(c.Rate.Meter), " and ", string(c.Rate.OrHigher), " counts: ", c.Measured.String(), " ", unit)})
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

func (p *Percentile) explain(c *Charge, unit string) Derivation {
	q := c.unraised().String()
	words := []string{"percentile ", strconv.Itoa(c.Rate.Percentile), " of ", string(p.Meter), ": of ", strconv.Itoa(p.Slots), " slots (",
		strconv.Itoa(p.Measured), " measured) the highest ", strconv.Itoa(p.Dropped), " are dropped, the next counts: ", q, " ", unit}
	if p.Month > 0 {
		words = append(words, ", for ", strconv.Itoa(p.Days), " of ", strconv.Itoa(p.Month), " days")
	}
	if p.Thin() {
		words = append(words, "; fewer than 90 % of the slots were measured")
	}
	return Derivation{Rule: "percentile", Quantity: q, Text: text(words...)}
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
	d := Derivation{Rule: "minimum", Added: c.Raise.Added.String(), Covered: c.Raise.Covered.String(), Quantity: c.Billable.String()}
	d.Text = text(c.Rate.roundingText(), " over all: ", before.String(), " + ", d.Added, " − ", d.Covered, " = ", d.Quantity, " ", unit)
	return d
}

func (c *Charge) explainIncluded(unit string) Derivation {
	d := Derivation{Rule: "included", Allowed: c.Allowance.Granted.String(), Quantity: c.Allowance.Used.String()}
	d.Text = text("included ", c.Rate.Included.text(), ": ", d.Allowed, " ", unit, "; ", c.Billable.String(), " − ", d.Quantity,
		" = ", c.Billable.Sub(c.Allowance.Used).String(), " ", unit, " remain")
	return d
}

func (c *Charge) explainPart(p *Part, unit string) Derivation {
	s := &c.Rate.Steps[p.Step]
	d := Derivation{Rule: "price", Step: p.Step + 1, Quantity: p.Quantity.String(), Nano: p.Price.Nano, Per: p.Price.Per, Amount: p.Exact.Text()}
	d.Text = text(d.Quantity, " ", unit, " at ", s.Text, ": ", d.Quantity, " × ", money.Frac(p.Price.Nano, 1_000_000_000).Text(),
		" ÷ ", strconv.FormatInt(p.Price.Per, 10), " = ", d.Amount)
	if len(c.Rate.Steps) > 1 {
		d.Text = text("step ", strconv.Itoa(d.Step), ": ", d.Text)
	}
	return d
}

// explainAllowances adds what cap, minimum spend and discounts take off, in
// their order.
func (c *Charge) explainAllowances(steps []Derivation) []Derivation {
	gross := c.Exact
	for i := range c.Parts {
		gross = gross.Add(c.Parts[i].Allowance)
	}
	net := c.Exact
	for i := range c.Discounts {
		net = net.Add(c.Discounts[i].Amount)
	}
	off := gross.Sub(net)
	less := func(from, to money.Fraction) string {
		return text(": ", from.Text(), " − ", from.Sub(to).Text(), " = ", to.Text())
	}
	switch {
	case c.Rate.TopUp:
		steps = append(steps, Derivation{Rule: "top-up", Amount: off.Neg().Text(), Text: text("all other charges count towards it", less(gross, net))})
	case c.Rate.Cap.Set:
		d := Derivation{Rule: "cap", Bound: c.Bound.Text(), Amount: off.Neg().Text()}
		d.Text = text("cap ", c.Rate.Cap.Text, " (here ", d.Bound, ")", less(gross, net))
		if !c.Rate.Cap.Units.IsZero() {
			d.Quantity, d.Bound = d.Bound, ""
		}
		steps = append(steps, d)
	}
	for _, one := range c.Discounts {
		after := net.Sub(one.Amount)
		d := Derivation{Rule: "discount", Amount: one.Amount.Neg().Text(), Text: text("discount ", one.Discount.Text, less(net, after))}
		if one.Discount.Percent > 0 {
			d.Percent = money.Frac(int64(one.Discount.Percent), 1000).Text()
		}
		steps, net = append(steps, d), after
	}
	return steps
}

// share is the last derivation of one resource: d, which rounds the rate's sum
// over all resources, with this resource's share.
func (d Derivation) share(exact money.Fraction, share money.Sum, several bool) Derivation {
	d.Exact, d.Amount = exact.Text(), share.String()
	d.Text = text(d.Of, " rounded ", d.Rounding, ": ", d.Whole)
	if several {
		d.Text = text("all resources ", d.Of, ", rounded ", d.Rounding, ": ", d.Whole, "; of which ", d.Exact, " here: ", d.Amount)
	}
	return d
}
