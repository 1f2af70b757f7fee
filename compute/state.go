package compute

import (
	"fmt"
	"time"

	"github.com/usance/usance/metering"
)

// Observation is what a host says of one instance.
type Observation struct {
	ID         metering.InstanceID `json:"id"`
	Generation uint64              `json:"generation"` // the newest order this state already answers
	Lease      metering.LeaseNo    `json:"lease"`
	Start      metering.StartNo    `json:"start"`
	State      State               `json:"state"`
	Since      time.Time           `json:"since"`
	// GuestOff says that State is stopped because the guest powered itself off.
	GuestOff bool   `json:"guest_off,omitempty"`
	Address  string `json:"address,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Held reports whether the instance was stopped for a reason for which its tenant
// may not start it: it is unpaid, or the hosting provider ordered it.
func (i Instance) Held() bool { return i.Desired == PowerStopped && holds(i.Reason) }

func holds(reason string) bool { return reason == ReasonUnpaid || reason == ReasonOperator }

// Order is the instance after an order that it be so from now on, for the given
// reason. What is wanted already changes nothing: then changed is false; but one
// that its tenant or guest stopped can be Held on top. One that is held is turned
// on for the reason for which it was stopped, or by the operator. Turning it on begins
// a new start. The error is ErrDeleted once it is wanted deleted, and ErrMoving or
// ErrHeld for one that is to be turned on while it moves or is held.
func (i Instance) Order(power Power, reason string, now time.Time) (next Instance, changed bool, err error) {
	switch {
	case i.Desired == PowerStopped && power == PowerStopped && holds(reason) && !i.Held():
		i.Reason = reason
		return i, true, nil
	case i.Desired == power:
		return i, false, nil
	case i.Desired == PowerDeleted:
		return i, false, ErrDeleted
	case power == PowerRunning && i.MovesTo != "":
		return i, false, ErrMoving
	case power == PowerRunning && i.Held() && reason != i.Reason && reason != ReasonOperator:
		return i, false, fmt.Errorf("%w (%s)", ErrHeld, i.Reason)
	}
	i.Desired, i.Reason = power, reason
	i.Generation++
	switch power {
	case PowerRunning:
		i.Start++
	case PowerDeleted:
		i.MovesTo = "" // it is deleted where it is
	}
	if i.State != StateUnknown { // a host that cannot be reached carries nothing out
		i.State, i.Since, i.Error = i.underWay(), now, ""
	}
	return i, true, nil
}

// underWay is the state of an instance whose newest order is not carried out yet.
func (i Instance) underWay() State {
	if i.Desired == PowerRunning {
		return StateStarting
	}
	return StateStopping
}

// Observe is the instance after its host said o at received (server's clock),
// o.Since being corrected to the server's clock. The rules:
//
//   - What a lease under which it cannot run says is ignored.
//   - What is wanted does not change, but when the guest powered itself off in the
//     present start: then it is wanted stopped.
//   - As long as an order to turn it on or off is not carried out, the state is
//     starting or stopping, unless something went wrong.
//   - A lease that a resize replaced ends when the instance is shown under a newer
//     one, or off by a host that knows the newest.
//   - Deleted counts only when that is wanted and carried out. Released changes
//     no state: see Released.
//   - Since is kept while the state is; it never lies in the future, and never
//     before the previous state began, unless that was unknown.
func (i Instance) Observe(o Observation, received time.Time) Instance {
	if o.Lease < i.Under || o.Lease > i.Lease || i.State == StateDeleted {
		return i
	}
	i.Answered = min(max(i.Answered, o.Generation), i.Generation)
	answered := i.Answered == i.Generation
	switch {
	case o.active():
		i.Under = o.Lease
	case o.State == StateStopped && o.Generation == i.Generation:
		i.Under = i.Lease
	}
	if o.GuestOff && o.State == StateStopped && o.Start == i.Start && i.Desired == PowerRunning {
		i.Desired, i.Reason = PowerStopped, ReasonGuest
		i.Generation++
		if answered {
			i.Answered = i.Generation
		}
	}
	state := o.State
	switch {
	case o.State == StateReleased, o.State == StateDeleted && (i.Desired != PowerDeleted || !answered):
		return i
	case !answered && o.State != StateFailed && !i.switched(o):
		state = i.underWay()
	}
	i.Address, i.Error = o.Address, ""
	if state == StateFailed || i.Resizing() {
		i.Error = o.Error
	}
	if state == i.State {
		return i
	}
	since := o.Since
	if state != o.State || since.After(received) {
		since = received
	}
	if earliest := i.earliest(); since.Before(earliest) {
		since = earliest
	}
	i.State, i.Since = state, since
	return i
}

func (o Observation) active() bool { return o.State == StateRunning || o.State == StatePaused }

// switched reports whether o shows the instance on or off as it is wanted, so
// that an order which is not carried out is about its flavor or its host.
func (i Instance) switched(o Observation) bool {
	switch i.Desired {
	case PowerRunning:
		return o.active() && o.Start == i.Start
	case PowerStopped:
		return o.State == StateStopped && i.State == StateStopped
	}
	return false
}

// earliest is the earliest instant at which the next state can have begun.
func (i Instance) earliest() time.Time {
	if i.State == StateUnknown {
		return i.Created
	}
	return i.Since
}
