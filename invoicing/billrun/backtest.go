package billrun

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
// the account that the following page comes after, "" on the last. One account's usage
// at a time is in memory. The error wraps invoicing.ErrNoBacktest or
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
	for _, s := range page {
		if t.Tenant == "" && !t.All && s.Plan != t.Plan.Name {
			continue
		}
		reason, err := r.try(ctx, t, &b, s, now)
		if err != nil {
			return b, "", fmt.Errorf("backtest of plan %s: %w", t.Plan.Name, err)
		}
		if reason != "" {
			b.Skipped = append(b.Skipped, invoicing.Skipped{Tenant: s.Tenant, Reason: reason})
		}
	}
	return b, next, nil
}

// try adds a tenant to the backtest, or says why not.
func (r *Run) try(ctx context.Context, t Trial, b *invoicing.Backtest, s invoicedb.Standing, now time.Time) (reason string, err error) {
	period := metering.Month(time.Date(t.Year, t.Month, 2, 0, 0, 0, 0, s.Zone), s.Zone)
	if !s.Created.Before(period.End) || !now.After(period.Start) {
		return "the account has no such period", nil
	}
	after := invoicing.Whole(period, t.Plan.ForTenant(s.Tenant))
	var before invoicing.Rated
	if t.Against != nil {
		before = invoicing.Whole(period, t.Against.ForTenant(s.Tenant))
	} else if before, err = r.billedUnder(ctx, s, period); errors.Is(err, plandb.ErrNotFound) {
		return err.Error(), nil
	} else if err != nil {
		return "", err
	}
	if t.AtPar {
		before, after = inCurrency(before, b.Currency), inCurrency(after, b.Currency)
	}
	if billed := before.Parts[0].Plan.Currency; billed != b.Currency || after.Parts[0].Plan.Currency != b.Currency {
		return fmt.Sprintf("it is billed in %s, plan %s is in %s", billed, t.Plan.Name, t.Plan.Currency), nil
	}
	usage, err := r.usage(ctx, s.Tenant, now, before, after)
	if err != nil {
		return "", err
	}
	return "", b.Add(s.Tenant, before, after, usage)
}

// billedUnder is the period under the plans that it is billed under.
func (r *Run) billedUnder(ctx context.Context, s invoicedb.Standing, period metering.Window) (invoicing.Rated, error) {
	fixed, err := r.cfg.Books.PlanVersions(ctx, s.Tenant)
	if err != nil {
		return invoicing.Rated{}, err
	}
	rated, _, _, err := r.newPlans().rated(ctx, s.Account, period, fixed[period.Start], anyVersion)
	return rated, err
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

// usage is what a tenant used in a period up to now, by the readings as they are
// now, split at the ends of either side. What was used before the period counts
// as billed before.
func (r *Run) usage(ctx context.Context, tenant metering.TenantID, now time.Time, before, after invoicing.Rated) ([]metering.Usage, error) {
	period := before.Period
	ends := append(before.Ends(), after.Ends()...)
	slices.SortFunc(ends, time.Time.Compare)
	ends = slices.CompactFunc(ends, time.Time.Equal)
	earlier := metering.Window{End: period.Start}
	spans := []invoicing.Span{{Period: earlier, Window: earlier}}
	instants := []time.Time{period.Start}
	start := period.Start
	for _, end := range ends {
		spans = append(spans, invoicing.Span{Period: period, Window: metering.Window{Start: start, End: end}})
		if !end.Before(now) {
			instants = append(instants, now)
			break
		}
		instants = append(instants, end)
		start = end
	}
	odometers, held, err := r.odometers(ctx, tenant, nil, instants)
	if err != nil {
		return nil, err
	}
	segments, err := invoicing.Advance(odometers, spans)
	if err != nil {
		return nil, err
	}
	if err := r.lay(ctx, tenant, []invoicing.Rated{before, after}, segments, held); err != nil {
		return nil, err
	}
	return before.Usage(segments), nil
}
