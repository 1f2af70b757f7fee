package billrun

import (
	"context"
	"fmt"
	"math/big"
	"time"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
)

// Burn is what an hour of a running instance with these labels costs the tenant
// in the period open in its books: what its running time, vCPUs and memory cost in
// the dearest time class, without allowance, cap or discount. What it reads,
// writes and sends is not in it. The error wraps invoicing.ErrNoAccount or plandb.ErrNotFound.
func (r *Run) Burn(ctx context.Context, tenant metering.TenantID, labels metering.Labels) (invoicing.Burn, error) {
	_, rated, err := r.present(ctx, tenant)
	if err != nil {
		return 0, fmt.Errorf("burn of %s: %w", tenant, err)
	}
	return hourly(rated, labels)
}

// Preview is what a planned instance costs the tenant, in the period open in its
// books and under the plan in force in it. The error wraps
// invoicing.ErrNoAccount or plandb.ErrNotFound.
func (r *Run) Preview(ctx context.Context, tenant metering.TenantID, planned rating.Planned) (invoicing.Preview, error) {
	account, rated, err := r.present(ctx, tenant)
	if err != nil {
		return invoicing.Preview{}, fmt.Errorf("preview for %s: %w", tenant, err)
	}
	return invoicing.NewPreview(account, rated, planned)
}

// present is the account with its open period and the plan in force in it.
func (r *Run) present(ctx context.Context, tenant metering.TenantID) (invoicing.Account, invoicing.Rated, error) {
	s, err := r.cfg.Books.Standing(ctx, tenant)
	if err != nil {
		return s.Account, invoicing.Rated{}, err
	}
	period, err := s.Next()
	if err != nil {
		return s.Account, invoicing.Rated{}, err
	}
	plan, _, err := r.inForce(ctx, s.Account, period)
	if err != nil {
		return s.Account, invoicing.Rated{}, err
	}
	return s.Account, invoicing.Rated{Period: period, Plan: plan.ForTenant(tenant)}, nil
}

// addBurn adds up what runs, by tenant.
func (r *Run) addBurn(ctx context.Context, opens map[metering.TenantID]*open) error {
	type key struct {
		plan   *rating.Plan
		start  time.Time
		labels metering.Labels
	}
	known := map[key]invoicing.Burn{}
	running, err := r.cfg.Running(ctx)
	if err != nil {
		return fmt.Errorf("list what runs: %w", err)
	}
	for _, i := range running {
		o := opens[i.Tenant]
		if o == nil {
			continue
		}
		k := key{o.Plan, o.Period.Start, i.Labels}
		burn, ok := known[k]
		if !ok {
			if burn, err = hourly(o.Rated, i.Labels); err != nil {
				return err
			}
			known[k] = burn
		}
		o.burn += burn
	}
	return nil
}

// hourly is the most that an hour of a running instance costs under a plan,
// rounded up to a billionth: what is charged once is spread over the first day,
// which is what credit must carry.
func hourly(rated invoicing.Rated, labels metering.Labels) (invoicing.Burn, error) {
	hour, day, err := rated.Plan.RunningCost(rated.Period, labels)
	if err != nil {
		return 0, err
	}
	if spread := day.Mul(money.Frac(1, 24)); spread.Cmp(hour) > 0 {
		hour = spread
	}
	nano := new(big.Rat).Mul(hour.Rat(), big.NewRat(1_000_000_000, 1))
	up := new(big.Int).Add(nano.Num(), new(big.Int).Sub(nano.Denom(), big.NewInt(1)))
	if up.Quo(up, nano.Denom()); !up.IsInt64() {
		return 0, fmt.Errorf("an hour of %+v under plan %s: %w", labels, rated.Plan.Name, money.ErrOverflow)
	}
	return invoicing.Burn(up.Int64()), nil
}
