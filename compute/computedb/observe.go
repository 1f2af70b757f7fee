package computedb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
)

// maxStorageBytes bounds the name of a host's storage; a longer one is refused.
const maxStorageBytes = 100

const onHostSQL = `SELECT ` + instanceColumns + `
	FROM leases l JOIN instances i ON i.id = l.instance
	WHERE l.host = $1 AND l.ended_at IS NULL AND l.successor IS NULL
	ORDER BY i.id`

const heartbeatSQL = `
	UPDATE hosts SET seen_at = greatest(seen_at, $2), vcpus = $3, memory_mib = $4, disk_mib = $5,
		full_reading_got = greatest(full_reading_got, least($6, full_reading)), report = $7, storage = $8, version = $9
	WHERE id = $1`

// Observe takes a host's report: its heartbeat, what it offers, and what it says
// of its instances by the rules of compute.Instance.Observe. Stopped time begins
// and ends here (meter instance.stopped), and a confirmed deletion ends the lease
// and frees its capacity. A lease that a resize replaced ends here, and an
// instance that the host has released for a move gets its lease on the other. The host's times are corrected by the difference of
// both clocks, taking the report as sent when it came in.
func (s *Store) Observe(ctx context.Context, host metering.HostID, status hostapi.Status) error {
	received := s.now()
	ahead := status.Sent.Sub(received)
	said := make(map[metering.InstanceID]compute.Observation, len(status.Instances))
	for _, o := range status.Instances {
		o.Since = o.Since.Add(-ahead).UTC().Truncate(time.Microsecond)
		said[o.ID] = o
	}
	if !(compute.Capacity{}).Fits(status.Capacity) {
		return fmt.Errorf("report of host %s: %w: it offers %+v", host, compute.ErrInvalid, status.Capacity)
	}
	if len(status.Storage) > maxStorageBytes {
		return fmt.Errorf("report of host %s: %w: a name of its storage of %d bytes", host, compute.ErrInvalid, len(status.Storage))
	}
	var released []compute.Instance
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockHostSQL, host); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, onHostSQL, host)
		placed, err := pgx.CollectRows(rows, scanInstance)
		if err != nil {
			return err
		}
		status.Instances = strays(said, placed) // what is kept of the report
		_, err = tx.Exec(ctx, heartbeatSQL, host, received, status.Capacity.VCPUs, status.Capacity.MemoryMiB,
			status.Capacity.DiskMiB, status.FullReading, status, status.Storage, max(status.Version, 1))
		if err != nil {
			return err
		}
		for _, in := range placed {
			if in.Released(said[in.ID]) {
				released = append(released, in)
			}
		}
		return s.observe(ctx, tx, host, placed, said, received)
	})
	for _, in := range released {
		if err == nil {
			err = s.arrive(ctx, in)
		}
	}
	if err != nil {
		return fmt.Errorf("report of host %s: %w", host, err)
	}
	return nil
}

// observe applies what was said to the instances of a locked host.
func (s *Store) observe(ctx context.Context, tx pgx.Tx, host metering.HostID, instances []compute.Instance, said map[metering.InstanceID]compute.Observation, received time.Time) error {
	news := false // whether what is desired of the host changes
	for _, in := range instances {
		o, ok := said[in.ID]
		if !ok {
			continue
		}
		next := in.Observe(o, received)
		if next == in {
			continue
		}
		if err := update(ctx, tx, next); err != nil {
			return err
		}
		if next.State != in.State {
			if err := allocate(ctx, tx, next); err != nil {
				return err
			}
			s.Log.Info("instance changed", "instance", next.ID, "tenant", next.Tenant, "host", host,
				"state", next.State, "was", in.State, "desired", next.Desired, "reason", next.Reason)
		}
		ended := next.Under - 1 // and all before
		if next.State == compute.StateDeleted {
			ended = next.Lease
		}
		if ended >= in.Under {
			if _, err := tx.Exec(ctx, endLeasesSQL, next.ID, ended, received); err != nil {
				return err
			}
		}
		news = news || next.Generation != in.Generation || next.State == compute.StateDeleted
	}
	if !news {
		return nil
	}
	return announce(ctx, tx, host)
}

const endLeasesSQL = `UPDATE leases SET ended_at = greatest(granted_at, $3) WHERE instance = $1 AND no <= $2 AND ended_at IS NULL`

// allocate opens or closes stopped time as the instance's new state wants. States
// between leave it: an instance that is about to run is still off.
func allocate(ctx context.Context, tx pgx.Tx, in compute.Instance) error {
	resource := metering.ResourceID(in.ID)
	switch in.State {
	case compute.StateStopped:
		return allocdb.Open(ctx, tx, metering.Allocation{
			ID:       metering.NewID(metering.PrefixAllocation),
			Tenant:   in.Tenant,
			Resource: resource,
			Meter:    metering.InstanceStopped,
			Labels:   metering.Labels{Flavor: in.Flavor, Image: in.Image, Created: metering.CreatedAt(in.Created)},
			Amount:   1,
			Start:    in.Since,
		})
	case compute.StateRunning, compute.StatePaused, compute.StateDeleted:
		return allocdb.Close(ctx, tx, resource, metering.InstanceStopped, in.Since)
	}
	return nil
}

const silentSQL = `
	WITH silent AS (
		SELECT id, seen_at FROM hosts WHERE seen_at < $1 ORDER BY id FOR NO KEY UPDATE
	)
	UPDATE instances i SET state = 'unknown', since = silent.seen_at, error = ''
	FROM leases l JOIN silent ON silent.id = l.host
	WHERE l.instance = i.id AND l.ended_at IS NULL AND l.successor IS NULL AND i.state NOT IN ('unknown', 'deleted')`

// MarkUnknown shows the instances of all hosts not heard from since before as
// unknown from then on, and returns how many were not yet. Their host's next
// report shows them as they are.
func (s *Store) MarkUnknown(ctx context.Context, before time.Time) (int64, error) {
	tag, err := s.pool.Exec(ctx, silentSQL, before)
	if err != nil {
		return 0, fmt.Errorf("mark instances of silent hosts unknown: %w", err)
	}
	return tag.RowsAffected(), nil
}

const goneSQL = `
	SELECT DISTINCT h.id FROM hosts h
		JOIN leases l ON l.host = h.id AND l.ended_at IS NULL AND l.successor IS NULL
		JOIN instances i ON i.id = l.instance AND i.desired = 'deleted'
	WHERE h.removed_at IS NOT NULL ORDER BY h.id`

// ReleaseRemoved confirms the deletions that wait for removed hosts, which will
// never do so themselves.
func (s *Store) ReleaseRemoved(ctx context.Context) error {
	rows, _ := s.pool.Query(ctx, goneSQL)
	hosts, err := pgx.CollectRows(rows, pgx.RowTo[metering.HostID])
	if err != nil {
		return fmt.Errorf("find deletions on removed hosts: %w", err)
	}
	for _, host := range hosts {
		err = errors.Join(err, pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return s.releaseRemoved(ctx, tx, host) }))
	}
	return err
}

func (s *Store) releaseRemoved(ctx context.Context, tx pgx.Tx, host metering.HostID) error {
	if _, err := tx.Exec(ctx, lockHostSQL, host); err != nil {
		return err
	}
	rows, _ := tx.Query(ctx, onHostSQL, host)
	instances, err := pgx.CollectRows(rows, scanInstance)
	if err != nil {
		return fmt.Errorf("removed host %s: %w", host, err)
	}
	now := s.now()
	said := make(map[metering.InstanceID]compute.Observation)
	for _, in := range instances {
		if in.Desired == compute.PowerDeleted {
			said[in.ID] = compute.Observation{
				ID: in.ID, Generation: in.Generation, Lease: in.Lease, Start: in.Start, State: compute.StateDeleted, Since: now,
			}
		}
	}
	return s.observe(ctx, tx, host, instances, said, now)
}
