package invoicing

import (
	"encoding/json"
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
// once over all resources, and Quantity × Price − Allowance = Exact. On an
// invoice all of these are differences to earlier invoices of the period, so
// Amount may be a minor unit off Exact, and a line that takes something back is
// negative.
type LineItem struct {
	Period metering.Window // the period the usage lies in; earlier than the invoice's for late usage
	// Key identifies the line within its period, the same on every invoice.
	Key       string
	Rate      string
	Meter     metering.Meter
	Unit      string         // the price's unit, such as "h" or "GiB"
	Quantity  money.Fraction // in Unit
	Price     string         // currency units for one Unit, a decimal
	Exact     money.Fraction // currency units, before rounding
	Allowance money.Fraction // what a cap takes off, currency units
	Amount    money.Amount
	Shares    []Share // by resource; they sum to Amount
}

// Share is a resource's part of a line.
type Share struct {
	Resource metering.ResourceID `json:"resource"`
	Amount   money.Amount        `json:"amount"`
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

// MarshalJSON is the invoice of the API: amounts are decimal strings.
func (i *Invoice) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		ID          InvoiceID         `json:"id"`
		Number      string            `json:"number"`
		Tenant      metering.TenantID `json:"tenant"`
		Start       time.Time         `json:"period_start"`
		End         time.Time         `json:"period_end"`
		Cut         time.Time         `json:"cut"`
		Issued      time.Time         `json:"issued"`
		Currency    money.Currency    `json:"currency"`
		Lines       []LineItem        `json:"lines,omitempty"`
		Net         money.Amount      `json:"net"`
		TaxRule     TaxRule           `json:"tax_rule"`
		Tax         money.Amount      `json:"tax"`
		Gross       money.Amount      `json:"gross"`
		Promotional money.Amount      `json:"promotional"`
		Prepaid     money.Amount      `json:"prepaid"`
		Due         money.Amount      `json:"due"`
	}{
		i.ID, i.Number, i.Tenant, i.Period.Start, i.Period.End, i.Cut, i.Issued, i.Currency, i.Lines,
		i.Net, i.TaxRule, i.Tax, i.Gross, i.Promotional, i.Prepaid, i.Due(),
	})
}

// MarshalJSON is the line of the API: exact values are decimals, or quotients
// such as "2/3" where no short decimal exists.
func (l LineItem) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Start       time.Time      `json:"period_start"`
		End         time.Time      `json:"period_end"`
		Key         string         `json:"key"`
		Rate        string         `json:"rate"`
		Meter       metering.Meter `json:"meter"`
		Description string         `json:"description"`
		Quantity    string         `json:"quantity"`
		Unit        string         `json:"unit"`
		Price       string         `json:"price"`
		Exact       string         `json:"exact"`
		Allowance   string         `json:"allowance"`
		Amount      money.Amount   `json:"amount"`
		Shares      []Share        `json:"shares"`
	}{
		l.Period.Start, l.Period.End, l.Key, l.Rate, l.Meter, l.Description(), l.Quantity.Text(), l.Unit, l.Price,
		l.Exact.Text(), l.Allowance.Text(), l.Amount, l.Shares,
	})
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
