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
	"slices"
	"strings"
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
	// settled is how long before now a day must have ended to be audited.
	settled = time.Hour
	// maxDays is how many days with open differences are audited again; others wait.
	maxDays = 7
	// maxDifferences is how many open differences are looked at for their days.
	maxDifferences = 1000
)

// Run is both tasks.
type Run struct {
	Compute     *computedb.Store
	Epochs      *epochdb.Store
	Allocations *allocdb.Store
	Readings    *readingdb.Store
	// Hourly is what an hour of an instance of the flavor costs the tenant, in minor units.
	Hourly func(ctx context.Context, tenant metering.TenantID, flavor string) (minor int64, currency string, err error)
	Log    *slog.Logger
}

// Once compares hosts, orders, readings, allocations and the quarantine as they
// are now, and opens and closes leaks accordingly. It is a bounded number of
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
	found := facts.Leaks()
	for _, q := range waiting {
		found = append(found, compute.Leak{Kind: compute.LeakQuarantine, Subject: string(q.Host) + "/" + string(q.Reason), Host: q.Host,
			Since: q.Since, Detail: fmt.Sprintf("%d readings wait to be accepted or rejected (%s)", q.Count, q.Reason)})
	}
	why := func(kind compute.LeakKind, subject string) string {
		if kind == compute.LeakQuarantine {
			return "all were decided"
		}
		return facts.Why(kind, subject)
	}
	kinds := []compute.LeakKind{compute.LeakStray, compute.LeakUnmetered, compute.LeakUnwanted, compute.LeakAllocation, compute.LeakQuarantine}
	open, err := r.Compute.SaveLeaks(ctx, kinds, r.priced(ctx, found), why, now)
	if open > 0 {
		r.Log.Warn("leaks are open", "leaks", open, "took", time.Since(began))
	}
	return err
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

// Audit compares slots and totals with the readings of the last day (UTC) that
// ended an hour ago, and of up to maxDays earlier ones that have an open
// difference: it opens a leak for each epoch that differs, closes those that do no
// more, and notes gaps of more than three rounds, which are over. It reads every
// reading of a day.
func (r *Run) Audit(ctx context.Context, now time.Time) error {
	last := now.UTC().Add(-settled).Truncate(24 * time.Hour).Add(-24 * time.Hour)
	days := []time.Time{last}
	open, err := r.Compute.Leaks(ctx, compute.LeakDiffers, false, 0, maxDifferences)
	if err != nil {
		return err
	}
	for _, l := range open {
		_, day, _ := strings.Cut(l.Subject, "/")
		if t, err := time.Parse(time.DateOnly, day); err == nil && !slices.Contains(days, t) && len(days) <= maxDays {
			days = append(days, t)
		}
	}
	for _, day := range days {
		if err := r.audit(ctx, metering.Window{Start: day, End: day.Add(24 * time.Hour)}, now); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) audit(ctx context.Context, day metering.Window, now time.Time) error {
	began := time.Now()
	differences, err := r.Readings.Differences(ctx, day)
	if err != nil {
		return err
	}
	of := "/" + day.Start.Format(time.DateOnly)
	found := make([]computedb.Leak, len(differences))
	for i, d := range differences {
		detail := fmt.Sprintf("%d slots of %s are not what the readings say", d.Slots, day)
		if d.Total {
			detail += "; its total is below a reading"
		}
		found[i].Leak = compute.Leak{Kind: compute.LeakDiffers, Subject: string(d.Epoch) + of, Tenant: d.Tenant,
			Instance: d.Instance, Since: day.End, Detail: detail}
	}
	why := func(_ compute.LeakKind, subject string) string {
		if strings.HasSuffix(subject, of) {
			return "they are what the readings say"
		}
		return "" // of another day
	}
	if _, err := r.Compute.SaveLeaks(ctx, []compute.LeakKind{compute.LeakDiffers}, found, why, now); err != nil {
		return err
	}
	gaps, err := r.Readings.Gaps(ctx, day, compute.LeakGapLength)
	if err != nil {
		return err
	}
	past := make([]computedb.Leak, len(gaps))
	for i, g := range gaps {
		past[i].Leak = compute.Leak{Kind: compute.LeakGap, Subject: string(g.Epoch), Tenant: g.Tenant, Instance: g.Instance, Since: g.Start,
			Detail: fmt.Sprintf("no reading of %s until %s", g.Instance, g.End.Format(time.RFC3339Nano))}
		past[i].ClosedWhy = fmt.Sprintf("the reading after it measured %s of running, %s of it unwatched",
			time.Duration(g.RunningMS)*time.Millisecond, time.Duration(g.BridgedMS)*time.Millisecond)
	}
	err = r.Compute.SavePastLeaks(ctx, past, now)
	r.Log.Info("readings audited", "day", of[1:], "differences", len(found), "gaps", len(gaps), "took", time.Since(began))
	return err
}
