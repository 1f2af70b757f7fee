package readingdb_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/sql/sqltest"
)

// benchStore is a store and a bare connection to its database.
func benchStore(b *testing.B) (*readingdb.Store, driver.Conn) {
	b.Helper()
	return openBench(b, readingtest.Options(b))
}

func openBench(b *testing.B, options *clickhouse.Options) (*readingdb.Store, driver.Conn) {
	b.Helper()
	s, err := readingdb.Open(b.Context(), options)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	if err := s.Migrate(b.Context(), ""); err != nil {
		b.Fatal(err)
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return s, conn
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// sideBySide runs ours and bare in turn and reports the ratio of their median times
// under the given name.
func sideBySide(b *testing.B, ratio string, prepare, ours, bare func()) (median time.Duration) {
	var our, theirs []time.Duration
	for b.Loop() {
		prepare()
		start := time.Now()
		ours()
		middle := time.Now()
		bare()
		our, theirs = append(our, middle.Sub(start)), append(theirs, time.Since(middle))
	}
	slices.Sort(our)
	slices.Sort(theirs)
	median = our[len(our)/2]
	b.ReportMetric(median.Seconds()/theirs[len(theirs)/2].Seconds(), ratio)
	b.ReportMetric(median.Seconds()*1000, "ms-ours")
	return median
}

// drain reads a result without looking at it.
func drain(b *testing.B, conn driver.Conn, query string) {
	rows, err := conn.Query(b.Context(), query)
	must(b, err)
	defer rows.Close()
	for rows.Next() {
	}
	must(b, rows.Err())
}

// BenchmarkInsert is a batch of 10,000 readings of 1,000 instances through the
// driver: into the three tables, against into the first of them alone.
func BenchmarkInsert(b *testing.B) {
	const readings, instances = 10_000, 1000
	s, _ := benchStore(b)
	bare, bareConn := benchStore(b)
	for _, view := range []string{"reading_slots_feed", "epoch_totals_feed"} {
		must(b, bareConn.Exec(b.Context(), "DROP TABLE "+view))
	}
	round := 0
	next := func() *metering.Columns {
		round++
		rows := make([]row, readings)
		for i := range rows {
			rows[i] = reading(metering.EpochID(fmt.Sprintf("0123456789abcdef0123456789ab%04d", i%instances)),
				base.Add(time.Duration(round*10+i/instances)*10*time.Second), uint64(round*readings+i))
			rows[i].tenant = metering.TenantID(fmt.Sprintf("ten_0123456789abc%04d", i%100))
			rows[i].instance = metering.InstanceID(fmt.Sprintf("ins_0123456789abc%04d", i%instances))
		}
		return columns(rows...)
	}
	var c *metering.Columns
	median := sideBySide(b, "of-bare-table",
		func() { c = next() },
		func() { must(b, s.Insert(b.Context(), c)) },
		func() { must(b, bare.Insert(b.Context(), c)) })
	b.ReportMetric(readings/median.Seconds(), "rows/s")
}

// month fills the slots of 100 instances of one tenant over a month, 864,000 of them.
func month(b *testing.B, conn driver.Conn) (end time.Time) {
	end = base.Add(-24 * time.Hour)
	names := metering.RegisterNames()
	must(b, conn.Exec(b.Context(), fmt.Sprintf(`INSERT INTO readings (tenant, instance, epoch, at, received, %s)
		SELECT 'ten_1', concat('ins_', toString(number %% 100)), concat('0123456789abcdef0123456789ab', toString(number %% 100)),
			fromUnixTimestamp64Milli(toInt64(%d - intDiv(number, 100) * 300000), 'UTC'), now64(3), %s
		FROM numbers(864000)`, strings.Join(names, ", "), end.UnixMilli(), "8640 - intDiv(number, 100)"+strings.Repeat(", number", len(names)-1))))
	must(b, conn.Exec(b.Context(), "OPTIMIZE TABLE reading_slots FINAL"))
	return end
}

// BenchmarkAt is R(e,t) at a month's start, inside a slot, and end, against the
// bare aggregate over the same slots.
func BenchmarkAt(b *testing.B) {
	s, conn := benchStore(b)
	end := month(b, conn)
	instants := []time.Time{end.Add(-30 * 24 * time.Hour), end.Add(-7*24*time.Hour + time.Minute), end}
	sideBySide(b, "of-query", func() {}, func() {
		got, err := s.At(b.Context(), "ten_1", instants)
		must(b, err)
		if len(got) != 100 {
			b.Fatalf("%d epochs", len(got))
		}
	}, func() {
		drain(b, conn, "SELECT epoch, max("+strings.Join(metering.RegisterNames(), "), max(")+") FROM reading_slots WHERE tenant = 'ten_1' GROUP BY epoch")
	})
}

// BenchmarkTotals is where 100,000 epochs stand, against the bare aggregate
// with its result thrown away.
func BenchmarkTotals(b *testing.B) {
	s, conn := benchStore(b)
	names := metering.RegisterNames()
	must(b, conn.Exec(b.Context(), fmt.Sprintf(`INSERT INTO readings (tenant, instance, epoch, at, received, %s)
		SELECT concat('ten_', toString(number %% 1000)), concat('ins_', toString(number %% 50000)), hex(sipHash128(number)), now64(3), now64(3), %s
		FROM numbers(100000)`, strings.Join(names, ", "), "number"+strings.Repeat(", number", len(names)-1))))
	must(b, conn.Exec(b.Context(), "OPTIMIZE TABLE epoch_totals FINAL"))
	sideBySide(b, "of-query", func() {}, func() {
		got, err := s.Totals(b.Context(), nil)
		must(b, err)
		if len(got) != 100_000 {
			b.Fatalf("%d epochs", len(got))
		}
	}, func() {
		drain(b, conn, "SELECT tenant, instance, epoch, max(at), max(received), max("+strings.Join(names, "), max(")+") FROM epoch_totals GROUP BY tenant, instance, epoch")
	})
}

// fillSQL makes readings of instances, one after the other, each at an even distance,
// in the form that ingest gives them; counters grow by amounts that vary. It takes the
// values of the registers, how many readings each instance has, the distance of two in
// ms, the start and the range of readings to make.
const fillSQL = `
INSERT INTO readings (tenant, instance, epoch, at, received, %[1]s)
WITH intDiv(number, %[3]d) AS i, number %% %[3]d + 1 AS n, %[4]d AS ms
SELECT concat('ten_', leftPad(lower(hex(i %% 100)), 17, '0')), concat('ins_', leftPad(lower(hex(i)), 17, '0')), lower(hex(sipHash128(i))),
	fromUnixTimestamp64Milli(toInt64(%[5]d + n * ms), 'UTC'), fromUnixTimestamp64Milli(toInt64(%[5]d + n * ms + 40 + intHash64(number) %% 300), 'UTC'), %[2]s
FROM numbers(%[6]d, %[7]d)`

// counted are the values of fillSQL for an instance with one vCPU and 1 GiB that
// uses a fifth of both, writes 10 kB/s, reads 2 kB/s and has 40 kB/s of traffic.
var counted = func() string {
	varied := func(register metering.Register, perSecond int) string {
		return fmt.Sprintf("toUInt64(n * intDiv(%[2]d * ms, 1000) + intHash64(number * 32 + %[1]d) %% (intDiv(%[2]d * ms, 1000) + 1))", register, perSecond)
	}
	values := make([]string, metering.RegisterCount)
	for r := range values {
		values[r] = "0"
	}
	values[metering.RunningMS], values[metering.VCPUMS], values[metering.MemoryMiBMS] = "n * ms", "n * ms", "n * ms * 1024"
	for r, perSecond := range map[metering.Register]int{
		metering.CPUNS: 200_000_000, metering.MemoryUsedMiBMS: 200_000,
		metering.DiskReadBytes: 2_000, metering.DiskReadOps: 1, metering.DiskWriteBytes: 10_000, metering.DiskWriteOps: 4,
		metering.NetPublicRxBytes: 10_000, metering.NetPublicRxPackets: 20, metering.NetPublicTxBytes: 30_000, metering.NetPublicTxPackets: 25,
	} {
		values[r] = varied(r, perSecond)
	}
	return strings.Join(values, ", ")
}()

// fill makes the readings of some instances, a million at once.
func fill(b *testing.B, conn driver.Conn, instances, each int, distance time.Duration, start time.Time) {
	b.Helper()
	for made := 0; made < instances*each; made += 1_000_000 {
		must(b, conn.Exec(b.Context(), fmt.Sprintf(fillSQL, strings.Join(metering.RegisterNames(), ", "), counted, each, distance.Milliseconds(),
			start.UnixMilli(), made, min(1_000_000, instances*each-made))))
	}
}

// tenMillion is the database that holds 10 million readings, 10,000 of each of
// 1,000 instances of 100 tenants over 31 days: made once for all runs, in a minute or so.
var tenMillion struct {
	sync.Once
	options *clickhouse.Options
}

// BenchmarkUsage is a month's usage of one tenant of 100, out of 10 million
// readings, with the tenant's epochs from Postgres: against the bare query for
// where its epochs stood at the month's ends, with the result thrown away.
func BenchmarkUsage(b *testing.B) {
	const day, tenant = 24 * time.Hour, "ten_00000000000000007"
	const distance = 31 * day / 10_000
	first := base.Truncate(day).Add(-32 * day)
	start := first.Add(day / 2)
	end := start.Add(30 * day)
	perInstance := uint64(end.Sub(first)/distance - start.Sub(first)/distance)
	tenMillion.Do(func() {
		tenMillion.options = readingtest.Options(b)
		_, conn := openBench(b, tenMillion.options)
		began := time.Now()
		fill(b, conn, 1000, 10_000, distance, first)
		b.Logf("10 million readings made in %s", time.Since(began).Round(time.Second))
	})
	s, conn := openBench(b, tenMillion.options)
	epochs := epochdb.New(sqltest.Postgres(b))
	registerAll(b, s, epochs)
	bare := fmt.Sprintf(`SELECT epoch, slot > toDateTime(%d, 'UTC') AS n, max(%s) FROM reading_slots WHERE tenant = '%s' AND slot <= toDateTime(%d, 'UTC') GROUP BY epoch, n`,
		start.Unix(), strings.Join(metering.RegisterNames(), "), max("), tenant, end.Unix())
	sideBySide(b, "of-query", func() {}, func() {
		instants := []time.Time{start, end}
		levels, err := s.At(b.Context(), tenant, instants)
		must(b, err)
		records, err := epochs.OfTenant(b.Context(), tenant)
		must(b, err)
		var running metering.Quantity
		for u := range metering.Measure(instants, records, levels, nil) {
			if u.Meter == "instance.running" {
				running = running.Add(u.Quantity)
			}
		}
		if want := metering.Thousandths(10 * perInstance * uint64(distance.Milliseconds())); running != want {
			b.Fatalf("%s running, want %s", running, want)
		}
	}, func() { drain(b, conn, bare) })
}

// registerAll registers every epoch of the store.
func registerAll(b *testing.B, s *readingdb.Store, epochs *epochdb.Store) {
	totals, err := s.Totals(b.Context(), nil)
	must(b, err)
	var records []metering.EpochRecord
	for id, t := range totals {
		records = append(records, metering.EpochRecord{Tenant: t.Tenant, Host: "hst_1", Labels: metering.Labels{Flavor: "small"},
			Epoch: metering.Epoch{ID: id, Instance: t.Instance, Lease: 1, Start: 1, Opened: base}})
	}
	must(b, epochs.Register(b.Context(), records))
}

// BenchmarkDisk is what a day of readings every 10 s of 100 instances takes on
// disk when all is merged: bytes of a reading, of a slot and of an epoch's total,
// and of all three for each reading.
func BenchmarkDisk(b *testing.B) {
	const instances, each = 100, 8640
	_, conn := benchStore(b)
	for b.Loop() {
		for _, table := range []string{"readings", "reading_slots", "epoch_totals"} {
			must(b, conn.Exec(b.Context(), "TRUNCATE TABLE "+table))
		}
		fill(b, conn, instances, each, 10*time.Second, base.Add(-24*time.Hour).Truncate(24*time.Hour))
		all := uint64(0)
		for table, unit := range map[string]string{"readings": "B/reading", "reading_slots": "B/slot", "epoch_totals": "B/epoch"} {
			must(b, conn.Exec(b.Context(), "OPTIMIZE TABLE "+table+" FINAL"))
			var rows, bytes uint64
			must(b, conn.QueryRow(b.Context(), "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase() AND table = $1", table).Scan(&rows, &bytes))
			b.ReportMetric(float64(bytes)/float64(rows), unit)
			all += bytes
		}
		b.ReportMetric(float64(all)/(instances*each), "B/reading-in-all")
	}
	b.ReportMetric(0, "ns/op")
}
