package invoicing

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
)

// Difference is what a line amounts to beyond the invoices so far.
type Difference struct {
	LineItem
	MayFall bool // its rate's charge may fall as usage grows
}

// Differences rates each period over all its segments and takes off what
// invoices already have. segments are all that closings billed in the periods, this
// closing's included, and of earlier periods those of the same starts; lines
// are those of earlier invoices in the periods. What nothing has changed in is
// left out.
func Differences(periods []Rated, segments []Segment, lines []LineItem) (all []Difference, found Findings, err error) {
	for _, p := range periods {
		bill, err := p.Bill(p.Usage(segments))
		if err != nil {
			return nil, found, err
		}
		found.Unrated = append(found.Unrated, bill.Unrated...)
		found.Thin = append(found.Thin, bill.Thin...)
		changed, err := subtract(p, bill.Lines, lines)
		if err != nil {
			return nil, found, fmt.Errorf("bill %s under plan %s: %w", p.Period, p.Parts[0].Plan.Name, err)
		}
		all = append(all, changed...)
	}
	return all, found, nil
}

// subtract is what the period's charges differ from its lines on earlier
// invoices, key by key: first in the plan's order, then what is no longer charged.
func subtract(p Rated, charged []rating.Line, lines []LineItem) ([]Difference, error) {
	billed := map[string][]LineItem{}
	var keys []string
	for _, l := range lines {
		if !l.Period.Start.Equal(p.Period.Start) {
			continue
		}
		if billed[l.Key] == nil {
			keys = append(keys, l.Key)
		}
		billed[l.Key] = append(billed[l.Key], l)
	}
	var all []Difference
	for _, c := range charged {
		d := Difference{LineItem{
			Period: p.Period, Key: c.Key, Rate: c.Rate.ID, Meter: c.Rate.Meter, Price: c.PriceText, Unit: c.Unit,
			Quantity: c.Quantity, Exact: c.Exact, Allowance: c.Allowance, Amount: c.Net,
		}, c.MayFall}
		for _, s := range c.Shares {
			d.Shares = append(d.Shares, Share{s.Resource, s.Net})
		}
		if err := d.takeOff(billed[c.Key]); err != nil {
			return nil, err
		}
		delete(billed, c.Key)
		if d.changes() {
			all = append(all, d)
		}
	}
	for _, key := range keys {
		earlier := billed[key]
		if earlier == nil {
			continue
		}
		d := Difference{LineItem{
			Period: p.Period, Key: key, Rate: earlier[0].Rate, Meter: earlier[0].Meter, Price: earlier[0].Price, Unit: earlier[0].Unit,
			Amount: money.Amount{Currency: p.Parts[0].Plan.Currency},
		}, true}
		if err := d.takeOff(earlier); err != nil {
			return nil, err
		}
		if d.changes() {
			all = append(all, d)
		}
	}
	return all, nil
}

// takeOff subtracts what earlier invoices have of the line.
func (l *LineItem) takeOff(earlier []LineItem) (err error) {
	l.Billed.Currency = l.Amount.Currency
	for _, e := range earlier {
		l.Quantity = l.Quantity.Sub(e.Quantity)
		l.Exact = l.Exact.Sub(e.Exact)
		l.Allowance = l.Allowance.Sub(e.Allowance)
		l.BilledExact = l.BilledExact.Add(e.Exact).Sub(e.Allowance)
		if l.Amount, err = l.Amount.Sub(e.Amount); err != nil {
			return fmt.Errorf("line %s: %w", l.Key, err)
		}
		if l.Billed, err = l.Billed.Add(e.Amount); err != nil {
			return fmt.Errorf("line %s: %w", l.Key, err)
		}
		for _, s := range e.Shares {
			l.Shares = append(l.Shares, Share{s.Resource, s.Amount.Neg()})
		}
	}
	l.Shares, err = sumShares(l.Shares)
	return err
}

// changes reports whether anything of the line is not zero.
func (l *LineItem) changes() bool {
	return l.Amount.Minor != 0 || !l.Quantity.IsZero() || !l.Exact.IsZero() || !l.Allowance.IsZero() || len(l.Shares) > 0
}

// sumShares is one share per resource, by resource, without those of zero.
func sumShares(shares []Share) ([]Share, error) {
	slices.SortStableFunc(shares, func(a, b Share) int { return strings.Compare(string(a.Resource), string(b.Resource)) })
	var sums []Share
	for _, s := range shares {
		if n := len(sums); n == 0 || sums[n-1].Resource != s.Resource {
			sums = append(sums, s)
			continue
		}
		last := &sums[len(sums)-1]
		sum, err := last.Amount.Add(s.Amount)
		if err != nil {
			return nil, fmt.Errorf("share of %s: %w", s.Resource, err)
		}
		last.Amount = sum
	}
	return slices.DeleteFunc(sums, func(s Share) bool { return s.Amount.Minor == 0 }), nil
}

// Choose picks what a closing invoices: at an interim cut of the period open,
// not the lines of it that may fall; nothing at all unless the sum is above zero.
// unsettled is the start of the earliest period of which an amount is left out.
func Choose(all []Difference, c Closing) (lines []LineItem, unsettled time.Time, err error) {
	var net money.Amount
	for _, d := range all {
		if d.MayFall && !c.Last() && d.Period.Start.Equal(c.Period.Start) {
			unsettled = earliest(unsettled, d.LineItem)
			continue
		}
		lines = append(lines, d.LineItem)
		if net, err = net.Add(d.Amount); err != nil {
			return nil, time.Time{}, err
		}
	}
	if net.Minor > 0 {
		return lines, unsettled, nil
	}
	for _, l := range lines {
		unsettled = earliest(unsettled, l)
	}
	return nil, unsettled, nil
}

// earliest is the earlier of t and the period of a line that is left out with
// an amount.
func earliest(t time.Time, left LineItem) time.Time {
	if left.Amount.Minor != 0 && (t.IsZero() || left.Period.Start.Before(t)) {
		return left.Period.Start
	}
	return t
}

// NewInvoice is the invoice of a closing, still without a number: lines as
// Choose picked them. It is nil when there are none.
func NewInvoice(a Account, c Closing, lines []LineItem) (*Invoice, error) {
	if len(lines) == 0 {
		return nil, nil
	}
	i := &Invoice{
		Tenant: a.Tenant, Seq: c.Seq, Period: c.Period, Cut: c.Cut, Issued: c.Closed, Currency: a.Currency, Lines: lines,
		TaxRule: a.Tax, Promotional: money.Amount{Currency: a.Currency}, Prepaid: money.Amount{Currency: a.Currency},
	}
	var err error
	for _, l := range lines {
		if i.Net, err = i.Net.Add(l.Amount); err != nil {
			return nil, fmt.Errorf("sum the lines of %s: %w", a.Tenant, err)
		}
	}
	if i.Tax, err = a.Tax.On(i.Net); err != nil {
		return nil, err
	}
	if i.Gross, err = i.Net.Add(i.Tax); err != nil {
		return nil, fmt.Errorf("net and tax of %s: %w", a.Tenant, err)
	}
	if err := i.Check(); err != nil {
		return nil, fmt.Errorf("invoice of %s cut at %s: %w", a.Tenant, c.Cut, err)
	}
	return i, nil
}

// NewAccrued sums differences up: all of them, also those an interim cut leaves out.
func NewAccrued(currency money.Currency, asOf time.Time, all []Difference) (Accrued, error) {
	a := Accrued{AsOf: asOf, Currency: currency, Total: money.Amount{Currency: currency}}
	var shares []Share
	var err error
	for _, d := range all {
		if a.Total, err = a.Total.Add(d.Amount); err != nil {
			return Accrued{}, err
		}
		a.Lines = append(a.Lines, d.LineItem)
		shares = append(shares, d.Shares...)
	}
	a.ByResource, err = sumShares(shares)
	return a, err
}
