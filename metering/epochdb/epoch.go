package epochdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/metering"
)

// ErrDifferent says that an epoch is registered with another record.
var ErrDifferent = errors.New("the epoch is registered with another record")

const registerSQL = `
INSERT INTO epochs (id, tenant, instance, host, lease, start, opened_at, opening, flavor, image, region, host_class, created)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (id) DO NOTHING`

// Register makes the records durable, all or none. One that is there already
// is harmless; if it differs the error wraps ErrDifferent and names the epoch
// and the field.
func (s *Store) Register(ctx context.Context, epochs []metering.EpochRecord) error {
	// In one order, lest two hosts' calls wait for each other.
	sorted := slices.SortedFunc(slices.Values(epochs), func(a, b metering.EpochRecord) int { return cmp.Compare(a.ID, b.ID) })
	var batch pgx.Batch
	ids := make([]metering.EpochID, len(sorted))
	for i, e := range sorted {
		if err := metering.CheckRegisters(e.Opening); err != nil {
			return fmt.Errorf("register epoch %s: opening reading: %w", e.ID, err)
		}
		ids[i] = e.ID
		l := e.Labels
		batch.Queue(registerSQL, e.ID, e.Tenant, e.Instance, e.Host, e.Lease, e.Start, e.Opened.UTC(), column(e.Opening),
			l.Flavor, l.Image, l.Region, l.HostClass, l.Created)
	}
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return fmt.Errorf("register %d epochs: %w", len(sorted), err)
		}
		known, err := find(ctx, tx, ids)
		if err != nil {
			return err
		}
		for _, e := range sorted {
			if field := difference(known[e.ID], e); field != "" {
				return fmt.Errorf("register epoch %s: %w: its %s differs", e.ID, ErrDifferent, field)
			}
		}
		return nil
	})
}

// difference names the first field in which a record that is kept differs from
// another, "" if none.
func difference(a, b metering.EpochRecord) string {
	if a.Labels.Created == "" {
		b.Labels.Created = "" // the kept one is of before it was known
	}
	switch {
	case a.Tenant != b.Tenant:
		return "tenant"
	case a.Instance != b.Instance:
		return "instance"
	case a.Host != b.Host:
		return "host"
	case a.Lease != b.Lease:
		return "lease"
	case a.Start != b.Start:
		return "start"
	case !a.Opened.Equal(b.Opened):
		return "opening time"
	case a.Opening != b.Opening:
		return "opening reading"
	case a.Labels != b.Labels:
		return "labels"
	}
	return ""
}

const selectSQL = `
SELECT e.id, e.tenant, e.instance, e.host, e.lease, e.start, e.opened_at, e.opening, e.flavor, e.image, e.region, e.host_class, e.created,
    v.from_at, v.cap, v.next, n.opened_at, n.opening
FROM epochs e LEFT JOIN voids v ON v.epoch = e.id LEFT JOIN epochs n ON n.id = v.next `

const knownSQL = selectSQL + `WHERE e.id = ANY ($1)`

// Known returns the records of those epochs that are registered.
func (s *Store) Known(ctx context.Context, ids []metering.EpochID) (map[metering.EpochID]metering.EpochRecord, error) {
	return find(ctx, s.pool, ids)
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}

func find(ctx context.Context, db querier, ids []metering.EpochID) (map[metering.EpochID]metering.EpochRecord, error) {
	epochs, err := collect(ctx, db, knownSQL, ids)
	if err != nil {
		return nil, fmt.Errorf("read %d epochs: %w", len(ids), err)
	}
	known := make(map[metering.EpochID]metering.EpochRecord, len(epochs))
	for _, e := range epochs {
		known[e.ID] = e
	}
	return known, nil
}

const ofTenantsSQL = selectSQL + `WHERE e.tenant = ANY ($1) ORDER BY e.tenant, e.id`

// OfTenant returns all epochs of a tenant, by id.
func (s *Store) OfTenant(ctx context.Context, tenant metering.TenantID) ([]metering.EpochRecord, error) {
	return s.OfTenants(ctx, []metering.TenantID{tenant})
}

// OfTenants returns all epochs of the tenants, by tenant and id.
func (s *Store) OfTenants(ctx context.Context, tenants []metering.TenantID) ([]metering.EpochRecord, error) {
	epochs, err := collect(ctx, s.pool, ofTenantsSQL, tenants)
	if err != nil {
		return nil, fmt.Errorf("epochs of %d tenants: %w", len(tenants), err)
	}
	return epochs, nil
}

const ofHostSQL = selectSQL + `WHERE e.host = $1 ORDER BY e.first_seen DESC, e.id LIMIT $2`

// OfHost returns the host's limit epochs that were registered last, newest
// first, for an agent that lost its state.
func (s *Store) OfHost(ctx context.Context, host metering.HostID, limit int) ([]metering.EpochRecord, error) {
	epochs, err := collect(ctx, s.pool, ofHostSQL, host, limit)
	if err != nil {
		return nil, fmt.Errorf("epochs of %s: %w", host, err)
	}
	return epochs, nil
}

// FirstOpened is when the first of all epochs opened: no reading is earlier. ok is
// false when there is no epoch.
func (s *Store) FirstOpened(ctx context.Context) (at time.Time, ok bool, err error) {
	var first *time.Time
	if err := s.pool.QueryRow(ctx, `SELECT min(opened_at) FROM epochs`).Scan(&first); err != nil {
		return at, false, fmt.Errorf("first epoch: %w", err)
	}
	if first == nil {
		return at, false, nil
	}
	return first.UTC(), true, nil
}

const pageSQL = selectSQL + `WHERE e.id > $1 ORDER BY e.id LIMIT $2`

// Page returns the next limit epochs of all tenants by id, after the given one;
// "" is before the first. Fewer than limit are the last.
func (s *Store) Page(ctx context.Context, after metering.EpochID, limit int) ([]metering.EpochRecord, error) {
	epochs, err := collect(ctx, s.pool, pageSQL, after, limit)
	if err != nil {
		return nil, fmt.Errorf("epochs after %q: %w", after, err)
	}
	return epochs, nil
}

func collect(ctx context.Context, db querier, query string, args ...any) ([]metering.EpochRecord, error) {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanEpoch)
}

func scanEpoch(row pgx.CollectableRow) (e metering.EpochRecord, err error) {
	var opening, limit, nextOpening []int64
	var from, nextOpened *time.Time
	var next *metering.EpochID
	l := &e.Labels
	if err := row.Scan(&e.ID, &e.Tenant, &e.Instance, &e.Host, &e.Lease, &e.Start, &e.Opened, &opening,
		&l.Flavor, &l.Image, &l.Region, &l.HostClass, &l.Created, &from, &limit, &next, &nextOpened, &nextOpening); err != nil {
		return e, err
	}
	e.Opened = e.Opened.UTC()
	if e.Opening, err = registers(opening); err != nil {
		return e, fmt.Errorf("epoch %s: %w", e.ID, err)
	}
	if next == nil {
		return e, nil
	}
	e.Void = &metering.Void{From: from.UTC(), Next: *next, NextOpened: nextOpened.UTC()}
	if e.Void.Cap, err = registers(limit); err != nil {
		return e, fmt.Errorf("void of epoch %s: %w", e.ID, err)
	}
	// A register that was introduced since was 0 throughout, and is not capped.
	for i := len(limit); i < len(e.Void.Cap); i++ {
		e.Void.Cap[i] = math.MaxInt64
	}
	if e.Void.NextOpening, err = registers(nextOpening); err != nil {
		return e, fmt.Errorf("epoch %s: %w", *next, err)
	}
	return e, nil
}
