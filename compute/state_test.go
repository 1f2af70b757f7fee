package compute

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestOrder(t *testing.T) {
	stopped := Instance{Desired: PowerStopped, Reason: ReasonGuest, Generation: 4, Start: 2, State: StateStopped, Since: noon}
	running := Instance{Desired: PowerRunning, Reason: ReasonTenant, Generation: 4, Start: 2, State: StateRunning, Since: noon}
	held, moving := stopped, stopped
	held.Reason = ReasonUnpaid
	moving.MovesTo = "hst_b"
	unreachable := running
	unreachable.State = StateUnknown
	deleted := Instance{Desired: PowerDeleted, Generation: 5, State: StateStopping}
	later := noon.Add(time.Hour)
	for _, c := range []struct {
		name       string
		in         Instance
		power      Power
		changed    bool
		generation uint64
		start      uint32
		state      State
		err        error
	}{
		{"start of a stopped one is a new start", stopped, PowerRunning, true, 5, 3, StateStarting, nil},
		{"stop of a stopped one is nothing new", stopped, PowerStopped, false, 4, 2, StateStopped, nil},
		{"start of a running one is nothing new", running, PowerRunning, false, 4, 2, StateRunning, nil},
		{"stop", running, PowerStopped, true, 5, 2, StateStopping, nil},
		{"delete", running, PowerDeleted, true, 5, 2, StateStopping, nil},
		{"an order to an unreachable host shows nothing", unreachable, PowerStopped, true, 5, 2, StateUnknown, nil},
		{"start of one that is held", held, PowerRunning, false, 4, 2, StateStopped, ErrHeld},
		{"start of one that moves", moving, PowerRunning, false, 4, 2, StateStopped, ErrMoving},
		{"delete of one that is held", held, PowerDeleted, true, 5, 2, StateStopping, nil},
		{"delete twice", deleted, PowerDeleted, false, 5, 0, StateStopping, nil},
		{"start of a deleted one", deleted, PowerRunning, false, 5, 0, StateStopping, ErrDeleted},
	} {
		next, changed, err := c.in.Order(c.power, ReasonTenant, later)
		if changed != c.changed || !errors.Is(err, c.err) {
			t.Errorf("%s: changed %v, %v; want %v, %v", c.name, changed, err, c.changed, c.err)
		}
		if next.Generation != c.generation || uint32(next.Start) != c.start || next.State != c.state {
			t.Errorf("%s: generation %d, start %d, %s; want %d, %d, %s",
				c.name, next.Generation, next.Start, next.State, c.generation, c.start, c.state)
		}
		if !changed && next != c.in {
			t.Errorf("%s: not changed, but %+v became %+v", c.name, c.in, next)
		}
	}
}

// TestHeld: what the operator or dunning stopped, its tenant cannot start, also when
// it was off already; who stopped it can, and the operator always.
func TestHeld(t *testing.T) {
	off := Instance{Desired: PowerStopped, Reason: ReasonTenant, Generation: 4, Start: 2, State: StateStopped, Since: noon}
	on := Instance{Desired: PowerRunning, Reason: ReasonTenant, Generation: 4, Start: 2, State: StateRunning, Since: noon}
	for _, in := range []Instance{off, on} {
		for _, by := range []string{ReasonUnpaid, ReasonOperator} {
			held, changed, err := in.Order(PowerStopped, by, noon)
			if err != nil || !changed || !held.Held() || (held.Generation != in.Generation) != (in.Desired == PowerRunning) {
				t.Fatalf("%s: %+v, %v, %v", by, held, changed, err)
			}
			if again, changed, err := held.Order(PowerStopped, ReasonTenant, noon); changed || err != nil || again != held {
				t.Errorf("%s, and its tenant stops it: %+v, %v, %v", by, again, changed, err)
			}
			for reason, want := range map[string]bool{ReasonTenant: false, ReasonUnpaid: by == ReasonUnpaid, ReasonOperator: true} {
				next, _, err := held.Order(PowerRunning, reason, noon)
				if (err == nil) != want || err != nil && !errors.Is(err, ErrHeld) || next.Held() != (err != nil) {
					t.Errorf("stopped for %s, start for %s: %+v, %v; want %v", by, reason, next, err, want)
				}
			}
		}
	}
}

func TestObserve(t *testing.T) {
	base := Instance{
		Desired: PowerRunning, Reason: ReasonTenant, Generation: 5, Answered: 5, Start: 2, Lease: 1, Under: 1,
		State: StateRunning, Since: noon, Created: noon.Add(-time.Hour),
	}
	received := noon.Add(time.Minute)
	since := noon.Add(30 * time.Second)
	for _, c := range []struct {
		name  string
		edit  func(*Instance)
		o     Observation
		state State
		since time.Time
		power Power
		why   string
	}{
		{"nothing new keeps since", nil,
			Observation{Generation: 5, Start: 2, Lease: 1, State: StateRunning, Since: since},
			StateRunning, noon, PowerRunning, ReasonTenant},
		{"crash: still wanted running", nil,
			Observation{Generation: 5, Start: 2, Lease: 1, State: StateStopped, Since: since},
			StateStopped, since, PowerRunning, ReasonTenant},
		{"the guest powers itself off", nil,
			Observation{Generation: 5, Start: 2, Lease: 1, State: StateStopped, Since: since, GuestOff: true},
			StateStopped, since, PowerStopped, ReasonGuest},
		{"powered off before its start was reported as done", func(i *Instance) { i.Answered = 4; i.State = StateStarting },
			Observation{Generation: 5, Start: 2, Lease: 1, State: StateStopped, Since: since, GuestOff: true},
			StateStopped, since, PowerStopped, ReasonGuest},
		{"powered off in an earlier start", nil,
			Observation{Generation: 4, Start: 1, Lease: 1, State: StateStopped, Since: since, GuestOff: true},
			StateStopped, since, PowerRunning, ReasonTenant},
		{"powered off, but a newer order to start waits", func(i *Instance) { i.Generation, i.Start = 7, 3 },
			Observation{Generation: 5, Start: 2, Lease: 1, State: StateStopped, Since: since, GuestOff: true},
			StateStarting, received, PowerRunning, ReasonTenant},
		{"a stop not carried out yet", func(i *Instance) { i.Generation, i.Desired = 6, PowerStopped },
			Observation{Generation: 5, Start: 2, Lease: 1, State: StateRunning, Since: since},
			StateStopping, received, PowerStopped, ReasonTenant},
		{"a start that failed", func(i *Instance) { i.Generation, i.State = 6, StateStarting },
			Observation{Generation: 5, Start: 2, Lease: 1, State: StateFailed, Since: since, Error: "no disk"},
			StateFailed, since, PowerRunning, ReasonTenant},
		{"first sight of a new one", func(i *Instance) { i.Answered, i.Generation, i.State = 0, 1, StatePending },
			Observation{Generation: 0, Start: 1, Lease: 1, State: StateStopped, Since: since},
			StateStarting, received, PowerRunning, ReasonTenant},
		{"of another lease", nil,
			Observation{Generation: 5, Start: 2, Lease: 2, State: StateStopped, Since: since},
			StateRunning, noon, PowerRunning, ReasonTenant},
		{"deleted though nobody wanted it", nil,
			Observation{Generation: 5, Start: 2, Lease: 1, State: StateDeleted, Since: since},
			StateRunning, noon, PowerRunning, ReasonTenant},
		{"deleted before the order was seen", func(i *Instance) { i.Desired, i.Generation = PowerDeleted, 6 },
			Observation{Generation: 5, Start: 2, Lease: 1, State: StateDeleted, Since: since},
			StateRunning, noon, PowerDeleted, ReasonTenant},
		{"deleted as ordered", func(i *Instance) { i.Desired, i.Generation = PowerDeleted, 6 },
			Observation{Generation: 6, Start: 2, Lease: 1, State: StateDeleted, Since: since},
			StateDeleted, since, PowerDeleted, ReasonTenant},
		{"back from unknown", func(i *Instance) { i.State, i.Since = StateUnknown, noon },
			Observation{Generation: 5, Start: 2, Lease: 1, State: StateRunning, Since: noon.Add(-time.Minute)},
			StateRunning, noon.Add(-time.Minute), PowerRunning, ReasonTenant},
		{"since in the future", nil,
			Observation{Generation: 5, Start: 2, Lease: 1, State: StatePaused, Since: received.Add(time.Hour)},
			StatePaused, received, PowerRunning, ReasonTenant},
		{"since before the last state", nil,
			Observation{Generation: 5, Start: 2, Lease: 1, State: StatePaused, Since: noon.Add(-time.Minute)},
			StatePaused, noon, PowerRunning, ReasonTenant},
		{"an order nobody gave yet", nil,
			Observation{Generation: 99, Start: 2, Lease: 1, State: StateRunning, Since: since},
			StateRunning, noon, PowerRunning, ReasonTenant},
	} {
		in := base
		if c.edit != nil {
			c.edit(&in)
		}
		got := in.Observe(c.o, received)
		if got.State != c.state || !got.Since.Equal(c.since) || got.Desired != c.power || got.Reason != c.why {
			t.Errorf("%s:\n got %s since %s, wanted %s for %s\nwant %s since %s, wanted %s for %s", c.name,
				got.State, got.Since, got.Desired, got.Reason, c.state, c.since, c.power, c.why)
		}
		if got.Answered > got.Generation || got.Answered < in.Answered || (got.Error != "") != (got.State == StateFailed) {
			t.Errorf("%s: answered %d of %d, error %q", c.name, got.Answered, got.Generation, got.Error)
		}
		if again := got.Observe(c.o, received); again != got {
			t.Errorf("%s: said twice it becomes\n%+v, not\n%+v", c.name, again, got)
		}
	}
}

// TestObservationsNeverOrder: whatever hosts say in whatever order, only a guest
// that powers itself off changes what is wanted, and then only to stopped.
func TestObservationsNeverOrder(t *testing.T) {
	states := []State{StateStarting, StateRunning, StatePaused, StateStopping, StateStopped, StateFailed, StateDeleted}
	rapid.Check(t, func(t *rapid.T) {
		in := Instance{Desired: PowerRunning, Reason: ReasonTenant, Generation: 1, Start: 1, Lease: 1, Under: 1, State: StatePending, Since: noon, Created: noon}
		now := noon
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Second)
			before := in
			if rapid.Bool().Draw(t, "order") {
				power := rapid.SampledFrom([]Power{PowerRunning, PowerStopped, PowerDeleted}).Draw(t, "power")
				next, changed, err := in.Order(power, ReasonTenant, now)
				if changed != (next.Generation == in.Generation+1) || err != nil && changed {
					t.Fatalf("order %s: changed %v, %v, generation %d → %d", power, changed, err, in.Generation, next.Generation)
				}
				in = next
				continue
			}
			o := Observation{
				Generation: rapid.Uint64Range(0, in.Generation).Draw(t, "generation"),
				Lease:      1,
				Start:      in.Start,
				State:      rapid.SampledFrom(states).Draw(t, "state"),
				Since:      now.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "since")) * time.Second),
				GuestOff:   rapid.Bool().Draw(t, "guest off"),
			}
			in = in.Observe(o, now)
			if in.Desired != before.Desired && (in.Desired != PowerStopped || in.Reason != ReasonGuest || !o.GuestOff || before.Desired != PowerRunning) {
				t.Fatalf("%+v changed what is wanted from %s to %s", o, before.Desired, in.Desired)
			}
			if in.Start != before.Start || in.Answered > in.Generation {
				t.Fatalf("start %d → %d, answered %d of %d", before.Start, in.Start, in.Answered, in.Generation)
			}
			if before.State == StateDeleted && in != before {
				t.Fatalf("a deleted instance changed: %+v", in)
			}
			if in.Since.After(now) || in.Since.Before(before.Since) {
				t.Fatalf("since %s at %s, before it was %s", in.Since, now, before.Since)
			}
		}
	})
}
