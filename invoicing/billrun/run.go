// Package billrun closes periods and says what has accrued since.
//
// It owns the order of a closing: read the books, read the odometers in one
// query, rate, draft, record. It never decides what a closing bills (package
// invoicing does, in its package comment), never stores anything itself and
// keeps no state between calls.
//
// Invariants:
//   - The levels of a closing come from one answer of the readings: segments, lines and
//     amounts follow from them. What arrives after it is late usage. Where rates bill by
//     slots, these are read after the levels and cut to them.
//   - Versions of price plans are loaded in one place (plans), with what they keep of
//     earlier ones; a closing that a version was published during is made again.
//   - No transaction is open while readings are queried. That the books did not change
//     meanwhile is decided by the closing's number, which only one writer gets.
//   - Every method may be repeated and may run on two replicas at once.
//   - What has accrued is computed from readings and books alone; the accrued
//     cache is written here and never read.
package billrun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/rating/plandb"
)

// Limits.
const (
	// batchSize is how many tenants Once closes; the next call goes on.
	batchSize = 1000
	// conflicts is how often a closing that others came before is tried again
	// before it fails.
	conflicts = 10
)

// Readings is where odometers are read: readingdb.Store, or a map in a test.
type Readings interface {
	// AtOf is R(e,t) of the tenants' epochs at each instant, without those that are
	// billed already, as readingdb.Store.AtOf.
	AtOf(ctx context.Context, tenants []metering.TenantID, instants []time.Time, billed map[string]metering.Registers) (map[metering.EpochID][]metering.Registers, error)
	// InSlots are the largest values of some registers in each slot of a window that
	// epochs were read in, as readingdb.Store.InSlots.
	InSlots(ctx context.Context, tenant metering.TenantID, epochs []metering.EpochID, window metering.Window, some []metering.Register) (map[metering.EpochID][]metering.Reading, error)
	// Totals are the largest readings of all epochs of the tenants, as readingdb.Store.Totals.
	Totals(ctx context.Context, tenants []metering.TenantID) (map[metering.EpochID]readingdb.Total, error)
}

// Running is an instance that is wanted running, and so costs by the hour
// whether readings of it have come or not.
type Running struct {
	Tenant metering.TenantID
	Labels metering.Labels
}

// Config is what a Run works on; all of it is required but Settle.
type Config struct {
	Books       *invoicedb.Store
	Plans       *plandb.Store
	Epochs      *epochdb.Store
	Allocations *allocdb.Store
	Readings    Readings
	// Running lists all instances wanted running, of all tenants: for credit, never for a bill.
	Running func(ctx context.Context) ([]Running, error)
	// Settle is how long after its end a period is closed, so that readings on
	// their way still come in time. What comes later is late usage.
	Settle time.Duration
	Log    *slog.Logger
}

// Run closes periods. All methods may run at the same time.
type Run struct {
	cfg Config
}

// New is a run over cfg.
func New(cfg Config) (*Run, error) {
	if cfg.Books == nil || cfg.Plans == nil || cfg.Epochs == nil || cfg.Allocations == nil || cfg.Readings == nil ||
		cfg.Running == nil || cfg.Log == nil || cfg.Settle < 0 {
		return nil, errors.New("billrun: a store, function or logger is missing, or Settle is negative")
	}
	return &Run{cfg}, nil
}

// Once closes every period that ended at least Settle before now, of up to
// batchSize tenants. A tenant that fails is logged and does not hold up the
// others; the error joins all failures. While another program runs it, it does nothing.
func (r *Run) Once(ctx context.Context, now time.Time) error {
	unlock, ok, err := r.cfg.Books.TryLock(ctx)
	if err != nil || !ok {
		return err
	}
	defer unlock()
	began := time.Now()
	due, err := r.cfg.Books.Due(ctx, "", now.Add(-r.cfg.Settle), batchSize)
	if err != nil {
		return err
	}
	var failed []error
	for _, s := range due {
		if err := r.closeEnded(ctx, s.Tenant, now); err != nil {
			r.cfg.Log.Error("closing failed", "tenant", s.Tenant, "err", err)
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if len(due) > 0 {
		r.cfg.Log.Info("closed ended periods", "tenants", len(due), "failed", len(failed), "took", time.Since(began))
		failed = append(failed, r.Refresh(ctx, now, tenantsOf(due)...))
	}
	return errors.Join(failed...)
}

func (r *Run) closeEnded(ctx context.Context, tenant metering.TenantID, now time.Time) error {
	s, err := r.cfg.Books.Standing(ctx, tenant)
	if err != nil {
		return err
	}
	open, err := s.PeriodOf(now.Add(-r.cfg.Settle).Add(1)) // holds that instant, also when it is a month's first
	if err != nil {
		return err
	}
	if s.Last.Seq > 0 && !s.Last.Cut.Before(open.Start) || s.Last.Seq == 0 && !s.Created.Before(open.Start) {
		return nil // nothing has ended since
	}
	_, err = r.cut(ctx, tenant, open.Start, now)
	return err
}

// Cut is what closing up to an instant gave.
type Cut struct {
	Invoice *invoicing.Invoice // nil when it would have been of nothing
	// Findings are of the periods closed. A repeated cut does not tell them again.
	invoicing.Findings
}

// Cut invoices a tenant's usage up to an instant, which is rounded down to the
// millisecond and must not lie in the future. Periods that ended before are
// closed first, each with an invoice of its own; the invoice of the last cut
// comes back. Repeating a cut gives the same invoice. The error wraps invoicing.ErrCutOrder when a later cut was
// made, invoicing.ErrNoAccount, or plandb.ErrNotFound.
func (r *Run) Cut(ctx context.Context, tenant metering.TenantID, at time.Time) (Cut, error) {
	made, err := r.cut(ctx, tenant, at, at)
	if err != nil {
		return Cut{}, err
	}
	if err := r.Refresh(ctx, at, tenant); err != nil {
		r.cfg.Log.Error("accrued cost not refreshed", "tenant", tenant, "err", err) // the next refresh will
	}
	return made, nil
}

func (r *Run) cut(ctx context.Context, tenant metering.TenantID, at, closed time.Time) (made Cut, err error) {
	at = at.UTC().Truncate(time.Millisecond)
	for lost := 0; ; {
		s, err := r.cfg.Books.Standing(ctx, tenant)
		if err != nil {
			return Cut{}, err
		}
		if !at.After(s.Last.Cut) {
			made.Invoice, err = r.cutBefore(ctx, s, at)
			return made, err
		}
		invoice, found, last, err := r.closeNext(ctx, s, at, closed)
		switch {
		case errors.Is(err, invoicedb.ErrConflict) && lost < conflicts:
			lost++
			continue
		case err != nil:
			return Cut{}, err
		}
		made.Unrated, made.Thin = append(made.Unrated, found.Unrated...), append(made.Thin, found.Thin...)
		if last {
			made.Invoice = invoice
			return made, nil
		}
	}
}

// cutBefore is the invoice of a cut that was made already.
func (r *Run) cutBefore(ctx context.Context, s invoicedb.Standing, at time.Time) (*invoicing.Invoice, error) {
	invoice, err := r.cfg.Books.InvoiceOf(ctx, s.Tenant, at)
	if errors.Is(err, invoicing.ErrNotFound) {
		return nil, fmt.Errorf("cut %s at %s: %w, %s", s.Tenant, at.Format(time.RFC3339Nano), invoicing.ErrCutOrder, s.Last.Cut.Format(time.RFC3339Nano))
	}
	return invoice, err
}

// closeNext makes the tenant's next closing on the way to a cut; last reports
// whether it is that cut.
func (r *Run) closeNext(ctx context.Context, s invoicedb.Standing, at, closed time.Time) (_ *invoicing.Invoice, found invoicing.Findings, last bool, err error) {
	period, err := s.Next()
	if err != nil {
		return nil, found, false, err
	}
	cut := at
	if period.End.Before(at) {
		cut = period.End
	}
	m, err := r.measure(ctx, s, cut)
	if err != nil {
		return nil, found, false, err
	}
	c := invoicing.Closing{
		Tenant: s.Tenant, Seq: s.Last.Seq + 1, Period: period, Cut: cut, Closed: closed.UTC(),
		Plan: m.begins.Plan, PlanVersion: m.begins.Version, PlanKnown: m.newest,
	}
	lines, unsettled, err := invoicing.Choose(m.differences, c)
	if err != nil {
		return nil, found, false, err
	}
	c.Unsettled, c.Unrated = unsettled, invoicing.SumUnrated(m.Unrated)
	invoice, err := invoicing.NewInvoice(s.Account, c, lines)
	if err != nil {
		return nil, found, false, err
	}
	if err := r.cfg.Books.Close(ctx, c, m.segments, invoice); err != nil {
		return nil, found, false, err
	}
	found = m.Findings
	found.Thin = slices.DeleteFunc(found.Thin, func(t invoicing.Thin) bool { return t.Period == period && !c.Last() }) // the rest of it is to come
	number := ""
	if invoice != nil {
		number = invoice.Number
	}
	r.cfg.Log.Info("period cut", "tenant", s.Tenant, "seq", c.Seq, "cut", cut, "invoice", number, "unrated", len(found.Unrated), "thin", len(found.Thin))
	r.warn(c, found)
	return invoice, found, cut.Equal(at), nil
}

// warn logs the first of each kind of what an operator should look at.
func (r *Run) warn(c invoicing.Closing, found invoicing.Findings) {
	log := r.cfg.Log.With("tenant", c.Tenant, "plan", c.Plan, "version", c.PlanVersion)
	if len(found.Unrated) > 0 {
		u := found.Unrated[0]
		log.Warn("usage that no rate fits", "resource", u.Resource, "meter", u.Meter, "flavor", u.Labels.Flavor, "more", len(found.Unrated)-1)
	}
	if len(found.Thin) > 0 {
		t := found.Thin[0]
		log.Warn("a percentile of few measured slots", "rate", t.Rate, "resource", t.Resource, "meter", t.Meter,
			"measured", t.Measured, "slots", t.Slots, "more", len(found.Thin)-1)
	}
}

func tenantsOf(all []invoicedb.Standing) []metering.TenantID {
	ids := make([]metering.TenantID, len(all))
	for i, s := range all {
		ids[i] = s.Tenant
	}
	return ids
}
