package agent

import (
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
)

// action is what has to be done to an instance.
type action string

const (
	actNone    action = ""
	actStart   action = "start"
	actStop    action = "stop"
	actReplace action = "replace" // stop, then start under a newer start
	actResize  action = "resize"  // give the running domain a newer lease and its flavor
	actRelease action = "release" // forget the domain, keep its disks
	actDelete  action = "delete"
)

// record is what the reconciler remembers of an instance. None of it has to
// outlive the agent: a new one comes to the same end, at most a pause sooner.
type record struct {
	ordered    uint64        // the newest order seen
	generation uint64        // the newest order that what is answers
	doing      compute.State // what is shown while an action runs, else ""
	err        string        // why the last action failed
	failures   int           // of actions in a row
	retryAt    time.Time     // not before then
	crashes    int           // in a row
	crashed    bool          // the present crash has been counted
	startedAt  time.Time     // when the last start succeeded
	state      compute.State // as last reported
	since      time.Time     // when it became so
	deleted    bool          // an ordered deletion is done
}

const (
	// restartLimit bounds the pause before a crashed domain is started again; the
	// first is restartFirst.
	restartFirst = time.Second
	restartLimit = 5 * time.Minute
	// restartForget is how long a domain must have run for earlier crashes not to
	// count.
	restartForget = 10 * time.Minute
	// actionFirst and actionLimit bound the pause before a failed action is repeated.
	actionFirst = 2 * time.Second
	actionLimit = time.Minute
)

// decide compares what is wanted of an instance with what is (nil: no domain) and
// says what to do. It notes in rec what it saw, and does nothing else.
func decide(want hostapi.DesiredInstance, is *Domain, rec *record, now time.Time) action {
	if want.Generation > rec.ordered { // a new order does not wait for the failures of the last
		rec.ordered, rec.failures, rec.retryAt = want.Generation, 0, time.Time{}
	}
	if want.Power == compute.PowerRunning && (want.Lease == 0 || want.Start == 0) {
		rec.err = "the order to run it names no lease"
		return actNone
	}
	act := settle(want, is, rec, now)
	if act == actNone {
		rec.generation, rec.err, rec.failures = want.Generation, "", 0
	}
	if now.Before(rec.retryAt) {
		return actNone
	}
	return act
}

// settle is what has to be done, sooner or later.
func settle(want hostapi.DesiredInstance, is *Domain, rec *record, now time.Time) action {
	switch want.Power {
	case compute.PowerDeleted:
		if is == nil && rec.deleted {
			return actNone
		}
		return actDelete // also without a domain: it may have been released, and its disks be here
	case compute.PowerReleased:
		if is == nil {
			return actNone
		}
		return actRelease
	case compute.PowerStopped:
		if is != nil && active(is) {
			return actStop
		}
		return actNone
	case compute.PowerRunning:
	default:
		return actNone // an order of a newer control plane: not ours to guess
	}
	if is == nil {
		return actStart
	}
	if is.Lease > want.Lease || is.Start > want.Start {
		return actNone // the order is older than what it would change
	}
	switch {
	case active(is) && is.Start < want.Start:
		return actReplace
	case active(is):
		rec.crashed = false
		if resizes(want, is) {
			return actResize
		}
		return actNone
	case is.Start < want.Start:
		return actStart
	case is.Reason == OffGuest:
		return actNone // only a newer start turns it on again
	case is.Reason == OffMigrated && is.Lease == want.Lease:
		return actNone // it runs elsewhere
	}
	if !rec.crashed {
		rec.crash(now)
	}
	return actStart
}

// resizes reports whether a resize of the running domain waits: the start that is
// wanted runs, under an older lease. A resize ends no start.
func resizes(want hostapi.DesiredInstance, is *Domain) bool {
	return want.Power == compute.PowerRunning && is != nil && active(is) && is.Start == want.Start && is.Lease < want.Lease
}

// crash counts a domain that is off without an order and sets when it may be
// started again.
func (r *record) crash(now time.Time) {
	if now.Sub(r.startedAt) >= restartForget {
		r.crashes = 0
	}
	r.crashed = true
	pause := backoff(r.crashes, restartFirst, restartLimit)
	r.crashes++
	if at := now.Add(pause); at.After(r.retryAt) {
		r.retryAt = at
	}
}

// done notes how an action ended.
func (r *record) done(act action, err error, now time.Time) {
	r.doing = ""
	if err != nil {
		r.err = err.Error()
		r.retryAt = now.Add(backoff(r.failures, actionFirst, actionLimit))
		r.failures++
		return
	}
	r.err, r.failures, r.retryAt = "", 0, time.Time{}
	if act == actStart || act == actReplace {
		r.startedAt, r.crashed = now, false
	}
	r.deleted = act == actDelete
}

func active(d *Domain) bool {
	return d.State == compute.StateRunning || d.State == compute.StatePaused
}
