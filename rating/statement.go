package rating

import (
	"strings"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Statement is a result with each rate's total rounded to the minor unit and
// split over its resources, as the command line prints it. Lines of an invoice
// (Result.Lines) are rounded per rate, price and step instead: where a rate has
// several steps, its steps there may come to a minor unit more or less each.
type Statement struct {
	Plan     string             `json:"plan"`
	Currency money.Currency     `json:"currency"`
	Period   StatementPeriod    `json:"period"`
	Lines    []StatementLine    `json:"lines"` // by resource, then in the plan's order
	Total    string             `json:"total"` // in Currency
	Unrated  []StatementUnrated `json:"unrated"`
}

// StatementPeriod is the period rated, or the part of it.
type StatementPeriod struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// StatementLine is what one resource owes under one rate.
type StatementLine struct {
	Resource metering.ResourceID `json:"resource"`       // "" for a pooled rate
	Like     string              `json:"like,omitempty"` // what the resources have in common, of a rate that pools like ones
	Rate     string              `json:"rate"`
	Meter    metering.Meter      `json:"meter"`
	Quantity string              `json:"quantity"` // as measured, in Unit
	Unit     string              `json:"unit"`     // the meter's base unit
	Amount   string              `json:"amount"`   // in the statement's currency
	Steps    []Derivation        `json:"steps,omitempty"`
}

// StatementUnrated is usage that no rate fits.
type StatementUnrated struct {
	Resource metering.ResourceID `json:"resource"`
	Meter    metering.Meter      `json:"meter"`
	Quantity string              `json:"quantity"`
	Unit     string              `json:"unit"`
	// Added is what minimum and granularity would have added to it, where a start
	// ended with no rate in force: nothing charges that either.
	Added string `json:"added,omitempty"`
}

// Statement rounds and splits the result; explain adds how each line came
// about. Amounts may be of any size.
func (r *Result) Statement(explain bool) *Statement {
	s := &Statement{
		Plan: r.Plan.Name, Currency: r.Plan.Currency,
		Period:  StatementPeriod{r.Window.Start.UTC(), r.Window.End.UTC()},
		Lines:   make([]StatementLine, len(r.Charges)),
		Unrated: make([]StatementUnrated, 0, len(r.Unrated)),
	}
	total := money.Sum{Currency: r.Plan.Currency}
	for i := range r.Plan.Rates {
		total = total.Add(r.state(s, &r.Plan.Rates[i], explain))
	}
	s.Total = total.String()
	for i := 0; i < len(r.Unrated); {
		u := r.Unrated[i] // and what follows of the same resource and meter under other labels
		for i++; i < len(r.Unrated) && r.Unrated[i].Resource == u.Resource && r.Unrated[i].Meter == u.Meter; i++ {
			u.Quantity = u.Quantity.Add(r.Unrated[i].Quantity)
			u.Added = u.Added.Add(r.Unrated[i].Added)
		}
		unit, _ := u.Meter.BaseUnit()
		line := StatementUnrated{Resource: u.Resource, Meter: u.Meter, Quantity: u.Quantity.String(), Unit: unit}
		if !u.Added.IsZero() {
			line.Added = u.Added.String()
		}
		s.Unrated = append(s.Unrated, line)
	}
	return s
}

// likeText is "flavor n1, region eu", "" where nothing is in common.
func (c *Charge) likeText() string {
	l := c.Like
	if l == nil {
		return ""
	}
	var words []string
	for _, name := range c.Rate.Like {
		value := map[string]string{"flavor": l.Flavor, "image": l.Image, "region": l.Region, "host_class": l.HostClass}[name]
		words = append(words, name+" "+value)
	}
	return strings.Join(words, ", ")
}

// state fills in the lines of one rate and returns what they sum to.
func (r *Result) state(s *Statement, rate *Rate, explain bool) money.Sum {
	var of []int
	var exact []money.Fraction
	var sum money.Fraction
	for i := range r.Charges {
		if r.Charges[i].Rate == rate {
			of = append(of, i)
			exact = append(exact, r.Charges[i].Exact)
			sum = sum.Add(r.Charges[i].Exact)
		}
	}
	whole, shares := money.SumShares(exact, r.Plan.Currency, r.Plan.Rounding)
	unit, _ := rate.Meter.BaseUnit()
	round := Derivation{Rule: "share", All: sum.Text(), Whole: whole.String(), Rounding: r.Plan.Rounding.String()}
	for k, i := range of {
		c := &r.Charges[i]
		line := StatementLine{c.Resource, c.likeText(), rate.ID, rate.Meter, c.Measured.String(), unit, shares[k].String(), nil}
		if explain {
			line.Steps = append(c.Explain(), round.share(c.Exact, shares[k], len(of) > 1))
		}
		s.Lines[i] = line
	}
	return whole
}
