package readingdb_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
)

// benchStore is a store and a bare connection to its database.
func benchStore(b *testing.B) (*readingdb.Store, driver.Conn) {
	b.Helper()
	options := readingtest.Options(b)
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

// sideBySide runs ours and bare in turn and reports the ratio of their median times.
func sideBySide(b *testing.B, prepare, ours, bare func()) (median time.Duration) {
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
	b.ReportMetric(median.Seconds()/theirs[len(theirs)/2].Seconds(), "x-bare")
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
	median := sideBySide(b,
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
	sideBySide(b, func() {}, func() {
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
	sideBySide(b, func() {}, func() {
		got, err := s.Totals(b.Context(), nil)
		must(b, err)
		if len(got) != 100_000 {
			b.Fatalf("%d epochs", len(got))
		}
	}, func() {
		drain(b, conn, "SELECT tenant, instance, epoch, max(at), max(received), max("+strings.Join(names, "), max(")+") FROM epoch_totals GROUP BY tenant, instance, epoch")
	})
}
