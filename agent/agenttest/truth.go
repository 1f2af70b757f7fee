package agenttest

import (
	"slices"
	"time"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/metering"
)

// Truth is what one epoch really consumed. BridgedMS is always 0: it says how the
// agent knows, not what was.
type Truth struct {
	Epoch     metering.Epoch
	Registers metering.Registers // up to the present, or to its end
	Ended     bool
	EndedAt   time.Time // the host's wall clock
	Course
}

// Truths are all epochs there ever were, in the order in which they ended; open
// ones come last, by instance.
func (h *Host) Truths() []Truth {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Clone(h.past)
	now := h.clock.now()
	for _, d := range h.sorted() {
		if d.active() {
			h.consume(d, now)
			all = append(all, h.truth(d))
		}
	}
	return all
}

func (h *Host) truth(d *domain) Truth {
	return Truth{
		Epoch: metering.Epoch{
			ID:       metering.DeriveEpochID(d.spec.ID, h.clock.now().Boot, d.pid, d.ticks, d.ordinal),
			Instance: d.spec.ID, Lease: d.spec.Lease, Start: d.spec.Start,
			Opened: d.opened.Truncate(time.Millisecond), Opening: d.opening,
		},
		Registers: d.total(),
		Course:    d.course,
	}
}

// total is the registers of the process: what is gone and what the devices hold.
func (d *domain) total() metering.Registers {
	t := d.truth
	for _, dev := range d.devices {
		for r, milli := range dev.milli {
			t[r] += milli / 1000
		}
	}
	return t
}

// close moves the epoch of d into the past.
func (h *Host) close(d *domain, now agent.Instant) {
	t := h.truth(d)
	t.Ended, t.EndedAt, t.EndedMS = true, now.Wall, d.atMS
	h.past = append(h.past, t)
}

// consume lets d run up to now.
func (h *Host) consume(d *domain, now agent.Instant) {
	ms := uint64(now.Mono.Milliseconds() - d.atMS)
	d.atMS = now.Mono.Milliseconds()
	p := d.phase()
	if p.add(&d.truth, ms); p.paused {
		return
	}
	for name, rates := range d.load.rates() {
		if d.unplugged && name != cpuName {
			continue
		}
		for r, perSecond := range rates {
			d.devices[name].milli[r] += perSecond * ms
		}
	}
}

func (l Load) rates() map[string]map[metering.Register]uint64 {
	return map[string]map[metering.Register]uint64{
		cpuName: {metering.CPUNS: l.CPUMillis * 1_000_000},
		diskName: {
			metering.DiskReadBytes: l.ReadBytes, metering.DiskReadOps: l.ReadOps,
			metering.DiskWriteBytes: l.WriteBytes, metering.DiskWriteOps: l.WriteOps,
		},
		publicName: {
			metering.NetPublicRxBytes: l.PublicRxBytes, metering.NetPublicRxPackets: l.PublicPackets,
			metering.NetPublicTxBytes: l.PublicTxBytes, metering.NetPublicTxPackets: l.PublicPackets,
		},
		privateName: {
			metering.NetPrivateRxBytes: l.PrivateRxBytes, metering.NetPrivateRxPackets: l.PrivatePackets,
			metering.NetPrivateTxBytes: l.PrivateTxBytes, metering.NetPrivateTxPackets: l.PrivatePackets,
		},
	}
}

// retire adds what a device counted to what is gone, and starts it at 0.
func (d *domain) retire(name string) {
	for r, milli := range d.devices[name].milli {
		d.truth[r] += milli / 1000
	}
	d.devices[name].milli = map[metering.Register]uint64{}
}
