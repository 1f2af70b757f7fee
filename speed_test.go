package usance_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/wire"
	"github.com/usance/usance/portal"
)

// The fleet of BenchmarkMillionAMinute: 100,000 instances of 1,000 tenants.
// Agents take a round every 10 s; these take one every 6.
const (
	fleetHosts = 1000
	perHost    = 100
	roundEvery = 6 * time.Second
	fleetRound = fleetHosts * perHost // readings
	minute     = 10                   // rounds: 1,000,000 readings
)

// BenchmarkMillionAMinute sends one control plane, which also does all it always
// does, a million readings in a minute from 1,000 hosts, which share the machine
// with it. "durable" is the time from when a round was due to its answer, "usage"
// that until it shows where usage is computed from.
func BenchmarkMillionAMinute(b *testing.B) {
	w := newWorld(b)
	w.startPlane()
	f := newFleet(w)
	f.send(1, 20*time.Second) // epochs are registered, connections open
	for b.Loop() {
		began, cpu, own := time.Now(), f.cpu(), processTime(os.Getpid(), 2)
		f.lags, f.shown = nil, nil
		f.retries.Store(0)
		f.send(minute, roundEvery)
		b.ReportMetric(minute*fleetRound/time.Since(began).Seconds(), "readings/s")
		b.ReportMetric(float64(f.retries.Load()), "retries")
		for name, lags := range map[string][]time.Duration{"durable": f.lags, "usage": f.shown} {
			slices.Sort(lags)
			b.ReportMetric(lags[len(lags)/2].Seconds()*1000, name+"-p50-ms")
			b.ReportMetric(lags[len(lags)*99/100].Seconds()*1000, name+"-p99-ms")
			b.ReportMetric(lags[len(lags)-1].Seconds()*1000, name+"-max-ms")
		}
		for name, spent := range f.cpu() {
			b.ReportMetric((spent - cpu[name]).Seconds(), name+"-cpu-s")
		}
		b.ReportMetric((processTime(os.Getpid(), 2) - own).Seconds(), "hosts-cpu-s")
	}
	b.ReportMetric(0, "ns/op")
}

// fleet are hosts whose instances run.
type fleet struct {
	*world
	stores *stores
	hosts  []*fleetHost

	retries atomic.Int64
	mu      sync.Mutex
	lags    []time.Duration // of all batches
	shown   []time.Duration // of some
}

type fleetHost struct {
	ingest.Client
	first  int // its instances are numbered from here
	epochs []metering.Epoch
	values []metering.Registers
}

// grantSQL is 100 instances on each of some hosts, of 1,000 tenants.
const grantSQL = `
WITH host AS (
	SELECT id, n FROM unnest($1::text[]) WITH ORDINALITY AS h (id, n)
), made AS (
	INSERT INTO instances (id, tenant, name, flavor, vcpus, memory_mib, disk_mib, image, image_record, user_data, ssh_keys,
		desired, reason, generation, start, state, since, created_at)
	SELECT 'ins_' || lpad(to_hex(n), 17, '0'), 'ten_' || lpad(to_hex(n % 1000), 17, '0'), 'web-' || n, 'small', 1, 1024, 10240, 'demo', '{}', '', '{}',
		'running', 'tenant', 1, 1, 'running', $2, $2
	FROM generate_series(0, 100 * cardinality($1) - 1) AS n
	RETURNING id, tenant, name, created_at
)
INSERT INTO leases (instance, no, host, tenant, flavor, image, vcpus, memory_mib, disk_mib, granted_at)
SELECT made.id, 1, host.id, tenant, 'small', 'demo', 1, 1024, 10240, created_at
FROM made JOIN host ON n = substr(name, 5)::integer / 100 + 1`

// newFleet joins the hosts and places the instances, past admission.
func newFleet(w *world) *fleet {
	f := &fleet{world: w, stores: openStores(w.t, w.data), hosts: make([]*fleetHost, fleetHosts)}
	plan, err := os.ReadFile("cmd/usance/demo-plan.yaml")
	w.must(err)
	w.must(w.call(w.operator, "POST", "/operator/plans", plan, nil))
	for _, statement := range []string{
		`INSERT INTO compute_quotas SELECT 'ten_' || lpad(to_hex(n), 17, '0'), 0, 0, 0, 0 FROM generate_series(0, 999) AS n`,
		`INSERT INTO accounts SELECT tenant, 'EUR', 'demo', 'UTC', 0, 'O', 0, now() - interval '1 hour' FROM compute_quotas`,
		`INSERT INTO tenant_accrued SELECT tenant, created, 0, 0, 0 FROM accounts`,
	} {
		_, err := f.stores.pool.Exec(w.t.Context(), statement)
		w.must(err)
	}
	ids := make([]metering.HostID, fleetHosts)
	f.each(8, func(n int) (err error) {
		ids[n], err = f.join(n)
		return err
	})
	// They report nothing but readings, and are not to count as silent.
	_, err = f.stores.pool.Exec(w.t.Context(), `UPDATE hosts SET seen_at = now() + interval '1 day'`)
	w.must(err)
	since := time.Now().UTC().Truncate(time.Millisecond)
	_, err = f.stores.pool.Exec(w.t.Context(), grantSQL, ids, since)
	w.must(err)
	_, err = f.stores.pool.Exec(w.t.Context(), `ANALYZE`)
	w.must(err)
	for n, h := range f.hosts {
		h.first, h.values = n*perHost, make([]metering.Registers, perHost)
		for i := range perHost {
			instance := metering.InstanceID(fmt.Sprintf("ins_%017x", h.first+i))
			h.epochs = append(h.epochs, metering.Epoch{ID: metering.DeriveEpochID(instance, "fleet", 1, 1, 0), Instance: instance, Lease: 1, Start: 1, Opened: since})
		}
	}
	return f
}

func (f *fleet) join(n int) (metering.HostID, error) {
	url := "https://" + f.world.hosts
	var token portal.TokenJSON
	if err := f.call(f.operator, "POST", "/operator/hosts/tokens", nil, &token); err != nil {
		return "", err
	}
	key, err := hostapi.NewKey()
	if err != nil {
		return "", err
	}
	id, err := hostapi.Join(f.t.Context(), url, token.Token, key, fmt.Sprint("host ", n), hostapi.Capacity{})
	if err != nil {
		return "", err
	}
	client, err := hostapi.NewClient(url, id)
	if err != nil {
		return "", err
	}
	f.hosts[n] = &fleetHost{Client: ingest.Client{URL: url, HTTP: client.HTTP()}}
	return id.Host, nil
}

// each calls do for every host, several at a time.
func (f *fleet) each(atOnce int, do func(n int) error) {
	var all sync.WaitGroup
	var next atomic.Int64
	for range atOnce {
		all.Go(func() {
			for n := int(next.Add(1)) - 1; n < fleetHosts; n = int(next.Add(1)) - 1 {
				if err := do(n); err != nil {
					f.t.Errorf("host %d: %v", n, err)
					return
				}
			}
		})
	}
	all.Wait()
	if f.t.Failed() {
		f.t.FailNow()
	}
}

// send has every host send rounds, the hosts one after the other within the time
// of a round, and looks five times a second when one shows.
func (f *fleet) send(rounds int, every time.Duration) {
	began, sample := time.Now(), make(chan sent)
	looking := make(chan struct{})
	go func() { f.look(sample); close(looking) }()
	f.each(fleetHosts, func(n int) error {
		for round := range rounds {
			due := began.Add(time.Duration(round)*every + time.Duration(n)*every/fleetHosts)
			time.Sleep(time.Until(due))
			if err := f.hosts[n].round(f, due); err != nil {
				return err
			}
			lag := time.Since(due)
			f.mu.Lock()
			f.lags = append(f.lags, lag)
			f.mu.Unlock()
			select {
			case sample <- sent{f.hosts[n].first, due}:
			default:
			}
		}
		return nil
	})
	close(sample)
	<-looking
}

// round sends what its instances count at the given time, until it is taken.
func (h *fleetHost) round(f *fleet, at time.Time) error {
	batch := metering.Batch{Epochs: h.epochs}
	for i := range h.epochs {
		count(&h.values[i])
		batch.Readings = append(batch.Readings, metering.Reading{Epoch: h.epochs[i].ID, At: at.UTC().Truncate(time.Millisecond), Registers: h.values[i]})
	}
	body, err := wire.Encode(nil, &batch)
	if err != nil {
		return err
	}
	for {
		response, err := h.Send(f.t.Context(), body)
		var retry *ingest.RetryAfter
		if err == nil && response.Accepted != perHost {
			return fmt.Errorf("%+v of %d readings", response, perHost)
		}
		if err == nil || !errors.As(err, &retry) {
			return err
		}
		f.retries.Add(1)
		time.Sleep(max(retry.After, 100*time.Millisecond))
	}
}

// count is a round in the life of a busy instance.
func count(v *metering.Registers) {
	ms := uint64(roundEvery.Milliseconds())
	v[metering.RunningMS] += ms
	v[metering.VCPUMS] += ms
	v[metering.MemoryMiBMS] += ms << 10
	v[metering.MemoryUsedMiBMS] += ms * (300 + rand.Uint64N(100))
	v[metering.CPUNS] += rand.Uint64N(1_000_000 * ms)
	for _, r := range []metering.Register{metering.DiskReadOps, metering.DiskWriteOps, metering.NetPublicRxPackets, metering.NetPublicTxPackets} {
		n := rand.Uint64N(500)
		v[r] += n
		v[r-1] += n * (512 + rand.Uint64N(1000))
	}
}

// sent is a batch that was answered for.
type sent struct {
	instance int
	due      time.Time
}

// look waits for some of the batches to show in what usage is computed from.
func (f *fleet) look(batches <-chan sent) {
	for batch := range batches {
		for {
			slots, err := f.stores.readings.Slots(f.t.Context(), metering.TenantID(fmt.Sprintf("ten_%017x", batch.instance%1000)),
				metering.InstanceID(fmt.Sprintf("ins_%017x", batch.instance)), metering.Window{Start: batch.due.Add(-time.Minute), End: batch.due.Add(metering.SlotLength)})
			if err != nil && !errors.Is(err, context.Canceled) {
				f.t.Error(err)
				return
			}
			if len(slots) > 0 && !slots[len(slots)-1].At.Before(batch.due.Truncate(time.Millisecond)) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		f.shown = append(f.shown, time.Since(batch.due))
		time.Sleep(200 * time.Millisecond)
	}
}

// cpu is the time that the control plane's processes have computed for.
func (f *fleet) cpu() map[string]time.Duration {
	shim := f.child("postgres-child")
	postmaster := f.childOf(shim)
	postgres := processTime(postmaster, 4)
	for pid, parent := range processes() {
		if parent == postmaster {
			postgres += processTime(pid, 2)
		}
	}
	return map[string]time.Duration{
		"plane": processTime(f.plane.Process.Pid, 2), "clickhouse": processTime(f.child("clickhouse-child"), 2), "postgres": postgres,
	}
}

// processTime is the time of a process as the kernel counts it, in user and
// system mode (2 figures), also of its children that have ended (4).
func processTime(pid, figures int) (spent time.Duration) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	for _, ticks := range strings.Fields(rest)[11 : 11+figures] {
		n, _ := strconv.Atoi(ticks)
		spent += time.Duration(n) * time.Second / 100
	}
	return spent
}
