package billrun

import (
	"context"
	"fmt"
	"time"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/plandb"
)

// Publish stores a plan as the next version of its name, unless it would take
// effect in a period of which something is invoiced already: the error then
// wraps invoicing.ErrPeriodClosed and says which day is possible. What a closing
// would bill wrongly is refused with invoicing.ErrNotBilled. A cut made meanwhile
// keeps the version that it was made under. For the other errors and for name see
// plandb.Store.Publish.
func (r *Run) Publish(ctx context.Context, name string, source []byte, now time.Time) (plandb.Version, error) {
	return r.cfg.Plans.Publish(ctx, name, source, now, func(next, _ *rating.Plan) error {
		if err := billed(next); err != nil {
			return err
		}
		last, ok, err := r.cfg.Books.LastCut(ctx, next.Name)
		if err != nil || !ok || !next.Effective.Before(last.Cut) {
			return err
		}
		return fmt.Errorf("%w: it would take effect on %s, but %s is invoiced under version %d up to %s; %s or later is possible",
			invoicing.ErrPeriodClosed, next.Effective.Format(time.DateOnly), last.Tenant, last.Version,
			last.Cut.In(next.Zone).Format("2006-01-02 15:04"), firstDay(last.Cut, next.Zone).Format(time.DateOnly))
	})
}

// billed reports what of a plan a closing does not bill as the plan says: it has
// one window per epoch and period, and one plan version per period.
func billed(p *rating.Plan) error {
	if p.MidPeriod {
		return fmt.Errorf("%w: a change within a running period; make it effective on a day that begins one", invoicing.ErrNotBilled)
	}
	for i := range p.Rates {
		if r := &p.Rates[i]; r.Percentile > 0 {
			return fmt.Errorf("%w: rate %s by percentile; `usance rate` computes it from a file of slots", invoicing.ErrNotBilled, r.ID)
		}
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
