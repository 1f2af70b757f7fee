package computedb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// maxPage is the most instances that List returns; a larger limit is lowered to it.
const maxPage = 1000

// instanceColumns are read by scanInstance; i is instances, l its newest lease, if in force.
const instanceColumns = `i.id, i.tenant, i.name, i.flavor, i.image, i.desired, i.reason, i.generation, i.start,
	coalesce(l.host, ''), coalesce(l.no, 0), coalesce((
		SELECT min(r.no) FROM leases r WHERE r.instance = i.id AND r.ended_at IS NULL AND r.successor IS NOT NULL), l.no, 0),
	coalesce(i.moves_to, ''), i.answered, i.state, i.since, i.error, i.address, i.created_at`

const fromInstances = ` FROM instances i LEFT JOIN leases l ON l.instance = i.id AND l.ended_at IS NULL AND l.successor IS NULL `

func scanInstance(row pgx.CollectableRow) (compute.Instance, error) {
	var i compute.Instance
	err := row.Scan(&i.ID, &i.Tenant, &i.Name, &i.Flavor, &i.Image, &i.Desired, &i.Reason, &i.Generation, &i.Start,
		&i.Host, &i.Lease, &i.Under, &i.MovesTo, &i.Answered, &i.State, &i.Since, &i.Error, &i.Address, &i.Created)
	i.Since, i.Created = i.Since.UTC(), i.Created.UTC()
	return i, err
}

const getSQL = `SELECT ` + instanceColumns + fromInstances + `WHERE i.id = $1 AND i.tenant = $2`

// Get returns an instance, also a deleted one. The error wraps
// compute.ErrNotFound when it does not exist or is another tenant's.
func (s *Store) Get(ctx context.Context, tenant metering.TenantID, id metering.InstanceID) (compute.Instance, error) {
	return get(ctx, s.pool, tenant, id)
}

// Owner is the tenant of an instance, for orders of the operator. The error wraps
// compute.ErrNotFound.
func (s *Store) Owner(ctx context.Context, id metering.InstanceID) (tenant metering.TenantID, err error) {
	err = s.pool.QueryRow(ctx, `SELECT tenant FROM instances WHERE id = $1`, id).Scan(&tenant)
	if errors.Is(err, pgx.ErrNoRows) {
		err = compute.ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("instance %s: %w", id, err)
	}
	return tenant, nil
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func get(ctx context.Context, q querier, tenant metering.TenantID, id metering.InstanceID) (compute.Instance, error) {
	rows, _ := q.Query(ctx, getSQL, id, tenant)
	in, err := pgx.CollectExactlyOneRow(rows, scanInstance)
	if errors.Is(err, pgx.ErrNoRows) {
		err = compute.ErrNotFound
	}
	if err != nil {
		return compute.Instance{}, fmt.Errorf("instance %s: %w", id, err)
	}
	return in, nil
}

const listSQL = `SELECT ` + instanceColumns + fromInstances + `
	WHERE i.tenant = $1 AND i.state <> 'deleted'
	ORDER BY i.created_at DESC, i.id DESC LIMIT $2`

const listAfterSQL = `SELECT ` + instanceColumns + fromInstances + `
	WHERE i.tenant = $1 AND i.state <> 'deleted'
		AND (i.created_at, i.id) < (SELECT a.created_at, a.id FROM instances a WHERE a.id = $3 AND a.tenant = $1)
	ORDER BY i.created_at DESC, i.id DESC LIMIT $2`

// List returns the tenant's instances that are not deleted, newest first: at
// most limit (1 to 1000) that follow the instance after ("": from the newest).
// An instance that does not exist is followed by none.
func (s *Store) List(ctx context.Context, tenant metering.TenantID, after metering.InstanceID, limit int) ([]compute.Instance, error) {
	limit = min(max(limit, 1), maxPage)
	var rows pgx.Rows
	if after == "" {
		rows, _ = s.pool.Query(ctx, listSQL, tenant, limit)
	} else {
		rows, _ = s.pool.Query(ctx, listAfterSQL, tenant, limit, after)
	}
	list, err := pgx.CollectRows(rows, scanInstance)
	if err != nil {
		return nil, fmt.Errorf("list instances of %s: %w", tenant, err)
	}
	return list, nil
}

const leasesSQL = `
	SELECT l.instance, l.no, l.host, l.tenant, l.flavor, l.image, i.created_at, l.granted_at, l.ended_at
	FROM unnest($1::text[], $2::bigint[]) AS k (instance, no) JOIN leases l USING (instance, no) JOIN instances i ON i.id = l.instance`

// Leases returns those of the leases that were ever granted.
func (s *Store) Leases(ctx context.Context, keys []compute.LeaseKey) (map[compute.LeaseKey]compute.Lease, error) {
	instances := make([]string, len(keys))
	numbers := make([]int64, len(keys))
	for i, k := range keys {
		instances[i], numbers[i] = string(k.Instance), int64(k.No)
	}
	found := make(map[compute.LeaseKey]compute.Lease, len(keys))
	var l compute.Lease
	var ended *time.Time
	rows, _ := s.pool.Query(ctx, leasesSQL, instances, numbers)
	_, err := pgx.ForEachRow(rows, []any{&l.Instance, &l.No, &l.Host, &l.Tenant, &l.Flavor, &l.Image, &l.Created, &l.Granted, &ended},
		func() error {
			l.Created, l.Granted, l.Ended = l.Created.UTC(), l.Granted.UTC(), time.Time{}
			if ended != nil {
				l.Ended = ended.UTC()
			}
			found[compute.LeaseKey{Instance: l.Instance, No: l.No}] = l
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("read %d leases: %w", len(keys), err)
	}
	return found, nil
}

// Lease returns one lease; the error wraps compute.ErrNotFound when it was
// never granted.
func (s *Store) Lease(ctx context.Context, instance metering.InstanceID, no metering.LeaseNo) (compute.Lease, error) {
	key := compute.LeaseKey{Instance: instance, No: no}
	found, err := s.Leases(ctx, []compute.LeaseKey{key})
	if err != nil {
		return compute.Lease{}, err
	}
	l, ok := found[key]
	if !ok {
		return compute.Lease{}, fmt.Errorf("lease %d of %s: %w", no, instance, compute.ErrNotFound)
	}
	return l, nil
}
