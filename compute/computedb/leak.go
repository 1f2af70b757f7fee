package computedb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// maxStrays is how many instances without a lease are kept of a host's report;
// more are left out, and found when those are dealt with.
const maxStrays = 1000

const placedSQL = `SELECT ` + instanceColumns + `
	FROM leases l JOIN instances i ON i.id = l.instance
	WHERE l.ended_at IS NULL AND l.successor IS NULL
	ORDER BY i.id`

// Placed returns every instance with an open lease, of all tenants.
func (s *Store) Placed(ctx context.Context) ([]compute.Instance, error) {
	rows, _ := s.pool.Query(ctx, placedSQL)
	all, err := pgx.CollectRows(rows, scanInstance)
	if err != nil {
		return nil, fmt.Errorf("placed instances: %w", err)
	}
	return all, nil
}

const straysSQL = `
	SELECT h.id, o.value, coalesce(i.tenant, ''), coalesce(i.flavor, '')
	FROM hosts h
		CROSS JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(h.report->'instances') WHEN 'array' THEN h.report->'instances' ELSE '[]' END) o
		LEFT JOIN instances i ON i.id = o.value->>'id'
	WHERE h.seen_at >= $1 AND h.removed_at IS NULL
	ORDER BY h.id, o.value->>'id'`

// Strays returns the instances that hosts heard from since then have and that
// are not placed there, at most 1000 of each host.
func (s *Store) Strays(ctx context.Context, since time.Time) ([]compute.Stray, error) {
	rows, _ := s.pool.Query(ctx, straysSQL, since)
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (stray compute.Stray, err error) {
		err = row.Scan(&stray.Host, &stray.Observation, &stray.Tenant, &stray.Flavor)
		return stray, err
	})
	if err != nil {
		return nil, fmt.Errorf("instances without a lease: %w", err)
	}
	return all, nil
}

// Leak is a leak as it is kept.
type Leak struct {
	compute.Leak
	ID        int64  // rises with the time it was found at
	Hourly    *int64 // estimated cost of an hour in minor units; nil when it cannot be said
	Currency  string // of Hourly
	Opened    time.Time
	Closed    time.Time // zero while it is open
	ClosedWhy string
}

// The first finding stays what it is since when; what it costs and its detail follow.
const foundLeakSQL = `
	INSERT INTO leaks (kind, subject, tenant, host, since, detail, hourly_minor, currency, found_at, opened_at)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $10 = interval '0' THEN $9::timestamptz END)
	ON CONFLICT (kind, subject) WHERE closed_at IS NULL DO UPDATE
	SET detail = excluded.detail, hourly_minor = excluded.hourly_minor, currency = excluded.currency,
		opened_at = CASE WHEN leaks.found_at + $10 <= $9 THEN coalesce(leaks.opened_at, greatest($9, leaks.found_at)) ELSE leaks.opened_at END`

const (
	pendingLeaksSQL = `SELECT id, kind, subject, opened_at IS NOT NULL FROM leaks WHERE closed_at IS NULL AND kind = ANY ($1)`
	passedLeaksSQL  = `DELETE FROM leaks WHERE id = ANY ($1) AND opened_at IS NULL`
	closeLeakSQL    = `UPDATE leaks SET closed_at = greatest($2, opened_at), closed_why = $3 WHERE id = $1 AND closed_at IS NULL AND opened_at IS NOT NULL`
)

// SaveLeaks makes the open leaks of some kinds what was found now: a new one is a
// suspicion until it has lasted as long as its kind is to be confirmed, one that is
// no longer found is closed with the reason why gives; "" leaves it open. Repeating it is harmless. It
// returns how many leaks of these kinds are open.
func (s *Store) SaveLeaks(ctx context.Context, kinds []compute.LeakKind, found []Leak, why func(compute.LeakKind, string) string, now time.Time) (open int, err error) {
	type key struct {
		kind    compute.LeakKind
		subject string
	}
	now = now.UTC().Truncate(time.Microsecond)
	var batch pgx.Batch
	still := map[key]bool{}
	for _, l := range found {
		still[key{l.Kind, l.Subject}] = true
		batch.Queue(foundLeakSQL, l.Kind, l.Subject, l.Tenant, l.Host, l.Since.UTC(), l.Detail, l.Hourly, l.Currency, now, l.Kind.Confirm())
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, pendingLeaksSQL, kinds)
		var passed []int64
		var closing pgx.Batch
		var id int64
		var k key
		var opened bool
		_, err := pgx.ForEachRow(rows, []any{&id, &k.kind, &k.subject, &opened}, func() error {
			switch {
			case still[k] && opened:
				open++
			case still[k]:
			case opened:
				if reason := why(k.kind, k.subject); reason != "" {
					closing.Queue(closeLeakSQL, id, now, reason)
				}
			default:
				passed = append(passed, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, passedLeaksSQL, passed); err != nil {
			return err
		}
		return tx.SendBatch(ctx, &closing).Close()
	})
	if err != nil {
		return 0, fmt.Errorf("save %d leaks: %w", len(found), err)
	}
	return open, nil
}

const pastLeakSQL = `
	INSERT INTO leaks (kind, subject, tenant, host, since, detail, found_at, opened_at, closed_at, closed_why)
	SELECT $1, $2, $3, $4, $5, $6, $7, $7, $7, $8
	WHERE NOT EXISTS (SELECT FROM leaks WHERE kind = $1 AND subject = $2 AND since = $5)`

// SavePastLeaks notes leaks that were over when they were found, each with why
// in ClosedWhy. One that is noted already, by kind, subject and since, stays as it is.
func (s *Store) SavePastLeaks(ctx context.Context, found []Leak, now time.Time) error {
	var batch pgx.Batch
	for _, l := range found {
		batch.Queue(pastLeakSQL, l.Kind, l.Subject, l.Tenant, l.Host, l.Since.UTC(), l.Detail, now.UTC(), l.ClosedWhy)
	}
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("save %d past leaks: %w", len(found), err)
	}
	return nil
}

const leaksSQL = `
	SELECT id, kind, subject, tenant, host, since, detail, hourly_minor, currency, opened_at, closed_at, closed_why
	FROM leaks
	WHERE opened_at IS NOT NULL AND ($1 = '' OR kind = $1) AND ($2 OR closed_at IS NULL) AND ($3 = 0 OR id < $3)
	ORDER BY id DESC LIMIT $4`

// Leaks returns the next limit leaks of a kind ("": of all), newest first, that
// were found before the one with the given id (0: from the newest): open ones, or
// closed ones too.
func (s *Store) Leaks(ctx context.Context, kind compute.LeakKind, closed bool, before int64, limit int) ([]Leak, error) {
	rows, _ := s.pool.Query(ctx, leaksSQL, kind, closed, before, limit)
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Leak, err error) {
		var end *time.Time
		err = row.Scan(&l.ID, &l.Kind, &l.Subject, &l.Tenant, &l.Host, &l.Since, &l.Detail, &l.Hourly, &l.Currency, &l.Opened, &end, &l.ClosedWhy)
		l.Since, l.Opened = l.Since.UTC(), l.Opened.UTC()
		if end != nil {
			l.Closed = end.UTC()
		}
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("leaks: %w", err)
	}
	return all, nil
}

// LeakSum is how many leaks of a kind are open, of those that cost in one currency.
type LeakSum struct {
	Kind        compute.LeakKind
	Currency    string // "": what they cost cannot be said
	Count       int64
	HourlyMinor int64 // estimated cost of an hour of all of them
}

const leakSumsSQL = `
	SELECT kind, currency, count(*), coalesce(sum(hourly_minor), 0)::bigint
	FROM leaks WHERE opened_at IS NOT NULL AND closed_at IS NULL
	GROUP BY kind, currency ORDER BY kind, currency`

// LeakSums sums up the open leaks.
func (s *Store) LeakSums(ctx context.Context) ([]LeakSum, error) {
	rows, _ := s.pool.Query(ctx, leakSumsSQL)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[LeakSum])
	if err != nil {
		return nil, fmt.Errorf("sum up leaks: %w", err)
	}
	return all, nil
}

// strays are those of a report that are not among the instances of its host.
func strays(said map[metering.InstanceID]compute.Observation, placed []compute.Instance) []compute.Observation {
	here := make(map[metering.InstanceID]bool, len(placed))
	for _, i := range placed {
		here[i.ID] = true
	}
	var all []compute.Observation
	for id, o := range said {
		gone := o.State == compute.StateDeleted || o.State == compute.StateReleased
		if !here[id] && !gone && len(all) < maxStrays {
			all = append(all, o)
		}
	}
	return all
}
