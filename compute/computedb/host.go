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
)

// What a host was granted is always summed up from the newest leases on it and
// the instances that move to it, so it cannot drift from them.
const hostsSQL = `
	SELECT h.id, h.name, h.vcpus, h.memory_mib, h.disk_mib, h.seen_at, h.draining, h.removed_at IS NOT NULL, h.storage, h.version,
		coalesce(sum(c.vcpus), 0), coalesce(sum(c.memory_mib), 0)::bigint, coalesce(sum(c.disk_mib), 0)::bigint
	FROM hosts h LEFT JOIN LATERAL (
		SELECT vcpus, memory_mib, disk_mib FROM leases WHERE host = h.id AND ended_at IS NULL AND successor IS NULL
		UNION ALL SELECT vcpus, memory_mib, disk_mib FROM instances WHERE moves_to = h.id
	) c ON true `

const (
	allHostsSQL     = hostsSQL + `GROUP BY h.id ORDER BY h.id`
	presentHostsSQL = hostsSQL + `WHERE h.removed_at IS NULL GROUP BY h.id ORDER BY h.id`
	oneHostSQL      = hostsSQL + `WHERE h.id = $1 GROUP BY h.id`
)

// lockHostSQL takes the lock under which leases of the host are granted and end
// and its instances change.
const lockHostSQL = `SELECT FROM hosts WHERE id = $1 FOR NO KEY UPDATE`

func readHosts(ctx context.Context, q querier, sql string, args ...any) ([]compute.Host, error) {
	rows, _ := q.Query(ctx, sql, args...)
	hosts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h compute.Host, err error) {
		err = row.Scan(&h.ID, &h.Name, &h.Offers.VCPUs, &h.Offers.MemoryMiB, &h.Offers.DiskMiB, &h.Seen, &h.Draining, &h.Removed, &h.Storage, &h.Version,
			&h.Granted.VCPUs, &h.Granted.MemoryMiB, &h.Granted.DiskMiB)
		h.Seen = h.Seen.UTC()
		return h, err
	})
	if err != nil {
		return nil, fmt.Errorf("read hosts: %w", err)
	}
	return hosts, nil
}

// Hosts returns all hosts by id, removed ones too.
func (s *Store) Hosts(ctx context.Context) ([]compute.Host, error) {
	return readHosts(ctx, s.pool, allHostsSQL)
}

// Active reports nil for a present host, hostapi.ErrRemoved for a removed one
// and hostapi.ErrUnauthorized for one that never joined here.
func (s *Store) Active(ctx context.Context, host metering.HostID) error {
	var removed bool
	err := s.pool.QueryRow(ctx, `SELECT removed_at IS NOT NULL FROM hosts WHERE id = $1`, host).Scan(&removed)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: it never joined here", hostapi.ErrUnauthorized)
	case err != nil:
		return fmt.Errorf("look up host %s: %w", host, err)
	case removed:
		return hostapi.ErrRemoved
	}
	return nil
}

// RemoveHost shuts a host out: its certificate is refused and nothing is placed
// on it. Its guests are not touched; they become unknown once it has been silent
// for compute.HostSilence, and keep their leases, since they may still run. The
// error wraps compute.ErrNotFound.
func (s *Store) RemoveHost(ctx context.Context, host metering.HostID) error {
	return s.changeHost(ctx, "remove", host, `UPDATE hosts SET removed_at = coalesce(removed_at, $2) WHERE id = $1`, s.now())
}

// SetDraining says whether the host takes nothing new. What is on it stays. The
// error wraps compute.ErrNotFound.
func (s *Store) SetDraining(ctx context.Context, host metering.HostID, draining bool) error {
	return s.changeHost(ctx, "drain", host, `UPDATE hosts SET draining = $2 WHERE id = $1`, draining)
}

func (s *Store) changeHost(ctx context.Context, verb string, host metering.HostID, sql string, arg any) error {
	tag, err := s.pool.Exec(ctx, sql, host, arg)
	if err == nil && tag.RowsAffected() == 0 {
		err = compute.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%s host %s: %w", verb, host, err)
	}
	return nil
}

const desiredSQL = `
	SELECT i.id, i.tenant, i.name, i.generation, l.no, i.start,
		CASE WHEN i.moves_to IS NULL THEN i.desired ELSE 'released' END, i.flavor, i.vcpus, i.memory_mib, i.disk_mib,
		i.image_record, i.user_data, i.ssh_keys
	FROM leases l JOIN instances i ON i.id = l.instance
	WHERE l.host = $1 AND l.ended_at IS NULL AND l.successor IS NULL
	ORDER BY i.id`

// Desired is what should be on the host: every instance whose newest lease is in
// force there. It may be newer than its revision, never older.
func (s *Store) Desired(ctx context.Context, host metering.HostID) (hostapi.Desired, error) {
	var d hostapi.Desired
	err := s.pool.QueryRow(ctx, `SELECT revision, full_reading FROM hosts WHERE id = $1`, host).Scan(&d.Revision, &d.FullReading)
	if errors.Is(err, pgx.ErrNoRows) {
		err = compute.ErrNotFound
	}
	if err != nil {
		return d, fmt.Errorf("desired state of host %s: %w", host, err)
	}
	rows, _ := s.pool.Query(ctx, desiredSQL, host)
	d.Instances, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (i hostapi.DesiredInstance, err error) {
		err = row.Scan(&i.ID, &i.Tenant, &i.Name, &i.Generation, &i.Lease, &i.Start, &i.Power,
			&i.Flavor.Name, &i.Flavor.VCPUs, &i.Flavor.MemoryMiB, &i.Flavor.DiskMiB, &i.Image, &i.UserData, &i.SSHKeys)
		i.MAC = compute.MAC(i.ID)
		return i, err
	})
	if err != nil {
		return d, fmt.Errorf("desired state of host %s: %w", host, err)
	}
	return d, nil
}

// Hosts are locked by id, since this takes several.
const requestReadingSQL = `
	WITH asked AS (
		SELECT id FROM hosts
		WHERE id IN (SELECT host FROM leases WHERE tenant = $1 AND ended_at IS NULL AND successor IS NULL)
			AND removed_at IS NULL AND seen_at >= $2
		ORDER BY id FOR NO KEY UPDATE
	)
	UPDATE hosts h SET full_reading = h.full_reading + 1, revision = h.revision + 1
	FROM asked WHERE h.id = asked.id
	RETURNING h.id, h.full_reading, pg_notify($3, h.id)::text`

// maxReadingWait is how long a full reading is waited for; a host that has not
// answered then is named in the error, and what it reads later is late usage.
const maxReadingWait = 5 * time.Second

const readingPoll = 50 * time.Millisecond

// RequestFullReading asks every host of the tenant that can be reached for a
// full reading at once. The function it returns waits, at most 5 s, until all
// have reported that it is durable; its error names those that have not.
func (s *Store) RequestFullReading(ctx context.Context, tenant metering.TenantID) (wait func(ctx context.Context) error, err error) {
	var hosts []metering.HostID
	var numbers []uint64
	var host metering.HostID
	var number uint64
	rows, _ := s.pool.Query(ctx, requestReadingSQL, tenant, s.now().Add(-compute.HostSilence), hostsChannel)
	_, err = pgx.ForEachRow(rows, []any{&host, &number, nil}, func() error {
		hosts, numbers = append(hosts, host), append(numbers, number)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask for a full reading of %s: %w", tenant, err)
	}
	return func(ctx context.Context) error { return s.awaitReading(ctx, hosts, numbers) }, nil
}

const missingReadingSQL = `
	SELECT h.id FROM unnest($1::text[], $2::bigint[]) AS asked (id, number) JOIN hosts h USING (id)
	WHERE h.full_reading_got < asked.number ORDER BY h.id`

func (s *Store) awaitReading(ctx context.Context, hosts []metering.HostID, numbers []uint64) error {
	deadline := time.Now().Add(maxReadingWait)
	tick := time.NewTicker(readingPoll)
	defer tick.Stop()
	for {
		rows, _ := s.pool.Query(ctx, missingReadingSQL, hosts, numbers)
		missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("await full readings: %w", err)
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no full reading within %s from %v", maxReadingWait, missing)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("await full readings: %w", ctx.Err())
		}
	}
}
