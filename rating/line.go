package rating

import (
	"fmt"
	"math/big"
	"time"

	"github.com/usance/usance/rating/money"
)

// Lines are the charges as one line per rate, price and step, in the plan's
// order, each rounded once over all resources. The error wraps
// money.ErrOverflow.
func (r *Result) Lines() ([]Line, error) {
	charges := make([][]*Charge, len(r.Plan.Rates))
	for i := range r.Charges {
		c := &r.Charges[i]
		if charges[c.index] == nil {
			charges[c.index] = make([]*Charge, 0, len(r.Charges)-i)
		}
		charges[c.index] = append(charges[c.index], c)
	}
	var lines []Line
	for i := range charges {
		rate := &r.Plan.Rates[i]
		for step := range rate.Steps {
			line := Line{Rate: rate, Step: step, MayFall: r.Plan.MayFall(rate), Shares: make([]Share, 0, len(charges[i]))}
			for _, c := range charges[i] {
				line.collect(c)
			}
			if len(line.Shares) == 0 {
				continue
			}
			if err := line.finish(r); err != nil {
				return nil, fmt.Errorf("rate %s: %w", rate.ID, err)
			}
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// collect adds the charge's part of the line's step, if it reached it.
func (l *Line) collect(c *Charge) {
	for i := range c.Parts {
		p := &c.Parts[i]
		if p.Step != l.Step {
			continue
		}
		if len(l.Shares) == 0 {
			l.Price = *p.Price
		}
		share := Share{Resource: c.Resource, Quantity: p.Quantity, Exact: p.Exact}
		l.Exact = l.Exact.Add(p.Exact)
		if !p.Allowance.IsZero() {
			l.Allowance, share.Exact = l.Allowance.Add(p.Allowance), p.Exact.Sub(p.Allowance)
		}
		l.Shares = append(l.Shares, share)
	}
}

// finish rounds the line and states its quantity in the unit of its price.
func (l *Line) finish(r *Result) error {
	var billed Exact
	exact := make([]money.Fraction, len(l.Shares))
	for i := range l.Shares {
		billed = billed.Add(l.Shares[i].Quantity)
		exact[i] = l.Shares[i].Exact
	}
	net, shares, err := money.Shares(exact, r.Plan.Currency, r.Plan.Rounding)
	if err != nil {
		return err
	}
	l.Net = net
	for i := range shares {
		l.Shares[i].Net = shares[i]
	}
	step := &l.Rate.Steps[l.Step]
	l.Key = fmt.Sprintf("%s/%s/%d", l.Rate.ID, step.Text, l.Step+1)
	if !r.Window.Start.Equal(r.Period.Start) { // so that the first part's keys outlive a change published within the period
		l.Key += "@" + r.Window.Start.UTC().Format(time.RFC3339)
	}
	l.PriceText, l.Unit = step.Text, step.UnitText()
	size := r.unitSize(step)
	l.Quantity = money.FracRat(size.Quo(billed.fraction().Rat(), size))
	if r.Window != r.Period && l.Rate.byMonth(step) {
		l.Quantity = l.Quantity.Mul(money.Frac(int64(r.Window.Length()), int64(r.Period.Length()))) // so that it times the price is what it costs
	}
	return nil
}

// unitSize is the price unit of a step in base units of the period's month.
func (r *Result) unitSize(s *Step) *big.Rat {
	rater := Rater{seconds: uint64(r.Period.Length() / time.Second)}
	num, den := rater.size(s.Unit)
	return new(big.Rat).SetFrac(num.Mul(num, new(big.Int).SetUint64(s.Count)), den)
}

// UnitText is what the price is per: "GiB", "100 operations".
func (s *Step) UnitText() string {
	if s.Count == 1 {
		return s.Unit.Name
	}
	if s.Unit.Name == "" {
		return fmt.Sprint(s.Count)
	}
	return fmt.Sprintf("%d %s", s.Count, s.Unit.Name)
}
