package billrun

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
)

// pageSize is how many tenants RefreshAccrued works on at once; it goes on
// until all are done.
const pageSize = 10_000

// Accrued is what a tenant owes at now beyond its issued invoices, computed
// from readings: the open period, ended periods not yet issued, and late usage.
// The error wraps invoicing.ErrNoAccount.
func (r *Run) Accrued(ctx context.Context, tenant metering.TenantID, now time.Time) (invoicing.Accrued, error) {
	s, err := r.cfg.Books.Standing(ctx, tenant)
	if err != nil {
		return invoicing.Accrued{}, err
	}
	return r.accrued(ctx, s, now)
}

func (r *Run) accrued(ctx context.Context, s invoicedb.Standing, now time.Time) (invoicing.Accrued, error) {
	at := now.UTC()
	if at.Before(s.Last.Cut) { // a cut rounds down, and clocks differ a little
		at = s.Last.Cut
	}
	m, err := r.measure(ctx, s, at)
	if err != nil {
		return invoicing.Accrued{}, err
	}
	a, err := invoicing.NewAccrued(s.Currency, at, m.differences)
	if err != nil {
		return invoicing.Accrued{}, fmt.Errorf("accrued of %s: %w", s.Tenant, err)
	}
	return a, nil
}

// RefreshAccrued renews the accrued cache of all tenants, from one query of the
// readings for every pageSize of them. The cache serves credit: it counts all
// unbilled usage into the period that is open in the books, also what lies in
// a later one or came late; it is as exact as Accrued where a plan has time classes
// or bills by slots, and in the first cut after a plan changed within the period.
func (r *Run) RefreshAccrued(ctx context.Context, now time.Time) error {
	began := time.Now()
	done := 0
	for after := metering.TenantID(""); ; {
		page, err := r.cfg.Books.Standings(ctx, after, pageSize)
		if err != nil {
			return err
		}
		if err := r.refreshPage(ctx, now, page); err != nil {
			return err
		}
		done += len(page)
		if len(page) < pageSize {
			break
		}
		after = page[len(page)-1].Tenant
	}
	r.cfg.Log.Debug("accrued cache refreshed", "tenants", done, "took", time.Since(began))
	return nil
}

// Refresh is RefreshAccrued for some tenants: after what lets them buy.
func (r *Run) Refresh(ctx context.Context, now time.Time, tenants ...metering.TenantID) error {
	var page []invoicedb.Standing
	for _, t := range tenants {
		s, err := r.cfg.Books.Standing(ctx, t)
		if err != nil {
			return err
		}
		page = append(page, s)
	}
	return r.refreshPage(ctx, now, page)
}

// open is a tenant's open period in the books, and what is not billed.
type open struct {
	invoicing.Rated
	span     invoicing.Span // where what is not billed counts
	exact    bool           // that says too little: the tenant is measured by itself
	segments []invoicing.Segment
	burn     invoicing.Burn
}

func (r *Run) refreshPage(ctx context.Context, now time.Time, page []invoicedb.Standing) error {
	if len(page) == 0 {
		return nil
	}
	revisions, err := r.cfg.Books.Revisions(ctx) // before what runs, lest an admission between be lost
	if err != nil {
		return err
	}
	opens, page, err := r.openPeriods(ctx, now, page)
	if err != nil {
		return err
	}
	if err := r.addBurn(ctx, now, opens); err != nil {
		return err
	}
	if err := r.addUnbilled(ctx, now, page, opens); err != nil {
		return err
	}
	reaches := make([]invoicedb.Reach, len(page))
	for i, s := range page {
		reaches[i] = reachOf(s, opens[s.Tenant].Period, opens[s.Tenant].segments)
	}
	earlier, err := r.cfg.Books.Segments(ctx, reaches)
	if err != nil {
		return err
	}
	lines, err := r.cfg.Books.Lines(ctx, reaches)
	if err != nil {
		return err
	}
	all := make([]invoicedb.Snapshot, 0, len(page))
	for _, s := range page {
		o := opens[s.Tenant]
		a, err := r.estimate(ctx, now, s, o, append(earlier[s.Tenant], o.segments...), lines[s.Tenant])
		if err != nil {
			r.cfg.Log.Error("accrued cost not refreshed", "tenant", s.Tenant, "err", err)
			continue
		}
		all = append(all, invoicedb.Snapshot{
			Tenant: s.Tenant, AsOf: now, Closing: s.Last.Seq, Amount: a.Total.Minor, Burn: o.burn, Revision: revisions[s.Tenant],
		})
	}
	return r.cfg.Books.SaveAccrued(ctx, all)
}

// estimate is what the tenant owes: all unbilled usage in one part of the open period.
func (r *Run) estimate(ctx context.Context, now time.Time, s invoicedb.Standing, o *open, segments []invoicing.Segment, lines []invoicing.LineItem) (invoicing.Accrued, error) {
	if o.exact {
		return r.accrued(ctx, s, now)
	}
	differences, _, err := invoicing.Differences([]invoicing.Rated{o.Rated}, segments, lines)
	if err != nil {
		return invoicing.Accrued{}, err
	}
	return invoicing.NewAccrued(s.Currency, now, differences)
}

// openPeriods are the tenants' next periods to cut with their plans. A tenant
// without a plan in force is logged and left out of the page that comes back.
func (r *Run) openPeriods(ctx context.Context, now time.Time, page []invoicedb.Standing) (map[metering.TenantID]*open, []invoicedb.Standing, error) {
	plans := r.newPlans()
	opens := make(map[metering.TenantID]*open, len(page))
	kept := make([]invoicedb.Standing, 0, len(page))
	for _, s := range page {
		rated, err := plans.open(ctx, s)
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if err != nil {
			r.cfg.Log.Error("accrued cost not refreshed", "tenant", s.Tenant, "err", err)
			continue
		}
		kept = append(kept, s)
		opens[s.Tenant] = newOpen(s, rated, now)
	}
	return opens, kept, nil
}

// newOpen says where what is not billed counts: in the part that now lies in.
// That says too little where prices change within the part, and where the part
// before it is not billed to its end.
func newOpen(s invoicedb.Standing, rated invoicing.Rated, now time.Time) *open {
	part := rated.At(now)
	begun := s.Created
	if s.Last.Cut.After(begun) {
		begun = s.Last.Cut
	}
	return &open{
		Rated: rated,
		span:  invoicing.Span{Period: rated.Period, Window: part.Window},
		exact: bySlots(rated) || len(part.Plan.Boundaries(part.Window)) > 0 ||
			begun.Before(part.Window.Start) && part.Window.Start.After(rated.Period.Start) ||
			!s.Last.Unsettled.IsZero() && s.Last.Unsettled.Before(rated.Period.Start),
	}
}

// addUnbilled adds the segments from what is billed to the largest readings,
// in one window.
func (r *Run) addUnbilled(ctx context.Context, now time.Time, page []invoicedb.Standing, opens map[metering.TenantID]*open) error {
	at := make([]invoicedb.Position, len(page))
	for i, s := range page {
		at[i] = invoicedb.Position{Tenant: s.Tenant, Seq: s.Last.Seq}
	}
	billed, err := r.cfg.Books.Billed(ctx, at)
	if err != nil {
		return err
	}
	tenants := tenantsOf(page)
	totals, err := r.cfg.Readings.Totals(ctx, tenants)
	if err != nil {
		return err
	}
	var grown []metering.EpochID
	for id, t := range totals {
		if level, ok := billed[string(id)]; opens[t.Tenant] != nil && (!ok || level.Join(t.Registers) != level) {
			grown = append(grown, id)
		}
	}
	epochs, err := r.cfg.Epochs.Known(ctx, grown)
	if err != nil {
		return err
	}
	slices.Sort(grown)
	for _, id := range grown {
		if e, ok := epochs[id]; ok {
			level := e.Counted(totals[id].Registers)
			if err := opens[e.Tenant].add(odometer(invoicing.EpochSource(e), billed, e.Opening, []invoicing.Level{level})); err != nil {
				return err
			}
		}
	}
	allocations, err := r.cfg.Allocations.OfTenants(ctx, tenants, metering.Window{End: now})
	if err != nil {
		return err
	}
	for _, a := range allocations {
		level := invoicing.Level{a.At(now)}
		if err := opens[a.Tenant].add(odometer(invoicing.AllocationSource(a), billed, invoicing.Level{}, []invoicing.Level{level})); err != nil {
			return err
		}
	}
	return nil
}

func (o *open) add(odometer invoicing.Odometer) error {
	segments, err := invoicing.Advance([]invoicing.Odometer{odometer}, []invoicing.Span{o.span})
	o.segments = append(o.segments, segments...)
	return err
}
