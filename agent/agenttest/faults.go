package agenttest

import (
	"errors"
	"fmt"
	"time"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// ErrDown is what every call answers while the hypervisor is down.
var ErrDown = errors.New("the hypervisor does not answer")

// SetLoad sets what an instance consumes from now on.
func (h *Host) SetLoad(id metering.InstanceID, l Load) error {
	return h.change(id, func(d *domain, _ agent.Instant) error {
		d.load = l
		return nil
	})
}

// SetLoadAtStart sets what instances consume that start from now on; it is drawn
// from the seed otherwise.
func (h *Host) SetLoadAtStart(l Load) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.load = &l
}

// SetFlavor sets the vCPUs and memory of a running instance, without new labels.
func (h *Host) SetFlavor(id metering.InstanceID, f compute.Flavor) error {
	return h.change(id, func(d *domain, _ agent.Instant) error {
		d.spec.Flavor = f
		return nil
	})
}

// Relabel puts a running instance under another lease: a new epoch of the same
// process.
func (h *Host) Relabel(id metering.InstanceID, lease metering.LeaseNo) error {
	return h.change(id, func(d *domain, now agent.Instant) error {
		h.relabel(d, now, lease)
		return nil
	})
}

// relabel ends the epoch of d, which runs, and begins the next one.
func (h *Host) relabel(d *domain, now agent.Instant, lease metering.LeaseNo) {
	h.close(d, now)
	d.spec.Lease = lease
	d.ordinal++
	d.opened, d.opening = now.Wall, d.total()
	d.begin()
}

// SetResizeError makes every resize fail, or work again with nil.
func (h *Host) SetResizeError(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resizeErr = err
}

// Crash ends the instance's QEMU as kill -9 does.
func (h *Host) Crash(id metering.InstanceID) error {
	return h.off(id, compute.StateFailed, agent.OffCrashed)
}

// GuestOff lets the guest power itself off.
func (h *Host) GuestOff(id metering.InstanceID) error {
	return h.off(id, compute.StateStopped, agent.OffGuest)
}

// Pause pauses the instance.
func (h *Host) Pause(id metering.InstanceID) error {
	return h.pause(id, compute.StatePaused, agent.EventPaused)
}

// Resume lets a paused instance run on.
func (h *Host) Resume(id metering.InstanceID) error {
	return h.pause(id, compute.StateRunning, agent.EventResumed)
}

func (h *Host) pause(id metering.InstanceID, state compute.State, kind agent.EventKind) error {
	var at time.Time
	if err := h.change(id, func(d *domain, now agent.Instant) error {
		d.state, at = state, now.Wall
		return nil
	}); err != nil {
		return err
	}
	h.tell(agent.Event{ID: id, Kind: kind, At: at})
	return nil
}

// off ends a domain's process; one that is off already stays as it is.
func (h *Host) off(id metering.InstanceID, state compute.State, reason agent.OffReason) error {
	h.mu.Lock()
	if h.down != nil && reason == agent.OffOrdered {
		defer h.mu.Unlock()
		return h.down
	}
	d := h.domains[id]
	if d == nil || !d.active() {
		h.mu.Unlock()
		return nil
	}
	now := h.clock.now()
	h.consume(d, now)
	h.close(d, now)
	d.state, d.reason = state, reason
	h.mu.Unlock()
	h.tell(agent.Event{ID: id, Kind: agent.EventStopped, At: now.Wall, Off: reason})
	return nil
}

// ReplaceDisk exchanges the instance's disk for one that begins to count at 0.
func (h *Host) ReplaceDisk(id metering.InstanceID) error { return h.replace(id, diskName) }

// ReplaceNet exchanges the instance's public interface.
func (h *Host) ReplaceNet(id metering.InstanceID) error { return h.replace(id, publicName) }

func (h *Host) replace(id metering.InstanceID, name string) error {
	return h.change(id, func(d *domain, _ agent.Instant) error {
		d.retire(name)
		return nil
	})
}

// SetUnplugged takes the disk and the interfaces of an instance away, or gives it
// new ones under the same names.
func (h *Host) SetUnplugged(id metering.InstanceID, on bool) error {
	return h.change(id, func(d *domain, _ agent.Instant) error {
		d.unplugged = on
		for _, name := range []string{diskName, publicName, privateName} {
			d.retire(name)
		}
		return nil
	})
}

// SetUnreadable makes the counters of an instance unreadable, or readable again.
func (h *Host) SetUnreadable(id metering.InstanceID, on bool) error {
	return h.change(id, func(d *domain, _ agent.Instant) error {
		d.unreadable = on
		return nil
	})
}

// SetHung makes the instance's QEMU answer nothing, while it runs on, or answer again.
func (h *Host) SetHung(id metering.InstanceID, on bool) error {
	return h.change(id, func(d *domain, _ agent.Instant) error {
		d.hung = on
		return nil
	})
}

// change lets the instance consume up to now, then changes it.
func (h *Host) change(id metering.InstanceID, f func(d *domain, now agent.Instant) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[id]
	if d == nil || !d.active() {
		return fmt.Errorf("instance %s does not run", id)
	}
	now := h.clock.now()
	h.consume(d, now)
	err := f(d, now)
	d.changed()
	return err
}

// SetDown makes the hypervisor's daemon go away (watches break off, calls fail)
// or come back. Domains run on.
func (h *Host) SetDown(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = nil
	if !on {
		return
	}
	h.down = ErrDown
	for w := range h.watchers {
		w.broken <- ErrDown
		delete(h.watchers, w)
	}
}

// SetDelay sets how long a start, a stop, a resize, a release and a delete take.
func (h *Host) SetDelay(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.delay = d
}

// Reboot ends every process, as a loss of power does, and boots the host anew.
// No event tells of it. The agent of before is to be ended, too: the clocks begin
// anew.
func (h *Host) Reboot() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.clock.now()
	for _, d := range h.sorted() {
		if d.active() {
			h.consume(d, now)
			h.close(d, now)
			d.state, d.reason = compute.StateStopped, agent.OffUnknown
		}
	}
	h.clock.boots++
	h.clock.booted = h.clock.elapsed()
	h.clock.slept = 0
}
