package billrun

import (
	"context"
	"fmt"
	"time"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
)

// measured is what a cut would bill.
type measured struct {
	version     invoicedb.PlanVersion // of the period that holds the cut
	segments    []invoicing.Segment   // not billed before
	differences []invoicing.Difference
	unrated     []rating.Unrated
}

// measure computes what a tenant's books lack at an instant. The odometers are
// read once.
func (r *Run) measure(ctx context.Context, s invoicedb.Standing, at time.Time) (m measured, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("measure %s at %s: %w", s.Tenant, at.UTC().Format(time.RFC3339Nano), err)
		}
	}()
	rated, version, err := r.periods(ctx, s, at)
	if err != nil {
		return m, err
	}
	m.version = version
	spans, instants := spansOf(rated, at)
	billed, err := r.cfg.Books.Billed(ctx, []invoicedb.Position{{Tenant: s.Tenant, Seq: s.Last.Seq}})
	if err != nil {
		return m, err
	}
	odometers, err := r.odometers(ctx, s.Tenant, billed, instants)
	if err != nil {
		return m, err
	}
	if m.segments, err = invoicing.Advance(odometers, spans); err != nil {
		return m, err
	}
	reach := reachOf(s, rated[len(rated)-1].Period, m.segments)
	for rated[0].Period.Start.Before(reach.From) {
		rated = rated[1:]
	}
	m.differences, m.unrated, err = r.differences(ctx, reach, rated, m.segments)
	return m, err
}

// periods are the account's periods up to the one cut at an instant, each with
// its plan version: the one its first closing fixed, or the one in force.
func (r *Run) periods(ctx context.Context, s invoicedb.Standing, at time.Time) (rated []invoicing.Rated, last invoicedb.PlanVersion, err error) {
	windows, err := s.Periods(at)
	if err != nil {
		return nil, last, err
	}
	fixed, err := r.cfg.Books.PlanVersions(ctx, s.Tenant)
	if err != nil {
		return nil, last, err
	}
	for _, w := range windows {
		var plan *rating.Plan
		if v, ok := fixed[w.Start]; ok {
			plan, err = r.cfg.Plans.Load(ctx, v.Plan, v.Version)
			last = v
		} else {
			plan, last, err = r.inForce(ctx, s.Account, w)
		}
		if err != nil {
			return nil, last, err
		}
		rated = append(rated, invoicing.Rated{Period: w, Plan: plan.ForTenant(s.Tenant)})
	}
	return rated, last, nil
}

// inForce is the version of the account's plan for a period that no closing
// has fixed yet, without what is agreed with its tenant.
func (r *Run) inForce(ctx context.Context, a invoicing.Account, period metering.Window) (*rating.Plan, invoicedb.PlanVersion, error) {
	plan, version, err := r.cfg.Plans.InForce(ctx, a.Plan, period.Start)
	v := invoicedb.PlanVersion{Plan: a.Plan, Version: version}
	if err != nil {
		return nil, v, err
	}
	if plan.Currency != a.Currency {
		return nil, v, fmt.Errorf("plan %s version %d is in %s, the account in %s", a.Plan, version, plan.Currency, a.Currency)
	}
	return plan, v, nil
}

// spansOf splits periods where a time class of their plan begins or ends, up to
// the span that holds at; instants are where the odometers are read.
func spansOf(rated []invoicing.Rated, at time.Time) (spans []invoicing.Span, instants []time.Time) {
	for _, p := range rated {
		start := p.Period.Start
		for _, end := range append(p.Plan.Boundaries(p.Period), p.Period.End) {
			spans = append(spans, invoicing.Span{Period: p.Period, Window: metering.Window{Start: start, End: end}})
			if !end.Before(at) {
				return spans, append(instants, at)
			}
			instants = append(instants, end)
			start = end
		}
	}
	return spans, instants
}

// odometers are all the tenant's epochs and allocations at the instants, which
// rise; what is not among billed begins where it opened.
func (r *Run) odometers(ctx context.Context, tenant metering.TenantID, billed map[string]invoicing.Level, instants []time.Time) ([]invoicing.Odometer, error) {
	levels, err := r.cfg.Readings.At(ctx, tenant, instants)
	if err != nil {
		return nil, err
	}
	// An epoch is on record before its first reading is, so after the readings
	// none of theirs is missing.
	epochs, err := r.cfg.Epochs.OfTenant(ctx, tenant)
	if err != nil {
		return nil, err
	}
	last := instants[len(instants)-1]
	allocations, err := r.cfg.Allocations.OfTenant(ctx, tenant, metering.Window{End: last})
	if err != nil {
		return nil, err
	}
	var all []invoicing.Odometer
	for _, e := range epochs {
		at, seen := levels[e.ID]
		if !seen {
			if _, known := billed[string(e.ID)]; !known && e.Opened.After(last) {
				continue
			}
			at = make([]invoicing.Level, len(instants))
		}
		counted := make([]invoicing.Level, len(at))
		for i, level := range at {
			counted[i] = e.Counted(level)
		}
		all = append(all, odometer(invoicing.EpochSource(e), billed, e.Opening, counted))
	}
	for _, a := range allocations {
		at := make([]invoicing.Level, len(instants))
		for i, t := range instants {
			at[i] = invoicing.Level{a.At(t)}
		}
		all = append(all, odometer(invoicing.AllocationSource(a), billed, invoicing.Level{}, at))
	}
	return all, nil
}

func odometer(source invoicing.Source, billed map[string]invoicing.Level, opening invoicing.Level, at []invoicing.Level) invoicing.Odometer {
	level, seen := billed[source.ID]
	if !seen {
		level = opening
	}
	return invoicing.Odometer{Source: source, Billed: level, Seen: seen, At: at}
}

// reachOf is what of the books is needed beside new segments to bill up to an
// open period.
func reachOf(s invoicedb.Standing, open metering.Window, segments []invoicing.Segment) invoicedb.Reach {
	reach := invoicedb.Reach{Position: invoicedb.Position{Tenant: s.Tenant, Seq: s.Last.Seq}, From: open.Start}
	if u := s.Last.Unsettled; !u.IsZero() && u.Before(reach.From) {
		reach.From = u
	}
	seen := map[invoicedb.Start]bool{}
	for _, g := range segments {
		if g.Period.Start.Before(reach.From) {
			reach.From = g.Period.Start
		}
		if st := (invoicedb.Start{Resource: g.Resource, Start: g.Start}); !seen[st] {
			seen[st] = true
			reach.Starts = append(reach.Starts, st)
		}
	}
	return reach
}

// differences is what the books lack when the new segments are added.
func (r *Run) differences(ctx context.Context, reach invoicedb.Reach, rated []invoicing.Rated, segments []invoicing.Segment) ([]invoicing.Difference, []rating.Unrated, error) {
	reaches := []invoicedb.Reach{reach}
	earlier, err := r.cfg.Books.Segments(ctx, reaches)
	if err != nil {
		return nil, nil, err
	}
	lines, err := r.cfg.Books.Lines(ctx, reaches)
	if err != nil {
		return nil, nil, err
	}
	return invoicing.Differences(rated, append(earlier[reach.Tenant], segments...), lines[reach.Tenant])
}
