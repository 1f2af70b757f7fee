package leaks

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/readingdb"
)

const (
	dayLength = 24 * time.Hour
	// settled is how long before now a day must have ended to be audited.
	settled = time.Hour
	// maxDays is how many of the last days are audited that were not yet, and how many
	// with open differences are audited again; older ones, and others, are left.
	maxDays = 7
	// maxDifferences is how many open differences are looked at for their days.
	maxDifferences = 1000
	// readable is how old a day may be to be audited: raw readings are kept a month longer.
	readable = 365 * dayLength
	// looks is how often a difference must be seen, lookPause apart, to be one: a batch
	// that is being inserted is in one table before it is in the others.
	looks     = 3
	lookPause = 500 * time.Millisecond
)

// Audit compares slots and totals with the readings of each of the last days (UTC)
// that ended an hour ago and was not audited yet: it opens a leak for each epoch
// that differs, and notes gaps of more than three rounds, which are over. With it,
// days that have an open difference are audited again, which closes those that
// differ no more. So it works once a night, however often it is called and whatever
// is started again; a night that was missed is made up for. It reads every reading
// of a day.
func (r *Run) Audit(ctx context.Context, now time.Time) error {
	last := now.UTC().Add(-settled).Truncate(dayLength).Add(-dayLength)
	days, err := r.unaudited(ctx, last)
	if err != nil || len(days) == 0 {
		return err
	}
	again, err := r.differing(ctx, now)
	if err != nil {
		return err
	}
	for _, day := range again {
		if !slices.Contains(days, day) {
			days = append(days, day)
		}
	}
	for _, day := range days {
		if err := r.audit(ctx, day, now); err != nil {
			return err
		}
	}
	return nil
}

// unaudited are the days up to last that were not audited yet and may have readings.
func (r *Run) unaudited(ctx context.Context, last time.Time) ([]time.Time, error) {
	days, err := r.Compute.Unaudited(ctx, last, maxDays)
	if err != nil || len(days) == 0 {
		return nil, err
	}
	first, ok, err := r.Epochs.FirstOpened(ctx)
	if err != nil || !ok {
		return nil, err
	}
	return slices.DeleteFunc(days, func(day time.Time) bool { return !first.Before(day.Add(dayLength)) }), nil
}

// differing are up to maxDays days that have open differences.
func (r *Run) differing(ctx context.Context, now time.Time) ([]time.Time, error) {
	open, err := r.Compute.Leaks(ctx, compute.LeakDiffers, false, 0, maxDifferences)
	if err != nil {
		return nil, err
	}
	var days []time.Time
	for _, l := range open {
		_, day, _ := strings.Cut(l.Subject, "/")
		t, err := time.Parse(time.DateOnly, day)
		if err == nil && now.Sub(t) < readable && !slices.Contains(days, t) && len(days) < maxDays {
			days = append(days, t)
		}
	}
	return days, nil
}

func (r *Run) audit(ctx context.Context, day, now time.Time) error {
	began := time.Now()
	window := metering.Window{Start: day, End: day.Add(dayLength)}
	differences, err := r.differences(ctx, window)
	if err != nil {
		return err
	}
	of := "/" + day.Format(time.DateOnly)
	found := make([]computedb.Leak, len(differences))
	for i, d := range differences {
		found[i].Leak = compute.Leak{Kind: compute.LeakDiffers, Subject: string(d.Epoch) + of, Tenant: d.Tenant,
			Instance: d.Instance, Since: window.End, Detail: detail(d, window)}
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
	gaps, err := r.gaps(ctx, window, now)
	if err != nil {
		return err
	}
	err = r.Compute.SaveAudit(ctx, day, len(differences), gaps, now)
	r.Log.Info("readings audited", "day", of[1:], "differences", len(differences), "gaps", gaps, "took", time.Since(began))
	return err
}

// differences are those that are still seen after looks.
func (r *Run) differences(ctx context.Context, window metering.Window) (all []readingdb.Difference, err error) {
	if all, err = r.Readings.Differences(ctx, window); err != nil {
		return nil, err
	}
	for look := 1; look < looks && len(all) > 0; look++ {
		select {
		case <-time.After(lookPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		found, err := r.Readings.Differences(ctx, window)
		if err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(d readingdb.Difference) bool { return !slices.Contains(found, d) })
	}
	return all, nil
}

func detail(d readingdb.Difference, window metering.Window) string {
	var all []string
	if d.Slots > 0 {
		all = append(all, fmt.Sprintf("%d slots of %s are not what the readings say", d.Slots, window))
	}
	if d.Below {
		all = append(all, "its total is below a reading or a slot")
	}
	if d.Above {
		all = append(all, "its total is above all slots")
	}
	return strings.Join(all, "; ")
}

// gaps notes the gaps of a day as leaks that are over, and returns how many there are.
func (r *Run) gaps(ctx context.Context, window metering.Window, now time.Time) (int, error) {
	gaps, err := r.Readings.Gaps(ctx, window, compute.LeakGapLength)
	if err != nil {
		return 0, err
	}
	past := make([]computedb.Leak, len(gaps))
	for i, g := range gaps {
		past[i].Leak = compute.Leak{Kind: compute.LeakGap, Subject: string(g.Epoch), Tenant: g.Tenant, Instance: g.Instance, Since: g.Start,
			Detail: fmt.Sprintf("no reading of %s until %s", g.Instance, g.End.Format(time.RFC3339Nano))}
		past[i].ClosedWhy = fmt.Sprintf("the reading after it measured %s of running, %s of it unwatched",
			time.Duration(g.RunningMS)*time.Millisecond, time.Duration(g.BridgedMS)*time.Millisecond)
	}
	return len(gaps), r.Compute.SavePastLeaks(ctx, past, now)
}
