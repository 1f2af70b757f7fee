package epochdb_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/sql/sqltest"
)

var opened = time.Date(2026, 11, 1, 12, 0, 0, 123e6, time.UTC)

// record is the n-th epoch of a tenant on a host, different in every field.
func record(n int, tenant metering.TenantID, host metering.HostID) metering.EpochRecord {
	var opening metering.Registers
	for i := range opening {
		opening[i] = uint64(n*100 + i)
	}
	opening[metering.CPUNS] = math.MaxInt64
	return metering.EpochRecord{
		Epoch: metering.Epoch{
			ID:       metering.EpochID(fmt.Sprintf("%032x", n)),
			Instance: metering.InstanceID(fmt.Sprintf("ins_%017x", n)),
			Lease:    metering.LeaseNo(n + 1),
			Start:    metering.StartNo(n + 2),
			Opened:   opened.Add(time.Duration(n) * time.Minute),
			Opening:  opening,
		},
		Tenant: tenant,
		Host:   host,
		Labels: metering.Labels{Flavor: "small", Image: "debian", Region: "eu", HostClass: "epyc", Created: "2026-10-31T09:59:59Z"},
	}
}

func TestRegisterAndRead(t *testing.T) {
	s := epochdb.New(sqltest.Postgres(t))
	a, b, c := record(1, "ten_a", "hst_a"), record(2, "ten_a", "hst_b"), record(3, "ten_b", "hst_b")
	if at, ok, err := s.FirstOpened(t.Context()); ok || err != nil {
		t.Errorf("the first of no epochs opened at %s, %v", at, err)
	}
	for range 2 { // the second time is harmless
		for _, epochs := range [][]metering.EpochRecord{{c, a, a}, {b}, nil} {
			if err := s.Register(t.Context(), epochs); err != nil {
				t.Fatal(err)
			}
		}
	}

	if at, ok, err := s.FirstOpened(t.Context()); !ok || err != nil || !at.Equal(a.Opened) {
		t.Errorf("the first opened at %s, %v, want %s", at, err, a.Opened)
	}
	known, err := s.Known(t.Context(), []metering.EpochID{a.ID, c.ID, record(9, "", "").ID})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[metering.EpochID]metering.EpochRecord{a.ID: a, c.ID: c}, known); diff != "" {
		t.Errorf("Known, -want +got:\n%s", diff)
	}
	for _, test := range []struct {
		name string
		read func() ([]metering.EpochRecord, error)
		want []metering.EpochRecord
	}{
		{"of a tenant", func() ([]metering.EpochRecord, error) { return s.OfTenant(t.Context(), "ten_a") }, []metering.EpochRecord{a, b}},
		{"of a host, the newest", func() ([]metering.EpochRecord, error) { return s.OfHost(t.Context(), "hst_b", 1) }, []metering.EpochRecord{b}},
		{"of a host", func() ([]metering.EpochRecord, error) { return s.OfHost(t.Context(), "hst_b", 9) }, []metering.EpochRecord{b, c}},
		{"first page", func() ([]metering.EpochRecord, error) { return s.Page(t.Context(), "", 2) }, []metering.EpochRecord{a, b}},
		{"last page", func() ([]metering.EpochRecord, error) { return s.Page(t.Context(), b.ID, 2) }, []metering.EpochRecord{c}},
	} {
		got, err := test.read()
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s, -want +got:\n%s", test.name, diff)
		}
	}
}

func TestRegisterRefusesAnotherRecord(t *testing.T) {
	s := epochdb.New(sqltest.Postgres(t))
	kept := record(1, "ten_a", "hst_a")
	if err := s.Register(t.Context(), []metering.EpochRecord{kept}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		field  string
		change func(e *metering.EpochRecord)
	}{
		{"tenant", func(e *metering.EpochRecord) { e.Tenant = "ten_b" }},
		{"instance", func(e *metering.EpochRecord) { e.Instance = "ins_b" }},
		{"host", func(e *metering.EpochRecord) { e.Host = "hst_b" }},
		{"lease", func(e *metering.EpochRecord) { e.Lease++ }},
		{"start", func(e *metering.EpochRecord) { e.Start++ }},
		{"opening time", func(e *metering.EpochRecord) { e.Opened = e.Opened.Add(time.Millisecond) }},
		{"opening reading", func(e *metering.EpochRecord) { e.Opening[3]++ }},
		{"labels", func(e *metering.EpochRecord) { e.Labels.Image = "other" }},
	} {
		other, fresh := kept, record(2, "ten_a", "hst_a")
		test.change(&other)
		err := s.Register(t.Context(), []metering.EpochRecord{fresh, other})
		if !errors.Is(err, epochdb.ErrDifferent) || !strings.Contains(err.Error(), string(kept.ID)) || !strings.HasSuffix(err.Error(), "its "+test.field+" differs") {
			t.Errorf("another %s: err = %v", test.field, err)
		}
	}
	all, err := s.Page(t.Context(), "", 9)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]metering.EpochRecord{kept}, all); diff != "" {
		t.Errorf("after the refusals, -want +got:\n%s", diff)
	}
}

// What is here from before it was known when resources were created stays
// unknown, and is no other record.
func TestRegisterOfBeforeCreationWasKnown(t *testing.T) {
	s := epochdb.New(sqltest.Postgres(t))
	kept := record(1, "ten_a", "hst_a")
	kept.Labels.Created = ""
	again := record(1, "ten_a", "hst_a")
	for _, e := range []metering.EpochRecord{kept, again} {
		if err := s.Register(t.Context(), []metering.EpochRecord{e}); err != nil {
			t.Fatal(err)
		}
	}
	known, err := s.Known(t.Context(), []metering.EpochID{kept.ID})
	if err != nil || known[kept.ID] != kept {
		t.Errorf("got %+v, %v", known, err)
	}
}

func TestRegisterFromManyHostsAtOnce(t *testing.T) {
	s := epochdb.New(sqltest.Postgres(t))
	var epochs []metering.EpochRecord
	for n := range 50 {
		epochs = append(epochs, record(n, "ten_a", "hst_a"))
	}
	var wg sync.WaitGroup
	for i := range 4 {
		mine := slices.Clone(epochs)
		if i%2 == 1 {
			slices.Reverse(mine)
		}
		wg.Go(func() {
			if err := s.Register(t.Context(), mine); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all, err := s.OfTenant(t.Context(), "ten_a"); err != nil || len(all) != len(epochs) {
		t.Errorf("%d epochs, %v, want %d", len(all), err, len(epochs))
	}
}

func TestOlderEpochsHaveFewerRegisters(t *testing.T) {
	pool := sqltest.Postgres(t)
	s := epochdb.New(pool)
	want := record(1, "ten_a", "hst_a")
	if err := s.Register(t.Context(), []metering.EpochRecord{want}); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `UPDATE epochs SET opening = opening[1:3]`); err != nil {
		t.Fatal(err)
	}
	clear(want.Opening[3:])
	got, err := s.OfTenant(t.Context(), "ten_a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]metering.EpochRecord{want}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestQuarantine(t *testing.T) {
	s := epochdb.New(sqltest.Postgres(t))
	e := record(1, "ten_a", "hst_a")
	now := opened.Add(time.Hour)
	open := ingest.Quarantined{
		Host: e.Host, Tenant: e.Tenant, Epoch: e.Epoch, Received: now,
		Reading: metering.Reading{Epoch: e.ID, At: now.Add(-time.Minute), Registers: e.Opening},
		Reason:  ingest.ReasonTime, Detail: "2 h in 1 h",
	}
	open.Reading.Registers[metering.RunningMS] = math.MaxUint64 // what cannot be true may be anything
	held := open
	held.Reading.At, held.Reason, held.AdmitAt = now.Add(time.Hour), ingest.ReasonFuture, now.Add(30*time.Minute)
	for range 2 { // the second time is harmless
		if err := s.Quarantine(t.Context(), []ingest.Quarantined{open, held}); err != nil {
			t.Fatal(err)
		}
	}

	check := func(name string, got []epochdb.Quarantined, err error, want ...epochdb.Quarantined) {
		t.Helper()
		for i := range got {
			got[i].ID = 0
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, -want +got:\n%s", name, diff)
		}
	}
	first, err := s.Quarantined(t.Context(), "", 0, 1)
	if err != nil || len(first) != 1 {
		t.Fatalf("first page: %v, %v", first, err)
	}
	second, err := s.Quarantined(t.Context(), "", first[0].ID, 5)
	check("second page", second, err, epochdb.Quarantined{State: epochdb.Held, Quarantined: held})
	some, err := s.Quarantined(t.Context(), epochdb.Open, 0, 5)
	check("open", some, err, epochdb.Quarantined{State: epochdb.Open, Quarantined: open})
	sums, err := s.OpenQuarantine(t.Context())
	if err != nil || len(sums) != 1 || sums[0].Count != 1 || sums[0].Host != e.Host || sums[0].Reason != ingest.ReasonTime || !sums[0].Since.Equal(now) {
		t.Errorf("summed up: %+v, %v", sums, err)
	}
	early, err := s.Due(t.Context(), held.AdmitAt.Add(-time.Second), 5)
	if err != nil || len(early) > 0 {
		t.Errorf("due before its time: %v, %v", early, err)
	}
	due, err := s.Due(t.Context(), held.AdmitAt, 5)
	if err != nil || len(due) != 1 {
		t.Fatalf("due: %v, %v", due, err)
	}

	by := epochdb.Decision{By: "ann", At: now, Note: "no such clock"}
	if _, err := s.Decide(t.Context(), due[0].ID, epochdb.Rejected, by); !errors.Is(err, epochdb.ErrDecided) {
		t.Errorf("an operator rejected what is held: %v", err)
	}
	if err := s.Stored(t.Context(), []int64{due[0].ID, first[0].ID}, now); err != nil { // what is open is not stored
		t.Fatal(err)
	}
	for _, d := range []epochdb.Decision{by, {By: "bob", At: now.Add(time.Hour)}} { // the first stays
		if _, err := s.Decide(t.Context(), first[0].ID, epochdb.Rejected, d); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Decide(t.Context(), first[0].ID, epochdb.Accepted, by); !errors.Is(err, epochdb.ErrDecided) {
		t.Errorf("accepted after it was rejected: %v", err)
	}
	if _, err := s.Decide(t.Context(), first[0].ID, epochdb.Open, by); err == nil {
		t.Error("a decision for open was taken")
	}
	if _, err := s.Decide(t.Context(), 1<<40, epochdb.Accepted, by); !errors.Is(err, epochdb.ErrNotFound) {
		t.Errorf("a decision of nothing: %v", err)
	}
	due, err = s.Due(t.Context(), held.AdmitAt, 5)
	if err != nil || len(due) > 0 {
		t.Errorf("due after it was stored: %v, %v", due, err)
	}
	all, err := s.Quarantined(t.Context(), "", 0, 5)
	check("decided", all, err,
		epochdb.Quarantined{State: epochdb.Rejected, Decision: by, Quarantined: open},
		epochdb.Quarantined{State: epochdb.Accepted, Quarantined: held})
}

// fill puts n more readings of the host into quarantine.
const fill = `
INSERT INTO quarantined_readings (received_at, host, tenant, epoch, instance, lease, start, opened_at, opening, at, registers, reason, detail, admit_at, state)
SELECT $1, $2, '', 'e', 'i', 1, 1, $1, '{}', $1::timestamptz + n * interval '1 second', '{}', $3, '', $1, $3
FROM generate_series(1, $4::integer) n`

// A host that has as much in quarantine as is kept is refused what would add to
// it, and nothing else; other hosts are not concerned.
func TestQuarantineIsBounded(t *testing.T) {
	pool := sqltest.Postgres(t)
	s := epochdb.New(pool)
	e := record(1, "ten_a", "hst_a")
	of := func(host metering.HostID, minute int, admitAt time.Time) []ingest.Quarantined {
		reason := ingest.ReasonTime
		if !admitAt.IsZero() {
			reason = ingest.ReasonFuture
		}
		return []ingest.Quarantined{{Host: host, Epoch: e.Epoch, Received: opened, AdmitAt: admitAt, Reason: reason,
			Reading: metering.Reading{Epoch: e.ID, At: opened.Add(time.Duration(minute) * time.Minute)}}}
	}
	for state, limit := range map[epochdb.State]int{epochdb.Open: epochdb.MaxOpen, epochdb.Held: epochdb.MaxHeld} {
		admitAt := time.Time{}
		if state == epochdb.Held {
			admitAt = opened
		}
		if _, err := pool.Exec(t.Context(), fill, opened, "hst_a", state, limit-1); err != nil {
			t.Fatal(err)
		}
		both := append(of("hst_a", 1, admitAt), of("hst_a", 2, admitAt)...)
		if err := s.Quarantine(t.Context(), both); err != nil {
			t.Errorf("%s: the last batch before the limit: %v", state, err)
		}
		if err := s.Quarantine(t.Context(), both); err != nil {
			t.Errorf("%s: what is there already, once more: %v", state, err)
		}
		over := append(of("hst_a", 2, admitAt), of("hst_a", 3, admitAt)...)
		if err := s.Quarantine(t.Context(), over); !errors.Is(err, ingest.ErrQuarantineFull) {
			t.Errorf("%s: beyond the limit: %v, want ErrQuarantineFull", state, err)
		}
		if err := s.Quarantine(t.Context(), of("hst_b", 3, admitAt)); err != nil {
			t.Errorf("%s: another host: %v", state, err)
		}
		var kept int
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM quarantined_readings WHERE host = 'hst_a' AND state = $1`, state).Scan(&kept); err != nil || kept != limit+1 {
			t.Errorf("%s: %d are kept, %v, want %d", state, kept, err, limit+1)
		}
	}
	due, err := s.Due(t.Context(), opened, 4)
	if err != nil || len(due) != 4 || due[1].Host != "hst_b" {
		t.Errorf("due: %d, %v, want the second host's first before the first host's second", len(due), err)
	}
}

// What an operator accepted waits until it is noted as stored.
func TestAcceptedWaits(t *testing.T) {
	s := epochdb.New(sqltest.Postgres(t))
	e := record(1, "ten_a", "hst_a")
	if err := s.Quarantine(t.Context(), []ingest.Quarantined{{Host: e.Host, Epoch: e.Epoch, Received: opened,
		Reading: metering.Reading{Epoch: e.ID, At: opened}, Reason: ingest.ReasonNoLease}}); err != nil {
		t.Fatal(err)
	}
	all, err := s.Quarantined(t.Context(), epochdb.Open, 0, 1)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	id := all[0].ID
	for _, want := range []int{0, 1, 0} {
		waiting, err := s.Unstored(t.Context(), 5)
		if err != nil || len(waiting) != want {
			t.Fatalf("%d wait, want %d; %v", len(waiting), want, err)
		}
		switch want {
		case 0:
			_, err = s.Decide(t.Context(), id, epochdb.Accepted, epochdb.Decision{By: "ann", At: opened})
		case 1:
			err = s.Stored(t.Context(), []int64{id}, opened)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestVoid(t *testing.T) {
	s := epochdb.New(sqltest.Postgres(t))
	e, other := record(1, "ten_a", "hst_a"), record(2, "ten_a", "hst_a")
	if err := s.Register(t.Context(), []metering.EpochRecord{e, other}); err != nil {
		t.Fatal(err)
	}
	from := opened.Add(time.Hour)
	at, last := e.Opening, metering.Reading{At: from.Add(time.Minute), Registers: e.Opening}
	at[metering.RunningMS] += 1000
	last.Registers[metering.RunningMS] += 9000
	void := e.NewVoid(from, at, last)
	by := epochdb.Decision{By: "ann", At: from.Add(time.Hour), Note: "a register leapt"}
	again := void
	again.Cap[metering.RunningMS]++ // computed anew, later
	for _, v := range []metering.Void{void, again} {
		if kept, err := s.Void(t.Context(), e, v, by); err != nil || kept != void {
			t.Fatalf("kept %+v, %v, want %+v", kept, err, void)
		}
	}
	again.From = from.Add(time.Second)
	if _, err := s.Void(t.Context(), e, again, by); !errors.Is(err, epochdb.ErrVoided) {
		t.Errorf("from another instant on: %v", err)
	}
	want := e
	want.Void = &void
	next := want.Replacing()
	known, err := s.Known(t.Context(), []metering.EpochID{e.ID, void.Next, other.ID})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[metering.EpochID]metering.EpochRecord{e.ID: want, next.ID: next, other.ID: other}, known); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	voided, err := s.Voided(t.Context(), "ten_a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]metering.EpochRecord{want}, voided); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
