package agent

import (
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

// meter turns what the hypervisor says into the readings of every epoch on the
// host. It does no I/O and has no clock; one goroutine uses it.
//
// What the hypervisor says comes in two ways that complete each other: events
// give the instant of a change, samples give the counters and show what no event
// told. Between two samples a domain is believed to go on as it is, as long as
// somebody watches.
type meter struct {
	boot    string
	domains map[metering.InstanceID]*domain // open epochs
	// starting holds domains that an event said have started and no sample has
	// shown yet: they have no process, so no epoch, but their time runs.
	starting map[metering.InstanceID]*domain
	ended    []*domain // closed epochs whose last reading is not in the spool yet
	// gone is the process that ended last of each instance, so that a sample
	// taken just before does not bring it back.
	gone map[metering.InstanceID]process
	// off is when an event last said that an instance ended, ms, until a later
	// sample shows it: one from before shows a process that may have had no epoch.
	off map[metering.InstanceID]int64
	// lost says that this agent has no memory of what it measured before, so the
	// control plane's must be heard before a process that ran already gets an
	// epoch; known is its answer, nil until it comes. stood are the instances that
	// stood still at some time meanwhile.
	lost      bool
	known     []hostapi.KnownEpoch
	heard     bool
	stood     map[metering.InstanceID]bool
	watching  bool           // events are arriving
	watchedMS int64          // since when
	batch     metering.Batch // readings taken and not yet in the spool
	log       *slog.Logger
}

// process is one life of QEMU.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
}

// ticksPerSecond is the unit of a process's start time: USER_HZ, 100 on every
// Linux that has libvirt.
const ticksPerSecond = 100

// domain is the meter of one domain: an open epoch and what is needed to go on
// with it. It is kept in the state file.
type domain struct {
	Epoch     metering.Epoch     `json:"epoch"`
	Process   process            `json:"process"`
	Ordinal   int                `json:"ordinal"` // of the label change within the process
	Registers metering.Registers `json:"registers"`
	// AtMS is how far the time registers have come by the monotonic clock, At by
	// the wall clock; a reading of Registers is stamped At.
	AtMS      int64     `json:"at_ms"`
	At        time.Time `json:"at"`
	OpenedMS  int64     `json:"opened_ms"`  // monotonic
	ChangedMS int64     `json:"changed_ms"` // the last pause or resume, monotonic
	Paused    bool      `json:"paused"`
	VCPUs     uint64    `json:"vcpus"`
	MemoryMiB uint64    `json:"memory_mib"`
	UsedMiB   uint64    `json:"used_mib"`
	// Counters are the hypervisor's counters as last seen, by device and
	// register. Of a device that was unplugged they are 0: its growth is in the
	// registers, and another one may come under its name.
	Counters map[string]uint64 `json:"counters"`
	// Floor is what an epoch that was continued from the control plane's memory
	// began with, and First the sum of what its counters showed when first seen
	// since: what is in the one is in the other, so only the larger counts.
	Floor metering.Registers `json:"floor,omitzero"`
	First metering.Registers `json:"first,omitzero"`

	// unwatched says that nobody watched since AtMS; held that the domain was not
	// in the last sample. In both cases its time does not advance on trust.
	unwatched, held bool
	// leaving says that it stands still to go on elsewhere: the time until it
	// stopped here is that of its epoch there.
	leaving bool
	// doubted says that the last sample showed a state that no event has told of,
	// since doubtedMS: until the event comes, or samples have shown the same for
	// eventLate, time stands still.
	doubted   bool
	doubtedMS int64
	missing   int   // samples in a row without it
	seenMS    int64 // the last sample with it, monotonic
	sent      metering.Registers
}

func newMeter(boot string, log *slog.Logger) *meter {
	return &meter{
		boot:     boot,
		domains:  map[metering.InstanceID]*domain{},
		starting: map[metering.InstanceID]*domain{},
		gone:     map[metering.InstanceID]process{},
		off:      map[metering.InstanceID]int64{},
		stood:    map[metering.InstanceID]bool{},
		log:      log,
	}
}

// event takes in a change at the instant at. It reports whether a reading should
// be made durable now: a change of state is one.
func (m *meter) event(at Instant, e Event) bool {
	d := m.starting[e.ID]
	if d == nil {
		d = m.domains[e.ID]
	}
	if e.Kind == EventStarted {
		if d == nil || at.ms() > d.OpenedMS {
			m.starting[e.ID] = newDomain(at, e.ID)
		}
		return false // the sample that follows knows the process
	}
	if e.Kind == EventStopped {
		m.off[e.ID] = at.ms()
	}
	if d == nil && m.lost && e.Kind != EventStopped {
		m.stood[e.ID] = true
	}
	if d == nil || at.ms() < d.OpenedMS {
		return false // of a process before this one
	}
	stays := e.Kind != EventStopped
	if d.leaving && stays || d.doubted && !stays {
		// It stood still. Events come in order: in doubt, the one that says since when was lost.
		d.Paused = true
	}
	if !d.unwatched && (stays || !d.leaving) {
		d.advance(at)
	}
	switch e.Kind {
	case EventPaused, EventResumed:
		// Of the time that nobody watched it says that the state changed: all of it counts as paused.
		d.Paused, d.leaving, d.doubted = e.Kind == EventPaused || d.unwatched, false, false
		d.ChangedMS = at.ms()
	case EventLeaving:
		d.leaving, d.doubted = true, false
		d.ChangedMS = at.ms()
	case EventStopped:
		delete(m.starting, e.ID)
		m.end(m.domains[e.ID])
	}
	return m.starting[e.ID] == nil
}

// sample takes in the counters of one active domain, read at the instant at. It
// reports whether a reading should be made durable now: an epoch was opened,
// continued after nobody watched, or exchanged for one with new labels.
func (m *meter) sample(at Instant, s Sample) bool {
	p := process{s.PID, s.PIDStart}
	d := m.domains[s.ID]
	if d != nil && d.Process != p {
		m.end(d) // nobody saw it end: its last reading stands
		d = nil
	}
	notable := d == nil || d.unwatched
	if d == nil {
		if d = m.open(at, s, p); d == nil {
			return false
		}
		m.domains[s.ID] = d
	}
	if d.Epoch.Lease != s.Lease || d.Epoch.Start != s.Start {
		d = m.relabel(at, s, d)
		notable = true
	}
	if begun := m.starting[s.ID]; begun != nil && begun.OpenedMS <= at.ms() {
		delete(m.starting, s.ID)
	}
	d.observe(at, s)
	d.unwatched = !m.watching || at.ms() < m.watchedMS
	return notable
}

// open begins the epoch of a process that has none here. It returns nil when
// there is to be none: the process is known to be gone, or the control plane
// has to be heard first.
func (m *meter) open(at Instant, s Sample, p process) *domain {
	d := m.starting[s.ID]
	before := at.ms() <= m.off[s.ID] && (d == nil || at.ms() < d.OpenedMS) // the end, and no start after it
	if m.gone[s.ID] == p || before {
		return nil
	}
	delete(m.off, s.ID)
	if d == nil && m.lost {
		m.stood[s.ID] = m.stood[s.ID] || s.Paused
		if !m.heard {
			return nil
		}
		if d = m.adopt(at, s, p); d != nil {
			return d
		}
	}
	if d == nil {
		// Nobody saw it start: its time counts from now on, its counters in full.
		d = newDomain(at, s.ID)
		d.Paused = s.Paused
	}
	d.Process = p
	d.Epoch.Lease, d.Epoch.Start = s.Lease, s.Start
	d.Epoch.ID = metering.DeriveEpochID(s.ID, m.boot, p.PID, p.Start, 0)
	// What is allocated was so from the start; what was used is not known.
	d.allocate(s)
	d.UsedMiB = 0
	d.Registers[metering.VCPUMS] = d.Registers[metering.RunningMS] * d.VCPUs
	d.Registers[metering.MemoryMiBMS] = d.Registers[metering.RunningMS] * d.MemoryMiB
	return d
}

// adopt continues an epoch that the control plane remembers and this agent does
// not. The registers start at the largest reading; what the counters showed then
// is in it (Floor). The same process ran at that reading and runs now: the time between
// counts as running that nobody watched, but never more than the process is old
// by the monotonic clock, whatever the wall clock says; as paused, if it was seen to
// stand still since. (A process's start is
// told by a clock that runs on while the host sleeps; on a host that slept before
// that start its age comes out too small, and less is billed.)
func (m *meter) adopt(at Instant, s Sample, p process) *domain {
	known, ordinal, ok := m.remembered(s.ID, p)
	if !ok {
		return nil
	}
	d := &domain{
		Epoch: known.Epoch, Process: p, Ordinal: ordinal, Registers: known.Epoch.Opening,
		Counters: map[string]uint64{}, Paused: m.stood[s.ID], unwatched: true,
	}
	last := known.Epoch.Opened
	if known.Largest != nil {
		d.Registers = d.Registers.Join(known.Largest.Registers)
		last = known.Largest.At
	}
	d.Floor = d.Registers
	d.allocate(s)
	d.UsedMiB = 0 // what was used in between is not known

	age := at.Mono - time.Duration(p.Start+1)*(time.Second/ticksPerSecond) // it began within that tick
	lived := time.Duration(d.Registers[metering.RunningMS]+d.Registers[metering.PausedMS]) * time.Millisecond
	gap := max(0, min(at.Wall.Sub(last), age-lived))
	d.AtMS, d.At = at.ms()-gap.Milliseconds(), last
	d.OpenedMS = d.AtMS
	m.log.Info("epoch continued from the control plane's memory", "instance", s.ID, "epoch", d.Epoch.ID, "bridged", gap)
	return d
}

// maxOrdinals bounds the search for the latest label change of a process that
// the control plane knows; an epoch beyond it would be opened anew at 0.
const maxOrdinals = 64

func (m *meter) remembered(id metering.InstanceID, p process) (known hostapi.KnownEpoch, ordinal int, ok bool) {
	byID := map[metering.EpochID]hostapi.KnownEpoch{}
	for _, k := range m.known {
		if k.Epoch.Instance == id {
			byID[k.Epoch.ID] = k
		}
	}
	for o := range maxOrdinals {
		if k, found := byID[metering.DeriveEpochID(id, m.boot, p.PID, p.Start, o)]; found {
			known, ordinal, ok = k, o, true
		}
	}
	return known, ordinal, ok
}

// relabel ends the epoch of a process and opens the next one of the same
// process, which begins at the reading that closes the one before: taken now, so
// that what was used since the change, a round at most, counts under the old
// labels. What nobody watched counts under the new ones: a reading precedes every
// resize, and the lease of the old ones may have ended long ago.
func (m *meter) relabel(at Instant, s Sample, d *domain) *domain {
	if !d.unwatched {
		d.observe(at, s)
	}
	next := *d
	next.Counters = make(map[string]uint64, len(d.Counters))
	for k, v := range d.Counters {
		next.Counters[k] = v
	}
	next.Ordinal++
	next.OpenedMS = d.AtMS
	next.Epoch = metering.Epoch{
		ID:       metering.DeriveEpochID(s.ID, m.boot, d.Process.PID, d.Process.Start, next.Ordinal),
		Instance: s.ID, Lease: s.Lease, Start: s.Start,
		Opened: d.At, Opening: d.Registers,
	}
	next.allocate(s)
	m.ended = append(m.ended, d)
	m.domains[s.ID] = &next
	return &next
}

// end closes the epoch of d (nil: nothing to close) where its registers stand.
func (m *meter) end(d *domain) {
	if d == nil {
		return
	}
	delete(m.domains, d.Epoch.Instance)
	m.ended = append(m.ended, d)
	m.gone[d.Epoch.Instance] = d.Process
}

// missingSamples is how many samples in a row a domain must be absent from, and
// be listed as off, before its epoch is closed without an event.
const missingSamples = 2

// sampled notes which domains a complete round of samples had. It reports
// whether some are missing for so long that the hypervisor's list must tell what
// became of them.
func (m *meter) sampled(samples []Sample) (ask bool) {
	seen := make(map[metering.InstanceID]process, len(samples))
	for _, s := range samples {
		seen[s.ID] = process{s.PID, s.PIDStart}
	}
	for id, p := range m.gone {
		if seen[id] != p {
			delete(m.gone, id)
		}
	}
	for id, d := range m.domains {
		if _, ok := seen[id]; ok {
			continue
		}
		d.held = true
		d.missing++
		ask = ask || d.missing >= missingSamples
	}
	return ask
}

// listed closes epochs that have been missing from samples and whose process the
// hypervisor no longer lists: they end at their last reading.
func (m *meter) listed(list []Domain) (closed bool) {
	alive := map[metering.InstanceID]process{}
	for _, l := range list {
		if l.PID != 0 {
			alive[l.ID] = process{l.PID, l.PIDStart}
		}
	}
	for id, d := range m.domains {
		if d.missing >= missingSamples && alive[id] != d.Process {
			m.end(d)
			closed = true
		}
	}
	return closed
}

// recalling reports whether the control plane was heard and not all that runs is known yet.
func (m *meter) recalling() bool { return m.lost && m.heard }

// recall ends the loss of memory: the control plane was heard, and every process
// that the hypervisor's list has runs under an open epoch, or ended meanwhile. One
// that begins from now on nobody can remember. It reports whether that is so.
func (m *meter) recall(list []Domain) bool {
	if !m.recalling() {
		return false
	}
	for _, l := range list {
		p := process{l.PID, l.PIDStart}
		if d := m.domains[l.ID]; l.PID != 0 && m.gone[l.ID] != p && (d == nil || d.Process != p) {
			return false
		}
	}
	m.lost, m.known = false, nil
	clear(m.stood)
	return true
}

// watch notes that from the instant at on events arrive, or no longer do. A domain that
// nobody watches stands still until a later sample shows that the same process runs.
func (m *meter) watch(at Instant, live bool) {
	m.watching, m.watchedMS = live, at.ms()
	if live {
		return
	}
	m.starting = map[metering.InstanceID]*domain{}
	for _, d := range m.domains {
		d.unwatched = true
	}
}

// round advances every watched domain to the instant at and takes its reading.
// Domains last seen more than stale ago are left out.
func (m *meter) round(at Instant, stale time.Duration) {
	for _, d := range m.domains {
		if d.unwatched || d.held || d.leaving || d.doubted || at.ms() < d.AtMS || at.ms()-d.seenMS > stale.Milliseconds() {
			continue
		}
		d.advance(at)
		m.take(d)
	}
}

// read takes the reading of one instance as it stands, if it has an open epoch.
func (m *meter) read(id metering.InstanceID) {
	if d := m.domains[id]; d != nil {
		m.take(d)
	}
}

// take puts the reading of d as it stands into the batch.
func (m *meter) take(d *domain) {
	if kept := d.Registers.Join(d.sent); kept != d.Registers {
		m.log.Error("a register fell; its larger value stands", "instance", d.Epoch.Instance, "epoch", d.Epoch.ID,
			"was", d.sent, "is", d.Registers)
		d.Registers = kept
	}
	d.sent = d.Registers
	m.batch.Epochs = append(m.batch.Epochs, d.Epoch)
	m.batch.Readings = append(m.batch.Readings, metering.Reading{Epoch: d.Epoch.ID, At: d.At, Registers: d.Registers})
}

func newDomain(at Instant, id metering.InstanceID) *domain {
	wall := at.Wall.UTC().Truncate(time.Millisecond)
	return &domain{
		Epoch:    metering.Epoch{Instance: id, Opened: wall},
		AtMS:     at.ms(),
		At:       wall,
		OpenedMS: at.ms(),
		Counters: map[string]uint64{},
	}
}

// advance moves the time registers to the instant at, in the present state and
// with the present allocation. An earlier instant changes nothing.
func (d *domain) advance(at Instant) {
	ms := at.ms() - d.AtMS
	if ms < 0 {
		return
	}
	d.AtMS, d.At = at.ms(), at.Wall.UTC().Truncate(time.Millisecond)
	if d.Paused {
		d.Registers[metering.PausedMS] += uint64(ms)
		return
	}
	d.Registers[metering.RunningMS] += uint64(ms)
	d.Registers[metering.VCPUMS] += d.VCPUs * uint64(ms)
	d.Registers[metering.MemoryMiBMS] += d.MemoryMiB * uint64(ms)
	d.Registers[metering.MemoryUsedMiBMS] += d.UsedMiB * uint64(ms)
}

// eventLate is how long an event may take to arrive after a sample has shown what
// it tells: two samples may follow each other within a millisecond.
const eventLate = 2 * time.Second

// observe takes in a sample of the domain's process.
func (d *domain) observe(at Instant, s Sample) {
	changed := (d.leaving || d.Paused != s.Paused) && at.ms() >= d.ChangedMS // a sample older than the last event knows less
	switch {
	case d.unwatched:
		// Running before and after counts as running; else the state with the
		// lower price, paused.
		d.Paused = d.Paused || s.Paused || d.leaving
		before := d.Registers[metering.RunningMS]
		d.advance(at)
		d.Registers[metering.BridgedMS] += d.Registers[metering.RunningMS] - before
		d.Paused, d.leaving, d.doubted = s.Paused, false, false
	case changed && !d.doubted:
		d.doubted, d.doubtedMS = true, at.ms() // the event that says when is on its way
	case changed && at.ms()-d.doubtedMS < eventLate.Milliseconds(): // and may still be
	case changed: // it was lost: as if nobody had watched
		d.Paused = true
		d.advance(at)
		d.Paused, d.leaving, d.doubted = s.Paused, false, false
	default:
		d.advance(at)
		d.doubted = false
	}
	d.unwatched, d.held, d.missing, d.seenMS = false, false, 0, at.ms()
	d.allocate(s)
	d.unplug(s)
	s.counters(d.count)
}

// allocate takes over what a sample says of the allocation; what it could not
// read stays as it was.
func (d *domain) allocate(s Sample) {
	for _, v := range []struct{ to, from *uint64 }{
		{&d.VCPUs, s.VCPUs}, {&d.MemoryMiB, s.MemoryMiB}, {&d.UsedMiB, s.UsedMiB},
	} {
		if v.from != nil {
			*v.to = *v.from
		}
	}
}

// unplug starts the counters of devices that the sample does not name at 0.
func (d *domain) unplug(s Sample) {
	for key := range d.Counters {
		if device, _, _ := strings.Cut(key, " "); !s.has(device) {
			d.Counters[key] = 0
		}
	}
}

func (s *Sample) has(device string) bool {
	return device == cpuDevice ||
		slices.ContainsFunc(s.Disks, func(d DiskCounters) bool { return d.Name == device }) ||
		slices.ContainsFunc(s.Nets, func(n NetCounters) bool { return n.Name == device })
}

// count adds what a counter has grown by since it was last seen. A device counter
// that fell belongs to a new device under the old name: all it has is growth. CPU
// time falls only when a vCPU was taken away; what the others have was counted.
func (d *domain) count(key string, r metering.Register, v uint64) {
	last, seen := d.Counters[key]
	d.Counters[key] = v
	growth := v
	switch {
	case !seen && d.Floor[r] > 0:
		counted := max(d.Floor[r], d.First[r])
		d.First[r] += v
		growth = max(counted, d.First[r]) - counted
	case seen && v >= last:
		growth = v - last
	case seen && r == metering.CPUNS:
		growth = 0
	}
	if d.Registers[r] > math.MaxInt64-growth {
		return // beyond what a register can hold: 292 years of CPU time, 8 EiB
	}
	d.Registers[r] += growth
}

// cpuDevice is what CPU time is counted under in domain.Counters.
const cpuDevice = "cpu"

// counters calls f for every counter that could be read. A value beyond 63 bits
// is what hypervisors say instead of "unknown": not read. An interface has the
// same keys on either side, so that what it counted on one is not growth on the other.
func (s *Sample) counters(f func(key string, r metering.Register, v uint64)) {
	read := func(device string, keys, registers []metering.Register, values ...*uint64) {
		for i, v := range values {
			if v != nil && *v <= math.MaxInt64 {
				f(device+" "+keys[i].String(), registers[i], *v)
			}
		}
	}
	read(cpuDevice, cpu, cpu, s.CPUNS)
	for _, d := range s.Disks {
		read(d.Name, disk, disk, d.ReadBytes, d.ReadOps, d.WriteBytes, d.WriteOps)
	}
	for _, n := range s.Nets {
		side := publicNet
		if n.Private {
			side = privateNet
		}
		read(n.Name, publicNet, side, n.RxBytes, n.RxPackets, n.TxBytes, n.TxPackets)
	}
}

var (
	cpu       = []metering.Register{metering.CPUNS}
	disk      = []metering.Register{metering.DiskReadBytes, metering.DiskReadOps, metering.DiskWriteBytes, metering.DiskWriteOps}
	publicNet = []metering.Register{
		metering.NetPublicRxBytes, metering.NetPublicRxPackets, metering.NetPublicTxBytes, metering.NetPublicTxPackets}
	privateNet = []metering.Register{
		metering.NetPrivateRxBytes, metering.NetPrivateRxPackets, metering.NetPrivateTxBytes, metering.NetPrivateTxPackets}
)
