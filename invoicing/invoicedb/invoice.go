package invoicedb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// PageSize is how many invoices a page of Invoices holds.
const PageSize = 100

const selectInvoiceSQL = `
SELECT id, number, tenant, seq, period_start, period_end, cut, issued, currency, net, tax_category, tax_percent_milli, tax, gross,
    promotional, prepaid
FROM invoices
`

// Invoices are a tenant's invoices without their lines, newest first, those
// issued before closing before (0: all). next is what to pass for the page
// after, 0 after the last.
func (s *Store) Invoices(ctx context.Context, tenant metering.TenantID, before int) (page []*invoicing.Invoice, next int, err error) {
	rows, err := s.pool.Query(ctx, selectInvoiceSQL+`WHERE tenant = $1 AND ($2 = 0 OR seq < $2) ORDER BY seq DESC LIMIT $3`,
		tenant, before, PageSize+1)
	if err != nil {
		return nil, 0, fmt.Errorf("invoices of %s: %w", tenant, err)
	}
	if page, err = pgx.CollectRows(rows, scanInvoice); err != nil {
		return nil, 0, fmt.Errorf("invoices of %s: %w", tenant, err)
	}
	if len(page) > PageSize {
		page = page[:PageSize]
		next = page[PageSize-1].Seq
	}
	return page, next, nil
}

// Invoice is one invoice of a tenant with its lines. The error wraps
// invoicing.ErrNotFound, also for a number of another tenant.
func (s *Store) Invoice(ctx context.Context, tenant metering.TenantID, number string) (*invoicing.Invoice, error) {
	return s.invoice(ctx, `WHERE tenant = $1 AND number = $2`, tenant, number)
}

// Find is one invoice with its lines, whosever it is: for the operator. The
// error wraps invoicing.ErrNotFound.
func (s *Store) Find(ctx context.Context, number string) (*invoicing.Invoice, error) {
	return s.invoice(ctx, `WHERE number = $1`, number)
}

// InvoiceOf is the invoice of the tenant's closing with that cut; nil when it
// issued none. The error wraps invoicing.ErrNotFound when there is no such closing.
func (s *Store) InvoiceOf(ctx context.Context, tenant metering.TenantID, cut time.Time) (*invoicing.Invoice, error) {
	var seq int
	err := s.pool.QueryRow(ctx, `SELECT seq FROM closings WHERE tenant = $1 AND cut = $2`, tenant, cut.UTC()).Scan(&seq)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("closing of %s cut at %s: %w", tenant, cut.UTC(), invoicing.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("closing of %s cut at %s: %w", tenant, cut.UTC(), err)
	}
	i, err := s.invoice(ctx, `WHERE tenant = $1 AND seq = $2`, tenant, seq)
	if errors.Is(err, invoicing.ErrNotFound) {
		return nil, nil
	}
	return i, err
}

func (s *Store) invoice(ctx context.Context, where string, args ...any) (*invoicing.Invoice, error) {
	rows, err := s.pool.Query(ctx, selectInvoiceSQL+where, args...)
	if err != nil {
		return nil, fmt.Errorf("invoice %v: %w", args, err)
	}
	i, err := pgx.CollectExactlyOneRow(rows, scanInvoice)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("invoice %v: %w", args, invoicing.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("invoice %v: %w", args, err)
	}
	if rows, err = s.pool.Query(ctx, linesSQL+`WHERE l.tenant = $1 AND l.seq = $2 ORDER BY l.position`, i.Tenant, i.Seq); err != nil {
		return nil, fmt.Errorf("lines of %s: %w", i.Number, err)
	}
	i.Lines, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (invoicing.LineItem, error) {
		_, line, err := scanLine(row)
		return line, err
	})
	if err != nil {
		return nil, fmt.Errorf("lines of %s: %w", i.Number, err)
	}
	return i, nil
}

func scanInvoice(row pgx.CollectableRow) (*invoicing.Invoice, error) {
	i := new(invoicing.Invoice)
	err := row.Scan(&i.ID, &i.Number, &i.Tenant, &i.Seq, &i.Period.Start, &i.Period.End, &i.Cut, &i.Issued, &i.Currency,
		&i.Net.Minor, &i.TaxRule.Category, &i.TaxRule.PercentMilli, &i.Tax.Minor, &i.Gross.Minor, &i.Promotional.Minor, &i.Prepaid.Minor)
	i.Period, i.Cut, i.Issued = inUTC(i.Period), i.Cut.UTC(), i.Issued.UTC()
	for _, a := range []*money.Amount{&i.Net, &i.Tax, &i.Gross, &i.Promotional, &i.Prepaid} {
		a.Currency = i.Currency
	}
	return i, err
}

const closingSQL = `
SELECT seq, period_start, period_end, cut, plan, plan_version, plan_known, unsettled_from, closed
FROM closings
WHERE tenant = $1 AND seq = $2`

// Closing is one closing of a tenant; Seq 0 is before the first.
func (s *Store) Closing(ctx context.Context, at Position) (invoicing.Closing, error) {
	c := invoicing.Closing{Tenant: at.Tenant}
	if at.Seq == 0 {
		return c, nil
	}
	var unsettled *time.Time
	err := s.pool.QueryRow(ctx, closingSQL, at.Tenant, at.Seq).Scan(&c.Seq, &c.Period.Start, &c.Period.End, &c.Cut, &c.Plan, &c.PlanVersion, &c.PlanKnown,
		&unsettled, &c.Closed)
	if err != nil {
		return c, fmt.Errorf("closing %d of %s: %w", at.Seq, at.Tenant, err)
	}
	c.Period, c.Cut, c.Unsettled, c.Closed = inUTC(c.Period), c.Cut.UTC(), utc(unsettled), c.Closed.UTC()
	return c, nil
}
