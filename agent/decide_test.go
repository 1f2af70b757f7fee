package agent

import (
	"testing"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	running := &Domain{Lease: 1, Start: 1, State: compute.StateRunning}
	paused := &Domain{Lease: 1, Start: 1, State: compute.StatePaused}
	off := func(why OffReason) *Domain {
		state := compute.StateStopped
		if why == OffCrashed {
			state = compute.StateFailed
		}
		return &Domain{Lease: 1, Start: 1, State: state, Reason: why}
	}
	want := func(p compute.Power) hostapi.DesiredInstance {
		return hostapi.DesiredInstance{Generation: 5, Lease: 1, Start: 1, Power: p}
	}
	newer := want(compute.PowerRunning)
	newer.Start = 2
	resized := want(compute.PowerRunning)
	resized.Lease = 2
	restarted := newer
	restarted.Lease = 2
	noLease := want(compute.PowerRunning)
	noLease.Lease = 0
	for _, c := range []struct {
		name string
		want hostapi.DesiredInstance
		is   *Domain
		rec  record
		do   action
	}{
		{"new", want(compute.PowerRunning), nil, record{}, actStart},
		{"never without a lease", noLease, nil, record{}, actNone},
		{"runs as wanted", want(compute.PowerRunning), running, record{}, actNone},
		{"paused by hand", want(compute.PowerRunning), paused, record{}, actNone},
		{"switched off and on again in between", newer, running, record{}, actReplace},
		{"newer start of a stopped one", newer, off(OffOrdered), record{}, actStart},
		{"resized", resized, running, record{}, actResize},
		{"resized, paused", resized, paused, record{}, actResize},
		{"resized and switched off and on again", restarted, running, record{}, actReplace},
		{"resized, failed a moment ago", resized, running, record{ordered: 5, retryAt: now.Add(time.Second)}, actNone},
		{"resized when the guest was off", resized, off(OffGuest), record{}, actNone},
		{"resized when it had crashed, the pause is over", resized, off(OffCrashed), record{ordered: 5, crashed: true, retryAt: now}, actStart},
		{"migrated away and placed here again", resized, off(OffMigrated), record{crashed: true}, actStart},
		{"an order older than what runs", want(compute.PowerRunning), &Domain{Lease: 2, Start: 1, State: compute.StateRunning}, record{}, actNone},
		{"a stopped one of a newer lease", want(compute.PowerRunning), &Domain{Lease: 2, Start: 1, State: compute.StateStopped}, record{}, actNone},
		{"guest off", want(compute.PowerRunning), off(OffGuest), record{}, actNone},
		{"guest off, newer start", newer, off(OffGuest), record{}, actStart},
		{"first crash waits a second", want(compute.PowerRunning), off(OffCrashed), record{}, actNone},
		{"crash, the pause is over", want(compute.PowerRunning), off(OffCrashed), record{ordered: 5, crashed: true, retryAt: now}, actStart},
		{"host was rebooted, the pause is over", want(compute.PowerRunning), off(OffUnknown), record{crashed: true}, actStart},
		{"migrated away", want(compute.PowerRunning), off(OffMigrated), record{}, actNone},
		{"to be stopped", want(compute.PowerStopped), running, record{}, actStop},
		{"paused, to be stopped", want(compute.PowerStopped), paused, record{}, actStop},
		{"stopped", want(compute.PowerStopped), off(OffOrdered), record{}, actNone},
		{"never made and to be stopped", want(compute.PowerStopped), nil, record{}, actNone},
		{"to be deleted", want(compute.PowerDeleted), running, record{}, actDelete},
		{"to be deleted without a domain", want(compute.PowerDeleted), nil, record{}, actDelete},
		{"deleted", want(compute.PowerDeleted), nil, record{deleted: true}, actNone},
		{"to be released", want(compute.PowerReleased), off(OffOrdered), record{}, actRelease},
		{"to be released, started by hand", want(compute.PowerReleased), running, record{}, actRelease},
		{"released", want(compute.PowerReleased), nil, record{}, actNone},
		{"an order of another age", want("hibernated"), running, record{}, actNone},
		{"failed a moment ago", want(compute.PowerStopped), running, record{ordered: 5, retryAt: now.Add(time.Second)}, actNone},
		{"an order before failed a moment ago", want(compute.PowerStopped), running, record{ordered: 4, retryAt: now.Add(time.Second)}, actStop},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := decide(c.want, c.is, &c.rec, now); got != c.do {
				t.Errorf("decide = %q, want %q", got, c.do)
			}
		})
	}
}

// A start that failed although the domain came to run in the end leaves no error behind.
func TestErrorGoesWhenWhatIsIsWanted(t *testing.T) {
	rec := record{ordered: 5, err: "it took too long"}
	is := &Domain{Lease: 1, Start: 1, State: compute.StateRunning}
	want := hostapi.DesiredInstance{Generation: 5, Lease: 1, Start: 1, Power: compute.PowerRunning}
	if act := decide(want, is, &rec, time.Now()); act != actNone || rec.err != "" || rec.generation != 5 {
		t.Errorf("decide = %q, error %q, generation %d; want none, none, 5", act, rec.err, rec.generation)
	}
}

func TestCrashesBackOff(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var rec record
	var pauses []time.Duration
	for range 11 {
		rec.crash(now)
		pauses = append(pauses, rec.retryAt.Sub(now))
		now = rec.retryAt
		rec.done(actStart, nil, now)
	}
	if pauses[0] != restartFirst || pauses[3] != 8*restartFirst || pauses[10] != restartLimit {
		t.Errorf("pauses %v: want them to double from %s to %s", pauses, restartFirst, restartLimit)
	}
	now = now.Add(restartForget)
	rec.crash(now)
	if got := rec.retryAt.Sub(now); got != restartFirst {
		t.Errorf("pause after running for %s: %s, want %s", restartForget, got, restartFirst)
	}
}

func TestFailedActionsBackOff(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var rec record
	for _, want := range []time.Duration{actionFirst, 2 * actionFirst, 4 * actionFirst} {
		rec.done(actStart, errTest, now)
		if got := rec.retryAt.Sub(now); got != want || rec.err == "" {
			t.Errorf("pause %s with error %q, want %s and an error", got, rec.err, want)
		}
	}
	rec.done(actStart, nil, now)
	if rec.err != "" || !rec.retryAt.IsZero() {
		t.Errorf("after a success: error %q, retry at %s; want neither", rec.err, rec.retryAt)
	}
}
