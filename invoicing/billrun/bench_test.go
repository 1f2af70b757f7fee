package billrun_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/rating/plandb"
)

// fleet is n tenants with one small instance each that ran for 10 hours.
func fleet(b *testing.B, n int) *house {
	h := newHouse(b)
	if _, err := h.pool.Exec(b.Context(), `
		INSERT INTO accounts SELECT 'ten_' || n, 'EUR', 'standard', 'Europe/Berlin', 0, 'O', 0, '2026-10-02Z' FROM generate_series(1, $1::integer) AS n;
		`, n); err != nil {
		b.Fatal(err)
	}
	if _, err := h.pool.Exec(b.Context(), `
		INSERT INTO tenant_accrued SELECT tenant, created, 0, 0, 0 FROM accounts`); err != nil {
		b.Fatal(err)
	}
	if _, err := h.pool.Exec(b.Context(), `
		INSERT INTO epochs (id, tenant, instance, host, lease, start, opened_at, opening, flavor, image, region, host_class)
		SELECT lpad(to_hex(n), 32, '0'), 'ten_' || n, 'ins_' || n, 'hst_1', 1, 1, '2026-10-02Z', ARRAY[0], 'small', 'test', '', ''
		FROM generate_series(1, $1::integer) AS n`, n); err != nil {
		b.Fatal(err)
	}
	for i := 1; i <= n; i++ {
		tenant := metering.TenantID(fmt.Sprintf("ten_%d", i))
		h.read(tenant, metering.EpochID(fmt.Sprintf("%032x", i)), "2026-10-05 00:00", 600, 10)
		h.running = append(h.running, billrun.Running{Tenant: tenant, Labels: metering.Labels{Flavor: "small", Image: "test"}})
	}
	return h
}

// BenchmarkRefreshAccrued is the accrued cache of 10,000 tenants, without the
// query of the readings.
func BenchmarkRefreshAccrued(b *testing.B) {
	h := fleet(b, 10_000)
	for b.Loop() {
		h.check(h.RefreshAccrued(b.Context(), at("2026-10-05 00:00")))
	}
	h.want("accrued", h.count(`SELECT count(*) FROM tenant_accrued WHERE amount = 750 AND burn_nano = 750000000`), 10_000)
	b.ReportMetric(float64(b.N)*10_000/b.Elapsed().Seconds(), "tenants/s")
}

// onClickHouse is a house whose tenants have some instances each, small and large,
// each in one epoch, and a run on it that reads the store.
func onClickHouse(b *testing.B, store *readingdb.Store, tenants, each int) (*house, *billrun.Run) {
	h := newHouse(b)
	run, err := billrun.New(billrun.Config{
		Books: h.books, Plans: plandb.New(h.pool), Epochs: h.epochs, Allocations: allocdb.New(h.pool), Readings: store,
		Running: func(context.Context) ([]billrun.Running, error) { return h.running, nil }, Log: slog.New(slog.DiscardHandler),
	})
	h.check(err)
	for _, statement := range []string{
		`INSERT INTO accounts SELECT 'ten_' || n, 'EUR', 'standard', 'Europe/Berlin', 0, 'O', 0, '2026-10-02Z' FROM generate_series(1, $1::integer) AS n WHERE $2::integer > 0`,
		`INSERT INTO tenant_accrued SELECT tenant, created, 0, 0, 0 FROM accounts WHERE $1::integer > 0 AND $2::integer > 0`,
		`INSERT INTO epochs (id, tenant, instance, host, lease, start, opened_at, opening, flavor, image, region, host_class)
		SELECT lpad(to_hex(n), 32, '0'), 'ten_' || n % $1::integer + 1, 'ins_' || n, 'hst_1', 1, 1, '2026-10-02Z', ARRAY[0],
			CASE n % 2 WHEN 0 THEN 'small' ELSE 'large' END, 'test', '', ''
		FROM generate_series(1, $1::integer * $2::integer) AS n`,
	} {
		_, err := h.pool.Exec(b.Context(), statement, tenants, each)
		h.check(err)
	}
	_, err = h.pool.Exec(b.Context(), `ANALYZE`)
	h.check(err)
	return h, run
}

// ranTenHours is onClickHouse with one reading of every instance, all of which are
// wanted running.
func ranTenHours(b *testing.B, tenants, each int) (*house, *billrun.Run) {
	store := readingtest.Store(b)
	h, run := onClickHouse(b, store, tenants, each)
	all := &metering.Columns{}
	when := at("2026-10-05 00:00")
	for i := 1; i <= tenants*each; i++ {
		tenant := metering.TenantID(fmt.Sprintf("ten_%d", i%tenants+1))
		one := column(tenant, metering.EpochID(fmt.Sprintf("%032x", i)), when, 600, 10)
		all.Tenant, all.Instance, all.Epoch = append(all.Tenant, string(tenant)), append(all.Instance, fmt.Sprintf("ins_%d", i)), append(all.Epoch, one.Epoch[0])
		all.AtMS, all.ReceivedMS = append(all.AtMS, one.AtMS[0]), append(all.ReceivedMS, one.ReceivedMS[0])
		for r := range all.Registers {
			all.Registers[r] = append(all.Registers[r], one.Registers[r][0])
		}
		h.running = append(h.running, billrun.Running{Tenant: tenant, Labels: metering.Labels{Flavor: [...]string{"small", "large"}[i%2], Image: "test"}})
	}
	h.check(store.Insert(b.Context(), all))
	return h, run
}

// BenchmarkAccruedOfInstances is the accrued cache of 10,000 instances, with the
// query of the readings, their epochs and the books: what a refresh takes. What is
// rebuilt from nothing are the same figures.
func BenchmarkAccruedOfInstances(b *testing.B) {
	b.Run("1000 tenants", func(b *testing.B) { accruedOfInstances(b, 1000, 10) })
	b.Run("10000 tenants", func(b *testing.B) { accruedOfInstances(b, 10_000, 1) })
}

func accruedOfInstances(b *testing.B, tenants, each int) {
	h, run := ranTenHours(b, tenants, each)
	when := at("2026-10-05 00:00")
	figures := func() string {
		var sum string
		h.check(h.pool.QueryRow(b.Context(), `SELECT string_agg(tenant || ' ' || amount || ' ' || burn_nano, E'\n' ORDER BY tenant) FROM tenant_accrued`).Scan(&sum))
		return sum
	}
	var first string
	for b.Loop() {
		h.check(run.RefreshAccrued(b.Context(), when))
		b.StopTimer()
		if first == "" {
			first = figures()
		} else if figures() != first {
			b.Fatal("rebuilt from nothing, the figures are others")
		}
		_, err := h.pool.Exec(b.Context(), `UPDATE tenant_accrued SET as_of = '2026-10-02Z', amount = 0, burn_nano = 0`)
		h.check(err)
		b.StartTimer()
	}
	if strings.Count(first, "\n") != tenants-1 || strings.Contains(first, " 0") {
		b.Fatal("some tenant owes nothing")
	}
	b.ReportMetric(float64(b.N*tenants*each)/b.Elapsed().Seconds(), "instances/s")
}

// BenchmarkBacktest tries a plan on a month of 2,000 instances of 200 tenants, 50
// at a time.
func BenchmarkBacktest(b *testing.B) {
	const tenants, each = 200, 10
	h, run := ranTenHours(b, tenants, each)
	trial := billrun.Trial{Plan: parse(b, dearer), Year: 2026, Month: time.October}
	for b.Loop() {
		done := 0
		for next, last := metering.TenantID(""), false; !last; last = next == "" {
			page, after, err := run.Backtest(b.Context(), trial, at("2026-11-05 00:00"), next, 50)
			h.check(err)
			done += len(page.ByTenant)
			next = after
		}
		h.want("tenants", done, tenants)
	}
	b.ReportMetric(float64(b.N)*tenants*each/b.Elapsed().Seconds(), "instances/s")
}

// BenchmarkMonthOf10000 rates October of 10,000 instances, each with all its slots of
// a month, under two plans, from the readings, epochs, allocations and books to what
// each tenant pays: against the bare query for where the epochs stood at the month's
// ends.
func BenchmarkMonthOf10000(b *testing.B) {
	b.Run("100 tenants", func(b *testing.B) { monthOf10000(b, 100) })
	b.Run("10000 tenants", func(b *testing.B) { monthOf10000(b, 10_000) })
}

// months are the databases of BenchmarkMonthOf10000 by the number of tenants, each
// made once for all runs.
var months = map[int]*clickhouse.Options{}

// monthSQL are the slots of some instances from October 2nd on, and where their
// epochs stand, as the views would have them of readings.
var monthSQL = []string{`
INSERT INTO reading_slots (tenant, instance, epoch, slot, at, running_ms, vcpu_ms, cpu_ns, memory_mib_ms, net_public_tx_bytes)
WITH intDiv(number, 8928) + 1 AS i, number %% 8928 + 1 AS n, toDateTime('2026-10-02 00:00:00', 'UTC') + toIntervalMinute(5 * n) AS end
SELECT concat('ten_', toString(i %% %[1]d + 1)), concat('ins_', toString(i)), leftPad(lower(hex(i)), 32, '0'),
	end, end, n * 300000, n * 300000, n * 150000000000 + intHash64(number) %% 100000000000,
	n * 307200000, n * 5000000 + intHash64(number) %% 1000000
FROM numbers(%[2]d, %[3]d)`, `
INSERT INTO epoch_totals (tenant, instance, epoch, at, received, running_ms, vcpu_ms, cpu_ns, memory_mib_ms, net_public_tx_bytes)
SELECT tenant, instance, epoch, slot, slot, running_ms, vcpu_ms, cpu_ns, memory_mib_ms, net_public_tx_bytes
FROM reading_slots
WHERE slot = '2026-11-02 00:00:00'`}

func monthOf10000(b *testing.B, tenants int) {
	const instances, slots, atOnce = 10_000, 8928, 8_928_000
	options := months[tenants]
	if options == nil {
		options = readingtest.Options(b)
	}
	store, err := readingdb.Open(b.Context(), options)
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	h, run := onClickHouse(b, store, tenants, instances/tenants)
	h.check(store.Migrate(b.Context(), ""))
	conn, err := clickhouse.Open(options)
	h.check(err)
	defer conn.Close()
	if months[tenants] == nil {
		for made := 0; made < instances*slots; made += atOnce {
			h.check(conn.Exec(b.Context(), fmt.Sprintf(monthSQL[0], tenants, made, atOnce)))
		}
		h.check(conn.Exec(b.Context(), monthSQL[1]))
		months[tenants] = options
	}
	bare := "SELECT epoch, slot > '2026-09-30 22:00:00' AS n, max(" + strings.Join(metering.RegisterNames(), "), max(") +
		") FROM reading_slots WHERE slot <= '2026-10-31 23:00:00' GROUP BY epoch, n"
	trial := billrun.Trial{Plan: parse(b, strings.Replace(standardPlan, "0.75 per hour", "0.80 per hour", 1)), Year: 2026, Month: time.October}
	var ours, theirs []time.Duration
	for b.Loop() {
		began := time.Now()
		page, _, err := run.Backtest(b.Context(), trial, at("2026-11-05 00:00"), "", instances)
		ours = append(ours, time.Since(began))
		h.check(err)
		h.want("tenants", len(page.ByTenant), tenants)
		if running := slices.IndexFunc(page.ByMeter, func(c invoicing.Compared) bool { return c.Name == string(metering.InstanceRunning) }); running < 0 ||
			page.ByMeter[running].Before.Minor != instances/2*719*(75+225) {
			b.Fatalf("%+v of 719 hours", page.ByMeter)
		}
		began = time.Now()
		rows, err := conn.Query(b.Context(), bare)
		h.check(err)
		for rows.Next() {
		}
		h.check(rows.Err())
		rows.Close()
		theirs = append(theirs, time.Since(began))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	b.ReportMetric(ours[len(ours)/2].Seconds()/theirs[len(theirs)/2].Seconds(), "of-query")
	b.ReportMetric(ours[len(ours)/2].Seconds()*1000, "ms-ours")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkOnce closes a month of 500 tenants, with an invoice each.
func BenchmarkOnce(b *testing.B) {
	const tenants = 500
	h := fleet(b, tenants)
	month := at("2026-11-01 00:00")
	months := uint64(0)
	for b.Loop() {
		h.check(h.Once(b.Context(), month))
		months++
		for i := 1; i <= tenants; i++ {
			h.read(metering.TenantID(fmt.Sprintf("ten_%d", i)), metering.EpochID(fmt.Sprintf("%032x", i)), month.AddDate(0, 0, 5).Format("2006-01-02 15:04"), 600*(months+1), 10)
		}
		month = month.In(berlin).AddDate(0, 1, 0)
	}
	h.want("invoices", h.count(`SELECT count(*) FROM invoices`), tenants*months)
	b.ReportMetric(float64(months*tenants)/b.Elapsed().Seconds(), "closings/s")
}
