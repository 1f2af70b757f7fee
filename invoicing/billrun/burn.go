package billrun

import (
	"context"
	"fmt"
	"math/big"
	"time"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
)

// Burn is what an hour of a running instance with these labels costs the tenant
// in the period open in its books, from now on: what its running time, vCPUs and memory cost in
// the dearest time class, without allowance, cap or discount. What it reads,
// writes and sends is not in it. The error wraps invoicing.ErrNoAccount or plandb.ErrNotFound.
func (r *Run) Burn(ctx context.Context, tenant metering.TenantID, now time.Time, labels metering.Labels) (invoicing.Burn, error) {
	_, rated, err := r.present(ctx, tenant)
	if err != nil {
		return 0, fmt.Errorf("burn of %s: %w", tenant, err)
	}
	return make(burns).hourly(rated, now, labels)
}

// Preview is what a planned instance that is created now costs the tenant, in the
// period open in its books and under the plans in force in it. The error wraps
// invoicing.ErrNoAccount or plandb.ErrNotFound.
func (r *Run) Preview(ctx context.Context, tenant metering.TenantID, now time.Time, planned rating.Planned) (invoicing.Preview, error) {
	s, rated, err := r.present(ctx, tenant)
	if err != nil {
		return invoicing.Preview{}, fmt.Errorf("preview for %s: %w", tenant, err)
	}
	planned.Labels.Created = metering.CreatedAt(now)
	return invoicing.NewPreview(s.Account, rated, now, planned)
}

// present is the tenant's standing with its open period.
func (r *Run) present(ctx context.Context, tenant metering.TenantID) (invoicedb.Standing, invoicing.Rated, error) {
	s, err := r.cfg.Books.Standing(ctx, tenant)
	if err != nil {
		return s, invoicing.Rated{}, err
	}
	rated, err := r.newPlans().open(ctx, s)
	return s, rated, err
}

// addBurn adds up what runs, by tenant.
func (r *Run) addBurn(ctx context.Context, now time.Time, opens map[metering.TenantID]*open) error {
	known := make(burns)
	running, err := r.cfg.Running(ctx)
	if err != nil {
		return fmt.Errorf("list what runs: %w", err)
	}
	for _, i := range running {
		o := opens[i.Tenant]
		if o == nil {
			continue
		}
		burn, err := known.hourly(o.Rated, now, i.Labels)
		if err != nil {
			return err
		}
		o.burn += burn
	}
	return nil
}

// burns are the burns known by plan, period and labels.
type burns map[burnKey]invoicing.Burn

type burnKey struct {
	plan   *rating.Plan
	start  time.Time // of the period
	labels metering.Labels
}

// hourly is the most that an hour of a running instance costs from now on, under
// the dearest of the plans that the period has left.
func (b burns) hourly(rated invoicing.Rated, now time.Time, labels metering.Labels) (most invoicing.Burn, err error) {
	last := len(rated.Parts) - 1
	for i, part := range rated.Parts {
		if i < last && !now.Before(part.Window.End) {
			continue
		}
		k := burnKey{part.Plan, rated.Period.Start, labels}
		if part.Plan.Grandfathered.IsZero() {
			k.labels.Created = "" // prices do not follow from it
		}
		burn, ok := b[k]
		if !ok {
			if burn, err = hourly(part.Plan, rated.Period, k.labels); err != nil {
				return 0, err
			}
			b[k] = burn
		}
		most = max(most, burn)
	}
	return most, nil
}

// hourly is the most that an hour of a running instance costs under a plan,
// rounded up to a billionth: what is charged once is spread over the first day,
// which is what credit must carry.
func hourly(plan *rating.Plan, period metering.Window, labels metering.Labels) (invoicing.Burn, error) {
	hour, day, err := plan.RunningCost(period, labels)
	if err != nil {
		return 0, err
	}
	if spread := day.Mul(money.Frac(1, 24)); spread.Cmp(hour) > 0 {
		hour = spread
	}
	nano := new(big.Rat).Mul(hour.Rat(), big.NewRat(1_000_000_000, 1))
	up := new(big.Int).Add(nano.Num(), new(big.Int).Sub(nano.Denom(), big.NewInt(1)))
	if up.Quo(up, nano.Denom()); !up.IsInt64() {
		return 0, fmt.Errorf("an hour of %+v under plan %s: %w", labels, plan.Name, money.ErrOverflow)
	}
	return invoicing.Burn(up.Int64()), nil
}
