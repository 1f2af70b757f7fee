package readingdb

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/usance/usance/metering"
)

// maxReadings is the most readings of one Readings; a larger limit is refused.
const maxReadings = 100_000

// Total is the largest reading of one epoch so far.
type Total struct {
	Tenant    metering.TenantID
	Instance  metering.InstanceID
	Registers metering.Registers
	At        time.Time // of the latest reading
	Received  time.Time // when the last one to arrive arrived
}

// Standing is where the meters of one instance stand.
type Standing struct {
	Registers metering.Registers // summed over its epochs
	At        time.Time          // of the latest reading; zero when there is none
	Epochs    []metering.Reading // of each epoch the largest value of each register and the latest time; the latest epoch last
}

// Record is a reading as it is kept.
type Record struct {
	metering.Reading
	Received time.Time // the server's clock when it first came in
}

const totalsSQL = `
SELECT tenant, instance, epoch, max(at), max(received), %s
FROM epoch_totals
%s
GROUP BY tenant, instance, epoch`

// totals calls each for every epoch that the condition selects, in no order.
func (s *Store) totals(ctx context.Context, where string, args []any, each func(metering.EpochID, Total) error) error {
	var epoch, tenant, instance string
	var total Total
	row := newScanner(&tenant, &instance, &epoch, &total.At, &total.Received)
	return s.rows(ctx, fmt.Sprintf(totalsSQL, maxima, where), args, func(r driver.Rows) error {
		if err := r.Scan(row.dest...); err != nil {
			return err
		}
		return each(metering.EpochID(epoch), Total{
			metering.TenantID(tenant), metering.InstanceID(instance), row.registers, total.At.UTC(), total.Received.UTC(),
		})
	})
}

// Totals are the largest readings of all epochs of the given tenants, of all
// tenants when tenants is nil. It is one query, whose work grows with the epochs.
func (s *Store) Totals(ctx context.Context, tenants []metering.TenantID) (map[metering.EpochID]Total, error) {
	all := map[metering.EpochID]Total{}
	var where string
	var args []any
	if tenants != nil {
		where = "WHERE tenant IN {tenants:Array(String)}"
		args = []any{clickhouse.Named("tenants", texts(tenants))}
	}
	err := s.totals(ctx, where, args, func(epoch metering.EpochID, t Total) error {
		all[epoch] = t
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("totals of %d tenants: %w", len(tenants), err)
	}
	return all, nil
}

// Largest are the largest readings of the given epochs, for a host that lost
// its state. Epochs without a reading are absent.
func (s *Store) Largest(ctx context.Context, epochs []metering.EpochID) (map[metering.EpochID]metering.Reading, error) {
	all := map[metering.EpochID]metering.Reading{}
	err := s.totals(ctx, "WHERE epoch IN {epochs:Array(String)}", []any{clickhouse.Named("epochs", texts(epochs))},
		func(epoch metering.EpochID, t Total) error {
			all[epoch] = metering.Reading{Epoch: epoch, At: t.At, Registers: t.Registers}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("largest readings of %d epochs: %w", len(epochs), err)
	}
	return all, nil
}

const lastSQL = `
SELECT at, %s
FROM readings
WHERE tenant = {tenant:String} AND instance = {instance:String} AND epoch = {epoch:String}
GROUP BY at
ORDER BY at DESC
LIMIT 1`

// Last is an epoch's latest reading by time; ok is false when there is none, or
// none that is not older than 13 months.
func (s *Store) Last(ctx context.Context, e metering.EpochRecord) (last metering.Reading, ok bool, err error) {
	last.Epoch = e.ID
	row := newScanner(&last.At)
	err = s.rows(ctx, fmt.Sprintf(lastSQL, maxima), []any{
		clickhouse.Named("tenant", string(e.Tenant)),
		clickhouse.Named("instance", string(e.Instance)),
		clickhouse.Named("epoch", string(e.ID)),
	}, func(r driver.Rows) error {
		ok = true
		return r.Scan(row.dest...)
	})
	if err != nil {
		return last, false, fmt.Errorf("last reading of epoch %s: %w", e.ID, err)
	}
	last.At, last.Registers = last.At.UTC(), row.registers
	return last, ok, nil
}

// Latest is where the meters of one instance stand; its At is zero when there
// is no reading.
func (s *Store) Latest(ctx context.Context, tenant metering.TenantID, instance metering.InstanceID) (Standing, error) {
	all, err := s.standings(ctx, "WHERE tenant = {tenant:String} AND instance = {instance:String}",
		clickhouse.Named("tenant", string(tenant)), clickhouse.Named("instance", string(instance)))
	if err != nil {
		return Standing{}, fmt.Errorf("registers of %s: %w", instance, err)
	}
	return all[instance], nil
}

// Summary is where the meters of all instances of a tenant stand. Instances
// without a reading are absent.
func (s *Store) Summary(ctx context.Context, tenant metering.TenantID) (map[metering.InstanceID]Standing, error) {
	all, err := s.standings(ctx, "WHERE tenant = {tenant:String}", clickhouse.Named("tenant", string(tenant)))
	if err != nil {
		return nil, fmt.Errorf("registers of the instances of %s: %w", tenant, err)
	}
	return all, nil
}

func (s *Store) standings(ctx context.Context, where string, args ...any) (map[metering.InstanceID]Standing, error) {
	all := map[metering.InstanceID]Standing{}
	err := s.totals(ctx, where, args, func(epoch metering.EpochID, t Total) error {
		standing := all[t.Instance]
		var err error
		if standing.Registers, err = sum(standing.Registers, t.Registers); err != nil {
			return fmt.Errorf("%s: %w", t.Instance, err)
		}
		if t.At.After(standing.At) {
			standing.At = t.At
		}
		standing.Epochs = append(standing.Epochs, metering.Reading{Epoch: epoch, At: t.At, Registers: t.Registers})
		all[t.Instance] = standing
		return nil
	})
	for _, standing := range all {
		slices.SortFunc(standing.Epochs, func(a, b metering.Reading) int {
			return cmp.Or(a.At.Compare(b.At), strings.Compare(string(a.Epoch), string(b.Epoch)))
		})
	}
	return all, err
}

const readingsSQL = `
SELECT epoch, at, min(received), %s
FROM readings
WHERE tenant = {tenant:String} AND instance = {instance:String}
  AND at > fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND at <= fromUnixTimestamp64Milli({end:Int64}, 'UTC')
GROUP BY epoch, at
ORDER BY at DESC, epoch DESC
LIMIT {limit:UInt64}`

// Readings are the last readings of an instance within (Start, End], at most
// limit of them (1 to 100,000), oldest first. Readings are kept for 13 months.
func (s *Store) Readings(ctx context.Context, tenant metering.TenantID, instance metering.InstanceID, window metering.Window, limit int) ([]Record, error) {
	if err := window.Check(); err != nil {
		return nil, fmt.Errorf("readings of %s: %w", instance, err)
	}
	if limit < 1 || limit > maxReadings {
		return nil, fmt.Errorf("readings of %s: limit %d is not in 1 to %d", instance, limit, maxReadings)
	}
	var all []Record
	var record Record
	var epoch string
	row := newScanner(&epoch, &record.At, &record.Received)
	err := s.rows(ctx, fmt.Sprintf(readingsSQL, maxima), []any{
		clickhouse.Named("tenant", string(tenant)),
		clickhouse.Named("instance", string(instance)),
		clickhouse.Named("start", window.Start.UnixMilli()),
		clickhouse.Named("end", window.End.UnixMilli()),
		clickhouse.Named("limit", limit),
	}, func(r driver.Rows) error {
		err := r.Scan(row.dest...)
		reading := metering.Reading{Epoch: metering.EpochID(epoch), At: record.At.UTC(), Registers: row.registers}
		all = append(all, Record{reading, record.Received.UTC()})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("readings of %s: %w", instance, err)
	}
	slices.Reverse(all)
	return all, nil
}

// texts are ids as the driver takes them.
func texts[T ~string](ids []T) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}
