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
	for _, p := range []*rating.Plan{t.Plan, t.Against} {
		if p != nil && slices.ContainsFunc(p.Rates, func(r rating.Rate) bool { return r.Percentile > 0 }) {
			return fmt.Errorf("%w: plan %s bills a percentile, which needs every slot's traffic", invoicing.ErrNoBacktest, p.Name)
		}
	}
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
	before := t.Against
	if before == nil {
		if before, err = r.billedUnder(ctx, s, period); errors.Is(err, plandb.ErrNotFound) {
			return err.Error(), nil
		} else if err != nil {
			return "", err
		}
	}
	before, after := before.ForTenant(s.Tenant), t.Plan.ForTenant(s.Tenant)
	if t.AtPar {
		before, after = inCurrency(before, b.Currency), inCurrency(after, b.Currency)
	}
	if before.Currency != b.Currency || after.Currency != b.Currency {
		return fmt.Sprintf("it is billed in %s, plan %s is in %s", before.Currency, t.Plan.Name, t.Plan.Currency), nil
	}
	usage, err := r.usage(ctx, s.Tenant, period, now, before, after)
	if err != nil {
		return "", err
	}
	return "", b.Add(s.Tenant, period, before, after, usage)
}

// billedUnder is the plan that a closing fixed for the period, or the one in force.
func (r *Run) billedUnder(ctx context.Context, s invoicedb.Standing, period metering.Window) (*rating.Plan, error) {
	fixed, err := r.cfg.Books.PlanVersions(ctx, s.Tenant)
	if err != nil {
		return nil, err
	}
	if v, ok := fixed[period.Start]; ok {
		return r.cfg.Plans.Load(ctx, v.Plan, v.Version)
	}
	plan, _, err := r.cfg.Plans.InForce(ctx, s.Plan, period.Start)
	return plan, err
}

// inCurrency is the plan with the same figures in another currency.
func inCurrency(p *rating.Plan, c money.Currency) *rating.Plan {
	if p.Currency == c {
		return p
	}
	same := *p
	same.Currency = c
	return &same
}

// usage is what a tenant used in a period up to now, by the readings as they are
// now, split where a time class of either plan begins or ends. What was used
// before the period counts as billed before.
func (r *Run) usage(ctx context.Context, tenant metering.TenantID, period metering.Window, now time.Time, plans ...*rating.Plan) ([]metering.Usage, error) {
	ends := []time.Time{period.End}
	for _, p := range plans {
		ends = append(ends, p.Boundaries(period)...)
	}
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
	odometers, err := r.odometers(ctx, tenant, nil, instants)
	if err != nil {
		return nil, err
	}
	segments, err := invoicing.Advance(odometers, spans)
	if err != nil {
		return nil, err
	}
	return invoicing.UsageOf(period, segments), nil
}
