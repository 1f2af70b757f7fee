package billrun

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
	"github.com/usance/usance/rating/plandb"
)

// Trial is a plan to be tried on usage of the past, or of the month so far.
type Trial struct {
	Plan    *rating.Plan
	Against *rating.Plan // nil: what each tenant is billed under
	Year    int          // the month, in each tenant's billing zone
	Month   time.Month
	Tenant  metering.TenantID // only this one; "" for all on a plan of Plan's name
	All     bool              // also those on other plans
	AtPar   bool              // take the plans' prices as of the tenant's currency, whatever theirs is
}

// Check reports the first thing that makes the trial impossible, wrapping
// invoicing.ErrNoBacktest.
func (t *Trial) Check(now time.Time) error {
	// No zone is further from UTC than 14 hours.
	if time.Date(t.Year, t.Month, 1, 0, 0, 0, 0, time.UTC).Add(-14 * time.Hour).After(now) {
		return fmt.Errorf("%w: %04d-%02d has not begun", invoicing.ErrNoBacktest, t.Year, t.Month)
	}
	return nil
}

// Backtest rates the stored usage of the accounts after a tenant by id, at most
// limit of them, under the trial's plan and under what they are billed by. next is
// the account that the following page comes after, "" on the last. What was measured of
// the whole page is in memory. The error wraps invoicing.ErrNoBacktest or
// invoicing.ErrNoAccount; a tenant that cannot be compared is among the skipped.
func (r *Run) Backtest(ctx context.Context, t Trial, now time.Time, after metering.TenantID, limit int) (b invoicing.Backtest, next metering.TenantID, err error) {
	if err := t.Check(now); err != nil {
		return b, "", err
	}
	var page []invoicedb.Standing
	if t.Tenant != "" {
		page = make([]invoicedb.Standing, 1)
		page[0], err = r.cfg.Books.Standing(ctx, t.Tenant)
	} else if page, err = r.cfg.Books.Standings(ctx, after, limit); len(page) == limit && limit > 0 {
		next = page[limit-1].Tenant
	}
	if err != nil {
		return b, "", err
	}
	b.Currency = t.Plan.Currency
	if t.AtPar && t.Tenant != "" {
		b.Currency = page[0].Currency
	}
	b.Before.Currency, b.After.Currency = b.Currency, b.Currency
	if t.Tenant == "" && !t.All {
		page = slices.DeleteFunc(page, func(s invoicedb.Standing) bool { return s.Plan != t.Plan.Name })
	}
	if err := r.tryAll(ctx, t, &b, page, now); err != nil {
		return b, "", fmt.Errorf("backtest of plan %s: %w", t.Plan.Name, err)
	}
	return b, next, nil
}

// tryAll adds the tenants to the backtest, or says why not.
func (r *Run) tryAll(ctx context.Context, t Trial, b *invoicing.Backtest, page []invoicedb.Standing, now time.Time) error {
	fixed, err := r.cfg.Books.PlanVersions(ctx, tenantsOf(page)...)
	if err != nil {
		return err
	}
	plans := r.newPlans()
	var all []*tried
	for _, s := range page {
		x, reason, err := t.sides(ctx, b.Currency, plans, s, fixed[s.Tenant], now)
		if err != nil {
			return err
		}
		if reason != "" {
			b.Skipped = append(b.Skipped, invoicing.Skipped{Tenant: s.Tenant, Reason: reason})
		} else {
			all = append(all, x)
		}
	}
	if err := r.readAll(ctx, all); err != nil {
		return err
	}
	return r.rateAll(ctx, b, all)
}

// rateAll adds the tenants, some on each processor.
func (r *Run) rateAll(ctx context.Context, b *invoicing.Backtest, all []*tried) error {
	each := max(1, (len(all)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	chunks := slices.Collect(slices.Chunk(all, each))
	parts, errs := make([]invoicing.Backtest, len(chunks)), make([]error, len(chunks))
	var workers sync.WaitGroup
	for i, chunk := range chunks {
		parts[i] = invoicing.Backtest{Currency: b.Currency, Before: money.Amount{Currency: b.Currency}, After: money.Amount{Currency: b.Currency}}
		workers.Go(func() {
			for _, x := range chunk {
				usage, err := r.usage(ctx, x)
				if err == nil {
					err = parts[i].Add(x.tenant, x.before, x.after, usage)
				}
				if err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	workers.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i := range parts {
		if err := b.Join(&parts[i]); err != nil {
			return err
		}
	}
	return nil
}

// tried is a tenant whose usage of a period is rated under both sides. It is split
// at the ends of either; what was used before the period counts as billed before.
type tried struct {
	tenant        metering.TenantID
	before, after invoicing.Rated
	spans         []invoicing.Span
	instants      []time.Time
	read          *sources
}

// sides is what a tenant is rated under, or why it cannot be compared.
func (t *Trial) sides(ctx context.Context, currency money.Currency, plans *plans, s invoicedb.Standing, fixed map[time.Time]invoicedb.PlanVersion, now time.Time) (x *tried, reason string, err error) {
	period := metering.Month(time.Date(t.Year, t.Month, 2, 0, 0, 0, 0, s.Zone), s.Zone)
	if !s.Created.Before(period.End) || !now.After(period.Start) {
		return nil, "the account has no such period", nil
	}
	x = &tried{tenant: s.Tenant}
	if x.after, err = plans.trial(t.Plan.ForTenant(s.Tenant), period); err != nil {
		return nil, "", err
	}
	if t.Against != nil {
		if x.before, err = plans.trial(t.Against.ForTenant(s.Tenant), period); err != nil {
			return nil, "", err
		}
	} else if x.before, _, _, err = plans.rated(ctx, s.Account, period, fixed[period.Start], anyVersion); errors.Is(err, plandb.ErrNotFound) {
		return nil, err.Error(), nil
	} else if err != nil {
		return nil, "", err
	}
	if t.AtPar {
		x.before, x.after = inCurrency(x.before, currency), inCurrency(x.after, currency)
	}
	if billed := x.before.Parts[0].Plan.Currency; billed != currency || x.after.Parts[0].Plan.Currency != currency {
		return nil, fmt.Sprintf("it is billed in %s, plan %s is in %s", billed, t.Plan.Name, t.Plan.Currency), nil
	}
	x.split(now)
	return x, "", nil
}

// split splits the period up to now.
func (x *tried) split(now time.Time) {
	period := x.before.Period
	ends := append(x.before.Ends(), x.after.Ends()...)
	slices.SortFunc(ends, time.Time.Compare)
	earlier := metering.Window{End: period.Start}
	x.spans, x.instants = []invoicing.Span{{Period: earlier, Window: earlier}}, []time.Time{period.Start}
	start := period.Start
	for _, end := range slices.CompactFunc(ends, time.Time.Equal) {
		x.spans = append(x.spans, invoicing.Span{Period: period, Window: metering.Window{Start: start, End: end}})
		if !end.Before(now) {
			x.instants = append(x.instants, now)
			break
		}
		x.instants = append(x.instants, end)
		start = end
	}
}

// readAll reads what was measured, of all tenants at once whose periods are split alike.
func (r *Run) readAll(ctx context.Context, all []*tried) error {
	alike := map[string][]*tried{}
	for _, x := range all {
		key := fmt.Sprint(x.instants)
		alike[key] = append(alike[key], x)
	}
	for _, some := range alike {
		tenants := make([]metering.TenantID, len(some))
		for i, x := range some {
			tenants[i] = x.tenant
		}
		read, err := r.read(ctx, tenants, some[0].instants, nil)
		if err != nil {
			return err
		}
		for _, x := range some {
			x.read = read
		}
	}
	return nil
}

// inCurrency is the period under plans with the same figures in another currency.
func inCurrency(r invoicing.Rated, c money.Currency) invoicing.Rated {
	parts := slices.Clone(r.Parts)
	for i := range parts {
		same := *parts[i].Plan
		same.Currency = c
		parts[i].Plan = &same
	}
	r.Parts = parts
	return r
}

// usage is what a tenant used in the period, by the readings as they are now.
func (r *Run) usage(ctx context.Context, x *tried) ([]metering.Usage, error) {
	odometers, held := x.read.odometers(x.tenant, nil)
	segments, err := invoicing.Advance(odometers, x.spans)
	if err != nil {
		return nil, err
	}
	if err := r.lay(ctx, x.tenant, []invoicing.Rated{x.before, x.after}, segments, held); err != nil {
		return nil, err
	}
	return x.before.Usage(segments), nil
}
