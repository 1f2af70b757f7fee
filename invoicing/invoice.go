package invoicing

import (
	"fmt"
	"time"

	"github.com/usance/usance/invoicing/ledger"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// InvoiceID names an invoice ("inv_…").
type InvoiceID string

// Invoice is a document: numbered without gaps when issued, unchangeable after.
// All its amounts are in one currency.
type Invoice struct {
	ID       InvoiceID
	Number   string
	Tenant   metering.TenantID
	Seq      int // of the closing that issued it
	Period   metering.Window
	Cut      time.Time // usage is invoiced up to here
	Issued   time.Time
	Currency money.Currency
	Lines    []LineItem // nil in lists
	Net      money.Amount
	TaxRule  TaxRule
	Tax      money.Amount
	Gross    money.Amount
	// Promotional and Prepaid are what credit paid of Gross when it was issued.
	Promotional money.Amount
	Prepaid     money.Amount
}

// LineItem is one rate, price and tier step of one period. Amount is rounded
// once over all resources: Quantity × Price = Exact, and Exact − Allowance is
// rounded to Amount. On an invoice all of these are differences to earlier
// invoices of the period, so Amount may be a minor unit off, and a line that takes
// something back is negative.
type LineItem struct {
	Period metering.Window // the period the usage lies in; earlier than the invoice's for late usage
	// Key identifies the line within its period, the same on every invoice.
	Key       string
	Rate      string
	Meter     metering.Meter
	Price     string         // as the plan writes it: "0.0075 per hour"
	Unit      string         // of Quantity: "hour"
	Quantity  money.Fraction // in Unit
	Exact     money.Fraction // currency units, before rounding
	Allowance money.Fraction // what caps and discounts take off, currency units
	Amount    money.Amount
	// BilledExact and Billed are what earlier invoices have of this line, before
	// and after rounding: Amount = round(BilledExact + Exact − Allowance) − Billed.
	BilledExact money.Fraction
	Billed      money.Amount
	Shares      []Share // by resource; they sum to Amount
}

// Share is a resource's part of a line.
type Share struct {
	Resource metering.ResourceID // "" for a rate pooled over the tenant
	Amount   money.Amount
}

// Description says what the line is for, for people.
func (l LineItem) Description() string { return fmt.Sprintf("%s (%s)", l.Rate, l.Meter) }

// Due is what remained to be paid when the invoice was issued.
func (i *Invoice) Due() money.Amount {
	return money.Amount{Minor: i.Gross.Minor - i.Promotional.Minor - i.Prepaid.Minor, Currency: i.Currency}
}

// Check reports the first broken invariant: lines sum to net, net and tax to
// gross, shares to their line, and gross is above zero.
func (i *Invoice) Check() error {
	var net money.Amount
	var err error
	for _, l := range i.Lines {
		var shares money.Amount
		for _, s := range l.Shares {
			if shares, err = shares.Add(s.Amount); err != nil {
				return fmt.Errorf("line %s of %s: %w", l.Key, l.Period, err)
			}
		}
		if shares.Minor != l.Amount.Minor {
			return fmt.Errorf("line %s of %s: shares sum to %s, not %s", l.Key, l.Period, shares, l.Amount)
		}
		if net, err = net.Add(l.Amount); err != nil {
			return fmt.Errorf("line %s of %s: %w", l.Key, l.Period, err)
		}
	}
	gross, err := i.Net.Add(i.Tax)
	switch {
	case err != nil:
		return err
	case net != i.Net:
		return fmt.Errorf("lines sum to %s, not %s", net, i.Net)
	case gross != i.Gross:
		return fmt.Errorf("net %s and tax %s are not %s", i.Net, i.Tax, i.Gross)
	case gross.Minor <= 0 || gross.Currency != i.Currency:
		return fmt.Errorf("gross %s %s; an invoice in %s is above zero", gross, gross.Currency, i.Currency)
	}
	return nil
}

// Entry books the invoice: what the tenant owes against revenue by meter and tax.
func (i *Invoice) Entry() (ledger.Entry, error) {
	e := ledger.Entry{Tenant: i.Tenant, Kind: ledger.KindInvoice, At: i.Issued, Reference: i.Number, Key: "invoice:" + i.Number}
	err := e.Debit(ledger.Receivable(i.Tenant), i.Gross)
	for _, l := range i.Lines {
		if err == nil {
			err = e.Credit(ledger.Revenue(l.Meter), l.Amount)
		}
	}
	if err == nil {
		err = e.Credit(ledger.Tax(i.TaxRule.Code()), i.Tax)
	}
	if err != nil {
		return ledger.Entry{}, err
	}
	return e, e.Check()
}

// CreditNote takes back all or part of an issued invoice: the only way to lower one.
type CreditNote struct {
	Number  string
	Invoice string // number of the invoice it corrects
	Issued  time.Time
	Reason  string
	Lines   []LineItem // with the amounts that are given back, positive
	Net     money.Amount
	TaxRule TaxRule // of the invoice
	Tax     money.Amount
	Gross   money.Amount
}
