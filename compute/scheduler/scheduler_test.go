package scheduler_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/compute/scheduler"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/sql/sqltest"
)

func TestInstancesOfSilentHostsAreUnknown(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	now := noon
	log := slog.New(slog.DiscardHandler)
	store := computedb.New(sqltest.Postgres(t), computedb.Config{
		Flavor: func(context.Context, metering.TenantID, string) (compute.Flavor, error) {
			return compute.Flavor{Name: "small", VCPUs: 1, MemoryMiB: 1, DiskMiB: 1}, nil
		},
		Image: func(name string) (hostapi.Image, error) { return hostapi.Image{Name: name}, nil },
		Now:   func() time.Time { return now },
		Log:   log,
	})
	run := scheduler.Run{Store: store, Log: log}
	secret, err := store.MintToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	offers := compute.Capacity{VCPUs: 9, MemoryMiB: 9, DiskMiB: 9}
	host, err := store.Join(t.Context(), secret, "key", "h", offers)
	if err != nil {
		t.Fatal(err)
	}
	in, err := store.Create(t.Context(), computedb.CreateRequest{Tenant: "ten_a", Name: "web", Flavor: "small", Image: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	report := func(since time.Time) {
		t.Helper()
		err := store.Observe(t.Context(), host, hostapi.Status{Sent: now, Capacity: offers, Instances: []hostapi.ObservedInstance{
			{ID: in.ID, Generation: 1, Lease: 1, Start: 1, State: compute.StateRunning, Since: since},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	shown := func(when string, state compute.State, since time.Time) {
		t.Helper()
		for range 2 { // twice equals once
			if err := run.Once(t.Context(), now); err != nil {
				t.Fatal(err)
			}
		}
		got, err := store.Get(t.Context(), "ten_a", in.ID)
		if err != nil || got.State != state || !got.Since.Equal(since) || got.Desired != compute.PowerRunning {
			t.Fatalf("%s: %s since %s, wanted %s, %v; want %s since %s", when, got.State, got.Since, got.Desired, err, state, since)
		}
	}

	now = noon.Add(10 * time.Second)
	heard := now
	report(noon.Add(5 * time.Second))
	now = heard.Add(compute.HostSilence)
	shown("just in time", compute.StateRunning, noon.Add(5*time.Second))
	now = now.Add(time.Millisecond)
	shown("silent", compute.StateUnknown, heard)
	now = now.Add(time.Hour)
	shown("silent for long", compute.StateUnknown, heard)
	report(noon.Add(5 * time.Second))
	shown("back", compute.StateRunning, noon.Add(5*time.Second))
}
