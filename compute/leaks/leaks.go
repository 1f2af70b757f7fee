// Package leaks compares what hosts report, what is wanted and what is metered,
// and keeps a list of the differences, which should be empty.
//
// It owns when each comparison is made and what a leak costs by the hour. It never
// repairs anything, and holds no rule of what is a leak: compute does. It stands
// beside the scheduler and not in it, since that acts on instances and this one
// must not; and in compute, since what is wanted is known here and metering must
// not know of it. What an hour costs is a function passed in.
//
// Invariants:
//   - A leak that was listed is never deleted: it is closed, with when and why.
//   - Doing it twice, or in two processes at once, equals doing it once.
package leaks

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/readingdb"
)

const (
	// readWithin is how far back the last reading of an instance is looked for; an
	// instance silent for longer shows as without any reading.
	readWithin = 30 * 24 * time.Hour
)

// Run is both tasks.
type Run struct {
	Compute     *computedb.Store
	Epochs      *epochdb.Store
	Allocations *allocdb.Store
	Readings    *readingdb.Store
	// Hourly is what an hour of an instance of the flavor costs the tenant, in minor units.
	Hourly func(ctx context.Context, tenant metering.TenantID, flavor string) (minor int64, currency string, err error)
	// Unrated are the leaks of usage that no rate fits, by what is their Subject; nil
	// where nobody bills.
	Unrated func(ctx context.Context) ([]compute.Leak, error)
	Log     *slog.Logger
}

// Once compares hosts, orders, readings, allocations, the quarantine and closings as
// they are now, and opens and closes leaks accordingly. It is a bounded number of
// queries over what runs and is held, whatever happened before.
func (r *Run) Once(ctx context.Context, now time.Time) error {
	began := time.Now()
	facts, err := r.facts(ctx, now)
	if err != nil {
		return err
	}
	waiting, err := r.Epochs.OpenQuarantine(ctx)
	if err != nil {
		return err
	}
	found := append(facts.Leaks(), quarantined(waiting)...)
	if r.Unrated != nil {
		unrated, err := r.Unrated(ctx)
		if err != nil {
			return err
		}
		found = append(found, unrated...)
	}
	why := func(kind compute.LeakKind, subject string) string {
		switch kind {
		case compute.LeakQuarantine:
			return "all were decided"
		case compute.LeakUnrated:
			return "the tenant's last closing has none of it, or a rate for it"
		}
		return facts.Why(kind, subject)
	}
	kinds := []compute.LeakKind{compute.LeakStray, compute.LeakUnmetered, compute.LeakUnwanted, compute.LeakAllocation, compute.LeakQuarantine, compute.LeakUnrated}
	open, err := r.Compute.SaveLeaks(ctx, kinds, r.priced(ctx, found), why, now)
	if open > 0 {
		r.Log.Warn("leaks are open", "leaks", open, "took", time.Since(began))
	}
	return err
}

// quarantined are the leaks of what waits for an operator.
func quarantined(waiting []epochdb.OpenQuarantine) []compute.Leak {
	byHost := map[metering.HostID]int64{}
	for _, q := range waiting {
		byHost[q.Host] += q.Count
	}
	all := make([]compute.Leak, len(waiting))
	for i, q := range waiting {
		all[i] = compute.Leak{Kind: compute.LeakQuarantine, Subject: string(q.Host) + "/" + string(q.Reason), Host: q.Host,
			Since: q.Since, Detail: fmt.Sprintf("%d readings wait to be accepted or rejected (%s)", q.Count, q.Reason)}
		if byHost[q.Host] >= epochdb.MaxOpen {
			all[i].Detail += "; no more is taken of the host until some are"
		}
	}
	return all
}

// facts asks for readings last: an instance that began to run in between has none
// of them yet, but is young; one that stopped has no later ones.
func (r *Run) facts(ctx context.Context, now time.Time) (f compute.LeakFacts, err error) {
	f.Now = now
	if f.Placed, err = r.Compute.Placed(ctx); err != nil {
		return f, err
	}
	if f.Strays, err = r.Compute.Strays(ctx, now.Add(-compute.HostSilence)); err != nil {
		return f, err
	}
	if f.Allocations, err = r.Allocations.Held(ctx, metering.InstanceStopped); err != nil {
		return f, err
	}
	f.Read, err = r.Readings.ReadSince(ctx, now.Add(-readWithin))
	return f, err
}

// priced adds what an hour costs, as far as it can be said.
func (r *Run) priced(ctx context.Context, found []compute.Leak) []computedb.Leak {
	all := make([]computedb.Leak, len(found))
	for i, l := range found {
		all[i].Leak = l
		if l.Tenant == "" || l.Flavor == "" {
			continue
		}
		minor, currency, err := r.Hourly(ctx, l.Tenant, l.Flavor)
		if err != nil {
			r.Log.Warn("what a leak costs cannot be said", "tenant", l.Tenant, "instance", l.Instance, "err", err)
			continue
		}
		all[i].Hourly, all[i].Currency = &minor, currency
	}
	return all
}
