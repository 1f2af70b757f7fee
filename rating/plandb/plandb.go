// Package plandb stores versions of price plans in Postgres.
//
// It owns the tables plan_versions. It never changes or deletes a version: a
// correction is a later version.
//
// Invariants:
//   - A version's source, once published, is the same forever, so an invoice
//     can be rated again from what it names.
//   - Versions of a plan rise from 1 without gaps, and no two take effect on
//     the same day.
package plandb

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/rating"
)

// ErrNotFound is wrapped where a plan, or a version in force on a day, does not exist.
var ErrNotFound = errors.New("no such plan")

// Version is one published version of a plan.
type Version struct {
	Plan      string
	Version   int
	Effective time.Time // midnight UTC of the day it takes effect
	Published time.Time
	Source    []byte // the YAML text
}

// Store reads and writes plan versions. It may be used by many goroutines.
type Store struct{ pool *pgxpool.Pool }

// New makes a store over a migrated database.
func New(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// Publish stores the next version of the plan in source. Check, where not nil,
// sees the plan and the version it follows inside the transaction (nil for a
// first one) and may refuse. A plan equal to the last version is not stored
// again.
func (s *Store) Publish(ctx context.Context, name string, source []byte, now time.Time, check func(next, last *rating.Plan) error) (Version, error) {
	panic("not yet")
}

// InForce is the version of a plan for a period that begins on the day of
// periodStart in the plan's zone: the one with the latest effective day not
// after it. The error wraps ErrNotFound.
func (s *Store) InForce(ctx context.Context, plan string, periodStart time.Time) (*rating.Plan, int, error) {
	panic("not yet")
}

// Load is one version of a plan, parsed. The error wraps ErrNotFound.
func (s *Store) Load(ctx context.Context, plan string, version int) (*rating.Plan, error) {
	panic("not yet")
}

// List are all versions of all plans without their sources, by plan and version.
func (s *Store) List(ctx context.Context) ([]Version, error) { panic("not yet") }

// Show is one version of a plan with its source; version 0 is the latest. The
// error wraps ErrNotFound.
func (s *Store) Show(ctx context.Context, plan string, version int) (Version, error) {
	panic("not yet")
}
