package billrun

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/plandb"
)

// Publish stores a plan as the next version of its name, unless it would take
// effect before something that is invoiced already: the error then wraps
// invoicing.ErrPeriodClosed and says which day is possible. One that changes a
// running period takes effect in the future, at the end of a slot; else the error
// wraps invoicing.ErrMidPeriod. No cut of anybody on the plan is recorded meanwhile,
// and one that was measured before is measured again (see plandb.Hold). For
// the other errors and for name see plandb.Store.Publish.
func (r *Run) Publish(ctx context.Context, name string, source []byte, now time.Time) (plandb.Version, error) {
	return r.cfg.Plans.Publish(ctx, name, source, now, func(ctx context.Context, tx pgx.Tx, next, _ *rating.Plan) error {
		if err := midPeriod(next, now); err != nil {
			return err
		}
		last, ok, err := r.cfg.Books.LastCut(ctx, tx, next.Name)
		if err != nil || !ok || !next.Effective.Before(last.Cut) {
			return err
		}
		return fmt.Errorf("%w: it would take effect on %s, but %s is invoiced under version %d up to %s; %s or later is possible",
			invoicing.ErrPeriodClosed, next.Effective.Format(time.DateOnly), last.Tenant, last.Version,
			last.Cut.In(next.Zone).Format("2006-01-02 15:04"), firstDay(last.Cut, next.Zone).Format(time.DateOnly))
	})
}

// midPeriod reports why a plan cannot change running periods when it says. What
// was used until now was used under the prices that were in force.
func midPeriod(p *rating.Plan, now time.Time) error {
	switch {
	case !p.MidPeriod:
		return nil
	case p.Effective.Before(now):
		return fmt.Errorf("%w: %s has begun, %s or later is possible", invoicing.ErrMidPeriod,
			p.Effective.Format(time.DateOnly), firstDay(now, p.Zone).Format(time.DateOnly))
	case !p.Effective.Equal(metering.SlotOf(p.Effective)):
		return fmt.Errorf("%w: %s begins in %s at %s, which is not the end of a slot of %s", invoicing.ErrMidPeriod,
			p.Effective.Format(time.DateOnly), p.Zone, p.Effective.UTC().Format(time.RFC3339), metering.SlotLength)
	}
	return nil
}

// firstDay is the first midnight in the zone that is not before t.
func firstDay(t time.Time, zone *time.Location) time.Time {
	local := t.In(zone)
	day := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, zone)
	if day.Before(t) {
		day = time.Date(local.Year(), local.Month(), local.Day()+1, 0, 0, 0, 0, zone)
	}
	return day
}
