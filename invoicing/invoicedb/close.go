package invoicedb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/plandb"
)

// Series is the series that invoices are numbered in.
const Series = "INV"

// InvoiceIssued is the job inserted with every invoice: what follows its issue
// (mail, webhook, payment) hangs on it.
type InvoiceIssued struct {
	Tenant metering.TenantID `json:"tenant"`
	Number string            `json:"number"`
}

// Kind is the job's name in the queue.
func (InvoiceIssued) Kind() string { return "invoice_issued" }

const lockAccountSQL = `SELECT FROM accounts WHERE tenant = $1 FOR UPDATE`

const insertClosingSQL = `
INSERT INTO closings (tenant, seq, period_start, period_end, cut, plan, plan_version, plan_known, unsettled_from, closed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`

const nextNumberSQL = `
INSERT INTO invoice_series AS s (series, next) VALUES ($1, 2)
ON CONFLICT (series) DO UPDATE SET next = s.next + 1
RETURNING next - 1`

// Close records a closing: its segments, and the invoice when there is one,
// which gets its id, number and credit here; promotional credit that comes too late
// from now on expires. All of it is one transaction. The
// error wraps ErrConflict when the closing does not follow the tenant's last, or
// when a version of its plan was published that it does not know: so no version
// changes what is billed already.
func (s *Store) Close(ctx context.Context, c invoicing.Closing, segments []invoicing.Segment, invoice *invoicing.Invoice) error {
	var issued invoicing.Invoice
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockAccountSQL, c.Tenant); err != nil {
			return err
		}
		if err := plandb.Hold(ctx, tx, c.Plan, c.PlanKnown); errors.Is(err, plandb.ErrChanged) {
			return fmt.Errorf("%w: %w", ErrConflict, err)
		} else if err != nil {
			return err
		}
		if err := insertClosing(ctx, tx, c, segments); err != nil {
			return err
		}
		if invoice != nil {
			issued = *invoice
			if err := s.issue(ctx, tx, &issued); err != nil {
				return err
			}
		}
		return expireCredit(ctx, tx, c)
	})
	if err != nil {
		return fmt.Errorf("closing %d of %s, cut at %s: %w", c.Seq, c.Tenant, c.Cut.UTC(), err)
	}
	if invoice != nil {
		*invoice = issued
	}
	return nil
}

func insertClosing(ctx context.Context, tx pgx.Tx, c invoicing.Closing, segments []invoicing.Segment) error {
	_, err := tx.Exec(ctx, insertClosingSQL, c.Tenant, c.Seq, c.Period.Start.UTC(), c.Period.End.UTC(), c.Cut.UTC(),
		c.Plan, c.PlanVersion, c.PlanKnown, null(c.Unsettled), c.Closed.UTC())
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" {
		return fmt.Errorf("%w: %s", ErrConflict, pg.Message)
	}
	if err != nil {
		return err
	}
	columns := []string{"tenant", "seq", "source", "period_start", "period_end", "window_start", "window_end", "resource", "start_id",
		"meter", "flavor", "image", "region", "host_class", "created", "level_from", "level_to"}
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"closing_readings"}, columns, pgx.CopyFromSlice(len(segments), func(i int) ([]any, error) {
		g := &segments[i]
		return []any{c.Tenant, c.Seq, g.ID, g.Period.Start.UTC(), g.Period.End.UTC(), g.Window.Start.UTC(), g.Window.End.UTC(), g.Resource, g.Start,
			g.Meter, g.Labels.Flavor, g.Labels.Image, g.Labels.Region, g.Labels.HostClass, g.Labels.Created,
			levelColumn(g.Meter, g.From), levelColumn(g.Meter, g.To)}, nil
	}))
	if err != nil {
		return err
	}
	if err := insertSlots(ctx, tx, c, segments); err != nil {
		return err
	}
	return insertUnrated(ctx, tx, c)
}

// insertSlots adds how closing readings lie in slots, of those that say so.
func insertSlots(ctx context.Context, tx pgx.Tx, c invoicing.Closing, segments []invoicing.Segment) error {
	var rows [][]any
	for i := range segments {
		g := &segments[i]
		if err := g.CheckSlots(); err != nil {
			return err
		}
		for k := range g.Slots {
			if s := &g.Slots[k]; len(s.Growth) > 0 {
				rows = append(rows, []any{c.Tenant, g.ID, c.Seq, g.Window.Start.UTC(), s.Meter, s.First.UTC(), growthColumn(s.Growth)})
			}
		}
	}
	if len(rows) == 0 {
		return nil
	}
	columns := []string{"tenant", "source", "seq", "window_start", "meter", "first_slot", "growth"}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"closing_slots"}, columns, pgx.CopyFromRows(rows))
	return err
}

const insertInvoiceSQL = `
INSERT INTO invoices (id, tenant, seq, series, ordinal, number, period_start, period_end, cut, issued, currency,
    net, tax_category, tax_percent_milli, tax, gross, promotional, prepaid)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)`

// issue writes the invoice with its lines, number, entries and job. The number
// comes as late as it can: from then on other tenants' invoices wait.
func (s *Store) issue(ctx context.Context, tx pgx.Tx, i *invoicing.Invoice) error {
	if err := i.Check(); err != nil {
		return err
	}
	if err := insertLines(ctx, tx, i); err != nil {
		return err
	}
	uses, err := planCredit(ctx, tx, i)
	if err != nil {
		return err
	}
	var ordinal int64
	if err := tx.QueryRow(ctx, nextNumberSQL, Series).Scan(&ordinal); err != nil {
		return fmt.Errorf("next invoice number: %w", err)
	}
	i.ID = invoicing.InvoiceID(metering.NewID(metering.PrefixInvoice))
	i.Number = fmt.Sprintf("%s-%06d", Series, ordinal)
	_, err = tx.Exec(ctx, insertInvoiceSQL, i.ID, i.Tenant, i.Seq, Series, ordinal, i.Number, i.Period.Start.UTC(), i.Period.End.UTC(),
		i.Cut.UTC(), i.Issued.UTC(), i.Currency, i.Net.Minor, i.TaxRule.Category, i.TaxRule.PercentMilli, i.Tax.Minor, i.Gross.Minor,
		i.Promotional.Minor, i.Prepaid.Minor)
	if err != nil {
		return fmt.Errorf("invoice %s: %w", i.Number, err)
	}
	entry, err := i.Entry()
	if err != nil {
		return err
	}
	if _, _, err := post(ctx, tx, entry); err != nil {
		return err
	}
	if err := useCredit(ctx, tx, i, uses); err != nil {
		return err
	}
	if _, err := s.jobs.InsertTx(ctx, tx, InvoiceIssued{i.Tenant, i.Number}, nil); err != nil {
		return fmt.Errorf("job for invoice %s: %w", i.Number, err)
	}
	return nil
}

func insertLines(ctx context.Context, tx pgx.Tx, i *invoicing.Invoice) error {
	columns := []string{"tenant", "seq", "position", "period_start", "period_end", "key", "rate", "meter", "price", "unit",
		"quantity", "exact", "allowance", "amount", "billed_exact", "billed", "share_resources", "share_amounts"}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"invoice_lines"}, columns, pgx.CopyFromSlice(len(i.Lines), func(n int) ([]any, error) {
		l := &i.Lines[n]
		resources, amounts := make([]string, len(l.Shares)), make([]int64, len(l.Shares))
		for k, s := range l.Shares {
			resources[k], amounts[k] = string(s.Resource), s.Amount.Minor
		}
		return []any{i.Tenant, i.Seq, n + 1, l.Period.Start.UTC(), l.Period.End.UTC(), l.Key, l.Rate, l.Meter, l.Price, l.Unit,
			l.Quantity.Text(), l.Exact.Text(), l.Allowance.Text(), l.Amount.Minor, l.BilledExact.Text(), l.Billed.Minor, resources, amounts}, nil
	}))
	if err != nil {
		return fmt.Errorf("invoice lines: %w", err)
	}
	return nil
}
