package plandb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/sql/sqltest"
)

// december is a period in Berlin.
var december = metering.Window{Start: at("2026-11-30T23:00:00Z"), End: at("2026-12-31T23:00:00Z")}

// TestParts: which versions are in force in December, and from when.
func TestParts(t *testing.T) {
	ctx := context.Background()
	store := New(sqltest.Postgres(t))
	for _, effective := range []string{
		"2026-11-15 mid-period", // 1: December begins under it
		"2026-12-20 mid-period", // 2
		"2026-12-10",            // 3: for periods that begin later
		"2026-12-10 mid-period", // 4: published later, takes effect before 2
		"2026-12-20 mid-period", // 5: instead of 2
		"2027-01-01 mid-period", // 6: January
	} {
		if _, err := store.Publish(ctx, "p.yaml", source(effective, fmt.Sprintf("0.0%d", len(effective))), at("2026-11-01T00:00:00Z"), nil); err != nil {
			t.Fatal(err)
		}
	}
	timeline, err := store.Timeline(ctx, "standard")
	if err != nil || timeline.Newest() != 6 {
		t.Fatalf("newest %d, %v", timeline.Newest(), err)
	}
	for _, tc := range []struct {
		first, known int
		want         []string
	}{
		{0, 6, []string{"1 from 01", "4 from 10", "5 from 20"}},
		{0, 4, []string{"1 from 01", "4 from 10", "2 from 20"}},
		{0, 0, []string{"1 from 01"}},
		{3, 2, []string{"3 from 01", "2 from 20"}},
	} {
		parts, err := timeline.Parts(ctx, december, tc.first, tc.known)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		end := december.Start
		for _, p := range parts {
			got = append(got, fmt.Sprintf("%d from %s", p.Version, p.Window.Start.Add(time.Hour).Format("02")))
			if plan, err := store.Load(ctx, "standard", p.Version); err != nil || plan != p.Plan || !p.Window.Start.Equal(end) {
				t.Errorf("version %d in %s after %s: %v", p.Version, p.Window, end, err)
			}
			end = p.Window.End
		}
		if !slices.Equal(got, tc.want) || !end.Equal(december.End) {
			t.Errorf("first %d, known %d: %v until %s, want %v", tc.first, tc.known, got, end, tc.want)
		}
	}
	if _, err := timeline.Parts(ctx, metering.Window{Start: at("2026-10-01T00:00:00Z"), End: at("2026-11-01T00:00:00Z")}, 0, 6); !errors.Is(err, ErrNotFound) {
		t.Errorf("before the first version: %v", err)
	}
	if _, err := store.Timeline(ctx, "other"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such plan: %v", err)
	}
}

// TestGrandfatheredVersions: a version is loaded with what it keeps of the one it
// took over from, until the last period that it keeps anything in.
func TestGrandfatheredVersions(t *testing.T) {
	ctx := context.Background()
	store := New(sqltest.Postgres(t))
	for i, src := range [][]byte{source("2026-01-01", "0.01"), source("2026-06-01", "0.02"), source("2026-06-01\ngrandfathered: {until: 2027-01-01}", "0.03"),
		source("2026-03-01", "0.04")} { // published too late to be what 3 took over from
		if _, err := store.Publish(ctx, "p.yaml", src, at("2026-01-01T00:00:00Z"), nil); err != nil {
			t.Fatalf("version %d: %v", i+1, err)
		}
	}
	rates := func(period string) (ids []string) {
		plan, version, err := store.InForce(ctx, "standard", at(period))
		again, _, err2 := store.InForce(ctx, "standard", at(period))
		if err != nil || err2 != nil || version != 3 || plan != again {
			t.Fatalf("in force at %s: version %d, %v, %v", period, version, err, err2)
		}
		for _, r := range plan.Rates {
			ids = append(ids, r.ID)
		}
		return ids
	}
	if got := rates("2026-12-01T00:00:00Z"); !slices.Equal(got, []string{"running@2026-01-01", "running"}) {
		t.Errorf("December: %v", got)
	}
	if got := rates("2027-01-01T00:00:00Z"); !slices.Equal(got, []string{"running"}) {
		t.Errorf("January: %v", got)
	}
	first := []byte(strings.Replace(string(source("2026-01-01\ngrandfathered: {until: 2027-01-01}", "1")), "standard", "other", 1))
	if _, err := store.Publish(ctx, "p.yaml", first, at("2026-01-01T00:00:00Z"), nil); !errors.Is(err, ErrSuccessor) {
		t.Errorf("a first version that keeps rates: %v", err)
	}
}

// TestHold: who holds a plan knows its newest version, and none is published
// until the transaction ends.
func TestHold(t *testing.T) {
	ctx := context.Background()
	pool := sqltest.Postgres(t)
	store := New(pool)
	publish := func(price string) error {
		_, err := store.Publish(ctx, "p.yaml", source("2026-12-01", price), at("2026-11-01T00:00:00Z"), nil)
		return err
	}
	if err := publish("0.01"); err != nil {
		t.Fatal(err)
	}
	published := make(chan error, 1)
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := Hold(ctx, tx, "standard", 1); err != nil {
			return err
		}
		go func() { published <- publish("0.02") }()
		for waiting := 0; waiting == 0; {
			select {
			case err := <-published:
				t.Fatalf("published while the plan was held: %v", err)
			default:
			}
			if err := tx.QueryRow(ctx, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted`).Scan(&waiting); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	for newest, want := range []error{1: ErrChanged, 2: nil} {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return Hold(ctx, tx, "standard", newest) })
		if newest > 0 && !errors.Is(err, want) {
			t.Errorf("hold of version %d: %v, want %v", newest, err, want)
		}
	}
}
