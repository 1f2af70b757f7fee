package portal

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/gorilla/mux"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// decimals are those of quantities in the price's unit and of exact amounts: a
// byte in TiB can still be told. Further ones are rounded away, for people; the
// amount that counts was rounded from the fraction itself.
const decimals = 12

// decimal is a fraction as a decimal without trailing zeros.
func decimal(f money.Fraction) string {
	whole, frac, _ := strings.Cut(f.Decimal(decimals), ".")
	if frac = strings.TrimRight(frac, "0"); frac != "" {
		return whole + "." + frac
	}
	return whole
}

func lineJSON(l invoicing.LineItem) InvoiceLineJSON {
	return InvoiceLineJSON{
		Description: l.Description(), Rate: l.Rate, Meter: string(l.Meter), Start: l.Period.Start, End: l.Period.End,
		Quantity: decimal(l.Quantity), Unit: l.Unit, Price: l.Price,
		Allowance: decimal(l.Allowance), Exact: decimal(l.Exact.Sub(l.Allowance)),
		BilledExact: decimal(l.BilledExact), Billed: l.Billed.String(), Amount: l.Amount.String(),
	}
}

func invoiceJSON(i *invoicing.Invoice) InvoiceJSON {
	j := InvoiceJSON{Number: i.Number, Tenant: i.Tenant, Issued: i.Issued, Start: i.Period.Start, End: i.Cut, Currency: string(i.Currency),
		Net: i.Net.String(), Tax: i.Tax.String(), Gross: i.Gross.String(), Credit: creditApplied(i).String(), Due: i.Due().String()}
	for _, l := range i.Lines {
		j.Lines = append(j.Lines, lineJSON(l))
	}
	return j
}

// creditApplied is what credit paid of the invoice when it was issued.
func creditApplied(i *invoicing.Invoice) money.Amount {
	return money.Amount{Minor: i.Promotional.Minor + i.Prepaid.Minor, Currency: i.Currency}
}

func (s *server) listInvoices(w http.ResponseWriter, r *http.Request, who caller) error {
	return s.replyInvoices(w, r, who.tenant)
}

// replyInvoices answers with a page of a tenant's invoices, newest first.
// ?after= is the number of the closing that the page before ended with.
func (s *server) replyInvoices(w http.ResponseWriter, r *http.Request, tenant metering.TenantID) error {
	found, next, err := s.invoicesAfter(r, tenant)
	if err != nil {
		return err
	}
	list := List[InvoiceJSON]{Items: make([]InvoiceJSON, len(found)), Next: next}
	for n, i := range found {
		list.Items[n] = invoiceJSON(i)
	}
	return reply(w, http.StatusOK, list)
}

func (s *server) invoicesAfter(r *http.Request, tenant metering.TenantID) (page []*invoicing.Invoice, next string, err error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, "", err
	}
	before := 0
	if after := r.URL.Query().Get("after"); after != "" {
		if before, err = strconv.Atoi(after); err != nil || before < 1 || before > 1<<31-1 {
			return nil, "", fmt.Errorf("%w: after %q does not come from next of a page", errBadRequest, after)
		}
	}
	page, more, err := s.Invoices.Invoices(r.Context(), tenant, before)
	if err != nil {
		return nil, "", err
	}
	if len(page) > limit {
		page = page[:limit]
		more = page[limit-1].Seq
	}
	if more > 0 {
		next = strconv.Itoa(more)
	}
	return page, next, nil
}

func (s *server) getInvoice(w http.ResponseWriter, r *http.Request, who caller) error {
	i, err := s.Invoices.Invoice(r.Context(), who.tenant, mux.Vars(r)["number"])
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, invoiceJSON(i))
}
