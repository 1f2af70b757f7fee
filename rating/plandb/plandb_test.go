package plandb

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/rating"
	"github.com/usance/usance/sql/sqltest"
)

func source(effective, price string) []byte {
	return []byte(`
plan: standard
currency: EUR
timezone: Europe/Berlin
effective: ` + effective + `
rates:
  - id: running
    meter: instance.running
    price: ` + price + ` per hour
`)
}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func TestPublishAndInForce(t *testing.T) {
	ctx := context.Background()
	store := New(sqltest.Postgres(t))
	now := at("2026-11-22T10:00:00Z")
	for i, src := range [][]byte{source("2026-11-01", "0.01"), source("2026-12-01", "0.02"), source("2026-12-01", "0.03")} {
		v, err := store.Publish(ctx, "standard.yaml", src, now, nil)
		if err != nil || v.Version != i+1 {
			t.Fatalf("publish %d: version %d, %v", i+1, v.Version, err)
		}
	}
	if v, err := store.Publish(ctx, "standard.yaml", source("2026-12-01", "0.03"), now, nil); err != nil || v.Version != 3 {
		t.Errorf("publishing the latest again: version %d, %v; want 3", v.Version, err)
	}
	for _, tc := range []struct {
		period  string
		version int
		nano    int64
	}{
		{"2026-10-31T23:00:00Z", 1, 10_000_000},
		{"2026-11-30T22:59:59Z", 1, 10_000_000},
		{"2026-11-30T23:00:00Z", 3, 30_000_000}, // midnight in Berlin, and the later of two
		{"2027-03-31T22:00:00Z", 3, 30_000_000},
	} {
		plan, version, err := store.InForce(ctx, "standard", at(tc.period))
		if err != nil || version != tc.version || plan.Rates[0].Steps[0].Nano != tc.nano {
			t.Errorf("in force at %s: version %d, %v; want %d at %d", tc.period, version, err, tc.version, tc.nano)
		}
	}
	if _, _, err := store.InForce(ctx, "standard", at("2026-10-31T22:59:59Z")); !errors.Is(err, ErrNotFound) {
		t.Errorf("before the first version: %v; want ErrNotFound", err)
	}
	list, err := store.List(ctx)
	if err != nil || len(list) != 3 || list[2].Version != 3 || list[2].Source != nil {
		t.Errorf("list: %+v, %v", list, err)
	}
	shown, err := store.Show(ctx, "standard", 2)
	if err != nil || !strings.Contains(string(shown.Source), "0.02") || !shown.Published.Equal(now) {
		t.Errorf("show: %+v, %v", shown, err)
	}
	if latest, err := store.Show(ctx, "standard", 0); err != nil || latest.Version != 3 {
		t.Errorf("show latest: %+v, %v", latest, err)
	}
	if _, err := store.Load(ctx, "standard", 9); !errors.Is(err, ErrNotFound) {
		t.Errorf("load of a version that does not exist: %v", err)
	}
	first, err := store.Load(ctx, "standard", 1)
	again, _, err2 := store.InForce(ctx, "standard", at("2026-11-05T00:00:00Z"))
	if err != nil || err2 != nil || first != again {
		t.Errorf("a version is parsed twice: %p %p %v %v", first, again, err, err2)
	}
}

func TestPublishRefuses(t *testing.T) {
	ctx := context.Background()
	store := New(sqltest.Postgres(t))
	now := at("2026-11-22T10:00:00Z")
	if _, err := store.Publish(ctx, "bad.yaml", source("2026-12-01", "-1"), now, nil); err == nil || !strings.Contains(err.Error(), "bad.yaml:9:12") {
		t.Errorf("a wrong plan: %v", err)
	}
	undated := []byte(strings.Replace(string(source("X", "1")), "effective: X\n", "", 1))
	if _, err := store.Publish(ctx, "undated.yaml", undated, now, nil); !errors.Is(err, ErrNoDate) {
		t.Errorf("a plan without a date: %v", err)
	}
	refused := errors.New("a closed period")
	var last *rating.Plan
	check := func(_ context.Context, _ pgx.Tx, _, before *rating.Plan) error { last = before; return refused }
	if _, err := store.Publish(ctx, "a.yaml", source("2026-12-01", "1"), now, check); !errors.Is(err, refused) || last != nil {
		t.Errorf("a first version that the check refuses: %v, last %v", err, last)
	}
	if _, err := store.Publish(ctx, "a.yaml", source("2026-12-01", "1"), now, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Publish(ctx, "a.yaml", source("2026-12-01", "2"), now, check); !errors.Is(err, refused) || last == nil {
		t.Errorf("a second version that the check refuses: %v, last %v", err, last)
	}
	if list, err := store.List(ctx); err != nil || len(list) != 1 {
		t.Errorf("after refusals: %+v, %v", list, err)
	}
}

func TestVersionsNeverChange(t *testing.T) {
	ctx := context.Background()
	pool := sqltest.Postgres(t)
	if _, err := New(pool).Publish(ctx, "a.yaml", source("2026-12-01", "1"), at("2026-11-22T10:00:00Z"), nil); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{`UPDATE plan_versions SET effective_at = now()`, `DELETE FROM plan_versions`} {
		if _, err := pool.Exec(ctx, statement); err == nil || !strings.Contains(err.Error(), "never changes") {
			t.Errorf("%s: %v", statement, err)
		}
	}
}

func TestPublishAtOnce(t *testing.T) {
	ctx := context.Background()
	store := New(sqltest.Postgres(t))
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			price := "0.0" + string(rune('1'+i))
			if _, err := store.Publish(ctx, "a.yaml", source("2026-12-01", price), at("2026-11-22T10:00:00Z"), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := store.List(ctx)
	if err != nil || len(list) != 5 || list[4].Version != 5 {
		t.Errorf("five at once: %+v, %v", list, err)
	}
}
