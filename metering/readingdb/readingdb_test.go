package readingdb_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
)

// base is a slot boundary an hour or so ago: readings older than 13 months go.
var base = time.Now().UTC().Add(-2 * time.Hour).Truncate(metering.SlotLength)

// row is one reading with whom it belongs to.
type row struct {
	tenant   metering.TenantID
	instance metering.InstanceID
	epoch    metering.EpochID
	at       time.Time
	received time.Time
	values   metering.Registers
}

func columns(rows ...row) *metering.Columns {
	c := new(metering.Columns)
	for _, r := range rows {
		c.Tenant = append(c.Tenant, string(r.tenant))
		c.Instance = append(c.Instance, string(r.instance))
		c.Epoch = append(c.Epoch, string(r.epoch))
		c.AtMS = append(c.AtMS, r.at.UnixMilli())
		c.ReceivedMS = append(c.ReceivedMS, r.received.UnixMilli())
		for i, v := range r.values {
			c.Registers[i] = append(c.Registers[i], v)
		}
	}
	return c
}

func insert(t testing.TB, s *readingdb.Store, rows ...row) {
	t.Helper()
	if err := s.Insert(context.Background(), columns(rows...)); err != nil {
		t.Fatal(err)
	}
}

// reading is a row of tenant t, instance i, epoch e whose registers all derive from v.
func reading(epoch metering.EpochID, at time.Time, v uint64) row {
	r := row{"ten_1", "ins_1", epoch, at, at.Add(time.Second), metering.Registers{}}
	for i := range r.values {
		r.values[i] = v * uint64(i+1)
	}
	return r
}

func values(v uint64) metering.Registers { return reading("", base, v).values }

func TestAtOnBoundariesAndInsideSlots(t *testing.T) {
	s := readingtest.Store(t)
	insert(t, s,
		reading("e1", base.Add(-time.Hour), 1),
		reading("e1", base, 10),                       // the slot that ends at base
		reading("e1", base.Add(time.Millisecond), 11), // the next one
		reading("e1", base.Add(2*time.Minute), 12),
		reading("e1", base.Add(metering.SlotLength), 20),
		reading("e1", base.Add(metering.SlotLength+1e9), 21),
		reading("e2", base.Add(3*time.Minute), 5),
		row{"ten_2", "ins_9", "e9", base, base, values(99)},
	)
	at := func(d time.Duration) time.Time { return base.Add(d) }
	tests := []struct {
		name     string
		instants []time.Time
		want     map[metering.EpochID][]metering.Registers
	}{
		{"none", nil, map[metering.EpochID][]metering.Registers{}},
		{"before everything", []time.Time{at(-24 * time.Hour)}, map[metering.EpochID][]metering.Registers{}},
		{"on the boundary", []time.Time{at(0)}, map[metering.EpochID][]metering.Registers{"e1": {values(10)}}},
		{"a millisecond before it", []time.Time{at(-time.Millisecond)}, map[metering.EpochID][]metering.Registers{"e1": {values(1)}}},
		{"a millisecond after it", []time.Time{at(time.Millisecond)}, map[metering.EpochID][]metering.Registers{"e1": {values(11)}}},
		{"a nanosecond after it", []time.Time{at(1)}, map[metering.EpochID][]metering.Registers{"e1": {values(10)}}},
		{"inside a slot", []time.Time{at(2*time.Minute - 1)}, map[metering.EpochID][]metering.Registers{"e1": {values(11)}}},
		{"at a reading inside a slot", []time.Time{at(2 * time.Minute)}, map[metering.EpochID][]metering.Registers{"e1": {values(12)}}},
		{"long after", []time.Time{at(24 * time.Hour)}, map[metering.EpochID][]metering.Registers{"e1": {values(21)}, "e2": {values(5)}}},
		{"several, out of order, one twice, one before an epoch began",
			[]time.Time{at(metering.SlotLength), at(0), at(4 * time.Minute), at(0)},
			map[metering.EpochID][]metering.Registers{
				"e1": {values(20), values(10), values(12), values(10)},
				"e2": {values(5), {}, values(5), {}},
			}},
		{"two in one slot", []time.Time{at(time.Minute), at(3 * time.Minute)}, map[metering.EpochID][]metering.Registers{
			"e1": {values(11), values(12)}, "e2": {{}, values(5)}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := s.At(t.Context(), "ten_1", test.instants)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestStandingsAndReadings(t *testing.T) {
	s := readingtest.Store(t)
	first, second := reading("e1", base, 7), reading("e2", base.Add(time.Minute), 3)
	again := first
	again.received = again.received.Add(time.Hour)
	other := row{"ten_1", "ins_2", "e3", base, base, values(1)}
	insert(t, s, first, second, other)
	insert(t, s, again)

	totals, err := s.Totals(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[metering.EpochID]readingdb.Total{
		"e1": {Tenant: "ten_1", Instance: "ins_1", Registers: values(7), At: first.at, Received: again.received},
		"e2": {Tenant: "ten_1", Instance: "ins_1", Registers: values(3), At: second.at, Received: second.received},
		"e3": {Tenant: "ten_1", Instance: "ins_2", Registers: values(1), At: base, Received: base},
	}
	if diff := cmp.Diff(want, totals); diff != "" {
		t.Errorf("totals, -want +got:\n%s", diff)
	}
	for _, test := range []struct {
		tenants []metering.TenantID
		want    int
	}{{[]metering.TenantID{"ten_1"}, 3}, {[]metering.TenantID{"ten_2"}, 0}, {[]metering.TenantID{}, 0}, {[]metering.TenantID{"ten_2", "ten_1"}, 3}} {
		if got, err := s.Totals(t.Context(), test.tenants); err != nil || len(got) != test.want {
			t.Errorf("totals of %v: %d epochs, %v; want %d", test.tenants, len(got), err, test.want)
		}
	}

	latest, err := s.Latest(t.Context(), "ten_1", "ins_1")
	if err != nil {
		t.Fatal(err)
	}
	wantLatest := readingdb.Standing{Registers: values(10), At: second.at, Epochs: []metering.Reading{
		{Epoch: "e1", At: first.at, Registers: values(7)}, {Epoch: "e2", At: second.at, Registers: values(3)},
	}}
	if diff := cmp.Diff(wantLatest, latest); diff != "" {
		t.Errorf("latest, -want +got:\n%s", diff)
	}
	if got, err := s.Latest(t.Context(), "ten_2", "ins_1"); err != nil || !got.At.IsZero() {
		t.Errorf("another tenant's instance: %+v, %v; want nothing", got, err)
	}
	summary, err := s.Summary(t.Context(), "ten_1")
	if err != nil || len(summary) != 2 || summary["ins_2"].Registers != values(1) || summary["ins_1"].Registers != values(10) {
		t.Errorf("summary: %+v, %v", summary, err)
	}
	largest, err := s.Largest(t.Context(), []metering.EpochID{"e2", "nowhere"})
	if diff := cmp.Diff(map[metering.EpochID]metering.Reading{"e2": {Epoch: "e2", At: second.at, Registers: values(3)}}, largest); err != nil || diff != "" {
		t.Errorf("largest: %v, -want +got:\n%s", err, diff)
	}

	window := metering.Window{Start: base.Add(-time.Minute), End: base.Add(time.Minute)}
	records, err := s.Readings(t.Context(), "ten_1", "ins_1", window, 10)
	if err != nil {
		t.Fatal(err)
	}
	wantRecords := []readingdb.Record{
		{Reading: metering.Reading{Epoch: "e1", At: first.at, Registers: values(7)}, Received: first.received},
		{Reading: metering.Reading{Epoch: "e2", At: second.at, Registers: values(3)}, Received: second.received},
	}
	if diff := cmp.Diff(wantRecords, records); diff != "" {
		t.Errorf("readings, -want +got:\n%s", diff)
	}
	if got, err := s.Readings(t.Context(), "ten_1", "ins_1", window, 1); err != nil || !cmp.Equal(got, wantRecords[1:]) {
		t.Errorf("the last reading: %+v, %v", got, err)
	}
	if got, err := s.Readings(t.Context(), "ten_1", "ins_1", metering.Window{Start: base, End: base.Add(time.Minute)}, 10); err != nil || !cmp.Equal(got, wantRecords[1:]) {
		t.Errorf("readings after the start: %+v, %v", got, err)
	}
}

// TestInsertingIsAJoin inserts the same readings whole, and permuted, repeated
// and split, and compares every answer with one computed here.
func TestInsertingIsAJoin(t *testing.T) {
	s := readingtest.Store(t)
	next := 0
	rapid.Check(t, func(rt *rapid.T) {
		next++
		tenant := metering.TenantID(fmt.Sprintf("ten_%d", next))
		instance := metering.InstanceID(fmt.Sprintf("ins_%d", next))
		rows := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) row {
			r := row{tenant: tenant, instance: instance}
			r.epoch = metering.EpochID(fmt.Sprintf("%d-%d", next, rapid.IntRange(0, 2).Draw(rt, "epoch")))
			r.at = base.Add(time.Duration(rapid.IntRange(-9, 9).Draw(rt, "at")) * 100 * time.Second)
			r.received = r.at.Add(time.Second)
			r.values[metering.CPUNS] = rapid.Uint64Range(0, math.MaxInt64).Draw(rt, "cpu")
			r.values[metering.NetPrivateTxPackets] = rapid.Uint64Range(0, 5).Draw(rt, "packets")
			return r
		}), 1, 12).Draw(rt, "rows")
		batches := rapid.SliceOfN(rapid.SliceOfN(rapid.SampledFrom(rows), 1, 12), 0, 2).Draw(rt, "repeated")
		batches = append(batches, rapid.Permutation(rows).Draw(rt, "permuted"))
		rand.Shuffle(len(batches), func(i, j int) { batches[i], batches[j] = batches[j], batches[i] })
		for _, b := range batches {
			insert(t, s, b...)
		}

		instants := []time.Time{base.Add(-10 * time.Minute), base.Add(-200 * time.Second), base.Add(-100*time.Second + 1), base, base.Add(time.Hour)}
		want := map[metering.EpochID][]metering.Registers{}
		slots := map[string]metering.Registers{}
		for _, r := range rows {
			if want[r.epoch] == nil {
				want[r.epoch] = make([]metering.Registers, len(instants))
			}
			for i, at := range instants {
				if !r.at.After(at) {
					want[r.epoch][i] = want[r.epoch][i].Join(r.values)
				}
			}
			key := fmt.Sprint(metering.SlotOf(r.at), r.epoch)
			slots[key] = slots[key].Join(r.values)
		}
		got, err := s.At(t.Context(), tenant, instants)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			rt.Fatalf("At: %v, -want +got:\n%s", err, diff)
		}
		// Beyond what is billed it is the same without the epochs that are billed.
		billed, left := map[string]metering.Registers{}, 0
		for _, epoch := range slices.Sorted(maps.Keys(want)) {
			if !rapid.Bool().Draw(rt, "billed before") {
				continue
			}
			billed[string(epoch)] = rapid.SampledFrom(want[epoch]).Draw(rt, "billed")
			if billed[string(epoch)] == want[epoch][len(instants)-1] {
				left++
			}
		}
		beyond, err := s.AtOf(t.Context(), []metering.TenantID{tenant}, instants, billed)
		if err != nil || len(beyond) != len(want)-left {
			rt.Fatalf("AtOf: %d epochs, %v; want all but %d of %d", len(beyond), err, left, len(want))
		}
		for epoch, at := range want {
			for i := range at {
				level := billed[string(epoch)]
				got := level
				if beyond[epoch] != nil {
					got = level.Join(beyond[epoch][i])
				}
				if got != level.Join(at[i]) {
					rt.Fatalf("%s at %s: %v beyond what is billed, want %v", epoch, instants[i], got, level.Join(at[i]))
				}
			}
		}
		totals, err := s.Totals(t.Context(), []metering.TenantID{tenant})
		if err != nil || len(totals) != len(want) {
			rt.Fatalf("Totals: %d epochs, %v; want %d", len(totals), err, len(want))
		}
		for epoch, at := range want {
			if totals[epoch].Registers != at[len(at)-1] {
				rt.Fatalf("total of %s: got %v want %v", epoch, totals[epoch].Registers, at[len(at)-1])
			}
		}
		gotSlots := map[string]metering.Registers{}
		all, err := s.Slots(t.Context(), tenant, instance, metering.Window{Start: base.Add(-time.Hour), End: base.Add(time.Hour)})
		for _, slot := range all {
			gotSlots[fmt.Sprint(slot.End, slot.Epoch)] = slot.Registers
		}
		if diff := cmp.Diff(slots, gotSlots); err != nil || diff != "" {
			rt.Fatalf("Slots: %v, -want +got:\n%s", err, diff)
		}
	})
}

// TestMergesChangeNothing has the engine merge what it would merge some time
// later: only readings that are alike in everything become one.
func TestMergesChangeNothing(t *testing.T) {
	options := readingtest.Options(t)
	s, err := readingdb.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Migrate(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	at := base.Add(time.Minute)
	insert(t, s, reading("e1", at, 5))
	insert(t, s, reading("e1", at, 4)) // the smaller one comes last
	insert(t, s, reading("e1", at, 5))
	for _, table := range []string{"readings", "reading_slots", "epoch_totals"} {
		if err := conn.Exec(t.Context(), "OPTIMIZE TABLE "+table+" FINAL"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.At(t.Context(), "ten_1", []time.Time{at, base.Add(metering.SlotLength)})
	if diff := cmp.Diff(map[metering.EpochID][]metering.Registers{"e1": {values(5), values(5)}}, got); err != nil || diff != "" {
		t.Errorf("At: %v, -want +got:\n%s", err, diff)
	}
	var raw, slots, totals uint64
	if err := conn.QueryRow(t.Context(), "SELECT (SELECT count() FROM readings), (SELECT count() FROM reading_slots), (SELECT count() FROM epoch_totals)").Scan(&raw, &slots, &totals); err != nil || raw != 2 || slots != 1 || totals != 1 {
		t.Errorf("%d readings, %d slots, %d totals, %v; want 2, 1, 1", raw, slots, totals, err)
	}
}

// TestOpenWindows asks from the beginning of time to its end.
func TestOpenWindows(t *testing.T) {
	s := readingtest.Store(t)
	insert(t, s, reading("e1", base, 1))
	window := metering.Window{End: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	if got, err := s.Readings(t.Context(), "ten_1", "ins_1", window, 9); err != nil || len(got) != 1 {
		t.Errorf("readings: %v, %v; want one", got, err)
	}
	if got, err := s.Slots(t.Context(), "ten_1", "ins_1", window); err != nil || len(got) != 1 {
		t.Errorf("slots: %v, %v; want one", got, err)
	}
	if got, err := s.At(t.Context(), "ten_1", []time.Time{{}, window.End}); err != nil || got["e1"][0] != values(0) || got["e1"][1] != values(1) {
		t.Errorf("At: %v, %v", got, err)
	}
}

func TestInsertRefusesUnequalColumns(t *testing.T) {
	s := readingtest.Store(t)
	c := columns(reading("e1", base, 1), reading("e1", base.Add(time.Second), 2))
	c.Registers[metering.NetPrivateTxPackets] = c.Registers[metering.NetPrivateTxPackets][:1]
	if err := s.Insert(t.Context(), c); err == nil {
		t.Error("unequal columns were taken")
	}
	if err := s.Insert(t.Context(), new(metering.Columns)); err != nil {
		t.Errorf("nothing to insert: %v", err)
	}
	if got, err := s.Totals(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("stored: %v, %v", got, err)
	}
}

func TestLargestValuesAndOverflow(t *testing.T) {
	s := readingtest.Store(t)
	for i, epoch := range []metering.EpochID{"e1", "e2", "e3"} {
		r := reading(epoch, base, 0)
		r.values[metering.RunningMS] = math.MaxInt64
		insert(t, s, r)
		latest, err := s.Latest(t.Context(), r.tenant, r.instance)
		switch {
		case i < 2 && (err != nil || latest.Registers[metering.RunningMS] != uint64(i+1)*math.MaxInt64):
			t.Errorf("%d epochs: %v, %v", i+1, latest.Registers, err)
		case i == 2 && (err == nil || !strings.Contains(err.Error(), "ins_1: register running_ms")):
			t.Errorf("a sum beyond 64 bits: %v, %v; want an error naming instance and register", latest.Registers, err)
		}
	}
}

func TestLimits(t *testing.T) {
	s := readingtest.Store(t)
	window := metering.Window{Start: base, End: base.Add(time.Hour)}
	for name, err := range map[string]error{
		"no limit":         second(s.Readings(t.Context(), "ten_1", "ins_1", window, 0)),
		"limit too large":  second(s.Readings(t.Context(), "ten_1", "ins_1", window, 1e9)),
		"empty window":     second(s.Readings(t.Context(), "ten_1", "ins_1", metering.Window{Start: base, End: base}, 1)),
		"backward window":  second(s.Slots(t.Context(), "ten_1", "ins_1", metering.Window{Start: base, End: base.Add(-1)})),
		"too many moments": second(s.At(t.Context(), "ten_1", make([]time.Time, 1001))),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestHostileIdsStayValues(t *testing.T) {
	s := readingtest.Store(t)
	insert(t, s, reading("e1", base, 1))
	for _, id := range []string{"' OR 1=1 --", `\' OR 1=1 --`, "'); DROP TABLE readings; --", "{x:String}", "\x00\n\t", "%s%d"} {
		if got, err := s.At(t.Context(), metering.TenantID(id), []time.Time{base}); err != nil || len(got) != 0 {
			t.Errorf("At %q: %v, %v", id, got, err)
		}
		if got, err := s.Totals(t.Context(), []metering.TenantID{metering.TenantID(id)}); err != nil || len(got) != 0 {
			t.Errorf("Totals %q: %v, %v", id, got, err)
		}
		r := reading("e-"+metering.EpochID(id), base, 2)
		r.tenant = metering.TenantID(id)
		insert(t, s, r)
		if got, err := s.At(t.Context(), r.tenant, []time.Time{base}); err != nil || got[r.epoch] == nil || got[r.epoch][0] != values(2) {
			t.Errorf("stored under %q: %v, %v", id, got, err)
		}
	}
}

func TestMigrateTwiceAndOpenAgain(t *testing.T) {
	options := readingtest.Options(t)
	for range 2 {
		s, err := readingdb.Open(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range 2 {
			if err := s.Migrate(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		}
		insert(t, s, reading("e1", base, 1))
	}
}

func TestErrorsAreTyped(t *testing.T) {
	s, err := readingdb.Open(t.Context(), readingtest.Options(t)) // no tables
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const unknownTable = 60
	for name, err := range map[string]error{
		"insert": s.Insert(t.Context(), columns(reading("e1", base, 1))),
		"query":  second(s.Totals(t.Context(), nil)),
	} {
		if e := new(clickhouse.Exception); !errors.As(err, &e) || e.Code != unknownTable {
			t.Errorf("%s without tables: %v; want code %d", name, err, unknownTable)
		}
	}
}

func TestParseDSN(t *testing.T) {
	o, err := readingdb.ParseDSN("clickhouse://me:secret@db.example:9000/usage?dial_timeout=2s")
	if err != nil || o.Protocol != clickhouse.Native || !slices.Equal(o.Addr, []string{"db.example:9000"}) || o.Auth.Database != "usage" {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, bad := range []string{"", "postgres://me:secret@h/db", "clickhouse://me:secret@h:x/db", "clickhouse://me:secret@h/db?dial_timeout=x"} {
		if _, err := readingdb.ParseDSN(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v; want an error without the password", bad, err)
		}
	}
}
