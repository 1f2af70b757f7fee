package portal

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/rating/money"
)

type invoicesPage struct {
	frame
	Invoices []*invoicing.Invoice
	Next     string        // ?after= of the following page; "" on the last
	Total    *money.Amount // accrued; nil when it could not be computed
	Credit   *money.Amount // what may still be spent; nil when it could not be computed
}

func (s *server) invoicesPage(w http.ResponseWriter, r *http.Request, who caller) error {
	found, next, err := s.invoicesAfter(r, who.tenant)
	if err != nil {
		return err
	}
	p := invoicesPage{frame: who.frame("invoices", "Invoices"), Invoices: found, Next: next}
	p.Total, p.Credit = s.standingOf(r.Context(), who.tenant)
	return s.render(w, http.StatusOK, "invoices.html", p)
}

type invoicePage struct {
	frame
	Invoice *invoicing.Invoice
	Lines   []invoiceLine
	Applied money.Amount // paid by credit when it was issued
}

// invoiceLine is a line as the page shows it.
type invoiceLine struct {
	InvoiceLineJSON
	Net       money.Amount
	Capped    bool // a cap took something off
	Continued bool // earlier invoices of the period have a part of the line
	Late      bool // the usage lies in an earlier period
}

func (s *server) invoicePage(w http.ResponseWriter, r *http.Request, who caller) error {
	i, err := s.Invoices.Invoice(r.Context(), who.tenant, mux.Vars(r)["number"])
	if err != nil {
		return err
	}
	return s.render(w, http.StatusOK, "invoice.html", newInvoicePage(who, i))
}

func newInvoicePage(who caller, i *invoicing.Invoice) invoicePage {
	p := invoicePage{frame: who.frame("invoices", "Invoice "+i.Number), Invoice: i, Applied: creditApplied(i)}
	for _, l := range i.Lines {
		p.Lines = append(p.Lines, invoiceLine{lineJSON(l), l.Amount, !l.Allowance.IsZero(), !l.BilledExact.IsZero() || l.Billed.Minor != 0,
			l.Period.Start.Before(i.Period.Start)})
	}
	return p
}
