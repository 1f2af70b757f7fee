package virt

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/metering"
)

// TestTranslate tells the agent of libvirt's events what they mean for a guest's
// time. How a domain ended is in TestHowItEnded.
func TestTranslate(t *testing.T) {
	started := func(detail libvirt.DomainEventStartedDetailType) lifecycle {
		return lifecycle{event: libvirt.DOMAIN_EVENT_STARTED, detail: int(detail)}
	}
	suspended := func(detail libvirt.DomainEventSuspendedDetailType) lifecycle {
		return lifecycle{event: libvirt.DOMAIN_EVENT_SUSPENDED, detail: int(detail)}
	}
	resumed := func(detail libvirt.DomainEventResumedDetailType) lifecycle {
		return lifecycle{event: libvirt.DOMAIN_EVENT_RESUMED, detail: int(detail)}
	}
	for _, c := range []struct {
		name   string
		events []lifecycle
		want   []agent.EventKind
	}{
		{"started", []lifecycle{started(libvirt.DOMAIN_EVENT_STARTED_BOOTED), resumed(libvirt.DOMAIN_EVENT_RESUMED_UNPAUSED)},
			[]agent.EventKind{agent.EventStarted, agent.EventResumed}},
		{"paused", []lifecycle{suspended(libvirt.DOMAIN_EVENT_SUSPENDED_PAUSED), resumed(libvirt.DOMAIN_EVENT_RESUMED_UNPAUSED)},
			[]agent.EventKind{agent.EventPaused, agent.EventResumed}},
		{"paused by the guest", []lifecycle{{event: libvirt.DOMAIN_EVENT_PMSUSPENDED}}, []agent.EventKind{agent.EventPaused}},
		{"migrated in", []lifecycle{started(libvirt.DOMAIN_EVENT_STARTED_MIGRATED), resumed(libvirt.DOMAIN_EVENT_RESUMED_MIGRATED),
			suspended(libvirt.DOMAIN_EVENT_SUSPENDED_PAUSED), resumed(libvirt.DOMAIN_EVENT_RESUMED_UNPAUSED)},
			[]agent.EventKind{agent.EventStarted, agent.EventPaused, agent.EventResumed}},
		{"migrated in paused", []lifecycle{started(libvirt.DOMAIN_EVENT_STARTED_MIGRATED), suspended(libvirt.DOMAIN_EVENT_SUSPENDED_PAUSED),
			resumed(libvirt.DOMAIN_EVENT_RESUMED_UNPAUSED)},
			[]agent.EventKind{agent.EventPaused, agent.EventResumed}},
		{"restored", []lifecycle{started(libvirt.DOMAIN_EVENT_STARTED_RESTORED), resumed(libvirt.DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT)},
			[]agent.EventKind{agent.EventStarted}},
		{"migrates away", []lifecycle{suspended(libvirt.DOMAIN_EVENT_SUSPENDED_MIGRATED)}, []agent.EventKind{agent.EventLeaving}},
		{"stays after all", []lifecycle{suspended(libvirt.DOMAIN_EVENT_SUSPENDED_MIGRATED), resumed(libvirt.DOMAIN_EVENT_RESUMED_MIGRATED)},
			[]agent.EventKind{agent.EventLeaving, agent.EventResumed}},
		{"defined", []lifecycle{{event: libvirt.DOMAIN_EVENT_DEFINED}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h Hypervisor
			var got []agent.EventKind
			arriving := map[metering.InstanceID]bool{}
			for i, e := range c.events {
				e.id, e.at = "ins_00000000000000001", time.Unix(int64(i), 0)
				if event, ok := h.translate(t.Context(), e, arriving); ok {
					if event.ID != e.id || !event.At.Equal(e.at) {
						t.Errorf("got %+v of %+v", event, e)
					}
					got = append(got, event.Kind)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
