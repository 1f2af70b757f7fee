// Package agenttest is a host without a machine: a hypervisor whose domains
// consume at set rates, whose clocks can be stepped, and whose true counters are
// known to the unit.
//
// It owns the fake and the truth about it. It never measures anything: what a
// test compares with Truth came through the agent.
//
// Invariants:
//   - All methods may be called from several goroutines.
//   - The truth of an epoch depends only on the clock and the calls made, not on
//     when or how often it is sampled.
//   - The same seed and the same calls give the same truth.
package agenttest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// Host is a machine with a hypervisor. It is an agent.Hypervisor, and its Now is
// the agent.Clock that belongs to it.
type Host struct {
	mu        sync.Mutex
	rand      *rand.Rand
	clock     clock
	domains   map[metering.InstanceID]*domain
	past      []Truth // epochs that ended
	nextPID   int
	watchers  map[*watcher]bool
	down      error
	delay     time.Duration
	resizeErr error
	load      *Load // of domains to come; nil: drawn
}

var _ agent.Hypervisor = (*Host)(nil)

type watcher struct {
	f      func(agent.Event)
	broken chan error
}

// New makes a host whose clock shows start and moves only by Advance, Sleep and
// StepWall.
func New(seed uint64, start time.Time) *Host { return newHost(seed, start, false) }

// NewLive makes a host whose clock runs with the program's, and can be moved
// besides. In a testing/synctest bubble that is the bubble's clock.
func NewLive(seed uint64) *Host { return newHost(seed, time.Now(), true) }

func newHost(seed uint64, start time.Time, live bool) *Host {
	h := &Host{
		rand:     rand.New(rand.NewPCG(seed, seed)),
		domains:  map[metering.InstanceID]*domain{},
		nextPID:  1000,
		watchers: map[*watcher]bool{},
	}
	h.clock = newClock(start, live, h.rand.Uint64())
	return h
}

// Load is what a domain consumes while it runs.
type Load struct {
	CPUMillis uint64 // ms of CPU time per second
	UsedMiB   uint64 // memory the guest uses
	// Per second:
	ReadBytes, ReadOps, WriteBytes, WriteOps       uint64
	PublicRxBytes, PublicTxBytes, PublicPackets    uint64 // packets each way
	PrivateRxBytes, PrivateTxBytes, PrivatePackets uint64
}

// domain is one virtual machine.
type domain struct {
	spec   agent.Spec
	state  compute.State
	reason agent.OffReason
	pid    int
	ticks  uint64 // start of the process, after boot

	load       Load
	atMS       int64 // up to where it has consumed
	ordinal    int
	opened     time.Time
	opening    metering.Registers
	truth      metering.Registers // of the process, whole units, devices now gone included
	devices    map[string]*device
	course     Course
	hung       bool
	unreadable bool
	unplugged  bool
}

// device counts thousandths, so that its counters are exact whatever the steps.
type device struct {
	milli map[metering.Register]uint64
}

const (
	diskName    = "vda"
	publicName  = "vnet0"
	privateName = "vnet1"
	cpuName     = "cpu"
)

// Sample implements agent.Hypervisor.
func (h *Host) Sample(ctx context.Context) ([]agent.Sample, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := cmp.Or(h.down, ctx.Err()); err != nil {
		return nil, err
	}
	now := h.clock.now()
	var out []agent.Sample
	var errs []error
	for _, d := range h.sorted() {
		if !d.active() {
			continue
		}
		if d.hung {
			errs = append(errs, fmt.Errorf("domain %s does not answer", d.spec.ID))
			continue
		}
		h.consume(d, now)
		out = append(out, d.sample(now.Wall))
		d.looked(now)
	}
	return out, errors.Join(errs...)
}

func (d *domain) sample(at time.Time) agent.Sample {
	s := agent.Sample{
		ID: d.spec.ID, Lease: d.spec.Lease, Start: d.spec.Start, PID: d.pid, PIDStart: d.ticks,
		At: at, Paused: d.state == compute.StatePaused,
	}
	vcpus, memory, used := uint64(d.spec.Flavor.VCPUs), uint64(d.spec.Flavor.MemoryMiB), d.load.UsedMiB
	s.VCPUs, s.MemoryMiB = &vcpus, &memory
	value := func(name string, r metering.Register) *uint64 {
		if d.unreadable {
			return nil
		}
		v := d.devices[name].milli[r] / 1000
		return &v
	}
	if !d.unreadable {
		s.UsedMiB = &used
	}
	s.CPUNS = value(cpuName, metering.CPUNS)
	if d.unplugged {
		return s
	}
	s.Disks = []agent.DiskCounters{{
		Name:      diskName,
		ReadBytes: value(diskName, metering.DiskReadBytes), ReadOps: value(diskName, metering.DiskReadOps),
		WriteBytes: value(diskName, metering.DiskWriteBytes), WriteOps: value(diskName, metering.DiskWriteOps),
	}}
	s.Nets = []agent.NetCounters{{
		Name:    publicName,
		RxBytes: value(publicName, metering.NetPublicRxBytes), RxPackets: value(publicName, metering.NetPublicRxPackets),
		TxBytes: value(publicName, metering.NetPublicTxBytes), TxPackets: value(publicName, metering.NetPublicTxPackets),
	}, {
		Name: privateName, Private: true,
		RxBytes: value(privateName, metering.NetPrivateRxBytes), RxPackets: value(privateName, metering.NetPrivateRxPackets),
		TxBytes: value(privateName, metering.NetPrivateTxBytes), TxPackets: value(privateName, metering.NetPrivateTxPackets),
	}}
	return s
}

// Domains implements agent.Hypervisor.
func (h *Host) Domains(ctx context.Context) ([]agent.Domain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := cmp.Or(h.down, ctx.Err()); err != nil {
		return nil, err
	}
	var out []agent.Domain
	for _, d := range h.sorted() {
		l := agent.Domain{ID: d.spec.ID, Lease: d.spec.Lease, Start: d.spec.Start, State: d.state, Reason: d.reason}
		if d.active() {
			l.PID, l.PIDStart, l.Address = d.pid, d.ticks, "192.0.2.1"
		}
		out = append(out, l)
	}
	return out, nil
}

// Start implements agent.Hypervisor.
func (h *Host) Start(ctx context.Context, spec agent.Spec) error {
	if err := h.wait(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	if h.down != nil {
		defer h.mu.Unlock()
		return h.down
	}
	d := h.domains[spec.ID]
	if d != nil && d.active() {
		h.mu.Unlock()
		return nil
	}
	now := h.clock.now()
	h.nextPID++
	next := &domain{
		spec: spec, state: compute.StateRunning, pid: h.nextPID, ticks: h.clock.ticks(),
		load: h.drawLoad(spec), atMS: now.Mono.Milliseconds(), opened: now.Wall,
		devices: map[string]*device{},
	}
	for _, name := range []string{cpuName, diskName, publicName, privateName} {
		next.devices[name] = &device{milli: map[metering.Register]uint64{}}
	}
	next.begin()
	h.domains[spec.ID] = next
	h.mu.Unlock()
	h.tell(agent.Event{ID: spec.ID, Kind: agent.EventStarted, At: now.Wall})
	return nil
}

func (h *Host) drawLoad(spec agent.Spec) Load {
	if h.load != nil {
		return *h.load
	}
	n := func(limit uint64) uint64 { return h.rand.Uint64N(limit) }
	return Load{
		CPUMillis: n(1000 * uint64(max(1, spec.Flavor.VCPUs))), UsedMiB: n(uint64(max(1, spec.Flavor.MemoryMiB))),
		ReadBytes: n(1 << 20), ReadOps: n(300), WriteBytes: n(1 << 20), WriteOps: n(300),
		PublicRxBytes: n(1 << 20), PublicTxBytes: n(1 << 20), PublicPackets: n(2000),
		PrivateRxBytes: n(1 << 20), PrivateTxBytes: n(1 << 20), PrivatePackets: n(2000),
	}
}

// Stop implements agent.Hypervisor.
func (h *Host) Stop(ctx context.Context, id metering.InstanceID, _ time.Duration) error {
	if err := h.wait(ctx); err != nil {
		return err
	}
	return h.off(id, compute.StateStopped, agent.OffOrdered)
}

// Resize implements agent.Hypervisor: the flavor and the lease change in one instant.
func (h *Host) Resize(ctx context.Context, spec agent.Spec) error {
	if err := h.wait(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	err := cmp.Or(h.down, h.resizeErr)
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return h.change(spec.ID, func(d *domain, now agent.Instant) error {
		d.spec.Flavor = spec.Flavor
		if d.spec.Lease == spec.Lease {
			d.changed()
			return nil
		}
		h.relabel(d, now, spec.Lease)
		return nil
	})
}

// Release implements agent.Hypervisor. The fake has no disks to keep.
func (h *Host) Release(ctx context.Context, id metering.InstanceID) error { return h.Delete(ctx, id) }

// Delete implements agent.Hypervisor.
func (h *Host) Delete(ctx context.Context, id metering.InstanceID) error {
	if err := h.wait(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[id]; d != nil && d.active() {
		return fmt.Errorf("delete %s: it runs", id)
	}
	delete(h.domains, id)
	return h.down
}

// Watch implements agent.Hypervisor.
func (h *Host) Watch(ctx context.Context, live func(), f func(agent.Event)) error {
	w := &watcher{f: f, broken: make(chan error, 1)}
	h.mu.Lock()
	if h.down != nil {
		defer h.mu.Unlock()
		return h.down
	}
	h.watchers[w] = true
	h.mu.Unlock()
	live()
	defer func() {
		h.mu.Lock()
		delete(h.watchers, w)
		h.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-w.broken:
		return err
	}
}

// tell delivers an event; h.mu must not be held.
func (h *Host) tell(e agent.Event) {
	h.mu.Lock()
	var to []func(agent.Event)
	for w := range h.watchers {
		to = append(to, w.f)
	}
	h.mu.Unlock()
	for _, f := range to {
		f(e)
	}
}

// wait is how long a start, stop, resize, release or delete takes.
func (h *Host) wait(ctx context.Context) error {
	h.mu.Lock()
	delay := h.delay
	h.mu.Unlock()
	if delay == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *Host) sorted() []*domain {
	all := make([]*domain, 0, len(h.domains))
	for _, d := range h.domains {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *domain) int { return cmp.Compare(a.spec.ID, b.spec.ID) })
	return all
}

func (d *domain) active() bool {
	return d.state == compute.StateRunning || d.state == compute.StatePaused
}
