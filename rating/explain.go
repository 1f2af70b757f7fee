package rating

import (
	"fmt"
	"strings"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Derivation is one step from what was measured to what is charged. Quantities
// are in the meter's base unit, money is exact until the rule "share".
type Derivation struct {
	Rule     string              `json:"rule"` // start, included, price, cap, share
	Resource metering.ResourceID `json:"resource,omitempty"`
	Start    string              `json:"start,omitempty"`
	Windows  []string            `json:"windows,omitempty"` // when it was measured
	Gaps     []string            `json:"gaps,omitempty"`    // between them
	Before   string              `json:"before,omitempty"`
	Measured string              `json:"measured,omitempty"`
	Covered  string              `json:"covered,omitempty"` // paid in earlier periods by granularity or minimum
	Added    string              `json:"added,omitempty"`   // by granularity or minimum
	Allowed  string              `json:"allowed,omitempty"` // by included
	Quantity string              `json:"quantity,omitempty"`
	Step     int                 `json:"step,omitempty"`  // from 1
	Price    string              `json:"price,omitempty"` // as the plan has it
	Nano     int64               `json:"nano,omitempty"`  // billionths of the currency unit
	Per      int64               `json:"per,omitempty"`   // base units
	Cap      string              `json:"cap,omitempty"`   // as the plan has it
	Bound    string              `json:"bound,omitempty"` // what that is for this charge
	Exact    string              `json:"exact,omitempty"` // this resource's charge
	Of       string              `json:"of,omitempty"`    // the rate's, over all resources
	Whole    string              `json:"whole,omitempty"` // Of, rounded
	Amount   string              `json:"amount,omitempty"`
	Text     string              `json:"text"` // the same for people
}

// Explain is the derivation of the charge, before rounding.
func (c *Charge) Explain() []Derivation {
	unit, _ := c.Rate.Meter.BaseUnit()
	steps := make([]Derivation, 0, len(c.Starts)+len(c.Parts)+3)
	for i := range c.Starts {
		steps = append(steps, c.Starts[i].explain(unit, c.Rate))
	}
	if p := c.Percentile; p != nil {
		unit += " in 5 min"
		steps = append(steps, p.explain(c, unit))
	} else if c.Rate.OrHigher != "" {
		steps = append(steps, Derivation{Rule: "higher", Quantity: c.Billable.String(),
			Text: fmt.Sprintf("the higher of %s and %s counts: %s %s", c.Rate.Meter, c.Rate.OrHigher, c.Billable, unit)})
	}
	if c.Raised != c.Relieved { // at most one of them is not zero
		steps = append(steps, Derivation{Rule: "minimum", Added: c.Raised.String(), Covered: c.Relieved.String(), Quantity: c.Billable.String(),
			Text: fmt.Sprintf("%s over all: %s + %s − %s = %s %s", strings.TrimSpace(c.Rate.rule()),
				c.Billable.Add(c.Relieved).Sub(c.Raised), c.Raised, c.Relieved, c.Billable, unit)})
	}
	if !c.Rate.Included.Amount.IsZero() {
		steps = append(steps, Derivation{
			Rule: "included", Allowed: c.Allowed.String(), Quantity: c.Included.String(),
			Text: fmt.Sprintf("included %s: %s %s, of which %s used; %s − %s = %s %s remain",
				c.Rate.Included.text(), c.Allowed, unit, c.Included, c.Billable, c.Included, c.Billable.Sub(c.Included), unit),
		})
	}
	var allowance money.Fraction
	for i := range c.Parts {
		p := &c.Parts[i]
		s := &c.Rate.Steps[p.Step]
		allowance = allowance.Add(p.Allowance)
		text := fmt.Sprintf("%s %s at %s: %s × %s ÷ %d %s = %s", p.Quantity, unit, s.Text,
			p.Quantity, money.Frac(p.Price.Nano, 1_000_000_000).Text(), p.Price.Per, unit, p.Exact.Text())
		if len(c.Rate.Steps) > 1 {
			text = fmt.Sprintf("step %d: %s", p.Step+1, text)
		}
		steps = append(steps, Derivation{Rule: "price", Step: p.Step + 1, Quantity: p.Quantity.String(),
			Price: s.Text, Nano: p.Price.Nano, Per: p.Price.Per, Amount: p.Exact.Text(), Text: text})
	}
	for _, d := range c.Discounts {
		allowance = allowance.Sub(d.Amount)
	}
	capped := c.Exact
	for _, d := range c.Discounts {
		capped = capped.Add(d.Amount)
	}
	switch {
	case c.Rate.TopUp:
		steps = append(steps, Derivation{Rule: "top-up", Amount: allowance.Neg().Text(),
			Text: fmt.Sprintf("all other charges count towards it: %s − %s = %s", capped.Add(allowance).Text(), allowance.Text(), capped.Text())})
	case c.Rate.Cap.Set:
		steps = append(steps, Derivation{Rule: "cap", Cap: c.Rate.Cap.Text, Bound: c.Bound.Text(), Amount: allowance.Neg().Text(),
			Text: fmt.Sprintf("cap %s (here %s): %s − %s = %s", c.Rate.Cap.Text, c.Bound.Text(),
				capped.Add(allowance).Text(), allowance.Text(), capped.Text())})
	}
	for _, d := range c.Discounts {
		steps = append(steps, Derivation{Rule: "discount", Price: d.Discount.Text, Amount: d.Amount.Neg().Text(),
			Text: fmt.Sprintf("discount %s: %s − %s = %s", d.Discount.Text, capped.Text(), d.Amount.Text(), capped.Sub(d.Amount).Text())})
		capped = capped.Sub(d.Amount)
	}
	return steps
}

func (p *Percentile) explain(c *Charge, unit string) Derivation {
	text := fmt.Sprintf("percentile %d of %s: of %d slots (%d measured) the highest %d are dropped, the next counts: %s %s",
		c.Rate.Percentile, p.Meter, p.Slots, p.Measured, p.Dropped, c.Billable, unit)
	if p.Month > 0 {
		text += fmt.Sprintf(", for %d of %d days", p.Days, p.Month)
	}
	if p.Thin() {
		text += "; fewer than 90 % of the slots were measured"
	}
	return Derivation{Rule: "percentile", Quantity: c.Billable.String(), Text: text}
}

func (in Included) text() string {
	switch in.Per {
	case PerResource:
		return in.Amount.Text + " per resource"
	case PerInstanceMonth:
		return in.Amount.Text + " per instance-month"
	}
	return in.Amount.Text
}

func (s *Start) explain(unit string, r *Rate) Derivation {
	d := Derivation{Rule: "start", Resource: s.Resource, Start: s.Start, Before: s.Before.String(),
		Measured: s.Measured.String(), Covered: s.Covered.String(), Added: s.Added.String(),
		Quantity: s.Measured.Sub(s.Covered).Add(s.Added).String()}
	for i, w := range s.Windows {
		d.Windows = append(d.Windows, w.String())
		if i > 0 {
			d.Gaps = append(d.Gaps, metering.Window{Start: s.Windows[i-1].End, End: w.Start}.String())
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s", s.Resource)
	if s.Start != "" {
		fmt.Fprintf(&text, " start %s", s.Start)
	}
	if len(r.Also) > 0 || r.OrHigher != "" {
		fmt.Fprintf(&text, " %s", s.Meter)
	}
	fmt.Fprintf(&text, ": measured %s %s from %s to %s", s.Measured, unit,
		s.Windows[0].Start.UTC().Format(time.RFC3339), s.Windows[len(s.Windows)-1].End.UTC().Format(time.RFC3339))
	if len(d.Gaps) > 0 {
		fmt.Fprintf(&text, " with %d gaps", len(d.Gaps))
	}
	if !s.Before.IsZero() {
		fmt.Fprintf(&text, ", after %s in earlier periods", s.Before)
	}
	if !s.Covered.IsZero() {
		fmt.Fprintf(&text, ", %s of it paid there", s.Covered)
	}
	if !s.Added.IsZero() {
		fmt.Fprintf(&text, ", %s added by%s", s.Added, r.rule())
	}
	d.Text = text.String()
	return d
}

// rule names what makes a start count more than was measured.
func (r *Rate) rule() string {
	var text string
	if !r.Granularity.IsZero() {
		text += " granularity " + r.Granularity.Text
	}
	if !r.Minimum.IsZero() {
		text += " minimum " + r.Minimum.Text
	}
	return text
}

// share is the last derivation of one resource: d, which rounds the rate's sum
// over all resources, with this resource's share.
func (d Derivation) share(exact money.Fraction, share money.Sum, mode money.Rounding, several bool) Derivation {
	d.Exact, d.Amount = exact.Text(), share.String()
	d.Text = fmt.Sprintf("%s rounded %s: %s", d.Of, mode, d.Whole)
	if several {
		d.Text = fmt.Sprintf("all resources %s, rounded %s: %s; of which %s here: %s", d.Of, mode, d.Whole, d.Exact, d.Amount)
	}
	return d
}
