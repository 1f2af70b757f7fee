package rating

import (
	"fmt"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Statement is a result with each rate's total rounded to the minor unit and
// split over its resources, as the command line prints it.
type Statement struct {
	Plan     string             `json:"plan"`
	Currency money.Currency     `json:"currency"`
	Rounding string             `json:"rounding,omitempty"` // with the derivations, which need it
	Period   StatementPeriod    `json:"period"`
	Lines    []StatementLine    `json:"lines"` // by resource, then in the plan's order
	Total    money.Amount       `json:"total"`
	Unrated  []StatementUnrated `json:"unrated"`
}

// StatementPeriod is the period rated.
type StatementPeriod struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// StatementLine is what one resource owes under one rate.
type StatementLine struct {
	Resource metering.ResourceID `json:"resource"` // "" for a pooled rate
	Rate     string              `json:"rate"`
	Meter    metering.Meter      `json:"meter"`
	Quantity string              `json:"quantity"` // as measured, in Unit
	Unit     string              `json:"unit"`     // the meter's base unit
	Amount   money.Amount        `json:"amount"`
	Steps    []Derivation        `json:"steps,omitempty"`
}

// StatementUnrated is usage that no rate fits.
type StatementUnrated struct {
	Resource metering.ResourceID `json:"resource"`
	Meter    metering.Meter      `json:"meter"`
	Quantity string              `json:"quantity"`
	Unit     string              `json:"unit"`
}

// Statement rounds and splits the result; explain adds how each line came
// about. The error wraps money.ErrOverflow.
func (r *Result) Statement(explain bool) (*Statement, error) {
	s := &Statement{
		Plan: r.Plan.Name, Currency: r.Plan.Currency,
		Period:  StatementPeriod{r.Period.Start.UTC(), r.Period.End.UTC()},
		Lines:   make([]StatementLine, len(r.Charges)),
		Total:   money.Amount{Currency: r.Plan.Currency},
		Unrated: make([]StatementUnrated, 0, len(r.Unrated)),
	}
	if explain {
		s.Rounding = r.Plan.Rounding.String()
	}
	for i := range r.Plan.Rates {
		if err := r.state(s, &r.Plan.Rates[i], explain); err != nil {
			return nil, err
		}
	}
	for _, u := range r.Unrated {
		unit, _ := u.Meter.BaseUnit()
		if n := len(s.Unrated); n > 0 && s.Unrated[n-1].Resource == u.Resource && s.Unrated[n-1].Meter == u.Meter {
			continue // the same resource and meter under other labels: counted below
		}
		s.Unrated = append(s.Unrated, StatementUnrated{u.Resource, u.Meter, r.unrated(u.Resource, u.Meter).String(), unit})
	}
	return s, nil
}

// state fills in the lines of one rate.
func (r *Result) state(s *Statement, rate *Rate, explain bool) error {
	var of []int
	var exact []money.Fraction
	for i := range r.Charges {
		if r.Charges[i].Rate == rate {
			of = append(of, i)
			exact = append(exact, r.Charges[i].Exact)
		}
	}
	if len(of) == 0 {
		return nil
	}
	whole, shares, err := money.Shares(exact, r.Plan.Currency, r.Plan.Rounding)
	if err != nil {
		return fmt.Errorf("rate %s: %w", rate.ID, err)
	}
	if s.Total, err = s.Total.Add(whole); err != nil {
		return fmt.Errorf("total of plan %s: %w", r.Plan.Name, err)
	}
	unit, _ := rate.Meter.BaseUnit()
	for k, i := range of {
		c := &r.Charges[i]
		line := StatementLine{c.Resource, rate.ID, rate.Meter, c.Measured.String(), unit, shares[k], nil}
		if explain {
			line.Steps = append(c.Explain(), shared(exact, k, whole, shares[k], r.Plan.Rounding))
		}
		s.Lines[i] = line
	}
	return nil
}

// unrated is the unrated quantity of a resource and meter under all labels.
func (r *Result) unrated(resource metering.ResourceID, meter metering.Meter) metering.Quantity {
	var sum metering.Quantity
	for _, u := range r.Unrated {
		if u.Resource == resource && u.Meter == meter {
			sum = sum.Add(u.Quantity)
		}
	}
	return sum
}
