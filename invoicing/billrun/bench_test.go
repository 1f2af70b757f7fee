package billrun_test

import (
	"fmt"
	"testing"

	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/metering"
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
