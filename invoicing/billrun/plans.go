package billrun

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/plandb"
)

// plans says what periods are rated under; nobody else here loads a version of a
// price plan. What it has read it reads no more, so it serves one call.
type plans struct {
	store     *plandb.Store
	timelines map[string]plandb.Timeline
	parts     map[partsKey][]plandb.Part
	whole     map[wholeKey]invoicing.Rated
}

type partsKey struct {
	version    invoicedb.PlanVersion
	start, end int64
	known      int
}

type wholeKey struct {
	plan       *rating.Plan
	start, end int64
}

func (r *Run) newPlans() *plans {
	return &plans{r.cfg.Plans, map[string]plandb.Timeline{}, map[partsKey][]plandb.Part{}, map[wholeKey]invoicing.Rated{}}
}

// anyVersion is known where every version counts.
const anyVersion = math.MaxInt

// rated is a period of an account with its plans: the version it begins under,
// which its first closing fixed or which is in force there, and those numbered up
// to known that take effect within. begins and newest are what a closing of it
// records. The error wraps plandb.ErrNotFound.
func (p *plans) rated(ctx context.Context, a invoicing.Account, period metering.Window, fixed invoicedb.PlanVersion, known int) (rated invoicing.Rated, begins invoicedb.PlanVersion, newest int, err error) {
	if fixed.Plan == "" {
		fixed.Plan = a.Plan
	}
	t, ok := p.timelines[fixed.Plan]
	if !ok {
		if t, err = p.store.Timeline(ctx, fixed.Plan); err != nil {
			return rated, begins, 0, err
		}
		p.timelines[fixed.Plan] = t
	}
	k := partsKey{fixed, period.Start.Unix(), period.End.Unix(), known}
	parts, ok := p.parts[k]
	if !ok {
		if parts, err = t.Parts(ctx, period, fixed.Version, known); err != nil {
			return rated, begins, 0, err
		}
		for i := range parts {
			if parts[i].InForce, err = parts[i].Ready(period); err != nil {
				return rated, begins, 0, fmt.Errorf("plan %s version %d: %w", fixed.Plan, parts[i].Version, err)
			}
		}
		p.parts[k] = parts
	}
	rated.Period = period
	for _, part := range parts {
		if part.Plan.Currency != a.Currency {
			return rated, begins, 0, fmt.Errorf("plan %s version %d is in %s, the account in %s", fixed.Plan, part.Version, part.Plan.Currency, a.Currency)
		}
		part.Plan = part.Plan.ForTenant(a.Tenant)
		rated.Parts = append(rated.Parts, part.InForce)
	}
	return rated, invoicedb.PlanVersion{Plan: fixed.Plan, Version: parts[0].Version}, t.Newest(), nil
}

// trial is a period under one plan, published or not.
func (p *plans) trial(plan *rating.Plan, period metering.Window) (invoicing.Rated, error) {
	k := wholeKey{plan, period.Start.Unix(), period.End.Unix()}
	rated, ok := p.whole[k]
	if !ok {
		rated = invoicing.Whole(period, plan)
		var err error
		if rated.Parts[0], err = rated.Parts[0].Ready(period); err != nil {
			return invoicing.Rated{}, err
		}
		p.whole[k] = rated
	}
	return rated, nil
}

// open is the account's next period to cut.
func (p *plans) open(ctx context.Context, s invoicedb.Standing) (invoicing.Rated, error) {
	period, err := s.Next()
	if err != nil {
		return invoicing.Rated{}, err
	}
	var fixed invoicedb.PlanVersion
	if s.Last.Seq > 0 && !s.Last.Last() {
		fixed = invoicedb.PlanVersion{Plan: s.Last.Plan, Version: s.Last.PlanVersion}
	}
	rated, _, _, err := p.rated(ctx, s.Account, period, fixed, anyVersion)
	return rated, err
}

// Plan is the plan in force for a tenant at an instant of a period that may not
// have begun in its books, with what is agreed with the tenant. The error wraps
// invoicing.ErrNoAccount or plandb.ErrNotFound.
func (r *Run) Plan(ctx context.Context, tenant metering.TenantID, at time.Time) (*rating.Plan, error) {
	s, err := r.cfg.Books.Standing(ctx, tenant)
	if err != nil {
		return nil, err
	}
	period, err := s.PeriodOf(at.Add(1)) // holds the instant, also when it is a month's first
	if err != nil {
		return nil, err
	}
	fixed, err := r.cfg.Books.PlanVersions(ctx, tenant)
	if err != nil {
		return nil, err
	}
	rated, _, _, err := r.newPlans().rated(ctx, s.Account, period, fixed[tenant][period.Start], anyVersion)
	if err != nil {
		return nil, err
	}
	return rated.At(at).Plan, nil
}
