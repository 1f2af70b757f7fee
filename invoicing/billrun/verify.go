package billrun

import (
	"context"
	"fmt"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
)

// Verification says whether an invoice follows from the books.
type Verification struct {
	Invoice *invoicing.Invoice
	// Differences name what does not follow; none means that every line, sum
	// and level does.
	Differences []string
}

// Verify makes an invoice again from the closing readings up to its closing, the
// plan versions of its periods and the lines of earlier invoices, and compares.
// The error wraps invoicing.ErrNotFound.
func (r *Run) Verify(ctx context.Context, number string) (Verification, error) {
	issued, err := r.cfg.Books.Find(ctx, number)
	if err != nil {
		return Verification{}, err
	}
	v := Verification{Invoice: issued}
	again, err := r.again(ctx, issued, &v)
	if err != nil {
		return v, fmt.Errorf("verify %s: %w", number, err)
	}
	v.compare(issued, again)
	return v, nil
}

// again is the invoice as the books before it and its closing readings give it.
func (r *Run) again(ctx context.Context, issued *invoicing.Invoice, v *Verification) (*invoicing.Invoice, error) {
	closing, err := r.cfg.Books.Closing(ctx, invoicedb.Position{Tenant: issued.Tenant, Seq: issued.Seq})
	if err != nil {
		return nil, err
	}
	s, err := r.cfg.Books.Standing(ctx, issued.Tenant)
	if err != nil {
		return nil, err
	}
	if s.Last, err = r.cfg.Books.Closing(ctx, invoicedb.Position{Tenant: issued.Tenant, Seq: issued.Seq - 1}); err != nil {
		return nil, err
	}
	s.Account.Tax = issued.TaxRule // frozen on the invoice
	segments, err := r.cfg.Books.SegmentsOf(ctx, invoicedb.Position{Tenant: issued.Tenant, Seq: issued.Seq})
	if err != nil {
		return nil, err
	}
	if err := r.join(ctx, s, segments, v); err != nil {
		return nil, err
	}
	rated, _, _, err := r.periods(ctx, s, closing.Cut, closing)
	if err != nil {
		return nil, err
	}
	differences, _, err := r.differences(ctx, reachOf(s, closing.Period, segments), rated, segments)
	if err != nil {
		return nil, err
	}
	lines, _, err := invoicing.Choose(differences, closing)
	if err != nil {
		return nil, err
	}
	return invoicing.NewInvoice(s.Account, closing, lines)
}

// join checks that each closing reading begins where the one before it ended.
func (r *Run) join(ctx context.Context, s invoicedb.Standing, segments []invoicing.Segment, v *Verification) error {
	billed, err := r.cfg.Books.Billed(ctx, []invoicedb.Position{{Tenant: s.Tenant, Seq: s.Last.Seq}})
	if err != nil {
		return err
	}
	var ids []metering.EpochID
	for _, g := range segments {
		if _, ok := billed[g.ID]; !ok && g.Meter == "" {
			ids = append(ids, metering.EpochID(g.ID))
		}
	}
	opened, err := r.cfg.Epochs.Known(ctx, ids)
	if err != nil {
		return err
	}
	for _, g := range segments {
		level, ok := billed[g.ID]
		if !ok {
			level = opened[metering.EpochID(g.ID)].Opening
		}
		if g.From != level {
			v.note("closing reading of %s in %s begins at %v, the one before it ended at %v", g.ID, g.Window, g.From, level)
		}
		if g.To.Join(g.From) != g.To {
			v.note("closing reading of %s in %s falls from %v to %v", g.ID, g.Window, g.From, g.To)
		}
		billed[g.ID] = g.To
	}
	return nil
}

// compare notes where the invoice is not the one made again.
func (v *Verification) compare(issued, again *invoicing.Invoice) {
	if err := issued.Check(); err != nil {
		v.note("%v", err)
	}
	if again == nil {
		v.note("the books give no invoice")
		return
	}
	for _, sum := range []struct {
		name      string
		got, want fmt.Stringer
	}{{"net", issued.Net, again.Net}, {"tax", issued.Tax, again.Tax}, {"gross", issued.Gross, again.Gross}} {
		if sum.got.String() != sum.want.String() {
			v.note("%s is %s, the books give %s", sum.name, sum.got, sum.want)
		}
	}
	for i := range max(len(issued.Lines), len(again.Lines)) {
		switch {
		case i >= len(issued.Lines):
			v.note("line %d is missing: %s", i+1, text(again.Lines[i]))
		case i >= len(again.Lines):
			v.note("line %d does not follow from the books: %s", i+1, text(issued.Lines[i]))
		case text(issued.Lines[i]) != text(again.Lines[i]):
			v.note("line %d is %s, the books give %s", i+1, text(issued.Lines[i]), text(again.Lines[i]))
		}
	}
}

func (v *Verification) note(format string, args ...any) {
	v.Differences = append(v.Differences, fmt.Sprintf(format, args...))
}

// text is all of a line, for comparing and reading.
func text(l invoicing.LineItem) string {
	return fmt.Sprintf("%s of %s: %s %s at %s = %s, less %s = %s after %s (%s); shares %v", l.Key, l.Period, l.Quantity.Text(), l.Unit, l.Price,
		l.Exact.Text(), l.Allowance.Text(), l.Amount, l.Billed, l.BilledExact.Text(), l.Shares)
}
