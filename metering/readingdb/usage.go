package readingdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/usance/usance/metering"
)

// maxInstants is the most instants of one At; more are refused.
const maxInstants = 1000

// Each row counts for the first instant it lies at or before, n counted from 0;
// what it counts for later ones follows by taking maxima from left to right. So
// every row is read once, however many instants there are.
const (
	atSlotsSQL = `
SELECT epoch, %s AS n, %s
FROM reading_slots
WHERE tenant IN {tenants:Array(String)}%s AND slot <= toDateTime({last:Int64}, 'UTC')`

	atReadingsSQL = `
SELECT epoch, %s AS n, %s
FROM readings
WHERE tenant IN {tenants:Array(String)}%s AND (%s)`

	ofEpochsSQL = ` AND instance IN {instances:Array(String)} AND epoch IN {epochs:Array(String)}`

	withinSQL = `at > fromUnixTimestamp64Milli(toInt64(%d), 'UTC') AND at <= fromUnixTimestamp64Milli(toInt64(%d), 'UTC')`

	atSQL = `SELECT epoch, n, %s FROM (%s) GROUP BY epoch, n`
)

// At is R(e,t) of every epoch of a tenant at each instant: per register the
// largest value over all readings with time ≤ t, however old. The registers of
// an epoch stand in the order of the instants, zero where it has no reading
// yet; an epoch without any reading up to the last instant is absent. What it
// says of one epoch is one consistent result. At most 1000 instants.
func (s *Store) At(ctx context.Context, tenant metering.TenantID, instants []time.Time) (map[metering.EpochID][]metering.Registers, error) {
	return s.AtOf(ctx, []metering.TenantID{tenant}, instants, nil)
}

// AtOf is At for many tenants at once, without the epochs, by id, of which no reading
// is beyond what is billed already: max(R(e,t), W) is W at every t there, since
// R(e,t) never exceeds the largest reading of all. So the work does not grow with
// what ended and was billed.
func (s *Store) AtOf(ctx context.Context, tenants []metering.TenantID, instants []time.Time, billed map[string]metering.Registers) (map[metering.EpochID][]metering.Registers, error) {
	if len(instants) == 0 || len(tenants) == 0 {
		return map[metering.EpochID][]metering.Registers{}, nil
	}
	if len(instants) > maxInstants {
		return nil, fmt.Errorf("registers at %d instants: more than %d", len(instants), maxInstants)
	}
	at := ascending(instants)
	levels, err := s.levels(ctx, tenants, at, billed)
	if err != nil {
		return nil, fmt.Errorf("registers of %d tenants, %s first: %w", len(tenants), tenants[0], err)
	}
	for epoch, values := range levels {
		for i := 1; i < len(values); i++ {
			values[i] = values[i].Join(values[i-1])
		}
		levels[epoch] = inOrder(values, at, instants)
	}
	return levels, nil
}

// levels are what counts first for each instant. From the latest reading of all
// on, that is where an epoch stands: no slots are needed there, and at the present
// none at all.
func (s *Store) levels(ctx context.Context, tenants []metering.TenantID, at []int64, billed map[string]metering.Registers) (map[metering.EpochID][]metering.Registers, error) {
	totals, err := s.Totals(ctx, tenants)
	if err != nil {
		return nil, err
	}
	if len(billed) > 0 {
		maps.DeleteFunc(totals, func(epoch metering.EpochID, t Total) bool {
			level, ok := billed[string(epoch)]
			return ok && level.Join(t.Registers) == level
		})
	}
	latest := int64(math.MinInt64)
	for _, t := range totals {
		latest = max(latest, t.At.UnixMilli())
	}
	earlier, _ := slices.BinarySearch(at, latest)
	levels := make(map[metering.EpochID][]metering.Registers, len(totals))
	if earlier < len(at) {
		for epoch, t := range totals {
			levels[epoch] = make([]metering.Registers, len(at))
			levels[epoch][earlier] = t.Registers
		}
	}
	if earlier == 0 || len(totals) == 0 {
		return levels, nil
	}
	var some map[metering.EpochID]Total
	if len(billed) > 0 {
		some = totals
	}
	query, args := atQuery(tenants, some, at[:earlier])
	var epoch string
	var n uint32
	row := newScanner(&epoch, &n)
	return levels, s.rows(ctx, query, args, func(r driver.Rows) error {
		if err := r.Scan(row.dest...); err != nil {
			return err
		}
		if levels[metering.EpochID(epoch)] == nil {
			levels[metering.EpochID(epoch)] = make([]metering.Registers, len(at))
		}
		levels[metering.EpochID(epoch)][n] = row.registers
		return nil
	})
}

// ascending are the instants in ms since 1970, ascending, each once. Readings
// have whole milliseconds, so a fraction of one tells nothing apart.
func ascending(instants []time.Time) []int64 {
	at := make([]int64, len(instants))
	for i, t := range instants {
		at[i] = t.UnixMilli()
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// inOrder gives the values at ascending instants in the order asked for.
func inOrder(values []metering.Registers, at []int64, instants []time.Time) []metering.Registers {
	out := make([]metering.Registers, len(instants))
	for i, t := range instants {
		n, _ := slices.BinarySearch(at, t.UnixMilli())
		out[i] = values[n]
	}
	return out
}

// atQuery takes slots that end at or before an instant from reading_slots, and
// raw readings only of the slots that an instant lies inside of; of all the
// tenants' epochs where some is nil.
func atQuery(tenants []metering.TenantID, some map[metering.EpochID]Total, at []int64) (string, []any) {
	bounds := make([]int64, len(at)) // the last slot's end at or before each instant, s since 1970
	var inside []string
	for i, t := range at {
		bound := time.UnixMilli(t).UTC().Truncate(metering.SlotLength)
		bounds[i] = bound.Unix()
		if bound.UnixMilli() < t {
			inside = append(inside, fmt.Sprintf(withinSQL, bound.UnixMilli(), t))
		}
	}
	slot, args := place("toInt64(toUnixTimestamp(slot))", "bounds", bounds)
	args = append(args, clickhouse.Named("tenants", texts(tenants)), clickhouse.Named("last", bounds[len(bounds)-1]))
	of := ""
	if some != nil {
		var instances, epochs []string
		for epoch, t := range some {
			instances, epochs = append(instances, string(t.Instance)), append(epochs, string(epoch))
		}
		of = ofEpochsSQL
		args = append(args, clickhouse.Named("instances", instances), clickhouse.Named("epochs", epochs))
	}
	from := fmt.Sprintf(atSlotsSQL, slot, registers, of)
	if len(inside) > 0 {
		reading, more := place("toUnixTimestamp64Milli(at)", "instants", at)
		from += "\nUNION ALL" + fmt.Sprintf(atReadingsSQL, reading, registers, of, strings.Join(inside, "\n OR "))
		args = append(args, more...)
	}
	return fmt.Sprintf(atSQL, maxima, from), args
}

// fewBounds are counted one by one; of more, the last one before is looked up.
const fewBounds = 4

// place is how many of the bounds, which ascend, lie before when. Its arguments
// are named after name.
func place(when, name string, bounds []int64) (expression string, args []any) {
	if len(bounds) <= fewBounds {
		before := make([]string, len(bounds))
		for i, bound := range bounds {
			before[i] = fmt.Sprintf("(%s > %d)", when, bound)
		}
		return "toUInt32(" + strings.Join(before, " + ") + ")", nil
	}
	once, n := []int64{-1}, []uint32{0} // after one before all times, each once, and how many lie at or before it
	for i, bound := range bounds {
		if bound != once[len(once)-1] {
			once, n = append(once, bound), append(n, 0)
		}
		n[len(n)-1] = uint32(i + 1)
	}
	return fmt.Sprintf("transform(roundDown(%[1]s - 1, {%[2]s:Array(Int64)}), {%[2]s:Array(Int64)}, {%[2]s_n:Array(UInt32)}, toUInt32(0))", when, name),
		[]any{clickhouse.Named(name, once), clickhouse.Named(name+"_n", n)}
}

// Slot is the largest value of each register of one epoch within one slot.
type Slot struct {
	Epoch     metering.EpochID
	End       time.Time // the slot is (End − metering.SlotLength, End]
	At        time.Time // of the latest reading within it
	Registers metering.Registers
}

const slotsSQL = `
SELECT epoch, slot, max(at), %s
FROM reading_slots
WHERE tenant = {tenant:String} AND instance = {instance:String}
  AND slot > toDateTime({start:Int64}, 'UTC') AND slot <= toDateTime({end:Int64}, 'UTC')
GROUP BY epoch, slot
ORDER BY slot, epoch`

// Slots are the slots of an instance that end within (Start, End], by end, then
// by epoch. A slot without a reading is absent.
func (s *Store) Slots(ctx context.Context, tenant metering.TenantID, instance metering.InstanceID, window metering.Window) ([]Slot, error) {
	if err := window.Check(); err != nil {
		return nil, fmt.Errorf("slots of %s: %w", instance, err)
	}
	var all []Slot
	var slot Slot
	var epoch string
	row := newScanner(&epoch, &slot.End, &slot.At)
	err := s.rows(ctx, fmt.Sprintf(slotsSQL, maxima), []any{
		clickhouse.Named("tenant", string(tenant)),
		clickhouse.Named("instance", string(instance)),
		clickhouse.Named("start", window.Start.Unix()),
		clickhouse.Named("end", window.End.Unix()),
	}, func(r driver.Rows) error {
		err := r.Scan(row.dest...)
		all = append(all, Slot{metering.EpochID(epoch), slot.End.UTC(), slot.At.UTC(), row.registers})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("slots of %s: %w", instance, err)
	}
	return all, nil
}

const inSlotsSQL = `
SELECT epoch, slot%s
FROM reading_slots
WHERE tenant = {tenant:String} AND epoch IN {epochs:Array(String)}
  AND slot > toDateTime({start:Int64}, 'UTC') AND slot < toDateTime({end:Int64}, 'UTC')
GROUP BY epoch, slot
ORDER BY epoch, slot`

// InSlots are the largest values of some registers in each slot of a window that
// epochs of a tenant were read in, by time; At is the slot's end, registers not
// asked for are 0. Slots that lie partly in the window are among them.
func (s *Store) InSlots(ctx context.Context, tenant metering.TenantID, epochs []metering.EpochID, window metering.Window, some []metering.Register) (map[metering.EpochID][]metering.Reading, error) {
	if err := window.Check(); err != nil {
		return nil, fmt.Errorf("slots of %s: %w", tenant, err)
	}
	all := make(map[metering.EpochID][]metering.Reading, len(epochs))
	var one metering.Reading
	var epoch, columns string
	dest := []any{&epoch, &one.At}
	for _, r := range some {
		columns += ", max(" + r.String() + ")"
		dest = append(dest, &one.Registers[r])
	}
	err := s.rows(ctx, fmt.Sprintf(inSlotsSQL, columns), []any{
		clickhouse.Named("tenant", string(tenant)),
		clickhouse.Named("epochs", texts(epochs)),
		clickhouse.Named("start", window.Start.Unix()),
		clickhouse.Named("end", window.End.Add(metering.SlotLength).Unix()),
	}, func(r driver.Rows) error {
		err := r.Scan(dest...)
		one.Epoch, one.At = metering.EpochID(epoch), one.At.UTC()
		all[one.Epoch] = append(all[one.Epoch], one)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("slots of %d epochs of %s: %w", len(epochs), tenant, err)
	}
	return all, nil
}

// errOverflow is a sum of registers beyond 64 bits: no machine counts that far.
var errOverflow = errors.New("the sum over its epochs does not fit in 64 bits")

// sum adds the registers of two epochs.
func sum(a, b metering.Registers) (metering.Registers, error) {
	total := a.Add(b)
	for i := range total {
		if total[i] < a[i] {
			return total, fmt.Errorf("register %s: %w", metering.Register(i), errOverflow)
		}
	}
	return total, nil
}
