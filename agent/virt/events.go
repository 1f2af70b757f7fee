package virt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/metering"
)

const (
	// maxPending is how many events may wait for f. When more do, Watch ends with
	// an error: the caller then lists, which is cheaper than to catch up.
	maxPending = 4096
	// noteTimeout bounds a look at the metadata of a domain that ended.
	noteTimeout = 2 * time.Second
)

// lifecycle is one event as libvirt tells it.
type lifecycle struct {
	id     metering.InstanceID
	at     time.Time
	event  libvirt.DomainEventType
	detail int
}

// Watch calls live once its callback is registered, and then f, from one goroutine,
// for every change of a domain until ctx ends or the connection breaks; then it
// returns why.
func (h *Hypervisor) Watch(ctx context.Context, live func(), f func(agent.Event)) error {
	conn, err := dialUntil(ctx, h.cfg.URI)
	if err != nil {
		return fmt.Errorf("watch domains: %w", err)
	}
	defer conn.Close()
	events := make(chan lifecycle, maxPending)
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default: // one reason is enough
		}
	}
	if err := conn.RegisterCloseCallback(func(*libvirt.Connect, libvirt.ConnectCloseReason) {
		fail(errors.New("the connection to libvirt broke"))
	}); err != nil {
		return fmt.Errorf("watch domains: %w", err)
	}
	defer conn.UnregisterCloseCallback()
	callback, err := conn.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventLifecycle) {
		name, err := dom.GetName()
		if err != nil || metering.CheckID(metering.PrefixInstance, name) != nil {
			return
		}
		select {
		case events <- lifecycle{metering.InstanceID(name), time.Now(), e.Event, e.Detail}:
		default:
			fail(fmt.Errorf("%d events wait already", maxPending))
		}
	})
	if err != nil {
		return fmt.Errorf("watch domains: %w", err)
	}
	defer conn.DomainEventDeregister(callback)
	live()
	arriving := map[metering.InstanceID]bool{} // migrating in or being restored, and not yet running here
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return fmt.Errorf("watch domains: %w", err)
		case e := <-events:
			if event, ok := h.translate(ctx, e, arriving); ok {
				f(event)
			}
		}
	}
}

// translate makes an event of the agent's from one of libvirt's; ok is false for
// one that changes nothing by itself. A domain that migrates in or is restored
// starts here when it resumes, not when its QEMU begins to load it.
func (h *Hypervisor) translate(ctx context.Context, e lifecycle, arriving map[metering.InstanceID]bool) (event agent.Event, ok bool) {
	event = agent.Event{ID: e.id, At: e.at}
	switch e.event {
	case libvirt.DOMAIN_EVENT_STARTED:
		event.Kind = agent.EventStarted
		switch libvirt.DomainEventStartedDetailType(e.detail) {
		case libvirt.DOMAIN_EVENT_STARTED_MIGRATED, libvirt.DOMAIN_EVENT_STARTED_RESTORED:
			arriving[e.id] = true
			return event, false
		}
	case libvirt.DOMAIN_EVENT_SUSPENDED, libvirt.DOMAIN_EVENT_PMSUSPENDED:
		event.Kind = agent.EventPaused
		if e.event == libvirt.DOMAIN_EVENT_SUSPENDED && libvirt.DomainEventSuspendedDetailType(e.detail) == libvirt.DOMAIN_EVENT_SUSPENDED_MIGRATED {
			event.Kind = agent.EventLeaving
			return event, true
		}
	case libvirt.DOMAIN_EVENT_RESUMED:
		event.Kind = agent.EventResumed
		if arriving[e.id] {
			event.Kind = agent.EventStarted
		}
	case libvirt.DOMAIN_EVENT_STOPPED, libvirt.DOMAIN_EVENT_CRASHED:
		event.Kind = agent.EventStopped
		event.Off = h.offOf(ctx, e)
	case libvirt.DOMAIN_EVENT_SHUTDOWN:
		if libvirt.DomainEventShutdownDetailType(e.detail) == libvirt.DOMAIN_EVENT_SHUTDOWN_HOST {
			h.noteKilled(ctx, e.id) // the end itself comes next
		}
		return event, false
	default:
		return event, false
	}
	delete(arriving, e.id)
	return event, true
}

// offOf tells why a domain stopped. When it is already gone, we removed it.
func (h *Hypervisor) offOf(ctx context.Context, e lifecycle) agent.OffReason {
	if e.event == libvirt.DOMAIN_EVENT_CRASHED {
		return agent.OffCrashed
	}
	reason := libvirt.DOMAIN_SHUTOFF_UNKNOWN
	switch libvirt.DomainEventStoppedDetailType(e.detail) {
	case libvirt.DOMAIN_EVENT_STOPPED_SHUTDOWN:
		reason = libvirt.DOMAIN_SHUTOFF_SHUTDOWN
	case libvirt.DOMAIN_EVENT_STOPPED_DESTROYED:
		reason = libvirt.DOMAIN_SHUTOFF_DESTROYED
	case libvirt.DOMAIN_EVENT_STOPPED_CRASHED, libvirt.DOMAIN_EVENT_STOPPED_FAILED:
		reason = libvirt.DOMAIN_SHUTOFF_CRASHED
	case libvirt.DOMAIN_EVENT_STOPPED_MIGRATED:
		reason = libvirt.DOMAIN_SHUTOFF_MIGRATED
	case libvirt.DOMAIN_EVENT_STOPPED_SAVED:
		reason = libvirt.DOMAIN_SHUTOFF_SAVED
	}
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	end, err := call(ctx, h.main, func(c *libvirt.Connect) (ending, error) {
		end := endOrdered
		err := withDomain(c, e.id, func(dom *libvirt.Domain) error {
			l, _, err := readLabels(dom)
			end = l.End
			return err
		})
		return end, err
	})
	if err != nil {
		h.cfg.Log.Warn("why a domain stopped is not known for sure", "instance", e.id, "err", err)
	}
	return offReason(reason, end)
}

// noteKilled notes that QEMU is ending by a signal and not by the guest's doing.
func (h *Hypervisor) noteKilled(ctx context.Context, id metering.InstanceID) {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	err := act(ctx, h.cfg.URI, func(c *libvirt.Connect) error {
		return withDomain(c, id, func(dom *libvirt.Domain) error { return markEnd(dom, endKilled) })
	})
	if err != nil {
		h.cfg.Log.Warn("the killing of a domain is not noted", "instance", id, "err", err)
	}
}
