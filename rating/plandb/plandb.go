// Package plandb stores versions of price plans in Postgres.
//
// It owns the table plan_versions. It never changes or deletes a version: a
// correction is a later version.
//
// Invariants:
//   - A version's source, once published, is the same forever, so an invoice
//     can be rated again from what it names.
//   - Versions of a plan rise from 1 without gaps. Of several that take effect
//     at one instant the latest is in force.
//   - What a version takes over from never changes: it is among those published
//     before it. So a version with what it keeps is the same forever, too.
//   - Whoever publishes waits for those who hold the plan, and the other way round.
package plandb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/planfile"
)

// ErrNotFound is wrapped where a plan, or a version of it in force at an
// instant, does not exist.
var ErrNotFound = errors.New("no such price plan")

// ErrNoDate is wrapped where a plan without an effective date is published.
var ErrNoDate = errors.New("the plan does not say when it takes effect")

// ErrSuccessor is wrapped where a plan cannot follow the versions before it.
var ErrSuccessor = errors.New("the plan cannot follow the versions before it")

// Version is one published version of a plan.
type Version struct {
	Plan      string
	Version   int
	Effective time.Time // midnight in the plan's zone
	MidPeriod bool      // takes effect within a running period
	Published time.Time
	Source    []byte // the YAML text; List leaves it away
}

// Store reads and writes plan versions. It may be used by many goroutines.
type Store struct {
	pool *pgxpool.Pool

	mu    sync.Mutex
	plans map[key]*rating.Plan // versions never change, so none ever leaves
}

// key names a version, or a version with what it grandfathers in periods that
// begin at an instant, in seconds since 1970.
type key struct {
	plan    string
	version int
	start   int64 // 0 for the version alone
}

// New makes a store over a migrated database.
func New(pool *pgxpool.Pool) *Store {
	return &Store{pool: pool, plans: make(map[key]*rating.Plan)}
}

const lockPlan = `SELECT pg_advisory_xact_lock(hashtextextended('plan_versions ' || $1, 0))`

const latestVersion = `
SELECT plan, version, effective_at, mid_period, published_at, source
FROM plan_versions
WHERE plan = $1
ORDER BY version DESC
LIMIT 1`

const insertVersion = `
INSERT INTO plan_versions (plan, version, effective_at, mid_period, source, published_at)
VALUES ($1, $2, $3, $4, $5, $6)`

// Check may refuse a plan that is about to be published. last is the latest
// version before it, nil for a first one. Others wait for the transaction, so
// nothing is read but through it.
type Check func(ctx context.Context, tx pgx.Tx, next, last *rating.Plan) error

// Publish stores the plan in source as the next version of its name; name is
// the file's, for errors. Check, where not nil, sees the plan while no other can
// be published. A source equal to the latest version's is not stored again. The
// error wraps ErrNoDate, or ErrSuccessor where the versions of one name would not
// be of one currency, or what is grandfathered does not exist.
func (s *Store) Publish(ctx context.Context, name string, source []byte, now time.Time, check Check) (Version, error) {
	plan, _, err := planfile.Parse(name, source)
	if err != nil {
		return Version{}, err
	}
	if plan.Effective.IsZero() {
		return Version{}, fmt.Errorf("%s: %w; effective: 2026-12-01 would", name, ErrNoDate)
	}
	next := Version{Plan: plan.Name, Version: 1, Effective: plan.Effective.UTC(), MidPeriod: plan.MidPeriod, Published: now.UTC(), Source: source}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockPlan, plan.Name); err != nil {
			return err
		}
		last, err := one(ctx, tx, latestVersion, plan.Name)
		known := !errors.Is(err, ErrNotFound)
		if known && err != nil {
			return err
		}
		if known && bytes.Equal(last.Source, source) {
			next = last
			return nil
		}
		var before *rating.Plan
		if known {
			next.Version = last.Version + 1
			if before, err = s.parsed(last); err != nil {
				return err
			}
		}
		if err := s.follows(ctx, tx, next, plan); err != nil {
			return err
		}
		if check != nil {
			if err := check(ctx, tx, plan, before); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, insertVersion, next.Plan, next.Version, next.Effective, next.MidPeriod, next.Source, next.Published)
		return err
	})
	if err != nil {
		return Version{}, fmt.Errorf("publish plan %s: %w", plan.Name, err)
	}
	return next, nil
}

// InForce is the version of a plan for a period that begins at periodStart: the
// latest that takes effect on that day, in the plan's zone, or before. The
// error wraps ErrNotFound.
func (s *Store) InForce(ctx context.Context, plan string, periodStart time.Time) (*rating.Plan, int, error) {
	t, err := s.Timeline(ctx, plan)
	if err != nil {
		return nil, 0, err
	}
	parts, err := t.Parts(ctx, metering.Window{Start: periodStart, End: periodStart}, 0, 0)
	if err != nil {
		return nil, 0, err
	}
	return parts[0].Plan, parts[0].Version, nil
}

const oneVersion = `
SELECT plan, version, effective_at, mid_period, published_at, source
FROM plan_versions
WHERE plan = $1 AND version = $2`

// Load is one version of a plan as it was published, parsed. The error wraps
// ErrNotFound.
func (s *Store) Load(ctx context.Context, plan string, version int) (*rating.Plan, error) {
	return s.load(ctx, s.pool, plan, version)
}

func (s *Store) load(ctx context.Context, db querier, plan string, version int) (*rating.Plan, error) {
	if p := s.cached(key{plan, version, 0}); p != nil {
		return p, nil
	}
	v, err := one(ctx, db, oneVersion, plan, version)
	if err != nil {
		return nil, fmt.Errorf("plan %s version %d: %w", plan, version, err)
	}
	return s.parsed(v)
}

// Show is one version of a plan with its source; version 0 is the latest. The
// error wraps ErrNotFound.
func (s *Store) Show(ctx context.Context, plan string, version int) (Version, error) {
	var v Version
	var err error
	if version == 0 {
		v, err = one(ctx, s.pool, latestVersion, plan)
	} else {
		v, err = one(ctx, s.pool, oneVersion, plan, version)
	}
	if err != nil {
		return Version{}, fmt.Errorf("plan %s version %d: %w", plan, version, err)
	}
	return v, nil
}

const listVersions = `
SELECT plan, version, effective_at, mid_period, published_at, ''::bytea AS source
FROM plan_versions
ORDER BY plan, version`

// List are all versions of all plans without their sources, by plan and version.
func (s *Store) List(ctx context.Context) ([]Version, error) {
	rows, err := s.pool.Query(ctx, listVersions)
	if err != nil {
		return nil, fmt.Errorf("list price plans: %w", err)
	}
	list, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("list price plans: %w", err)
	}
	return list, nil
}

// parsed is the plan of a version; all who ask get the same.
func (s *Store) parsed(v Version) (*rating.Plan, error) {
	k := key{v.Plan, v.Version, 0}
	if p := s.cached(k); p != nil {
		return p, nil
	}
	p, _, err := planfile.Parse(fmt.Sprintf("%s version %d", v.Plan, v.Version), v.Source)
	if err != nil {
		return nil, err
	}
	return s.keep(k, p), nil
}

func (s *Store) cached(k key) *rating.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plans[k]
}

// keep remembers a plan, and gives what is to be used: the first that was kept.
func (s *Store) keep(k key, p *rating.Plan) *rating.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.plans[k]; first != nil {
		return first
	}
	s.plans[k] = p
	return p
}

// querier is what a pool and a transaction have in common.
type querier interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}

func one(ctx context.Context, db querier, query string, args ...any) (Version, error) {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return Version{}, err
	}
	v, err := pgx.CollectExactlyOneRow(rows, scan)
	if errors.Is(err, pgx.ErrNoRows) {
		return Version{}, ErrNotFound
	}
	return v, err
}

func scan(row pgx.CollectableRow) (Version, error) {
	var v Version
	err := row.Scan(&v.Plan, &v.Version, &v.Effective, &v.MidPeriod, &v.Published, &v.Source)
	v.Effective, v.Published = v.Effective.UTC(), v.Published.UTC()
	if len(v.Source) == 0 {
		v.Source = nil
	}
	return v, err
}
