package trust_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/metering/trust"
	"github.com/usance/usance/sql/sqltest"
)

const (
	tenant   = metering.TenantID("ten_0000000000000000a")
	host     = metering.HostID("hst_0000000000000000a")
	instance = metering.InstanceID("ins_0000000000000000a")
)

// bench is ingest on real stores, with one lease granted three hours ago.
type bench struct {
	*testing.T
	epochs   *epochdb.Store
	readings *readingdb.Store
	run      *trust.Run
	granted  time.Time
	fail     error // of inserts
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, epochs: epochdb.New(sqltest.Postgres(t)), readings: readingtest.Store(t),
		granted: time.Now().UTC().Truncate(time.Second).Add(-3 * time.Hour)}
	log := slog.New(slog.DiscardHandler)
	take, err := ingest.New(ingest.Config{
		Authenticate: func(*http.Request) (metering.HostID, error) { return "", ingest.ErrUnknownHost },
		Known:        b.epochs.Known, Register: b.epochs.Register, Quarantine: b.epochs.Quarantine, Log: log,
		Insert: func(ctx context.Context, rows *metering.Columns) error {
			if b.fail != nil {
				return b.fail
			}
			return b.readings.Insert(ctx, rows)
		},
		Leases: func(_ context.Context, keys []ingest.LeaseKey) (map[ingest.LeaseKey]ingest.Lease, error) {
			found := map[ingest.LeaseKey]ingest.Lease{}
			for _, k := range keys {
				if k == (ingest.LeaseKey{Instance: instance, No: 1}) {
					found[k] = ingest.Lease{Tenant: tenant, Host: host, Labels: metering.Labels{Flavor: "small"}, Granted: b.granted}
				}
			}
			return found, nil
		},
	})
	b.must(err)
	b.run = &trust.Run{Epochs: b.epochs, Readings: b.readings, Ingest: take, Log: log}
	return b
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) epoch() metering.Epoch {
	return metering.Epoch{ID: metering.DeriveEpochID(instance, "boot", 1, 1, 0), Instance: instance, Lease: 1, Start: 1, Opened: b.granted}
}

// send sends a reading of running time, minutes after the grant.
func (b *bench) send(from metering.HostID, e metering.Epoch, minutes int, runningMS uint64) ingest.Response {
	b.Helper()
	response, err := b.run.Ingest.Take(b.Context(), from, &metering.Batch{Epochs: []metering.Epoch{e}, Readings: []metering.Reading{
		{Epoch: e.ID, At: b.at(minutes), Registers: metering.Registers{metering.RunningMS: runningMS}}}})
	b.must(err)
	return response
}

func (b *bench) at(minutes int) time.Time { return b.granted.Add(time.Duration(minutes) * time.Minute) }

// quarantined is the only reading that waits for an operator.
func (b *bench) quarantined() epochdb.Quarantined {
	b.Helper()
	all, err := b.epochs.Quarantined(b.Context(), epochdb.Open, 0, 10)
	b.must(err)
	if len(all) != 1 {
		b.Fatalf("in quarantine: %+v", all)
	}
	return all[0]
}

// used is the tenant's running time until so many minutes after the grant, ms.
func (b *bench) used(minutes int) (ms uint64) {
	b.Helper()
	epochs, err := b.epochs.OfTenant(b.Context(), tenant)
	b.must(err)
	instants := []time.Time{b.granted.Add(-time.Hour), b.at(minutes)}
	levels, err := b.readings.At(b.Context(), tenant, instants)
	b.must(err)
	for u := range metering.Measure(instants, epochs, levels, nil) {
		if u.Meter == metering.InstanceRunning {
			ms += u.Quantity.Lo
		}
	}
	return ms
}

func (b *bench) decided(note string) epochdb.Decision {
	return epochdb.Decision{By: "ann", At: time.Now().UTC().Truncate(time.Microsecond), Note: note}
}

func TestAcceptedCounts(t *testing.T) {
	b := newBench(t)
	b.send(host, b.epoch(), 10, 600_000)
	if r := b.send(host, b.epoch(), 20, 20*3_600_000); r.Quarantined != 1 { // more than the clock
		t.Fatalf("%+v", r)
	}
	id := b.quarantined().ID
	b.fail = errors.New("the engine is down")
	if _, err := b.run.Accept(t.Context(), id, b.decided("its clock was seen")); !errors.Is(err, b.fail) {
		t.Fatalf("accepted without an engine: %v", err)
	}
	if got := b.used(30); got != 600_000 {
		t.Fatalf("%d ms before it is stored", got)
	}
	b.fail = nil
	b.must(b.run.Once(t.Context(), time.Now())) // carries the decision out
	if got := b.used(30); got != 20*3_600_000 {
		t.Fatalf("%d ms after it was accepted", got)
	}
	again, err := b.run.Accept(t.Context(), id, epochdb.Decision{By: "bob", At: time.Now()})
	b.must(err)
	if again.Decision.By != "ann" || again.Decision.Note != "its clock was seen" || b.used(30) != 20*3_600_000 {
		t.Errorf("accepted again: %+v", again)
	}
	if _, err := b.run.Reject(t.Context(), id, b.decided("")); !errors.Is(err, epochdb.ErrDecided) {
		t.Errorf("rejected afterwards: %v", err)
	}
}

// A reading of a host that was not granted the lease is the lease's when accepted;
// one without any lease is nobody's.
func TestWhatCanBeAccepted(t *testing.T) {
	b := newBench(t)
	if r := b.send("hst_0000000000000000b", b.epoch(), 10, 600_000); r.Quarantined != 1 {
		t.Fatalf("%+v", r)
	}
	_, err := b.run.Accept(t.Context(), b.quarantined().ID, b.decided(""))
	b.must(err)
	if got := b.used(10); got != 600_000 {
		t.Errorf("%d ms", got)
	}
	known, err := b.epochs.Known(t.Context(), []metering.EpochID{b.epoch().ID})
	b.must(err)
	if e := known[b.epoch().ID]; e.Host != host || e.Tenant != tenant || e.Labels.Flavor != "small" {
		t.Errorf("registered %+v", e)
	}

	stranger := b.epoch()
	stranger.ID, stranger.Lease = metering.DeriveEpochID(instance, "boot", 2, 1, 0), 7
	b.send(host, stranger, 10, 600_000)
	id := b.quarantined().ID
	if _, err := b.run.Accept(t.Context(), id, b.decided("")); !errors.Is(err, ingest.ErrUnacceptable) {
		t.Errorf("without a lease: %v", err)
	}
	b.must(second(b.run.Reject(t.Context(), id, b.decided("")))) // nothing was decided before
	foreign := b.epoch()
	foreign.Instance = "ins_0000000000000000b"
	b.send(host, foreign, 11, 1)
	if _, err := b.run.Accept(t.Context(), b.quarantined().ID, b.decided("")); !errors.Is(err, ingest.ErrUnacceptable) {
		t.Errorf("of another instance: %v", err)
	}
	for _, err := range []error{
		second(b.run.Accept(t.Context(), 1<<40, b.decided(""))), second(b.run.Reject(t.Context(), 1<<40, b.decided(""))),
	} {
		if !errors.Is(err, epochdb.ErrNotFound) {
			t.Errorf("of nothing: %v", err)
		}
	}
	if _, err := b.run.Reject(t.Context(), b.quarantined().ID, epochdb.Decision{At: time.Now()}); !errors.Is(err, trust.ErrInvalid) {
		t.Errorf("by nobody: %v", err)
	}
}

// More than one call takes is decided call by call, each going on where the last
// stopped.
func TestBulkGoesOn(t *testing.T) {
	b := newBench(t)
	const more = 5
	var all []ingest.Quarantined
	for n := range trust.BulkSize + more {
		all = append(all, ingest.Quarantined{Host: host, Epoch: b.epoch(), Received: b.granted, Reason: ingest.ReasonTime,
			Reading: metering.Reading{Epoch: b.epoch().ID, At: b.granted.Add(time.Duration(n) * time.Second), Registers: metering.Registers{metering.RunningMS: uint64(n)}}})
	}
	b.must(b.epochs.Quarantine(t.Context(), all))
	sel := epochdb.Selection{Epoch: b.epoch().ID}
	first, err := b.run.AcceptAll(t.Context(), sel, 0, b.decided("once"))
	b.must(err)
	if first.Decided != trust.BulkSize || first.Next == 0 {
		t.Errorf("the first call: %+v", first)
	}
	rest, err := b.run.AcceptAll(t.Context(), sel, first.Next, b.decided("twice"))
	b.must(err)
	if rest.Decided != more || rest.Next != 0 {
		t.Errorf("the second call: %+v, want %d and the end", rest, more)
	}
	if got := b.used(30); got != trust.BulkSize+more-1 {
		t.Errorf("%d ms count, want those of the last", got)
	}
	if _, err := b.run.RejectAll(t.Context(), epochdb.Selection{Through: 9}, 0, b.decided("")); !errors.Is(err, trust.ErrInvalid) {
		t.Errorf("without any selection: %v, want ErrInvalid", err)
	}
}

func second[T any](_ T, err error) error { return err }

// An epoch leaps by an hour at 20 minutes and stays wrong; it is voided, goes on,
// and is voided again.
func TestVoid(t *testing.T) {
	b := newBench(t)
	e := b.epoch()
	for _, r := range []struct {
		minutes int
		ms      uint64
	}{{10, 600_000}, {20, 1_200_000 + 3_600_000}, {21, 1_260_000 + 3_600_000}} {
		if r := b.send(host, e, r.minutes, r.ms); r.Accepted != 1 {
			t.Fatalf("%+v", r)
		}
	}
	if got := b.used(21); got != 4_860_000 {
		t.Fatalf("%d ms before", got)
	}
	var voided metering.EpochRecord
	for range 2 { // the second changes nothing
		var err error
		voided, err = b.run.Void(t.Context(), e.ID, b.at(15), b.decided("a counter leapt"))
		b.must(err)
	}
	if v := voided.Void; v.Cap[metering.RunningMS] != 600_000 || !v.NextOpened.Equal(b.at(21)) || v.NextOpening[metering.RunningMS] != 4_860_000 {
		t.Fatalf("%+v", v)
	}
	if got := b.used(21); got != 600_000 {
		t.Fatalf("%d ms after it was voided", got)
	}
	b.send(host, e, 12, 720_000)             // late and before the instant: not above the cap
	b.send(host, e, 20, 4_800_000)           // again
	b.send(host, e, 31, 1_860_000+3_600_000) // ten minutes on
	if got := b.used(31); got != 1_200_000 {
		t.Fatalf("%d ms, want ten minutes before and ten after", got)
	}
	if got := b.used(5); got != 0 {
		t.Errorf("%d ms before the first reading", got)
	}

	// The agent lost its state: it is told where it stood, of the epoch as it knows it.
	records, err := b.epochs.OfHost(t.Context(), host, 10)
	b.must(err)
	largest, err := b.run.Largest(t.Context(), records)
	b.must(err)
	if r := largest[e.ID]; r.Registers[metering.RunningMS] != 1_860_000+3_600_000 || !r.At.Equal(b.at(31)) {
		t.Errorf("largest %+v", r)
	}

	// The replacing epoch is voided from its beginning on.
	_, err = b.run.Void(t.Context(), voided.Void.Next, b.at(21), b.decided("it leapt again"))
	b.must(err)
	if got := b.used(31); got != 600_000 {
		t.Fatalf("%d ms after the second void", got)
	}
	b.send(host, e, 41, 2_460_000+3_600_000)
	if got := b.used(41); got != 1_200_000 {
		t.Fatalf("%d ms, want ten minutes before and ten after", got)
	}
}

func TestVoidRefused(t *testing.T) {
	b := newBench(t)
	e := b.epoch()
	b.send(host, e, 10, 600_000)
	b.must(second(b.run.Void(t.Context(), e.ID, b.at(5), b.decided("because"))))
	for _, test := range []struct {
		name  string
		epoch metering.EpochID
		from  time.Time
		d     epochdb.Decision
		want  error
	}{
		{"another instant", e.ID, b.at(6), b.decided("because"), epochdb.ErrVoided},
		{"no reason", e.ID, b.at(5), b.decided(""), trust.ErrInvalid},
		{"nobody", e.ID, b.at(5), epochdb.Decision{At: time.Now(), Note: "because"}, trust.ErrInvalid},
		{"the future", e.ID, time.Now().Add(time.Hour), b.decided("because"), trust.ErrInvalid},
		{"no epoch", "e", b.at(5), b.decided("because"), epochdb.ErrNotFound},
	} {
		if _, err := b.run.Void(t.Context(), test.epoch, test.from, test.d); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if got := b.used(10); got != 0 { // the only reading is later than the instant
		t.Errorf("%d ms", got)
	}
}
