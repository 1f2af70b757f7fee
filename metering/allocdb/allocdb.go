// Package allocdb keeps allocations in Postgres: which tenant held what, that
// is billed by holding it, from when to when.
//
// It owns the table allocations. It never opens or closes one by itself: that
// happens inside the transaction of whoever makes, changes or removes the
// resource, so that a resource that exists is billed and one that does not is not.
//
// Invariants:
//   - A resource has at most one open allocation of a meter.
//   - An allocation that is closed never changes; an open one changes only by being closed.
//   - Doing anything twice equals doing it once.
package allocdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/metering"
)

// ErrOpen says that the resource holds another allocation of the meter, which
// is to be closed first.
var ErrOpen = errors.New("another allocation is open")

// Store reads allocations.
type Store struct{ pool *pgxpool.Pool }

// New is a store on a migrated database.
func New(pool *pgxpool.Pool) *Store { return &Store{pool} }

const openSQL = `
INSERT INTO allocations (id, tenant, resource, meter, flavor, image, region, host_class, created, amount, started_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT DO NOTHING`

// same is the allocation that was there already, by id or still open. One of
// before it was known when resources were created is the same.
const sameSQL = `
SELECT tenant = $2 AND flavor = $5 AND image = $6 AND region = $7 AND host_class = $8
    AND created IN ('', $9) AND amount = $10
FROM allocations
WHERE id = $1 OR resource = $3 AND meter = $4 AND ended_at IS NULL
ORDER BY id <> $1
LIMIT 1`

// Open records that a.Tenant holds a.Resource from a.Start on; a.End must be
// zero. Repeating it is harmless, with the same id or another: the first start
// stays. While another amount, tenant or label is held the error wraps ErrOpen.
func Open(ctx context.Context, tx pgx.Tx, a metering.Allocation) error {
	if err := check(a); err != nil {
		return err
	}
	l := a.Labels
	args := []any{a.ID, a.Tenant, a.Resource, a.Meter, l.Flavor, l.Image, l.Region, l.HostClass, l.Created, a.Amount, a.Start.UTC()}
	tag, err := tx.Exec(ctx, openSQL, args...)
	if err != nil {
		return fmt.Errorf("open allocation %s of %s: %w", a.Meter, a.Resource, err)
	}
	if tag.RowsAffected() == 1 {
		return nil
	}
	var same bool
	if err := tx.QueryRow(ctx, sameSQL, args[:10]...).Scan(&same); err != nil {
		return fmt.Errorf("open allocation %s of %s: %w", a.Meter, a.Resource, err)
	}
	if !same {
		return fmt.Errorf("open allocation %s of %s: %w", a.Meter, a.Resource, ErrOpen)
	}
	return nil
}

// check refuses what the tables could not bill.
func check(a metering.Allocation) error {
	if err := metering.CheckID(metering.PrefixAllocation, a.ID); err != nil {
		return fmt.Errorf("allocation of %s: %w", a.Resource, err)
	}
	if _, ok := a.Meter.BaseUnit(); !ok {
		return fmt.Errorf("allocation of %s: there is no meter %q", a.Resource, a.Meter)
	}
	if !a.End.IsZero() {
		return fmt.Errorf("allocation %s of %s: it has an end and cannot be opened", a.Meter, a.Resource)
	}
	return nil
}

const closeSQL = `
UPDATE allocations
SET ended_at = greatest($3, started_at)
WHERE resource = $1 AND meter = $2 AND ended_at IS NULL`

// Close records that the resource's allocation of the meter was held until at;
// where at is before its start, that it was not held at all. Without an open
// one it does nothing.
func Close(ctx context.Context, tx pgx.Tx, resource metering.ResourceID, meter metering.Meter, at time.Time) error {
	if _, err := tx.Exec(ctx, closeSQL, resource, meter, at.UTC()); err != nil {
		return fmt.Errorf("close allocation %s of %s: %w", meter, resource, err)
	}
	return nil
}

const closeAllSQL = `
UPDATE allocations
SET ended_at = greatest($2, started_at)
WHERE resource = $1 AND ended_at IS NULL`

// CloseAll is Close for every meter of a resource that is removed.
func CloseAll(ctx context.Context, tx pgx.Tx, resource metering.ResourceID, at time.Time) error {
	if _, err := tx.Exec(ctx, closeAllSQL, resource, at.UTC()); err != nil {
		return fmt.Errorf("close all allocations of %s: %w", resource, err)
	}
	return nil
}

const ofTenantSQL = `
SELECT id, tenant, resource, meter, flavor, image, region, host_class, created, amount, started_at, ended_at
FROM allocations
WHERE tenant = $1 AND started_at < $3 AND (ended_at IS NULL OR ended_at > $2)
ORDER BY started_at, id`

// OfTenant returns the tenant's allocations that were held at some time in the
// window, by start. Their ends may lie outside it, and an open one has none.
func (s *Store) OfTenant(ctx context.Context, tenant metering.TenantID, window metering.Window) ([]metering.Allocation, error) {
	rows, err := s.pool.Query(ctx, ofTenantSQL, tenant, window.Start.UTC(), window.End.UTC())
	if err != nil {
		return nil, fmt.Errorf("allocations of %s in %s: %w", tenant, window, err)
	}
	all, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("allocations of %s in %s: %w", tenant, window, err)
	}
	return all, nil
}

const ofTenantsSQL = `
SELECT id, tenant, resource, meter, flavor, image, region, host_class, created, amount, started_at, ended_at
FROM allocations
WHERE tenant = ANY ($1) AND started_at < $3 AND (ended_at IS NULL OR ended_at > $2)
ORDER BY tenant, started_at, id`

// OfTenants is OfTenant for many tenants in one query, by tenant.
func (s *Store) OfTenants(ctx context.Context, tenants []metering.TenantID, window metering.Window) ([]metering.Allocation, error) {
	rows, err := s.pool.Query(ctx, ofTenantsSQL, tenants, window.Start.UTC(), window.End.UTC())
	if err != nil {
		return nil, fmt.Errorf("allocations of %d tenants in %s: %w", len(tenants), window, err)
	}
	all, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("allocations of %d tenants in %s: %w", len(tenants), window, err)
	}
	return all, nil
}

const heldSQL = `
SELECT id, tenant, resource, meter, flavor, image, region, host_class, created, amount, started_at, ended_at
FROM allocations
WHERE meter = $1 AND ended_at IS NULL
ORDER BY id`

// Held returns the open allocations of a meter, of all tenants, by id.
func (s *Store) Held(ctx context.Context, meter metering.Meter) ([]metering.Allocation, error) {
	rows, err := s.pool.Query(ctx, heldSQL, meter)
	if err != nil {
		return nil, fmt.Errorf("open allocations of %s: %w", meter, err)
	}
	all, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("open allocations of %s: %w", meter, err)
	}
	return all, nil
}

func scan(row pgx.CollectableRow) (a metering.Allocation, err error) {
	var end *time.Time
	l := &a.Labels
	err = row.Scan(&a.ID, &a.Tenant, &a.Resource, &a.Meter, &l.Flavor, &l.Image, &l.Region, &l.HostClass, &l.Created, &a.Amount, &a.Start, &end)
	a.Start = a.Start.UTC()
	if end != nil {
		a.End = end.UTC()
	}
	return a, err
}
