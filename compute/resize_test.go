package compute

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usance/usance/metering"
)

// wide is one with more vCPUs and disk, tall one with more memory.
var (
	wide = Flavor{Name: "wide", VCPUs: 4, MemoryMiB: 1024, DiskMiB: 200}
	tall = Flavor{Name: "tall", VCPUs: 4, MemoryMiB: 4096, DiskMiB: 200}
)

// placed is an instance that runs as wanted, and off one that is off as wanted.
func placed() Instance {
	return Instance{Desired: PowerRunning, Reason: ReasonTenant, Generation: 5, Answered: 5, Start: 2, Flavor: one.Name,
		Host: "hst_a", Lease: 3, Under: 3, State: StateRunning, Since: noon, Created: noon}
}

func placedOff() Instance {
	i := placed()
	i.Desired, i.State = PowerStopped, StateStopped
	return i
}

func TestResize(t *testing.T) {
	edit := func(i Instance, f func(*Instance)) Instance { f(&i); return i }
	huge := Flavor{Name: "huge", VCPUs: MaxLiveVCPUs + 1, MemoryMiB: 1024, DiskMiB: 200}
	for _, c := range []struct {
		name     string
		in       Instance
		from, to Flavor
		under    metering.LeaseNo // 0: nothing changes
		err      error
	}{
		{"running, more vCPUs and disk", placed(), one, wide, 3, nil},
		{"running, a second one before the first is done", edit(placed(), func(i *Instance) { i.Lease = 4 }), wide, Flavor{"w", 8, 1024, 200}, 3, nil},
		{"running, other memory", placed(), one, tall, 0, ErrStopFirst},
		{"running, fewer vCPUs", placed(), wide, Flavor{"w", 2, 1024, 200}, 0, ErrStopFirst},
		{"running, more vCPUs than there is room for", placed(), one, huge, 0, ErrStopFirst},
		{"running, as many vCPUs as there never was room for", placed(), huge, Flavor{"h", huge.VCPUs, 1024, 300}, 3, nil},
		{"paused", edit(placed(), func(i *Instance) { i.State = StatePaused }), one, wide, 3, nil},
		{"starting, other memory", edit(placed(), func(i *Instance) { i.State = StateStarting }), one, tall, 0, ErrStopFirst},
		{"off", placedOff(), one, tall, 4, nil},
		{"off, smaller", placedOff(), tall, Flavor{"t", 1, 512, 200}, 4, nil},
		{"off, with a smaller disk", placedOff(), wide, one, 0, ErrDiskShrinks},
		{"off, but its host does not know all that is wanted", edit(placedOff(), func(i *Instance) { i.Answered = 4 }), one, tall, 0, ErrStopFirst},
		{"being switched off", edit(placedOff(), func(i *Instance) { i.State = StateStopping }), one, tall, 0, ErrStopFirst},
		{"the same", placed(), one, one, 0, nil},
		{"the same name, of another size in a newer plan", placed(), one, Flavor{one.Name, 2, 1024, 100}, 3, nil},
		{"moving", edit(placedOff(), func(i *Instance) { i.MovesTo = "hst_b" }), one, tall, 0, ErrMoving},
		{"being deleted", edit(placed(), func(i *Instance) { i.Desired = PowerDeleted }), one, wide, 0, ErrDeleted},
	} {
		next, changed, err := c.in.Resize(c.from, c.to)
		if !errors.Is(err, c.err) || changed != (c.under != 0) {
			t.Errorf("%s: changed %v, %v; want %v, %v", c.name, changed, err, c.under != 0, c.err)
		}
		want := c.in
		if c.under != 0 {
			want.Flavor, want.Lease, want.Under, want.Generation = c.to.Name, c.in.Lease+1, c.under, c.in.Generation+1
		}
		if next != want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, next, want)
		}
	}
}

// TestObserveAResize follows a running instance that was resized from lease 3 to 4.
func TestObserveAResize(t *testing.T) {
	resized, _, err := placed().Resize(one, wide)
	if err != nil {
		t.Fatal(err)
	}
	later := noon.Add(time.Minute)
	for _, c := range []struct {
		name  string
		in    Instance
		o     Observation
		state State
		power Power
		under metering.LeaseNo
		err   string
	}{
		{"the host has not heard of it", resized, Observation{Generation: 5, Start: 2, Lease: 3, State: StateRunning}, StateRunning, PowerRunning, 3, ""},
		{"it cannot be done", resized, Observation{Generation: 5, Start: 2, Lease: 3, State: StateRunning, Error: "no"}, StateRunning, PowerRunning, 3, "no"},
		{"done", resized, Observation{Generation: 6, Start: 2, Lease: 4, State: StateRunning}, StateRunning, PowerRunning, 4, ""},
		{"an error of before", resized, Observation{Generation: 6, Start: 2, Lease: 4, State: StateRunning, Error: "no"}, StateRunning, PowerRunning, 4, ""},
		{"paused meanwhile", resized, Observation{Generation: 5, Start: 2, Lease: 3, State: StatePaused}, StatePaused, PowerRunning, 3, ""},
		{"crashed before", resized, Observation{Generation: 5, Start: 2, Lease: 3, State: StateFailed, Error: "x"}, StateFailed, PowerRunning, 3, "x"},
		{"the guest went off before", resized, Observation{Generation: 5, Start: 2, Lease: 3, State: StateStopped, GuestOff: true}, StateStopping, PowerStopped, 3, ""},
		{"the guest went off after", resized, Observation{Generation: 6, Start: 2, Lease: 4, State: StateStopped, GuestOff: true}, StateStopped, PowerStopped, 4, ""},
		{"the guest went off, and the host knows of the resize", resized, Observation{Generation: 6, Start: 2, Lease: 3, State: StateStopped, GuestOff: true}, StateStopped, PowerStopped, 4, ""},
		{"a lease that ended", resized, Observation{Generation: 5, Start: 2, Lease: 2, State: StateStopped, GuestOff: true}, StateRunning, PowerRunning, 3, ""},
	} {
		c.o.Since = later
		got := c.in.Observe(c.o, later)
		if got.State != c.state || got.Desired != c.power || got.Under != c.under || got.Error != c.err {
			t.Errorf("%s: %s, wanted %s, under %d, error %q; want %s, %s, %d, %q", c.name,
				got.State, got.Desired, got.Under, got.Error, c.state, c.power, c.under, c.err)
		}
		if again := got.Observe(c.o, later); again != got {
			t.Errorf("%s: said twice it becomes\n%+v, not\n%+v", c.name, again, got)
		}
	}
}

func TestMove(t *testing.T) {
	moving, _, err := placedOff().Move("hst_b")
	if err != nil || moving.MovesTo != "hst_b" || moving.Generation != 6 || moving.Lease != 3 || moving.Host != "hst_a" {
		t.Fatalf("%+v, %v", moving, err)
	}
	for _, c := range []struct {
		name    string
		in      Instance
		to      metering.HostID
		changed bool
		moves   metering.HostID
		err     error
	}{
		{"running", placed(), "hst_b", false, "", ErrStopFirst},
		{"to where it is", placedOff(), "hst_a", false, "", nil},
		{"again", moving, "hst_b", false, "hst_b", nil},
		{"elsewhere instead", moving, "hst_c", true, "hst_c", nil},
		{"taken back", moving, "hst_a", true, "", nil},
	} {
		next, changed, err := c.in.Move(c.to)
		if !errors.Is(err, c.err) || changed != c.changed || next.MovesTo != c.moves || changed != (next.Generation > c.in.Generation) {
			t.Errorf("%s: %+v, %v, %v; want %v to %q, %v", c.name, next, changed, err, c.changed, c.moves, c.err)
		}
	}
	if _, _, err := moving.Order(PowerRunning, ReasonTenant, noon); !errors.Is(err, ErrMoving) {
		t.Errorf("start while it moves: %v", err)
	}
	deleted, _, err := moving.Order(PowerDeleted, ReasonTenant, noon)
	if err != nil || deleted.MovesTo != "" {
		t.Errorf("deleted while it moves: %+v, %v; want it deleted where it is", deleted, err)
	}
	for generation, want := range map[uint64]bool{5: false, 6: true} {
		o := Observation{Generation: generation, Lease: 3, Start: 2, State: StateReleased, Since: noon}
		if got := moving.Released(o); got != want {
			t.Errorf("released as of order %d: %v, want %v", generation, got, want)
		}
		if next := moving.Observe(o, noon); next.State != StateStopped || next.Lease != 3 {
			t.Errorf("released: %+v, want it stopped where it was", next)
		}
	}
	arrived := moving.Arrived()
	if arrived.Host != "hst_b" || arrived.MovesTo != "" || arrived.Lease != 4 || arrived.Under != 4 || arrived.Generation != 7 || arrived.off() {
		t.Errorf("arrived: %+v", arrived)
	}
	next := arrived.Observe(Observation{Generation: 7, Lease: 4, Start: 2, State: StateStopped, Since: noon.Add(time.Second)}, noon.Add(time.Second))
	if !next.off() || !next.Since.Equal(noon) {
		t.Errorf("seen on the new host: %+v, want it off since before the move", next)
	}
}

// TestLeasesOnlyRise: whatever is ordered and said in whatever order, the leases
// under which an instance may run only rise, and a move alone changes its host.
func TestLeasesOnlyRise(t *testing.T) {
	flavors := []Flavor{one, wide, tall}
	rapid.Check(t, func(t *rapid.T) {
		in, now, flavor := placed(), noon, one
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Second)
			before := in
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				in, _, _ = in.Order(rapid.SampledFrom([]Power{PowerRunning, PowerStopped}).Draw(t, "power"), ReasonTenant, now)
			case 1:
				to := rapid.SampledFrom(flavors).Draw(t, "to")
				next, changed, err := in.Resize(flavor, to)
				if changed {
					flavor = to
				} else if next != in {
					t.Fatalf("resize changed nothing, but %+v became %+v, %v", in, next, err)
				}
				in = next
			case 2:
				in, _, _ = in.Move(rapid.SampledFrom([]metering.HostID{"hst_a", "hst_b"}).Draw(t, "host"))
			case 3:
				if in.MovesTo != "" && in.Released(Observation{Generation: in.Generation, Lease: in.Lease, State: StateReleased}) {
					in = in.Arrived()
				}
			case 4:
				in = in.Observe(Observation{
					Generation: rapid.Uint64Range(in.Answered, in.Generation).Draw(t, "generation"),
					Lease:      metering.LeaseNo(rapid.Uint64Range(uint64(in.Under), uint64(in.Lease)).Draw(t, "lease")), Start: in.Start,
					State: rapid.SampledFrom([]State{StateRunning, StatePaused, StateStopped, StateFailed}).Draw(t, "state"),
					Since: now, GuestOff: rapid.Bool().Draw(t, "guest off"),
				}, now)
			}
			if in.Under < before.Under || in.Lease < before.Lease || in.Under > in.Lease || in.Generation < before.Generation {
				t.Fatalf("%+v\nbecame %+v", before, in)
			}
			if in.Host != before.Host && (before.MovesTo != in.Host || in.Under <= before.Lease) {
				t.Fatalf("it changed its host under lease %d: %+v\nbecame %+v", in.Under, before, in)
			}
			if in.MovesTo != "" && (in.Desired != PowerStopped || in.Resizing()) {
				t.Fatalf("it moves, and may run: %+v", in)
			}
		}
	})
}
