package computedb_test

import (
	"testing"
	"time"

	"github.com/usance/usance/compute/computedb"
)

const fillSQL = `
	WITH made AS (
		INSERT INTO instances (id, tenant, name, flavor, vcpus, memory_mib, disk_mib, image, image_record, user_data, ssh_keys,
			desired, reason, generation, start, state, since, created_at)
		SELECT 'ins_' || lpad(to_hex(n), 17, '0'), 'ten_a', 'web-' || n, 'small', 1, 1024, 10240, 'demo', '{}', '', '{}',
			'running', 'tenant', 1, 1, 'running', $1, $1::timestamptz + n * interval '1 s'
		FROM generate_series(1, 20000) AS n
		RETURNING id, created_at
	)
	INSERT INTO leases (instance, no, host, tenant, flavor, image, vcpus, memory_mib, disk_mib, granted_at)
	SELECT id, 1, $2, 'ten_a', 'small', 'demo', 1, 1024, 10240, created_at FROM made`

// bareSQL is one indexed query of a page, read and thrown away.
const bareSQL = `
	SELECT i.id, i.tenant, i.name, i.flavor, i.image, i.desired, i.reason, i.generation, i.start, l.host, l.no,
		i.state, i.since, i.error, i.address, i.created_at
	FROM instances i LEFT JOIN leases l ON l.instance = i.id AND l.ended_at IS NULL
	WHERE i.tenant = 'ten_a' AND i.state <> 'deleted' AND (i.created_at, i.id) < ($1, $2)
	ORDER BY i.created_at DESC, i.id DESC LIMIT 100`

// BenchmarkList reads a page in the middle of 20,000 instances, against the bare
// query for the same page: "ratio" is to stay at or below 2.
func BenchmarkList(b *testing.B) {
	w := newWorld(b, computedb.Config{})
	host := w.host(b, 1)
	ctx := b.Context()
	if _, err := w.pool.Exec(ctx, `INSERT INTO compute_quotas VALUES ('ten_a', 0, 0, 0, 0)`); err != nil {
		b.Fatal(err)
	}
	if _, err := w.pool.Exec(ctx, fillSQL, noon, host); err != nil {
		b.Fatal(err)
	}
	if _, err := w.pool.Exec(ctx, `ANALYZE`); err != nil {
		b.Fatal(err)
	}
	page, err := w.List(ctx, "ten_a", "", 1000)
	if err != nil || len(page) != 1000 {
		b.Fatal(len(page), err)
	}
	last := page[len(page)-1]
	var list, bare time.Duration
	for b.Loop() {
		began := time.Now()
		if page, err := w.List(ctx, "ten_a", last.ID, 100); err != nil || len(page) != 100 {
			b.Fatal(len(page), err)
		}
		list += time.Since(began)

		began = time.Now()
		rows, err := w.pool.Query(ctx, bareSQL, last.Created, last.ID)
		if err != nil {
			b.Fatal(err)
		}
		for rows.Next() {
		}
		if err := rows.Err(); err != nil {
			b.Fatal(err)
		}
		bare += time.Since(began)
	}
	b.ReportMetric(float64(list)/float64(bare), "ratio")
	b.ReportMetric(float64(list.Microseconds())/float64(b.N), "list_us")
	b.ReportMetric(0, "ns/op")
}
