package computedb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
)

// orderSince is the version of the protocol that knows resizes of running
// instances and releases.
const orderSince = 2

// Resize orders that an instance be of the flavor from now on: admission,
// capacity on its present host, and a new lease there in one transaction. The
// same flavor changes nothing. What is wanted running needs credit for the new
// flavor beside all that runs, the instance as it is included; what is off is
// asked for credit when it is started. The error wraps what
// compute.Instance.Resize refuses, compute.ErrNotFound, ErrNoFlavor, ErrQuota,
// ErrNoCapacity (it is not moved for it) or ErrOldAgent, or is what Credit said.
func (s *Store) Resize(ctx context.Context, tenant metering.TenantID, id metering.InstanceID, flavor string) (compute.Instance, error) {
	next, err := s.resize(ctx, tenant, id, flavor)
	if err != nil {
		return compute.Instance{}, fmt.Errorf("resize instance %s to %q: %w", id, flavor, err)
	}
	return next, nil
}

func (s *Store) resize(ctx context.Context, tenant metering.TenantID, id metering.InstanceID, flavor string) (next compute.Instance, err error) {
	if _, err := s.Get(ctx, tenant, id); err != nil { // a stranger's is missing, whatever the flavor
		return next, err
	}
	to, err := s.Flavor(ctx, tenant, flavor)
	if err != nil {
		return next, err
	}
	if err := to.Check(); err != nil {
		return next, err
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		quota, err := lockQuota(ctx, tx, tenant)
		if err != nil {
			return err
		}
		in, err := lockInstance(ctx, tx, tenant, id)
		if err != nil {
			return err
		}
		from, err := flavorOf(ctx, tx, id)
		if err != nil {
			return err
		}
		var changed bool
		if next, changed, err = in.Resize(from, to); err != nil || !changed {
			return err
		}
		if err := s.admitResize(ctx, tx, quota, next, from, to); err != nil {
			return err
		}
		return relet(ctx, tx, in, next, to, s.now())
	})
	return next, err
}

// admitResize checks quota, credit and the host for the instance as it will be.
func (s *Store) admitResize(ctx context.Context, tx pgx.Tx, quota compute.Quota, next compute.Instance, from, to compute.Flavor) error {
	all, err := held(ctx, tx, next.Tenant, "")
	if err != nil {
		return err
	}
	if err := quota.Check(all.used, compute.Quota{Capacity: to.Capacity().Sub(from.Capacity())}); err != nil {
		return err
	}
	hosts, err := readHosts(ctx, tx, oneHostSQL, next.Host)
	if err != nil {
		return err
	}
	if err := hosts[0].Grows(from, to, s.now()); err != nil {
		return err
	}
	if next.Resizing() && hosts[0].Version < orderSince {
		return fmt.Errorf("%w; or %w", compute.ErrOldAgent, compute.ErrStopFirst)
	}
	if next.Desired != compute.PowerRunning || s.Credit == nil {
		return nil
	}
	return s.Credit(ctx, tx, next.Tenant, to.Name, all.running)
}

const (
	resizeSQL  = `UPDATE instances SET flavor = $2, vcpus = $3, memory_mib = $4, disk_mib = $5 WHERE id = $1`
	replaceSQL = `UPDATE leases SET successor = $3 WHERE instance = $1 AND no = $2`
)

// relet puts an instance that was resized from was to next under its new lease.
// One that is off is under it at once, and what it is billed for being off
// goes on under the new flavor.
func relet(ctx context.Context, tx pgx.Tx, was, next compute.Instance, f compute.Flavor, now time.Time) error {
	if _, err := tx.Exec(ctx, resizeSQL, next.ID, f.Name, f.VCPUs, f.MemoryMiB, f.DiskMiB); err != nil {
		return err
	}
	if err := update(ctx, tx, next); err != nil {
		return err
	}
	if next.Resizing() {
		if _, err := tx.Exec(ctx, replaceSQL, was.ID, was.Lease, next.Lease); err != nil {
			return err
		}
		return grant(ctx, tx, next, f, now)
	}
	if _, err := tx.Exec(ctx, endLeasesSQL, was.ID, was.Lease, now); err != nil {
		return err
	}
	if err := allocdb.Close(ctx, tx, metering.ResourceID(was.ID), metering.InstanceStopped, now); err != nil {
		return err
	}
	off := next
	off.Since = now
	if err := allocate(ctx, tx, off); err != nil {
		return err
	}
	return grant(ctx, tx, next, f, now)
}
