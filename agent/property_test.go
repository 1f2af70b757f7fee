package agent_test

import (
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usance/usance/agent/agenttest"
	"github.com/usance/usance/metering"
)

// Whatever happens to the instances, the clocks, the hypervisor's daemon and the
// agent, in whatever order: registers never fall and never exceed the truth; an
// epoch that an agent watched has its time to the millisecond, and its counters
// but for the last round when its end was not ordered.
func TestAnyHistoryIsMeteredTruly(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(memory, "meter")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		h := history{bench: benchIn(rt, dir), rt: rt, flaws: map[metering.EpochID]*flaws{}}
		h.host.SetLoadAtStart(load)
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			h.step()
		}
		h.restore()
		h.check()
	})
}

// memory is a folder on which syncing costs nothing: the history's order of
// writes matters, not the disk.
var memory = func() string {
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		return "/dev/shm"
	}
	return ""
}()

// history is a sequence of things that happen to two instances.
type history struct {
	*bench
	rt     *rapid.T
	down   bool // the hypervisor's daemon
	cut    bool // the agent has not heard the control plane
	starts metering.StartNo
	flaws  map[metering.EpochID]*flaws
}

var instances = []metering.InstanceID{vm, vm[:20] + "2"}

// flaws are why an epoch's readings may be below the truth.
type flaws struct {
	unordered bool // it ended without a full reading before
	unseen    bool // it ended while nobody watched, or in its time a state changed unseen
	replaced  bool // a device was replaced: what it had since the last sample is gone
	unread    bool // its counters could not be read for a while
	hung      bool // its QEMU does not answer

	vcpus     uint64 // what it was resized to
	forgotten uint64 // for how long it stood still, ms, without a reading that reached the control plane before the state was lost
}

func (h *history) flaw(id metering.InstanceID) *flaws {
	for _, t := range h.host.Truths() {
		if t.Epoch.Instance == id && !t.Ended {
			if h.flaws[t.Epoch.ID] == nil {
				h.flaws[t.Epoch.ID] = &flaws{}
			}
			return h.flaws[t.Epoch.ID]
		}
	}
	return &flaws{}
}

// resize gives the instance another lease and flavor after a full reading, as an
// agent does, if it runs and answers. The registers go on, and so do their flaws.
// That reading is received: an epoch of which nobody remembers anything is part of
// the one that follows it.
func (h *history) resize(id metering.InstanceID, f *flaws) bool {
	if !h.watched() || h.cut || f.hung {
		return false
	}
	for _, t := range h.host.Truths() {
		if t.Epoch.Instance != id || t.Ended {
			continue
		}
		h.run(time.Millisecond) // nobody resizes what has started this instant
		h.must(h.rig.Full())
		h.receive()
		s := spec(id, t.Epoch.Start)
		s.Lease = t.Epoch.Lease + 1
		s.Flavor.VCPUs = 1 + int(s.Lease) // what runs only grows
		h.must(h.host.Resize(h.t.Context(), s))
		next := h.flaw(id)
		*next = *f
		next.vcpus = uint64(s.Flavor.VCPUs)
		return true
	}
	return false
}

func (h *history) watched() bool { return h.rig != nil && !h.down }

func (h *history) step() {
	id := rapid.SampledFrom(instances).Draw(h.rt, "instance")
	f := h.flaw(id)
	switch rapid.SampledFrom([]string{
		"run", "run", "run", "start", "start", "stop", "resize", "resize and kill", "crash", "guest off", "pause", "resume", "replace",
		"hang", "answer", "unreadable", "readable", "kill", "agent", "agent", "lose state", "down", "up", "step", "sleep", "full", "receive", "hear",
	}).Draw(h.rt, "what") {
	case "run":
		h.run(time.Duration(rapid.IntRange(1, 90_000).Draw(h.rt, "ms")) * time.Millisecond)
	case "start":
		if !h.down {
			h.starts++
			h.must(h.host.Start(h.t.Context(), spec(id, h.starts)))
			f := h.flaw(id)
			f.unseen = f.unseen || !h.watched() // its time counts from when it is seen
		}
	case "stop":
		if h.watched() {
			h.must(h.rig.Full())
			h.must(h.host.Stop(h.t.Context(), id, 0))
		}
	case "resize":
		if h.resize(id, f) {
			h.must(h.rig.Full())
		}
	case "resize and kill":
		if h.resize(id, f) {
			h.kill()
			h.unwatched()
		}
	case "crash":
		f.unordered, f.unseen = true, f.unseen || !h.watched()
		h.must(h.host.Crash(id))
	case "guest off":
		f.unordered, f.unseen = true, f.unseen || !h.watched()
		h.must(h.host.GuestOff(id))
	// Nobody can know of a pause that began and ended while nobody watched.
	case "pause":
		if h.watched() {
			h.host.Pause(id)
		}
	case "resume":
		if h.watched() {
			h.host.Resume(id)
		}
	case "replace":
		f.replaced = true
		h.host.ReplaceDisk(id)
	case "hang":
		f.unread, f.hung, f.unseen = true, true, f.unseen || !h.watched()
		h.host.SetHung(id, true)
	case "answer":
		f.hung = false
		h.host.SetHung(id, false)
	case "unreadable":
		f.unread = true
		h.host.SetUnreadable(id, true)
	case "readable":
		h.host.SetUnreadable(id, false)
	case "kill":
		h.kill()
		h.unwatched()
	case "agent":
		if h.rig == nil {
			h.agent(rapid.Bool().Draw(h.rt, "heard"))
		}
	case "hear":
		if h.rig != nil {
			h.hear()
		}
	case "lose state":
		if h.rig != nil {
			h.receive()
		}
		h.kill()
		h.must(os.RemoveAll(h.dir))
		h.forgot()
	case "down":
		if !h.down {
			h.down = true
			h.unwatched()
			h.host.SetDown(true)
			if h.rig != nil {
				h.rig.Watch(false)
			}
		}
	case "up":
		h.up()
	case "step":
		h.host.StepWall(time.Duration(rapid.IntRange(-7200, 7200).Draw(h.rt, "seconds")) * time.Second)
	case "sleep":
		h.host.Sleep(time.Duration(rapid.IntRange(1, 7200).Draw(h.rt, "asleep")) * time.Second)
	case "full":
		if h.rig != nil {
			h.must(h.rig.Full())
		}
	case "receive":
		if h.rig != nil {
			h.receive()
		}
	}
}

// agent starts an agent, which may hear what the control plane knows, or that later.
func (h *history) agent(heard bool) {
	h.start()
	h.rig.Watch(!h.down)
	if h.cut = true; heard {
		h.hear()
	}
}

func (h *history) hear() {
	h.rig.Known(h.known())
	h.cut = false
}

// forgot notes what an agent that forgot everything cannot know: time before a
// wall clock's step, and what the lost spool held, also that a domain stood still.
func (h *history) forgot() {
	for _, t := range h.host.Truths() {
		if h.flaws[t.Epoch.ID] == nil {
			h.flaws[t.Epoch.ID] = &flaws{}
		}
		f := h.flaws[t.Epoch.ID]
		f.unseen = true
		if stood, told := t.Registers[metering.PausedMS], h.largest[t.Epoch.ID].Registers[metering.PausedMS]; stood > told {
			f.forgotten = max(f.forgotten, stood-told)
		}
	}
}

// unwatched notes that a QEMU that does not answer may end before an agent sees
// again that it is the same.
func (h *history) unwatched() {
	for _, id := range instances {
		f := h.flaw(id)
		f.unseen = f.unseen || f.hung
	}
}

func (h *history) up() {
	if !h.down {
		return
	}
	h.down = false
	h.host.SetDown(false)
	h.watch()
	if h.rig != nil {
		h.rig.Watch(true)
	}
}

// restore ends all faults and takes a full reading.
func (h *history) restore() {
	h.up()
	if h.rig == nil {
		h.agent(true)
	} else if h.cut {
		h.hear()
	}
	for _, t := range h.host.Truths() {
		if !t.Ended {
			h.must(h.host.SetHung(t.Epoch.Instance, false))
			h.must(h.host.SetUnreadable(t.Epoch.Instance, false))
		}
	}
	h.run(41 * time.Second)
	h.must(h.rig.Full())
	h.receive()
}

func (h *history) check() {
	for _, truth := range h.host.Truths() {
		got, bridged := h.got(truth.Epoch.ID)
		want := truth.Registers
		f := h.flaws[truth.Epoch.ID]
		if f == nil {
			f = &flaws{}
		}
		over := got.Sub(want)
		if lived := want[metering.RunningMS] + want[metering.PausedMS]; f.unseen && got[metering.RunningMS]+got[metering.PausedMS] <= lived {
			over[metering.PausedMS] = 0 // time of which the state is not known counts as paused
			if got[metering.VCPUMS] <= got[metering.RunningMS]*f.vcpus {
				over[metering.VCPUMS] = 0 // time of which the size is not known counts as after the resize
			}
			for r, perMS := range map[metering.Register]uint64{metering.RunningMS: 1, metering.VCPUMS: max(2, f.vcpus), metering.MemoryMiBMS: 1024} {
				over[r] -= min(over[r], f.forgotten*perMS)
			}
		}
		if !over.IsZero() {
			h.t.Errorf("start %d is billed more than it used: %v", truth.Epoch.Start, named(over))
		}
		if bridged > got[metering.RunningMS] {
			h.t.Errorf("start %d: bridged %d of running %d ms", truth.Epoch.Start, bridged, got[metering.RunningMS])
		}
		under := want.Sub(got)
		for _, r := range []metering.Register{metering.RunningMS, metering.PausedMS, metering.VCPUMS, metering.MemoryMiBMS} {
			if under[r] != 0 && !f.unseen {
				h.t.Errorf("start %d: %s is %d below the truth", truth.Epoch.Start, r, under[r])
			}
		}
		if f.replaced || truth.Ended && (f.unseen || f.unread) {
			continue
		}
		given := metering.Registers{}
		if truth.Ended && f.unordered {
			given = rates // of one round
			for r := range given {
				given[r] = given[r]*11 + 1
			}
		}
		for _, r := range counters {
			if r != metering.MemoryUsedMiBMS && under[r] > given[r] {
				h.t.Errorf("start %d: %s is %d below the truth, at most %d may be given away",
					truth.Epoch.Start, r, under[r], given[r])
			}
		}
	}
}

// load is what every instance of a history consumes, rates the same per second.
var load = agenttest.Load{
	CPUMillis: 1730, UsedMiB: 300, ReadBytes: 1_000_003, ReadOps: 17, WriteBytes: 2_000_007, WriteOps: 29,
	PublicRxBytes: 7919, PublicTxBytes: 104_729, PublicPackets: 77,
	PrivateRxBytes: 15_485_863, PrivateTxBytes: 32_452_843, PrivatePackets: 1001,
}

var rates = metering.Registers{
	metering.CPUNS: 1_730_000_000, metering.DiskReadBytes: 1_000_003, metering.DiskReadOps: 17,
	metering.DiskWriteBytes: 2_000_007, metering.DiskWriteOps: 29,
	metering.NetPublicRxBytes: 7919, metering.NetPublicTxBytes: 104_729,
	metering.NetPublicRxPackets: 77, metering.NetPublicTxPackets: 77,
	metering.NetPrivateRxBytes: 15_485_863, metering.NetPrivateTxBytes: 32_452_843,
	metering.NetPrivateRxPackets: 1001, metering.NetPrivateTxPackets: 1001,
}
