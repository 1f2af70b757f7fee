package billrun

import (
	"context"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
)

// Burn is what an hour of a running instance with these labels costs the tenant
// in the period open in its books: what its running time, vCPUs and memory cost in
// the dearest time class, without allowance or cap. What it reads, writes and
// sends is not in it. The error wraps invoicing.ErrNoAccount or plandb.ErrNotFound.
func (r *Run) Burn(ctx context.Context, tenant metering.TenantID, labels metering.Labels) (invoicing.Burn, error) {
	s, err := r.cfg.Books.Standing(ctx, tenant)
	if err != nil {
		return 0, err
	}
	period, err := s.Next()
	if err != nil {
		return 0, err
	}
	plan, _, err := r.inForce(ctx, s.Account, period)
	if err != nil {
		return 0, fmt.Errorf("burn of %s: %w", tenant, err)
	}
	return hourly(invoicing.Rated{Period: period, Plan: plan}, labels)
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
// rounded up to a billionth.
func hourly(rated invoicing.Rated, labels metering.Labels) (invoicing.Burn, error) {
	bare := *rated.Plan
	bare.Rates = slices.Clone(bare.Rates)
	for i := range bare.Rates {
		bare.Rates[i].Included, bare.Rates[i].Cap = rating.Included{}, rating.Cap{}
	}
	var most *big.Rat
	start := rated.Period.Start
	for _, end := range append(bare.Boundaries(rated.Period), rated.Period.End) {
		result, err := bare.Rate(rated.Period, hourOf(&bare, labels, metering.Window{Start: start, End: end}))
		if err != nil {
			return 0, fmt.Errorf("rate an hour of %+v under plan %s: %w", labels, bare.Name, err)
		}
		var cost money.Fraction
		for _, c := range result.Charges {
			cost = cost.Add(c.Exact)
		}
		if most == nil || cost.Rat().Cmp(most) > 0 {
			most = cost.Rat()
		}
		start = end
	}
	nano := most.Mul(most, big.NewRat(1_000_000_000, 1))
	up := new(big.Int).Add(nano.Num(), new(big.Int).Sub(nano.Denom(), big.NewInt(1)))
	if up.Quo(up, nano.Denom()); !up.IsInt64() {
		return 0, fmt.Errorf("an hour of %+v under plan %s: %w", labels, bare.Name, money.ErrOverflow)
	}
	return invoicing.Burn(up.Int64()), nil
}

// hourOf is an hour's usage of one instance, in one window.
func hourOf(plan *rating.Plan, labels metering.Labels, window metering.Window) []metering.Usage {
	const hour = 3_600_000 // thousandths of a second
	usage := func(m metering.Meter, per uint64) metering.Usage {
		return metering.Usage{Resource: "hour", Meter: m, Window: window, Quantity: metering.Thousandths(hour * per), Labels: labels}
	}
	all := []metering.Usage{usage(metering.InstanceRunning, 1)}
	for _, f := range plan.Flavors {
		if f.Name == labels.Flavor {
			all = append(all, usage(metering.InstanceVCPU, uint64(f.VCPUs)), usage(metering.InstanceMemory, f.MemoryMiB))
		}
	}
	return all
}
