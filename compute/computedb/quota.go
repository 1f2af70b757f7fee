package computedb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

const insertQuotaSQL = `
	INSERT INTO compute_quotas (tenant, instances, vcpus, memory_mib, disk_mib) VALUES ($1, $2, $3, $4, $5)`

const lockQuotaSQL = `
	SELECT instances, vcpus, memory_mib, disk_mib FROM compute_quotas WHERE tenant = $1 FOR UPDATE`

// lockQuota takes the lock under which all orders of a tenant happen and returns
// its quota, making the row of a new tenant.
func lockQuota(ctx context.Context, tx pgx.Tx, tenant metering.TenantID) (compute.Quota, error) {
	d := compute.DefaultQuota
	_, err := tx.Exec(ctx, insertQuotaSQL+` ON CONFLICT DO NOTHING`,
		tenant, d.Instances, d.VCPUs, d.MemoryMiB, d.DiskMiB)
	if err != nil {
		return compute.Quota{}, fmt.Errorf("quota of %s: %w", tenant, err)
	}
	var q compute.Quota
	err = tx.QueryRow(ctx, lockQuotaSQL, tenant).Scan(&q.Instances, &q.VCPUs, &q.MemoryMiB, &q.DiskMiB)
	if err != nil {
		return compute.Quota{}, fmt.Errorf("quota of %s: %w", tenant, err)
	}
	return q, nil
}

// SetQuota sets a tenant's quota. What exceeds it already stays.
func (s *Store) SetQuota(ctx context.Context, tenant metering.TenantID, q compute.Quota) error {
	_, err := s.pool.Exec(ctx, insertQuotaSQL+`
		ON CONFLICT (tenant) DO UPDATE SET instances = $2, vcpus = $3, memory_mib = $4, disk_mib = $5`,
		tenant, q.Instances, q.VCPUs, q.MemoryMiB, q.DiskMiB)
	if err != nil {
		return fmt.Errorf("set quota of %s: %w", tenant, err)
	}
	return nil
}

// holding is what a tenant has of compute.
type holding struct {
	used    compute.Quota  // all that is not wanted deleted
	running map[string]int // by flavor: what is wanted running, or may still run
}

// What is wanted off or deleted may run until its host has said otherwise.
const holdingSQL = `
	SELECT flavor,
		count(*) FILTER (WHERE desired <> 'deleted'),
		coalesce(sum(vcpus) FILTER (WHERE desired <> 'deleted'), 0),
		coalesce(sum(memory_mib) FILTER (WHERE desired <> 'deleted'), 0)::bigint,
		coalesce(sum(disk_mib) FILTER (WHERE desired <> 'deleted'), 0)::bigint,
		count(*) FILTER (WHERE desired = 'running' OR answered < generation)
	FROM instances
	WHERE tenant = $1 AND state <> 'deleted' AND id <> $2
	GROUP BY flavor`

// held sums up what the tenant has beside the instance except ("": all).
func held(ctx context.Context, tx pgx.Tx, tenant metering.TenantID, except metering.InstanceID) (holding, error) {
	h := holding{running: map[string]int{}}
	var flavor string
	var q compute.Quota
	var running int
	rows, _ := tx.Query(ctx, holdingSQL, tenant, except)
	_, err := pgx.ForEachRow(rows, []any{&flavor, &q.Instances, &q.VCPUs, &q.MemoryMiB, &q.DiskMiB, &running}, func() error {
		h.used.Instances += q.Instances
		h.used.Capacity = h.used.Capacity.Add(q.Capacity)
		if running > 0 {
			h.running[flavor] = running
		}
		return nil
	})
	if err != nil {
		return holding{}, fmt.Errorf("sum up instances of %s: %w", tenant, err)
	}
	return h, nil
}
