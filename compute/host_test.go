package compute

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/usance/usance/metering"
)

var one = Flavor{Name: "small", VCPUs: 1, MemoryMiB: 1024, DiskMiB: 100}

func TestPlace(t *testing.T) {
	host := func(id string, edit func(*Host)) Host {
		h := Host{ID: metering.HostID(id), Offers: Capacity{4, 8192, 1000}, Seen: noon}
		if edit != nil {
			edit(&h)
		}
		return h
	}
	for _, c := range []struct {
		name  string
		hosts []Host
		want  metering.HostID
	}{
		{"most memory left", []Host{
			host("a", func(h *Host) { h.Granted.MemoryMiB = 2048 }),
			host("b", func(h *Host) { h.Granted.MemoryMiB = 1024 }),
			host("c", func(h *Host) { h.Granted.MemoryMiB = 4096 })}, "b"},
		{"then most vCPUs", []Host{host("a", func(h *Host) { h.Granted.VCPUs = 1 }), host("b", nil)}, "b"},
		{"then the smallest id", []Host{host("b", nil), host("a", nil)}, "a"},
		{"exactly enough", []Host{host("a", func(h *Host) { h.Granted = Capacity{3, 7168, 900} })}, "a"},
		{"heard from just in time", []Host{host("a", func(h *Host) { h.Seen = noon.Add(-HostSilence) })}, "a"},
	} {
		got, err := Place(c.hosts, one, noon)
		if err != nil || got.ID != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got.ID, err, c.want)
		}
	}
}

func TestPlaceExplains(t *testing.T) {
	full := Capacity{4, 8192, 1000}
	hosts := []Host{
		{Offers: full, Seen: noon, Removed: true, Draining: true},
		{Offers: full, Seen: noon, Draining: true},
		{Offers: full, Seen: noon.Add(-HostSilence - 1)},
		{Offers: full, Seen: noon, Granted: full},
		{Offers: full, Seen: noon, Granted: Capacity{0, 7169, 0}},
		{Offers: full, Seen: noon, Granted: Capacity{0, 7169, 0}},
		{Offers: Capacity{4, 8192, 50}, Seen: noon, Granted: Capacity{0, 0, 100}},
	}
	_, err := Place(hosts, one, noon)
	var why *Unplaced
	if !errors.As(err, &why) || !errors.Is(err, ErrNoCapacity) {
		t.Fatalf("%v", err)
	}
	want := map[string]int{outRemoved: 1, outDraining: 1, outSilent: 1, outVCPUs: 1, outMemory: 2, outDisk: 1}
	if diff := cmp.Diff(want, why.Out); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	const said = "no host has room: 7 hosts: 1 draining, 1 not heard from, 1 removed, 1 too few vCPUs, 1 too little disk, 2 too little memory"
	if err.Error() != said {
		t.Errorf("got  %s\nwant %s", err, said)
	}
}

// TestPlaceNeverExceedsAHost places until nothing fits any more: then no host is
// exceeded, and none that is left would have had room.
func TestPlaceNeverExceedsAHost(t *testing.T) {
	capacity := func(t *rapid.T, low, high int) Capacity {
		return Capacity{
			VCPUs:     rapid.IntRange(low, high).Draw(t, "vcpus"),
			MemoryMiB: rapid.Int64Range(int64(low), int64(high)).Draw(t, "memory"),
			DiskMiB:   rapid.Int64Range(int64(low), int64(high)).Draw(t, "disk"),
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		hosts := make([]Host, rapid.IntRange(0, 5).Draw(t, "hosts"))
		for i := range hosts {
			hosts[i] = Host{ID: metering.HostID(rune('a' + i)), Offers: capacity(t, 0, 20), Seen: noon, Draining: rapid.Bool().Draw(t, "draining")}
		}
		for {
			c := capacity(t, 1, 8)
			f := Flavor{"f", c.VCPUs, c.MemoryMiB, c.DiskMiB}
			h, err := Place(hosts, f, noon.Add(time.Second))
			if err != nil {
				var why *Unplaced
				if !errors.As(err, &why) {
					t.Fatal(err)
				}
				n := 0
				for _, out := range why.Out {
					n += out
				}
				if n != len(hosts) {
					t.Fatalf("%d hosts, but %d reasons: %v", len(hosts), n, err)
				}
				for _, h := range hosts {
					if !h.Draining && c.Fits(h.Free()) {
						t.Fatalf("%+v fits on %+v, but: %v", c, h, err)
					}
				}
				return
			}
			for i := range hosts {
				if hosts[i].ID == h.ID {
					hosts[i].Granted = hosts[i].Granted.Add(c)
					if hosts[i].Draining || !hosts[i].Granted.Fits(hosts[i].Offers) {
						t.Fatalf("%+v was placed on %+v", c, hosts[i])
					}
				}
			}
		}
	})
}
