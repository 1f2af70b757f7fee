package agenttest

import (
	"slices"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// Course is how an epoch came to what it consumed, so that a reading can be held
// against the truth at its own instant. Instants are ms of the host's monotonic
// clock.
type Course struct {
	OpenedMS, EndedMS int64  // EndedMS is 0 while it runs
	PIDStart          uint64 // of its process, clock ticks after boot
	// Looks are what each call of Sample showed of it, in their order; those that
	// could not read the counters are left out.
	Looks []Look

	opening metering.Registers
	phases  []phase
}

// Look is what one call of Sample showed: Counters has CPU time and what disks
// and networks counted, and 0 in the registers of time.
type Look struct {
	At       agent.Instant
	Paused   bool
	Counters metering.Registers
}

// phase is a time in which an epoch's state and allocation stay as they are.
type phase struct {
	fromMS                    int64
	paused                    bool
	vcpus, memoryMiB, usedMiB uint64
}

// timed are the registers that follow from state and allocation.
var timed = []metering.Register{metering.RunningMS, metering.PausedMS, metering.VCPUMS, metering.MemoryMiBMS, metering.MemoryUsedMiBMS}

// TimesAt is what the registers of time, vCPUs and memory really were at an
// instant of the epoch's life; the others are 0.
func (c *Course) TimesAt(ms int64) (r metering.Registers) {
	for _, register := range timed {
		r[register] = c.opening[register]
	}
	for i, p := range c.phases {
		until := ms
		if i+1 < len(c.phases) {
			until = min(ms, c.phases[i+1].fromMS)
		}
		if until > p.fromMS {
			p.add(&r, uint64(until-p.fromMS))
		}
	}
	return r
}

// Turned reports whether the epoch was paused or resumed between two instants, both included.
func (c *Course) Turned(fromMS, toMS int64) bool {
	for i, p := range c.phases {
		if i > 0 && p.paused != c.phases[i-1].paused && fromMS <= p.fromMS && p.fromMS <= toMS {
			return true
		}
	}
	return false
}

// add lets ms pass in the phase.
func (p *phase) add(r *metering.Registers, ms uint64) {
	if p.paused {
		r[metering.PausedMS] += ms
		return
	}
	r[metering.RunningMS] += ms
	r[metering.VCPUMS] += ms * p.vcpus
	r[metering.MemoryMiBMS] += ms * p.memoryMiB
	r[metering.MemoryUsedMiBMS] += ms * p.usedMiB
}

// Until is the course of an epoch whose process went on under other labels (next)
// after it, as an agent meters it that sees those only at ms: in the state that the
// process was in, with the allocation of before.
func (c Course) Until(next Course, ms int64) Course {
	c.phases, c.Looks, c.EndedMS = slices.Clone(c.phases), slices.Clone(c.Looks), ms
	for _, p := range next.phases {
		last := c.phases[len(c.phases)-1]
		if p.fromMS < ms {
			c.phases = append(c.phases, phase{p.fromMS, p.paused, last.vcpus, last.memoryMiB, p.usedMiB})
		}
	}
	for _, l := range next.Looks {
		if l.At.Mono.Milliseconds() <= ms {
			c.Looks = append(c.Looks, l)
		}
	}
	return c
}

// begin starts the course of d's epoch where d stands.
func (d *domain) begin() {
	d.course = Course{OpenedMS: d.atMS, PIDStart: d.ticks, opening: d.opening}
	d.changed()
}

// changed notes what d is like from where it stands on.
func (d *domain) changed() {
	d.course.phases = append(d.course.phases, d.phase())
}

func (d *domain) phase() phase {
	return phase{fromMS: d.atMS, paused: d.state == compute.StatePaused,
		vcpus: uint64(d.spec.Flavor.VCPUs), memoryMiB: uint64(d.spec.Flavor.MemoryMiB), usedMiB: d.load.UsedMiB}
}

// looked notes what a sample at the instant showed.
func (d *domain) looked(at agent.Instant) {
	if d.unreadable {
		return
	}
	counters := d.total()
	for _, register := range timed {
		counters[register] = 0
	}
	d.course.Looks = append(d.course.Looks, Look{At: at, Paused: d.state == compute.StatePaused, Counters: counters})
}
