package allocdb_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/sql/sqltest"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func volume() metering.Allocation {
	return metering.Allocation{
		ID: metering.NewID(metering.PrefixAllocation), Tenant: "ten_a", Resource: "vol_a", Meter: metering.VolumeAllocated,
		Labels: metering.Labels{Flavor: "ssd", Image: "i", Region: "eu", HostClass: "c", Created: "2026-11-01T11:59:58Z"}, Amount: 10240, Start: noon,
	}
}

func inTx(t *testing.T, pool *pgxpool.Pool, f func(tx pgx.Tx) error) error {
	t.Helper()
	return pgx.BeginFunc(t.Context(), pool, f)
}

func open(t *testing.T, pool *pgxpool.Pool, a metering.Allocation) error {
	t.Helper()
	return inTx(t, pool, func(tx pgx.Tx) error { return allocdb.Open(t.Context(), tx, a) })
}

func mustOpen(t *testing.T, pool *pgxpool.Pool, a metering.Allocation) {
	t.Helper()
	if err := open(t, pool, a); err != nil {
		t.Fatal(err)
	}
}

func closeAt(t *testing.T, pool *pgxpool.Pool, a metering.Allocation, at time.Time) {
	t.Helper()
	if err := inTx(t, pool, func(tx pgx.Tx) error { return allocdb.Close(t.Context(), tx, a.Resource, a.Meter, at) }); err != nil {
		t.Fatal(err)
	}
}

// ever is a window that holds all of the tests.
var ever = metering.Window{Start: noon.AddDate(-1, 0, 0), End: noon.AddDate(1, 0, 0)}

func want(t *testing.T, pool *pgxpool.Pool, window metering.Window, all ...metering.Allocation) {
	t.Helper()
	got, err := allocdb.New(pool).OfTenant(t.Context(), "ten_a", window)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(append([]metering.Allocation{}, all...), got); diff != "" {
		t.Errorf("in %s, -want +got:\n%s", window, diff)
	}
}

func TestOpenAndCloseTwice(t *testing.T) {
	pool := sqltest.Postgres(t)
	a := volume()
	mustOpen(t, pool, a)
	mustOpen(t, pool, a)
	retry := a // of somebody who drew another id, later
	retry.ID, retry.Start = metering.NewID(metering.PrefixAllocation), noon.Add(time.Minute)
	mustOpen(t, pool, retry)
	want(t, pool, ever, a)

	closeAt(t, pool, a, noon.Add(time.Hour))
	closeAt(t, pool, a, noon.Add(2*time.Hour))
	a.End = noon.Add(time.Hour)
	want(t, pool, ever, a)

	again := a // the order that opened it, repeated after all
	again.End = time.Time{}
	mustOpen(t, pool, again)
	want(t, pool, ever, a)
}

// What is held from before it was known when resources were created stays unknown.
func TestOpenOfBeforeCreationWasKnown(t *testing.T) {
	pool := sqltest.Postgres(t)
	held := volume()
	held.Labels.Created = ""
	mustOpen(t, pool, held)
	again := volume()
	mustOpen(t, pool, again)
	want(t, pool, ever, held)
	closeAt(t, pool, held, noon.Add(time.Hour))
	again.Start = noon.Add(time.Hour)
	mustOpen(t, pool, again)
	other := again
	other.ID, other.Labels.Created = metering.NewID(metering.PrefixAllocation), "2026-11-01T12:00:00Z"
	if err := open(t, pool, other); !errors.Is(err, allocdb.ErrOpen) {
		t.Errorf("another resource under its id: err = %v, want ErrOpen", err)
	}
}

func TestResizeIsCloseAndOpen(t *testing.T) {
	pool := sqltest.Postgres(t)
	small, large := volume(), volume()
	mustOpen(t, pool, small)
	large.Amount, large.Start = 20480, noon.Add(time.Hour)
	if err := open(t, pool, large); !errors.Is(err, allocdb.ErrOpen) || !strings.Contains(err.Error(), "vol_a") {
		t.Errorf("a second size at once: err = %v, want ErrOpen of vol_a", err)
	}
	closeAt(t, pool, small, large.Start)
	mustOpen(t, pool, large)
	small.End = large.Start
	want(t, pool, ever, small, large)
}

func TestCloseBeforeTheStartHoldsNothing(t *testing.T) {
	pool := sqltest.Postgres(t)
	a := volume()
	mustOpen(t, pool, a)
	closeAt(t, pool, a, noon.Add(-time.Second))
	a.End = a.Start
	got, err := allocdb.New(pool).OfTenant(t.Context(), "ten_a", metering.Window{Start: noon.Add(-time.Hour), End: noon.Add(time.Hour)})
	if err != nil || len(got) != 1 || got[0].At(noon.Add(time.Hour)) != 0 {
		t.Errorf("got %v, %v, want one that was held for no time", got, err)
	}
}

func TestCloseAll(t *testing.T) {
	pool := sqltest.Postgres(t)
	a, b, other := volume(), volume(), volume()
	b.Meter, b.Amount, b.Start = metering.InstanceStopped, 1, noon.Add(time.Minute)
	other.Resource, other.Start = "vol_b", noon.Add(2*time.Minute)
	for _, x := range []metering.Allocation{a, b, other} {
		mustOpen(t, pool, x)
	}
	at := noon.Add(time.Hour)
	for range 2 {
		if err := inTx(t, pool, func(tx pgx.Tx) error { return allocdb.CloseAll(t.Context(), tx, a.Resource, at) }); err != nil {
			t.Fatal(err)
		}
	}
	a.End, b.End = at, at
	want(t, pool, ever, a, b, other)
}

func TestOfTenantInAWindow(t *testing.T) {
	pool := sqltest.Postgres(t)
	closed, held, foreign := volume(), volume(), volume()
	mustOpen(t, pool, closed)
	closed.End = noon.Add(time.Hour)
	closeAt(t, pool, closed, closed.End)
	held.Start = noon.Add(2 * time.Hour)
	mustOpen(t, pool, held)
	foreign.Tenant, foreign.Resource = "ten_b", "vol_b"
	mustOpen(t, pool, foreign)

	at := func(from, to time.Duration) metering.Window {
		return metering.Window{Start: noon.Add(from), End: noon.Add(to)}
	}
	want(t, pool, at(-time.Hour, 0))
	want(t, pool, at(-time.Hour, time.Second), closed)
	want(t, pool, at(time.Hour-time.Second, time.Hour), closed)
	want(t, pool, at(time.Hour, 2*time.Hour))
	want(t, pool, at(30*time.Minute, 3*time.Hour), closed, held)
	want(t, pool, at(100*time.Hour, 101*time.Hour), held)
}

func TestOpenRefuses(t *testing.T) {
	pool := sqltest.Postgres(t)
	for _, test := range []struct {
		name   string
		change func(a *metering.Allocation)
		want   string
	}{
		{"an id of another kind", func(a *metering.Allocation) { a.ID = metering.NewID(metering.PrefixVolume) }, "is not an id of the form all_"},
		{"an unknown meter", func(a *metering.Allocation) { a.Meter = "volume.colour" }, `no meter "volume.colour"`},
		{"an end", func(a *metering.Allocation) { a.End = noon.Add(time.Hour) }, "has an end"},
		{"an amount of nothing", func(a *metering.Allocation) { a.Amount = 0 }, "allocations_amount_check"},
		{"no tenant", func(a *metering.Allocation) { a.Tenant = "" }, "allocations_tenant_check"},
	} {
		a := volume()
		test.change(&a)
		if err := open(t, pool, a); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: err = %v, want one with %q", test.name, err, test.want)
		}
	}
	want(t, pool, ever)
}

func TestOpenFromManyAtOnce(t *testing.T) {
	pool := sqltest.Postgres(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := open(t, pool, volume()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all, err := allocdb.New(pool).OfTenant(t.Context(), "ten_a", ever); err != nil || len(all) != 1 {
		t.Errorf("%d allocations, %v, want 1", len(all), err)
	}
}
