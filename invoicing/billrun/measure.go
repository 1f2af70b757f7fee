package billrun

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
)

// measured is what a cut would bill.
type measured struct {
	invoicing.Findings
	begins      invoicedb.PlanVersion // of the period that holds the cut
	newest      int                   // version of its plan
	segments    []invoicing.Segment   // not billed before
	differences []invoicing.Difference
}

// measure computes what a tenant's books lack at an instant. All of it comes from
// one reading of the odometers: at the bounds of ended periods alone, unless that
// shows that something climbed in one of several prices.
func (r *Run) measure(ctx context.Context, s invoicedb.Standing, at time.Time) (m measured, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("measure %s at %s: %w", s.Tenant, at.UTC().Format(time.RFC3339Nano), err)
		}
	}()
	rated, begins, newest, err := r.periods(ctx, s, at, invoicing.Closing{})
	if err != nil {
		return m, err
	}
	m.begins, m.newest = begins, newest
	billed, err := r.cfg.Books.Billed(ctx, []invoicedb.Position{{Tenant: s.Tenant, Seq: s.Last.Seq}})
	if err != nil {
		return m, err
	}
	fine := make([]bool, len(rated))
	fine[len(fine)-1] = true
	var held map[string]metering.Allocation
	for again := true; again; again = invoicing.Refine(rated, fine, m.segments) {
		spans, instants := invoicing.Spans(rated, fine, at)
		read, err := r.read(ctx, []metering.TenantID{s.Tenant}, instants, billed)
		if err != nil {
			return m, err
		}
		var odometers []invoicing.Odometer
		odometers, held = read.odometers(s.Tenant, billed)
		if m.segments, err = invoicing.Advance(odometers, spans); err != nil {
			return m, err
		}
	}
	if err := r.lay(ctx, s.Tenant, rated, m.segments, held); err != nil {
		return m, err
	}
	reach := reachOf(s, rated[len(rated)-1].Period, m.segments)
	m.differences, m.Findings, err = r.differences(ctx, reach, rated, m.segments)
	return m, err
}

// periods are the account's periods up to the one cut at an instant, each with
// its plans, and what a closing records of the last one's. Where the closing was
// made already, versions of its plan that it did not know are left out.
func (r *Run) periods(ctx context.Context, s invoicedb.Standing, at time.Time, made invoicing.Closing) (all []invoicing.Rated, begins invoicedb.PlanVersion, newest int, err error) {
	windows, err := s.Periods(at)
	if err != nil {
		return nil, begins, 0, err
	}
	fixed, err := r.cfg.Books.PlanVersions(ctx, s.Tenant)
	if err != nil {
		return nil, begins, 0, err
	}
	plans := r.newPlans()
	for _, w := range windows {
		known := anyVersion
		begun := fixed[s.Tenant][w.Start]
		if made.Plan != "" && made.Plan == begun.Plan {
			known = made.PlanKnown
		}
		var rated invoicing.Rated
		if rated, begins, newest, err = plans.rated(ctx, s.Account, w, begun, known); err != nil {
			return nil, begins, 0, err
		}
		all = append(all, rated)
	}
	return all, begins, newest, nil
}

// sources are all that is measured of some tenants: their epochs with the levels
// at instants, which rise, and their allocations up to the last of them.
type sources struct {
	instants    []time.Time
	levels      map[metering.EpochID][]invoicing.Level
	epochs      map[metering.TenantID][]metering.EpochRecord
	allocations map[metering.TenantID][]metering.Allocation
}

// read reads what is measured of the tenants; epochs of which all is among billed
// have no levels.
func (r *Run) read(ctx context.Context, tenants []metering.TenantID, instants []time.Time, billed map[string]invoicing.Level) (*sources, error) {
	s := &sources{instants: instants, epochs: map[metering.TenantID][]metering.EpochRecord{}, allocations: map[metering.TenantID][]metering.Allocation{}}
	var err error
	if s.levels, err = r.cfg.Readings.AtOf(ctx, tenants, instants, billed); err != nil {
		return nil, err
	}
	// An epoch is on record before its first reading is, so after the readings
	// none of theirs is missing.
	epochs, err := r.cfg.Epochs.OfTenants(ctx, tenants)
	if err != nil {
		return nil, err
	}
	for _, e := range epochs {
		s.epochs[e.Tenant] = append(s.epochs[e.Tenant], e)
	}
	allocations, err := r.cfg.Allocations.OfTenants(ctx, tenants, metering.Window{End: instants[len(instants)-1]})
	for _, a := range allocations {
		s.allocations[a.Tenant] = append(s.allocations[a.Tenant], a)
	}
	return s, err
}

// odometers are all the tenant's epochs and allocations at the instants, and the
// allocations by id; what is not among billed begins where it opened.
func (s *sources) odometers(tenant metering.TenantID, billed map[string]invoicing.Level) (all []invoicing.Odometer, held map[string]metering.Allocation) {
	last := s.instants[len(s.instants)-1]
	for _, e := range s.epochs[tenant] {
		at, seen := s.levels[e.ID]
		if !seen {
			if _, known := billed[string(e.ID)]; !known && e.Opened.After(last) {
				continue
			}
			at = make([]invoicing.Level, len(s.instants))
		}
		counted := make([]invoicing.Level, len(at))
		for i, level := range at {
			counted[i] = e.Counted(level)
		}
		all = append(all, odometer(invoicing.EpochSource(e), billed, e.Opening, counted))
	}
	held = make(map[string]metering.Allocation, len(s.allocations[tenant]))
	for _, a := range s.allocations[tenant] {
		held[a.ID] = a
		at := make([]invoicing.Level, len(s.instants))
		for i, t := range s.instants {
			at[i] = invoicing.Level{a.At(t)}
		}
		all = append(all, odometer(invoicing.AllocationSource(a), billed, invoicing.Level{}, at))
	}
	return all, held
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

// differences is what the books lack when the new segments are added, of the
// periods within reach.
func (r *Run) differences(ctx context.Context, reach invoicedb.Reach, rated []invoicing.Rated, segments []invoicing.Segment) ([]invoicing.Difference, invoicing.Findings, error) {
	for rated[0].Period.Start.Before(reach.From) {
		rated = rated[1:]
	}
	reach.Slots = slices.ContainsFunc(rated, bySlots)
	reaches := []invoicedb.Reach{reach}
	earlier, err := r.cfg.Books.Segments(ctx, reaches)
	if err != nil {
		return nil, invoicing.Findings{}, err
	}
	lines, err := r.cfg.Books.Lines(ctx, reaches)
	if err != nil {
		return nil, invoicing.Findings{}, err
	}
	return invoicing.Differences(rated, append(earlier[reach.Tenant], segments...), lines[reach.Tenant])
}

// bySlots reports whether some rate bills by slots in the period.
func bySlots(rated invoicing.Rated) bool {
	return slices.ContainsFunc(rated.Parts, func(p rating.InForce) bool {
		return slices.ContainsFunc(p.Plan.Rates, func(rate rating.Rate) bool { return rate.BySlots() })
	})
}
