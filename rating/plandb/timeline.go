package plandb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
)

// ErrChanged is wrapped where a plan has newer versions than somebody counts on.
var ErrChanged = errors.New("a newer version of the plan is published")

// Timeline is all versions of one plan as they were read: which is in force when.
type Timeline struct {
	store    *Store
	db       querier
	versions []Version // by number, without sources; never none
}

// Part is a version of a plan and the window of a period in which it is in force.
type Part struct {
	rating.InForce // with the rates that the version grandfathers in the period
	Version        int
}

const versionsOf = `
SELECT plan, version, effective_at, mid_period, published_at, ''::bytea AS source
FROM plan_versions
WHERE plan = $1
ORDER BY version`

// Timeline reads which versions a plan has. The error wraps ErrNotFound where
// there is none.
func (s *Store) Timeline(ctx context.Context, plan string) (Timeline, error) {
	rows, err := s.pool.Query(ctx, versionsOf, plan)
	if err != nil {
		return Timeline{}, fmt.Errorf("versions of plan %s: %w", plan, err)
	}
	versions, err := pgx.CollectRows(rows, scan)
	if err == nil && len(versions) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Timeline{}, fmt.Errorf("versions of plan %s: %w", plan, err)
	}
	return Timeline{s, s.pool, versions}, nil
}

// Newest is the number of the version that was published last.
func (t Timeline) Newest() int { return t.versions[len(t.versions)-1].Version }

// Parts are the versions in force in a period, which follow each other and make
// it up: the one numbered first, where that is 0 the one for a period that begins
// there; and from when they take effect those mid-period versions that take effect
// within the period and are numbered up to known. The error wraps ErrNotFound
// where no version is in force at the beginning.
func (t Timeline) Parts(ctx context.Context, period metering.Window, first, known int) ([]Part, error) {
	if first == 0 {
		v, ok := t.last(func(v Version) bool { return !v.Effective.After(period.Start) })
		if !ok {
			return nil, fmt.Errorf("plan %s in force at %s: %w", t.versions[0].Plan, period.Start.UTC().Format(time.RFC3339), ErrNotFound)
		}
		first = v.Version
	}
	parts := []Part{{Version: first, InForce: rating.InForce{Window: period}}}
	for _, v := range t.byEffect() {
		if !v.MidPeriod || v.Version > known || !v.Effective.After(period.Start) || !v.Effective.Before(period.End) {
			continue
		}
		last := &parts[len(parts)-1]
		if last.Window.Start.Equal(v.Effective) {
			last.Version = v.Version
			continue
		}
		last.Window.End = v.Effective
		parts = append(parts, Part{Version: v.Version, InForce: rating.InForce{Window: metering.Window{Start: v.Effective, End: period.End}}})
	}
	for i := range parts {
		var err error
		if parts[i].Plan, err = t.load(ctx, parts[i].Version, period.Start); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// byEffect are the versions in the order in which they take effect: of several
// at one instant the latest is the last.
func (t Timeline) byEffect() []Version {
	return slices.SortedFunc(slices.Values(t.versions), func(a, b Version) int {
		return cmp.Or(a.Effective.Compare(b.Effective), cmp.Compare(a.Version, b.Version))
	})
}

// last is the last version to take effect of those wanted.
func (t Timeline) last(wanted func(Version) bool) (last Version, ok bool) {
	for _, v := range t.byEffect() {
		if wanted(v) {
			last, ok = v, true
		}
	}
	return last, ok
}

// before is the version that one takes over from: the last to take effect of
// those that were published before it and take effect earlier. It stays the same
// for ever.
func (t Timeline) before(v Version) (Version, bool) {
	return t.last(func(o Version) bool { return o.Version < v.Version && o.Effective.Before(v.Effective) })
}

// load is a version with the rates that it grandfathers in a period that begins
// at start.
func (t Timeline) load(ctx context.Context, version int, start time.Time) (*rating.Plan, error) {
	v, ok := t.last(func(v Version) bool { return v.Version == version })
	if !ok {
		return nil, fmt.Errorf("plan %s version %d: %w", t.versions[0].Plan, version, ErrNotFound)
	}
	plan, err := t.store.load(ctx, t.db, v.Plan, v.Version)
	if err != nil || plan.Grandfathered.IsZero() || !start.Before(plan.Grandfathered) {
		return plan, err
	}
	k := key{v.Plan, v.Version, start.Unix()}
	if joined := t.store.cached(k); joined != nil {
		return joined, nil
	}
	before, ok := t.before(v)
	if !ok {
		return plan, nil
	}
	earlier, err := t.load(ctx, before.Version, start)
	if err != nil {
		return nil, err
	}
	joined, err := plan.Grandfather(earlier, start)
	if err != nil {
		return nil, fmt.Errorf("plan %s version %d after version %d: %w", v.Plan, v.Version, before.Version, err)
	}
	return t.store.keep(k, joined), nil
}

const holdPlan = `SELECT pg_advisory_xact_lock_shared(hashtextextended('plan_versions ' || $1, 0))`

const newestVersion = `SELECT coalesce(max(version), 0) FROM plan_versions WHERE plan = $1`

// Hold keeps a plan as it is until the transaction ends: whoever publishes a
// version waits. Many may hold it at once. The error wraps ErrChanged where a
// version newer than newest is there.
func Hold(ctx context.Context, tx pgx.Tx, plan string, newest int) error {
	if _, err := tx.Exec(ctx, holdPlan, plan); err != nil {
		return fmt.Errorf("hold plan %s: %w", plan, err)
	}
	var there int
	if err := tx.QueryRow(ctx, newestVersion, plan).Scan(&there); err != nil {
		return fmt.Errorf("hold plan %s: %w", plan, err)
	}
	if there > newest {
		return fmt.Errorf("hold plan %s: version %d: %w", plan, there, ErrChanged)
	}
	return nil
}

// follows reports why a plan cannot be the next version: whoever is on it is
// billed in one currency, and keeps only rates that there were.
func (s *Store) follows(ctx context.Context, tx pgx.Tx, next Version, plan *rating.Plan) error {
	rows, err := tx.Query(ctx, versionsOf, next.Plan)
	if err != nil {
		return err
	}
	t := Timeline{store: s, db: tx}
	if t.versions, err = pgx.CollectRows(rows, scan); err != nil {
		return err
	}
	before, ok := t.before(next)
	if !ok {
		if !plan.Grandfathered.IsZero() {
			return fmt.Errorf("%w: none takes effect before %s, so there are no rates to keep", ErrSuccessor, plan.Effective.Format(time.DateOnly))
		}
		return nil
	}
	earlier, err := t.load(ctx, before.Version, plan.Effective)
	if err != nil {
		return err
	}
	if earlier.Currency != plan.Currency {
		return fmt.Errorf("%w: it is in %s, version %d in %s; a plan in another currency is one of another name",
			ErrSuccessor, plan.Currency, before.Version, earlier.Currency)
	}
	if _, err := plan.Grandfather(earlier, plan.Effective); err != nil {
		return fmt.Errorf("%w: %w", ErrSuccessor, err)
	}
	return nil
}
