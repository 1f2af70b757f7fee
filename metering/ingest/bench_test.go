package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/metering/wire"
	"github.com/usance/usance/sql/sqltest"
)

// The sizes of BenchmarkIngest: each host sends its batches one after the
// other, as an agent does whose spool has filled.
const (
	hosts       = 40
	perHost     = 100 // instances
	rounds      = 10  // of all its instances, in a batch: 1,000 readings
	batchesEach = 3   // of each host in a turn: 120,000 readings
	turns       = 9   // of each side; medians count
	insertRows  = 10_000
)

// BenchmarkIngest is readings from 40 hosts over HTTP, with TLS and the hosts'
// certificates, until they are durable: "of-raw" is their rows/s as a part of
// those of raw inserts of the same rows, 10,000 at once and two at a time, into
// the same tables; "of-bare-table" that of inserts into readings without views.
// Hosts, engine and Postgres share the machine.
func BenchmarkIngest(b *testing.B) {
	f := newFleet(b)
	viewed, bare := rawTables(b), rawTables(b, "reading_slots_feed", "epoch_totals_feed")
	f.send(b, f.bodies(b)) // epochs are registered, connections open
	for b.Loop() {
		var ours, raw, table []time.Duration
		for turn := range turns {
			bodies := f.bodies(b)
			rows := decoded(b, f, bodies)
			sides := []func(){
				func() { ours = append(ours, timed(func() { f.send(b, bodies) })) },
				func() { raw = append(raw, timed(func() { insertAll(b, viewed, rows) })) },
				func() { table = append(table, timed(func() { insertAll(b, bare, rows) })) },
			}
			for i := range sides { // each is the first as often: the engine still merges what came before
				sides[(turn+i)%len(sides)]()
			}
		}
		b.ReportMetric(median(raw)/median(ours), "of-raw")
		b.ReportMetric(median(table)/median(ours), "of-bare-table")
		b.ReportMetric(hosts*batchesEach*perHost*rounds/median(ours), "rows/s")
	}
	b.ReportMetric(0, "ns/op")
}

var quiet = slog.New(slog.DiscardHandler)

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// median is in seconds.
func median(all []time.Duration) float64 {
	slices.Sort(all)
	return all[len(all)/2].Seconds()
}

// fleet are hosts whose instances run, and a control plane that takes their readings.
type fleet struct {
	clients []ingest.Client
	epochs  [][]metering.Epoch // of each host
	values  [][]metering.Registers
	at      time.Time
}

func newFleet(b *testing.B) *fleet {
	f := &fleet{at: time.Now().UTC().Truncate(metering.SlotLength).Add(-24 * time.Hour)}
	pool := sqltest.Postgres(b)
	machines := computedb.New(pool, computedb.Config{Log: quiet})
	ca, err := hostapi.LoadCA(b.TempDir())
	must(b, err)
	url := serve(b, ca, machines, epochdb.New(pool), readingtest.Store(b))
	_, err = pool.Exec(b.Context(), `INSERT INTO compute_quotas SELECT 'ten_' || lpad(to_hex(n), 17, '0'), 0, 0, 0, 0 FROM generate_series(0, 99) AS n`)
	must(b, err)
	for n := range hosts {
		secret, err := machines.MintToken(b.Context())
		must(b, err)
		key, err := hostapi.NewKey()
		must(b, err)
		id, err := hostapi.Join(b.Context(), url, ca.Token(secret), key, fmt.Sprint("host ", n), hostapi.Capacity{})
		must(b, err)
		client, err := hostapi.NewClient(url, id)
		must(b, err)
		f.clients = append(f.clients, ingest.Client{URL: url, HTTP: client.HTTP()})
		_, err = pool.Exec(b.Context(), grantSQL, id.Host, n*perHost, (n+1)*perHost-1, f.at.Add(-time.Hour))
		must(b, err)
		epochs := make([]metering.Epoch, perHost)
		for i := range epochs {
			epochs[i] = metering.Epoch{ID: metering.EpochID(fmt.Sprintf("%032x", rand.Uint64())), Lease: 1, Start: 1, Opened: f.at,
				Instance: metering.InstanceID(fmt.Sprintf("ins_%017x", n*perHost+i))}
		}
		f.epochs, f.values = append(f.epochs, epochs), append(f.values, make([]metering.Registers, perHost))
	}
	return f
}

// grantSQL is a range of instances, placed on a host; their tenants are 100.
const grantSQL = `
WITH made AS (
	INSERT INTO instances (id, tenant, name, flavor, vcpus, memory_mib, disk_mib, image, image_record, user_data, ssh_keys,
		desired, reason, generation, start, state, since, created_at)
	SELECT 'ins_' || lpad(to_hex(n), 17, '0'), 'ten_' || lpad(to_hex(n % 100), 17, '0'), 'web-' || n, 'small', 1, 1024, 10240, 'demo', '{}', '', '{}',
		'running', 'tenant', 1, 1, 'running', $4, $4
	FROM generate_series($2::integer, $3::integer) AS n
	RETURNING id, tenant, created_at
)
INSERT INTO leases (instance, no, host, tenant, flavor, image, vcpus, memory_mib, disk_mib, granted_at)
SELECT id, 1, $1, tenant, 'small', 'demo', 1, 1024, 10240, created_at FROM made`

// serve serves hosts as the control plane does, and returns where.
func serve(b *testing.B, ca *hostapi.CA, machines *computedb.Store, epochs *epochdb.Store, readings *readingdb.Store) (url string) {
	auth := &hostapi.Authenticator{CA: ca, Active: machines.Active}
	take, err := ingest.New(ingest.Config{Authenticate: auth.Authenticate, Known: epochs.Known, Register: epochs.Register,
		Insert: readings.Insert, Quarantine: func(context.Context, []ingest.Quarantined) error { return errors.New("an honest reading is refused") },
		Leases: func(ctx context.Context, keys []ingest.LeaseKey) (map[ingest.LeaseKey]ingest.Lease, error) {
			asked := make([]compute.LeaseKey, len(keys))
			for i, k := range keys {
				asked[i] = compute.LeaseKey(k)
			}
			found, err := machines.Leases(ctx, asked)
			all := make(map[ingest.LeaseKey]ingest.Lease, len(found))
			for k, l := range found {
				all[ingest.LeaseKey(k)] = ingest.Lease{Tenant: l.Tenant, Host: l.Host, Granted: l.Granted, Ended: l.Ended,
					Labels: metering.Labels{Flavor: l.Flavor, Image: l.Image}, MaxBytesPerSecond: 100_000_000_000}
			}
			return all, err
		}})
	must(b, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	server := &http.Server{TLSConfig: ca.ServerConfig(),
		Handler: hostapi.Handler(hostapi.Config{Auth: auth, Join: machines.Join, Readings: take, Log: quiet})}
	go server.ServeTLS(l, "", "")
	b.Cleanup(func() { server.Close() })
	return "https://" + l.Addr().String()
}

// bodies are the next batches of each host.
func (f *fleet) bodies(b *testing.B) [][][]byte {
	all := make([][][]byte, hosts)
	for range batchesEach {
		for n := range all {
			body, err := wire.Encode(nil, &metering.Batch{Epochs: f.epochs[n], Readings: f.readings(n)})
			must(b, err)
			all[n] = append(all[n], body)
		}
		f.at = f.at.Add(rounds * 10 * time.Second)
	}
	return all
}

// readings are a host's next rounds, 10 s apart.
func (f *fleet) readings(host int) []metering.Reading {
	var all []metering.Reading
	for round := range rounds {
		for i := range f.epochs[host] {
			v := &f.values[host][i]
			run(v)
			all = append(all, metering.Reading{Epoch: f.epochs[host][i].ID, At: f.at.Add(time.Duration(round+1) * 10 * time.Second), Registers: *v})
		}
	}
	return all
}

// run is 10 s in the life of an instance that is moderately busy.
func run(v *metering.Registers) {
	v[metering.RunningMS] += 10_000
	v[metering.VCPUMS] += 10_000
	v[metering.MemoryMiBMS] += 10_000 << 10
	v[metering.MemoryUsedMiBMS] += 10_000 * (300 + rand.Uint64N(100))
	v[metering.CPUNS] += rand.Uint64N(2_000_000_000)
	for _, r := range []metering.Register{metering.DiskReadOps, metering.DiskWriteOps, metering.NetPublicRxPackets, metering.NetPublicTxPackets} {
		n := rand.Uint64N(500)
		v[r] += n
		v[r-1] += n * (512 + rand.Uint64N(1000))
	}
}

// send sends every host's bodies, one after the other, all hosts at once.
func (f *fleet) send(b *testing.B, bodies [][][]byte) {
	var all sync.WaitGroup
	for n := range bodies {
		all.Go(func() {
			for _, body := range bodies[n] {
				if got, err := f.clients[n].Send(b.Context(), body); err != nil || got.Accepted != perHost*rounds {
					b.Errorf("%+v, %v", got, err)
				}
			}
		})
	}
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// decoded are the rows of the bodies, as many to an insert as ingest inserts at once.
func decoded(b *testing.B, f *fleet, bodies [][][]byte) (all [][]any) {
	var batch wire.Batch
	columns := new(metering.Columns)
	for n := range batchesEach {
		for host := range bodies {
			must(b, wire.Decode(&batch, bodies[host][n]))
			for i, epoch := range batch.Epoch {
				columns.Tenant = append(columns.Tenant, fmt.Sprintf("ten_%017x", (host*perHost+int(epoch))%100))
				columns.Instance = append(columns.Instance, string(batch.Epochs[epoch].Instance))
				columns.Epoch = append(columns.Epoch, string(batch.Epochs[epoch].ID))
				columns.ReceivedMS = append(columns.ReceivedMS, batch.AtMS[i])
			}
			columns.AtMS = append(columns.AtMS, batch.AtMS...)
			insert := []any{columns.Tenant, columns.Instance, columns.Epoch, columns.AtMS, columns.ReceivedMS}
			for reg := range columns.Registers {
				columns.Registers[reg] = append(columns.Registers[reg], batch.Registers[reg]...)
				insert = append(insert, columns.Registers[reg])
			}
			if columns.Len() == insertRows {
				all, columns = append(all, insert), new(metering.Columns)
			}
		}
	}
	return all
}

// rawTables is a bare connection to tables of its own, without some of the views.
func rawTables(b *testing.B, without ...string) driver.Conn {
	options := readingtest.Options(b)
	s, err := readingdb.Open(b.Context(), options)
	must(b, err)
	defer s.Close()
	must(b, s.Migrate(b.Context(), ""))
	conn, err := clickhouse.Open(options)
	must(b, err)
	b.Cleanup(func() { conn.Close() })
	for _, view := range without {
		must(b, conn.Exec(b.Context(), "DROP TABLE "+view))
	}
	return conn
}

// insertAll inserts all rows, two inserts at a time.
func insertAll(b *testing.B, conn driver.Conn, all [][]any) {
	names := append([]string{"tenant", "instance", "epoch", "at", "received"}, metering.RegisterNames()...)
	var types []clickhouse.ColumnNameAndType
	for i, name := range names {
		types = append(types, clickhouse.ColumnNameAndType{Name: name, Type: "UInt64"})
		if i < 5 {
			types[i].Type = []string{"String", "String", "String", "DateTime64(3, 'UTC')", "DateTime64(3, 'UTC')"}[i]
		}
	}
	ctx := clickhouse.Context(b.Context(), clickhouse.WithColumnNamesAndTypes(types), clickhouse.WithSettings(clickhouse.Settings{"async_insert": 0}))
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for i := w; i < len(all); i += 2 {
				batch, err := conn.PrepareBatch(ctx, "INSERT INTO readings ("+strings.Join(names, ", ")+")")
				for n := 0; err == nil && n < len(names); n++ {
					err = batch.Column(n).Append(all[i][n])
				}
				if err == nil {
					err = batch.Send()
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
