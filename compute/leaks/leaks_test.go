package leaks_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/compute/leaks"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/sql/sqltest"
)

const tenant = metering.TenantID("ten_a")

var offers = compute.Capacity{VCPUs: 9, MemoryMiB: 9, DiskMiB: 9}

// bench is one host with what the control plane knows of it, at a settable time.
type bench struct {
	*testing.T
	now      time.Time
	store    *computedb.Store
	epochs   *epochdb.Store
	readings *readingdb.Store
	breakIt  func(statement string)
	run      leaks.Run
	pool     *pgxpool.Pool
	host     metering.HostID
}

func newBench(t *testing.T) *bench {
	t.Helper()
	pool := sqltest.Postgres(t)
	log := slog.New(slog.DiscardHandler)
	b := &bench{T: t, now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), epochs: epochdb.New(pool), pool: pool}
	b.readings, b.breakIt = readingtest.Breakable(t)
	b.store = computedb.New(pool, computedb.Config{
		Flavor: func(context.Context, metering.TenantID, string) (compute.Flavor, error) {
			return compute.Flavor{Name: "small", VCPUs: 1, MemoryMiB: 1, DiskMiB: 1}, nil
		},
		Image: func(name string) (hostapi.Image, error) { return hostapi.Image{Name: name}, nil },
		Now:   func() time.Time { return b.now },
		Log:   log,
	})
	b.run = leaks.Run{Compute: b.store, Epochs: b.epochs, Allocations: allocdb.New(pool), Readings: b.readings, Log: log,
		Hourly: func(_ context.Context, tenant metering.TenantID, flavor string) (int64, string, error) {
			if flavor != "small" {
				return 0, "", errors.New("no such flavor")
			}
			return 75, "EUR", nil
		}}
	secret, err := b.store.MintToken(t.Context())
	b.must(err)
	b.host, err = b.store.Join(t.Context(), secret, "key", "h", offers)
	b.must(err)
	return b
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) create() metering.InstanceID {
	b.Helper()
	in, err := b.store.Create(b.Context(), computedb.CreateRequest{Tenant: tenant, Name: "web", Flavor: "small", Image: "demo"})
	b.must(err)
	return in.ID
}

// report tells what the host has.
func (b *bench) report(all ...compute.Observation) {
	b.Helper()
	b.must(b.store.Observe(b.Context(), b.host, hostapi.Status{Sent: b.now, Capacity: offers, Instances: all}))
}

// read inserts a reading of an instance's epoch.
func (b *bench) read(id metering.InstanceID, at time.Time, running uint64) {
	b.Helper()
	c := &metering.Columns{Tenant: []string{string(tenant)}, Instance: []string{string(id)}, Epoch: []string{string(epochOf(id))},
		AtMS: []int64{at.UnixMilli()}, ReceivedMS: []int64{at.UnixMilli()}}
	for i := range c.Registers {
		c.Registers[i] = []uint64{0}
	}
	c.Registers[metering.RunningMS][0] = running
	b.must(b.readings.Insert(b.Context(), c))
}

func epochOf(id metering.InstanceID) metering.EpochID {
	return metering.DeriveEpochID(id, "boot", 1, 1, 0)
}

// open runs the task twice, which equals once, and returns the open leaks' kinds.
func (b *bench) open() []compute.LeakKind {
	b.Helper()
	for range 2 {
		b.must(b.run.Once(b.Context(), b.now))
	}
	var kinds []compute.LeakKind
	for _, l := range b.leaks(false) {
		kinds = append(kinds, l.Kind)
	}
	slices.Sort(kinds)
	return kinds
}

func (b *bench) leaks(closed bool) []computedb.Leak {
	b.Helper()
	all, err := b.store.Leaks(b.Context(), "", closed, 0, 100)
	b.must(err)
	return all
}

func (b *bench) want(when string, kinds ...compute.LeakKind) {
	b.Helper()
	if got := b.open(); !slices.Equal(got, kinds) {
		b.Fatalf("%s: open leaks %v, want %v", when, got, kinds)
	}
}

func TestInstanceWithoutReadings(t *testing.T) {
	b := newBench(t)
	id := b.create()
	running := compute.Observation{ID: id, Generation: 1, Lease: 1, Start: 1, State: compute.StateRunning, Since: b.now}
	b.report(running)
	b.want("just begun")
	b.now = b.now.Add(2 * time.Minute)
	b.report(running)
	b.want("without a reading", compute.LeakUnmetered)
	l := b.leaks(false)[0]
	if l.Tenant != tenant || l.Host != b.host || l.Subject != string(id) || !l.Since.Equal(running.Since) || l.Hourly == nil || *l.Hourly != 75 || l.Currency != "EUR" {
		t.Errorf("%+v", l)
	}
	b.read(id, b.now, 120_000)
	b.want("with one")
	all := b.leaks(true)
	if len(all) != 1 || !all[0].Closed.Equal(b.now) || all[0].ClosedWhy != "readings come again" || !all[0].Opened.Equal(b.now) {
		t.Fatalf("%+v", all)
	}
	b.now = b.now.Add(3 * time.Minute)
	b.report(running)
	b.want("again without", compute.LeakUnmetered)
	if all := b.leaks(true); len(all) != 2 || !all[0].Since.Equal(b.now.Add(-3*time.Minute)) || all[1].Closed.IsZero() {
		t.Errorf("%+v", all)
	}
}

// What orders and reports need to pass through is no leak.
func TestSuspicionsThatPass(t *testing.T) {
	b := newBench(t)
	id := b.create()
	b.report(compute.Observation{ID: id, Generation: 1, Lease: 1, Start: 1, State: compute.StateRunning, Since: b.now})
	b.read(id, b.now, 1)
	_, err := b.store.SetPower(b.Context(), tenant, id, compute.PowerStopped, compute.ReasonTenant)
	b.must(err)
	b.want("ordered to stop")
	b.now = b.now.Add(time.Minute)
	b.read(id, b.now, 60_000)
	b.report(compute.Observation{ID: id, Generation: 2, Lease: 1, Start: 1, State: compute.StateStopped, Since: b.now})
	b.want("stopped")
	b.now = b.now.Add(10 * time.Minute)
	b.want("stopped for long")
	if all := b.leaks(true); len(all) != 0 {
		t.Errorf("there were leaks: %+v", all)
	}
}

func TestWhatRunsAgainstWhatIsWanted(t *testing.T) {
	b := newBench(t)
	id, stranger := b.create(), metering.InstanceID("ins_0000000000000000f")
	off := compute.Observation{ID: id, Generation: 1, Lease: 1, Start: 1, State: compute.StateStopped, Since: b.now, GuestOff: true}
	stray := compute.Observation{ID: stranger, Lease: 1, Start: 1, State: compute.StateRunning, Since: b.now}
	b.report(off, stray)
	b.must(b.epochs.Quarantine(b.Context(), []ingest.Quarantined{{Host: b.host, Epoch: metering.Epoch{ID: "e", Instance: stranger, Lease: 1, Start: 1},
		Reading: metering.Reading{Epoch: "e", At: b.now}, Received: b.now, Reason: ingest.ReasonNoLease, Detail: "it has none"}}))
	b.read(id, b.now, 1)
	b.want("found first", compute.LeakQuarantine)
	b.now = b.now.Add(2 * time.Minute)
	b.report(off, stray)
	b.read(id, b.now, 2) // readings go on although it is off
	b.want("confirmed", compute.LeakStray, compute.LeakUnwanted, compute.LeakQuarantine)

	q, err := b.epochs.Quarantined(b.Context(), epochdb.Open, 0, 1)
	b.must(err)
	_, err = b.epochs.Decide(b.Context(), q[0].ID, epochdb.Rejected, epochdb.Decision{By: "ann", At: b.now})
	b.must(err)
	b.now = b.now.Add(2 * time.Minute)
	b.report(off)
	b.want("dealt with")
	for _, l := range b.leaks(true) {
		if l.Closed.IsZero() || l.ClosedWhy == "" {
			t.Errorf("not closed: %+v", l)
		}
	}
}

// Stopped time of an instance that is on no host is billed for nothing.
func TestAllocationOfNothing(t *testing.T) {
	b := newBench(t)
	held := metering.Allocation{ID: metering.NewID(metering.PrefixAllocation), Tenant: tenant, Resource: "ins_0000000000000000f",
		Meter: metering.InstanceStopped, Amount: 1, Start: b.now.Add(-time.Hour)}
	b.must(pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error { return allocdb.Open(t.Context(), tx, held) }))
	b.want("found first")
	b.now = b.now.Add(2 * time.Minute)
	b.want("confirmed", compute.LeakAllocation)
	b.must(pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error {
		return allocdb.Close(t.Context(), tx, held.Resource, held.Meter, b.now)
	}))
	b.want("ended")
	if l := b.leaks(true)[0]; l.Subject != held.ID || l.ClosedWhy != "the allocation ended, or its instance is off" {
		t.Errorf("%+v", l)
	}
}

// What no rate fits is a leak of unknown cost until a closing is made without it.
func TestUnrated(t *testing.T) {
	b := newBench(t)
	unrated := compute.Leak{Kind: compute.LeakUnrated, Subject: string(tenant) + "/instance.running/huge", Tenant: tenant, Since: b.now.Add(-time.Hour), Detail: "plan standard"}
	found := []compute.Leak{unrated}
	b.run.Unrated = func(context.Context) ([]compute.Leak, error) { return found, nil }
	b.want("unrated", compute.LeakUnrated)
	found[0].Since = b.now // at another closing
	b.want("still", compute.LeakUnrated)
	if l := b.leaks(false)[0]; l.Hourly != nil || !l.Since.Equal(b.now.Add(-time.Hour)) || l.Tenant != tenant {
		t.Errorf("%+v", l)
	}
	found = nil
	b.want("with a rate")
	if l := b.leaks(true)[0]; l.Closed.IsZero() || !strings.Contains(l.ClosedWhy, "last closing") {
		t.Errorf("%+v", l)
	}
}

// Each day is audited once, the night after; those with a difference again.
func TestAudit(t *testing.T) {
	b := newBench(t)
	id := metering.InstanceID("ins_00000000000000001")
	day := b.now.Truncate(24 * time.Hour).Add(-24 * time.Hour)
	for i := range 20 { // a reading every 20 s; two are missing
		if i != 5 && i != 6 {
			b.read(id, day.Add(time.Duration(i+1)*20*time.Second), uint64(i+1)*20_000)
		}
	}
	audit := func(nights int) []computedb.Leak {
		t.Helper()
		b.now = b.now.Add(time.Duration(nights) * 24 * time.Hour)
		b.must(b.run.Audit(b.Context(), b.now))
		return b.leaks(true)
	}
	if all := audit(0); len(all) != 0 {
		t.Fatalf("before any epoch is known: %+v", all)
	}
	b.must(b.epochs.Register(b.Context(), []metering.EpochRecord{{Tenant: tenant, Host: b.host,
		Epoch: metering.Epoch{ID: epochOf(id), Instance: id, Lease: 1, Start: 1, Opened: day}}}))
	b.breakIt(`ALTER TABLE reading_slots DELETE WHERE slot > toDateTime('` + day.Add(5*time.Minute).Format(time.DateTime) + `', 'UTC') SETTINGS mutations_sync = 1`)
	all := audit(0)
	if len(all) != 2 || all[0].Kind != compute.LeakGap || !all[0].Since.Equal(day.Add(100*time.Second)) ||
		!strings.Contains(all[0].ClosedWhy, "1m0s of running") {
		t.Fatalf("with a gap: %+v", all)
	}
	if l := all[1]; l.Kind != compute.LeakDiffers || !l.Closed.IsZero() || !strings.HasPrefix(l.Subject, string(epochOf(id))) ||
		!strings.HasPrefix(l.Detail, "1 slots of ") || strings.Contains(l.Detail, "total") {
		t.Fatalf("with a slot lost: %+v", all)
	}
	b.breakIt(`ALTER TABLE epoch_totals DELETE WHERE 1 SETTINGS mutations_sync = 1`)
	if all = audit(0); len(all) != 2 || strings.Contains(all[1].Detail, "total") {
		t.Fatalf("the same night, once more: %+v, want nothing new", all)
	}
	if all = audit(1); len(all) != 2 || !all[1].Closed.IsZero() || !strings.Contains(all[1].Detail, "its total is below") {
		t.Fatalf("with a total lost, the night after: %+v", all)
	}
	for i := range 20 { // sent again
		if i != 5 && i != 6 {
			b.read(id, day.Add(time.Duration(i+1)*20*time.Second), uint64(i+1)*20_000)
		}
	}
	if all = audit(1); len(all) != 2 || all[1].Closed.IsZero() {
		t.Fatalf("when all is back: %+v", all)
	}

	// A night is missed; in the meantime a total rises above all that was read.
	b.read(id, b.now.Add(time.Hour), 900_000)
	b.breakIt(fmt.Sprintf(`INSERT INTO epoch_totals (tenant, instance, epoch, running_ms) VALUES ('%s', '%s', '%s', 900001)`, tenant, id, epochOf(id)))
	if all = audit(2); len(all) != 3 || all[0].Kind != compute.LeakDiffers || all[0].Detail != "its total is above all slots" {
		t.Fatalf("with a total that is too high: %+v", all)
	}
}
