package readingdb

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/usance/usance/metering"
)

// maxFindings is how many gaps and differences are returned; there is more to
// do then than to list the rest.
const maxFindings = 1000

const readSinceSQL = `
SELECT instance, max(at)
FROM epoch_totals
WHERE at > fromUnixTimestamp64Milli({since:Int64}, 'UTC')
GROUP BY instance`

// ReadSince is the time of the latest reading of every instance, of all tenants,
// that has one later than since.
func (s *Store) ReadSince(ctx context.Context, since time.Time) (map[metering.InstanceID]time.Time, error) {
	all := map[metering.InstanceID]time.Time{}
	var instance string
	var at time.Time
	err := s.rows(ctx, readSinceSQL, []any{clickhouse.Named("since", since.UnixMilli())}, func(r driver.Rows) error {
		err := r.Scan(&instance, &at)
		all[metering.InstanceID(instance)] = at.UTC()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("instances read since %s: %w", since.UTC().Format(time.RFC3339), err)
	}
	return all, nil
}

// Gap is a time between two neighbouring readings of one epoch.
type Gap struct {
	Tenant   metering.TenantID
	Instance metering.InstanceID
	Epoch    metering.EpochID
	metering.Window
	RunningMS, BridgedMS uint64 // what grew in it
}

const gapsSQL = `
SELECT tenant, instance, epoch, before, at, toUInt64(running - running_before), toUInt64(bridged - bridged_before)
FROM (
    SELECT tenant, instance, epoch, at, running, bridged, lagInFrame(at, 1, at) OVER life AS before,
        lagInFrame(running, 1, running) OVER life AS running_before, lagInFrame(bridged, 1, bridged) OVER life AS bridged_before
    FROM (
        SELECT tenant, instance, epoch, at, max(running_ms) AS running, max(bridged_ms) AS bridged
        FROM readings
        WHERE at > fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND at <= fromUnixTimestamp64Milli({end:Int64}, 'UTC')
        GROUP BY tenant, instance, epoch, at
    )
    WINDOW life AS (PARTITION BY tenant, instance, epoch ORDER BY at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
WHERE dateDiff('millisecond', before, at) > {longer:Int64} AND running >= running_before AND bridged >= bridged_before
ORDER BY at, epoch
LIMIT {limit:UInt64}`

// Gaps are the times between two readings within (Start, End] that are longer
// than given, of all tenants, at most 1000. It reads every reading of the window.
func (s *Store) Gaps(ctx context.Context, window metering.Window, longer time.Duration) ([]Gap, error) {
	var all []Gap
	var tenant, instance, epoch string
	var g Gap
	err := s.rows(ctx, gapsSQL, append(bounds(window), clickhouse.Named("longer", longer.Milliseconds())), func(r driver.Rows) error {
		err := r.Scan(&tenant, &instance, &epoch, &g.Start, &g.End, &g.RunningMS, &g.BridgedMS)
		g.Tenant, g.Instance, g.Epoch = metering.TenantID(tenant), metering.InstanceID(instance), metering.EpochID(epoch)
		g.Start, g.End = g.Start.UTC(), g.End.UTC()
		all = append(all, g)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("gaps in %s: %w", window, err)
	}
	return all, nil
}

// Difference is an epoch whose slots or total are not what its readings say.
type Difference struct {
	Tenant   metering.TenantID
	Instance metering.InstanceID
	Epoch    metering.EpochID
	Slots    uint64 // how many of its slots in the window differ
	Below    bool   // the total is below a reading of the window, or below a slot
	Above    bool   // the total is above all slots
}

// Each slot comes once from the readings and once from the slots, and then says
// the same. Of each epoch read in the window, the total is the largest of all its
// slots, which are kept for ever.
const differencesSQL = `
WITH read AS (
    SELECT DISTINCT tenant, instance, epoch FROM readings
    WHERE at > fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND at <= fromUnixTimestamp64Milli({end:Int64}, 'UTC')
)
SELECT tenant, instance, epoch, sum(differs), max(below), max(above)
FROM (
    SELECT tenant, instance, epoch, count() != 2 OR min(said) != max(said) AS differs, 0 AS below, 0 AS above
    FROM (
        SELECT tenant, instance, epoch, toDateTime(intDiv(toUnixTimestamp64Milli(at) + 299999, 300000) * 300, 'UTC') AS slot,
            cityHash64(MAXIMA) AS said
        FROM readings
        WHERE at > fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND at <= fromUnixTimestamp64Milli({end:Int64}, 'UTC')
        GROUP BY tenant, instance, epoch, slot
        UNION ALL
        SELECT tenant, instance, epoch, slot, cityHash64(MAXIMA) AS said
        FROM reading_slots
        WHERE slot > toDateTime(intDiv({start:Int64}, 1000), 'UTC') AND slot <= toDateTime(intDiv({end:Int64}, 1000), 'UTC')
        GROUP BY tenant, instance, epoch, slot
    )
    GROUP BY tenant, instance, epoch, slot
    UNION ALL
    SELECT tenant, instance, epoch, 0 AS differs, BELOW AS below, ABOVE AS above
    FROM (
        SELECT tenant, instance, epoch, KNOWN, TOTAL
        FROM (
            SELECT tenant, instance, epoch, REGISTERS, 1 AS known
            FROM readings
            WHERE at > fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND at <= fromUnixTimestamp64Milli({end:Int64}, 'UTC')
            UNION ALL
            SELECT tenant, instance, epoch, REGISTERS, 1 AS known FROM reading_slots WHERE (tenant, instance, epoch) GLOBAL IN read
            UNION ALL
            SELECT tenant, instance, epoch, REGISTERS, 0 AS known FROM epoch_totals WHERE (tenant, instance, epoch) GLOBAL IN read
        )
        GROUP BY tenant, instance, epoch
    )
)
GROUP BY tenant, instance, epoch
HAVING sum(differs) > 0 OR max(below) > 0 OR max(above) > 0
ORDER BY epoch
LIMIT {limit:UInt64}`

// auditSQL is differencesSQL with the registers filled in.
var auditSQL = func() string {
	var known, total, below, above []string
	for _, name := range metering.RegisterNames() {
		known = append(known, fmt.Sprintf("maxIf(%s, known = 1) AS known_%s", name, name))
		total = append(total, fmt.Sprintf("maxIf(%s, known = 0) AS total_%s", name, name))
		below = append(below, fmt.Sprintf("total_%s < known_%s", name, name))
		above = append(above, fmt.Sprintf("total_%s > known_%s", name, name))
	}
	return strings.NewReplacer("MAXIMA", maxima, "REGISTERS", registers, "KNOWN", strings.Join(known, ", "), "TOTAL", strings.Join(total, ", "),
		"BELOW", "("+strings.Join(below, " OR ")+")", "ABOVE", "("+strings.Join(above, " OR ")+")").Replace(differencesSQL)
}()

// Differences compares over all tenants the slots of a window, whose ends are slot
// boundaries, with its readings, and the totals of the epochs read in it with all
// their slots; it returns at most 1000 epochs. So what a total says too much is
// seen however old its readings are, and what a slot says too much within the 13
// months that its readings are kept: before, the window has none to compare with,
// and every slot differs. It reads every reading of the window. Readings that come
// in meanwhile may show as differences; those do not show again.
func (s *Store) Differences(ctx context.Context, window metering.Window) ([]Difference, error) {
	var all []Difference
	var tenant, instance, epoch string
	var slots uint64
	var below, above uint8
	err := s.rows(ctx, auditSQL, bounds(window), func(r driver.Rows) error {
		err := r.Scan(&tenant, &instance, &epoch, &slots, &below, &above)
		all = append(all, Difference{metering.TenantID(tenant), metering.InstanceID(instance), metering.EpochID(epoch), slots, below > 0, above > 0})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare slots and totals with readings in %s: %w", window, err)
	}
	return all, nil
}

func bounds(window metering.Window) []any {
	return []any{clickhouse.Named("start", window.Start.UnixMilli()), clickhouse.Named("end", window.End.UnixMilli()), clickhouse.Named("limit", maxFindings)}
}
