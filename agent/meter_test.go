package agent_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/agenttest"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

const vm = metering.InstanceID("ins_00000000000000001")

// noon is on a slot boundary and on a round.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func spec(id metering.InstanceID, start metering.StartNo) agent.Spec {
	return agent.Spec{ID: id, Lease: 1, Start: start, Name: "vm", Flavor: compute.Flavor{Name: "small", VCPUs: 2, MemoryMiB: 1024}}
}

// bench is a fake host, an agent's recorder on it, and what a control plane
// would have received.
type bench struct {
	t        tester
	host     *agenttest.Host
	dir      string
	rig      *agent.Rig
	epochs   map[metering.EpochID]metering.Epoch
	largest  map[metering.EpochID]metering.Reading
	readings []metering.Reading
	log      *slog.Logger
	deaf     bool // events are lost
}

// tester is what testing.T and rapid.T have in common.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(f func())
	Context() context.Context
}

func newBench(t *testing.T) *bench {
	return benchIn(t, t.TempDir())
}

func benchIn(t tester, dir string) *bench {
	t.Helper()
	b := &bench{
		t: t, host: agenttest.New(1, noon.Add(time.Second)), dir: dir,
		epochs:  map[metering.EpochID]metering.Epoch{},
		largest: map[metering.EpochID]metering.Reading{},
		log:     slog.New(slog.DiscardHandler),
	}
	b.watch()
	t.Cleanup(b.kill)
	b.start()
	b.rig.Known(nil)
	return b
}

// watch hears the hypervisor's events, which come to the agent in the goroutine
// that causes them.
func (b *bench) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	watching, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		b.host.Watch(ctx, func() { close(watching) }, func(e agent.Event) {
			if !b.deaf && b.rig != nil {
				b.rig.Event(e)
			}
		})
	}()
	<-watching
	b.t.Cleanup(func() { cancel(); <-ended })
}

// start starts an agent; kill ends it as kill -9 does.
func (b *bench) start() {
	b.t.Helper()
	rig, err := agent.NewRig(b.host, b.host.Now, b.dir, b.log)
	if err != nil {
		b.t.Fatal(err)
	}
	b.rig = rig
	b.rig.Watch(true)
}

func (b *bench) kill() {
	if b.rig != nil {
		b.must(b.rig.Kill())
		b.rig = nil
	}
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// run lets time pass with the agent's loop turning every second.
func (b *bench) run(d time.Duration) {
	for ; d > 0; d -= time.Second {
		b.host.Advance(min(d, time.Second))
		if b.rig != nil {
			b.rig.Tick()
		}
	}
}

// receive takes what waits in the spool, as the control plane would.
func (b *bench) receive() {
	b.t.Helper()
	b.must(b.rig.Drain(func(batch *metering.Batch) {
		for _, e := range batch.Epochs {
			if was, ok := b.epochs[e.ID]; ok && !cmp.Equal(was, e) {
				b.t.Errorf("the record of an epoch changed: %s", cmp.Diff(was, e))
			}
			b.epochs[e.ID] = e
		}
		for _, r := range batch.Readings {
			b.readings = append(b.readings, r)
			old := b.largest[r.Epoch]
			if fell := old.Registers.Sub(r.Registers); !fell.IsZero() {
				b.t.Errorf("epoch %s at %s: registers fell by %v", r.Epoch, r.At, fell)
			}
			r.Registers = r.Registers.Join(old.Registers)
			b.largest[r.Epoch] = r
		}
	}))
}

// got is the largest reading received of an epoch, and what of it was bridged.
func (b *bench) got(id metering.EpochID) (registers metering.Registers, bridged uint64) {
	registers = b.largest[id].Registers
	bridged, registers[metering.BridgedMS] = registers[metering.BridgedMS], 0
	return registers, bridged
}

// check compares what was received with the truth, but for the registers named.
func (b *bench) check(wantBridged time.Duration, but ...metering.Register) {
	b.t.Helper()
	b.receive()
	var total uint64
	truths := b.host.Truths()
	for _, truth := range truths {
		got, bridged := b.got(truth.Epoch.ID)
		total += bridged
		want := truth.Registers
		for _, r := range but {
			got[r], want[r] = 0, 0
		}
		if diff := cmp.Diff(named(want), named(got)); diff != "" {
			b.t.Errorf("epoch %s of start %d (-want +got):\n%s", truth.Epoch.ID, truth.Epoch.Start, diff)
		}
		if diff := cmp.Diff(truth.Epoch, b.epochs[truth.Epoch.ID]); diff != "" {
			b.t.Errorf("record of the epoch of start %d (-want +got):\n%s", truth.Epoch.Start, diff)
		}
	}
	if total != uint64(wantBridged.Milliseconds()) {
		b.t.Errorf("bridged %d ms, want %s", total, wantBridged)
	}
	if len(b.epochs) != len(truths) {
		b.t.Errorf("%d epochs received, want %d", len(b.epochs), len(truths))
	}
}

// known is what the control plane remembers.
func (b *bench) known() []hostapi.KnownEpoch {
	var all []hostapi.KnownEpoch
	for id, e := range b.epochs {
		r := b.largest[id]
		all = append(all, hostapi.KnownEpoch{Epoch: e, Largest: &r})
	}
	return all
}

func named(r metering.Registers) map[string]uint64 {
	m := map[string]uint64{}
	for i, name := range metering.RegisterNames() {
		m[name] = r[i]
	}
	return m
}

// counters are the registers that come from the hypervisor's counters, and the
// used memory, which is read with them.
var counters = []metering.Register{
	metering.CPUNS, metering.MemoryUsedMiBMS,
	metering.DiskReadBytes, metering.DiskReadOps, metering.DiskWriteBytes, metering.DiskWriteOps,
	metering.NetPublicRxBytes, metering.NetPublicRxPackets, metering.NetPublicTxBytes, metering.NetPublicTxPackets,
	metering.NetPrivateRxBytes, metering.NetPrivateRxPackets, metering.NetPrivateTxBytes, metering.NetPrivateTxPackets,
}

func (b *bench) boot(start metering.StartNo) {
	b.t.Helper()
	b.must(b.host.Start(b.t.Context(), spec(vm, start)))
}

func (b *bench) full() {
	b.t.Helper()
	b.must(b.rig.Full())
}

func TestMeter(t *testing.T) {
	for _, c := range []struct {
		name string
		// do runs against a host on which one instance just started.
		do      func(b *bench)
		bridged time.Duration
		but     []metering.Register // registers that may differ, with the reason in do
	}{
		{name: "first start", do: func(b *bench) {
			b.run(33*time.Second + 250*time.Millisecond)
			b.full()
		}},
		{name: "first start read at once", do: func(b *bench) {}},
		{name: "paused", do: func(b *bench) {
			b.run(12 * time.Second)
			b.must(b.host.Pause(vm))
			b.run(7*time.Second + 3*time.Millisecond)
			b.must(b.host.Resume(vm))
			b.run(5 * time.Second)
			b.full()
		}},
		{name: "paused while no event came", do: func(b *bench) {
			b.deaf = true
			b.run(8 * time.Second)
			b.full()
			b.must(b.host.Pause(vm))
			b.full() // a sample shows it
			b.run(20 * time.Second)
			b.full()
		}},
		{name: "device replaced", do: func(b *bench) {
			b.run(20 * time.Second)
			b.full()
			b.must(b.host.ReplaceDisk(vm))
			b.must(b.host.ReplaceNet(vm))
			b.run(5 * time.Second) // less than before: the counters are lower now
			b.full()
		}},
		{name: "devices unplugged, others plugged in that count faster", do: func(b *bench) {
			b.run(20 * time.Second)
			b.full()
			b.must(b.host.SetUnplugged(vm, true))
			b.run(15 * time.Second)
			b.full()
			b.must(b.host.SetUnplugged(vm, false))
			b.must(b.host.SetLoad(vm, agenttest.Load{CPUMillis: 1, ReadBytes: 1 << 40, PublicRxBytes: 1 << 40, PrivateTxBytes: 1 << 40}))
			b.run(5 * time.Second)
			b.full()
		}, but: []metering.Register{metering.MemoryUsedMiBMS}}, // it drops to 0 between two looks
		{name: "counters unreadable for a while", do: func(b *bench) {
			b.run(20 * time.Second)
			b.must(b.host.SetUnreadable(vm, true))
			b.run(60 * time.Second)
			b.must(b.host.SetUnreadable(vm, false))
			b.run(20 * time.Second)
			b.full()
		}},
		{name: "resized without new labels", do: func(b *bench) {
			b.run(10 * time.Second)
			b.full()
			b.must(b.host.SetFlavor(vm, compute.Flavor{VCPUs: 4, MemoryMiB: 4096}))
			b.full()
			b.run(10 * time.Second)
			b.full()
		}},
		{name: "new lease of the same process", do: func(b *bench) {
			b.run(10 * time.Second)
			b.full()
			b.must(b.host.Relabel(vm, 2))
			b.full()
			b.run(25 * time.Second)
			b.full()
		}},
		{name: "new lease, and the agent dies at once", bridged: 43 * time.Second, do: func(b *bench) {
			b.run(10 * time.Second)
			b.full()
			b.must(b.host.Relabel(vm, 2))
			b.kill()
			b.run(43 * time.Second)
			b.start()
			b.full()
		}},
		{name: "new lease, and the agent dies at once with its state", bridged: 42_990 * time.Millisecond, do: func(b *bench) {
			b.run(10 * time.Second)
			b.full()
			b.receive()
			b.must(b.host.Relabel(vm, 2))
			b.kill()
			b.must(os.RemoveAll(b.dir))
			b.run(43 * time.Second)
			b.start()
			b.rig.Known(b.known())
			b.full()
		}, but: []metering.Register{ // a process began within a tick, and what it used in between is not known
			metering.RunningMS, metering.VCPUMS, metering.MemoryMiBMS, metering.MemoryUsedMiBMS}},
		{name: "agent killed, same QEMU", bridged: 43 * time.Second, do: func(b *bench) {
			b.run(12 * time.Second)
			b.full()
			b.kill()
			b.run(43 * time.Second)
			b.start()
			b.full()
		}},
		{name: "agent killed while paused", do: func(b *bench) {
			b.run(12 * time.Second)
			b.must(b.host.Pause(vm))
			b.kill()
			b.run(43 * time.Second)
			b.start()
			b.full()
		}},
		{name: "agent killed, wall clock stepped meanwhile", bridged: 20 * time.Second, do: func(b *bench) {
			b.run(12 * time.Second)
			b.full()
			b.kill()
			b.host.StepWall(time.Hour)
			b.run(20 * time.Second)
			b.start()
			b.full()
		}},
		{name: "hypervisor's daemon away", bridged: 30 * time.Second, do: func(b *bench) {
			b.run(12 * time.Second)
			b.full()
			b.host.SetDown(true)
			b.rig.Watch(false)
			b.run(30 * time.Second)
			b.host.SetDown(false)
			b.watch()
			b.rig.Watch(true)
			b.full()
		}},
		{name: "hung QEMU", do: func(b *bench) {
			b.run(12 * time.Second)
			b.must(b.host.SetHung(vm, true))
			b.run(60 * time.Second)
			b.must(b.host.SetHung(vm, false))
			b.run(12 * time.Second)
			b.full()
		}},
		{name: "crash", do: func(b *bench) {
			b.run(25*time.Second + 77*time.Millisecond)
			b.must(b.host.Crash(vm))
		}, but: counters},
		{name: "crash between event and first round", do: func(b *bench) {
			b.run(123 * time.Millisecond)
			b.must(b.host.Crash(vm))
		}, but: counters},
		{name: "guest off right after a round", do: func(b *bench) {
			b.run(25 * time.Second)
			b.full()
			b.must(b.host.GuestOff(vm))
		}},
		{name: "stop ordered, started again", do: func(b *bench) {
			b.run(25 * time.Second)
			b.full()
			b.must(b.host.Stop(b.t.Context(), vm, 0))
			b.run(25 * time.Second)
			b.boot(2)
			b.run(5 * time.Second)
			b.full()
		}},
		{name: "stop and start of which no event came", do: func(b *bench) {
			b.run(25 * time.Second)
			b.full()
			b.deaf = true
			b.must(b.host.Stop(b.t.Context(), vm, 0))
			b.boot(2)
			b.full() // the sample shows another process
			b.run(5 * time.Second)
			b.full()
		}},
		{name: "end of which no event came", do: func(b *bench) {
			b.run(25 * time.Second)
			b.full()
			b.deaf = true
			b.must(b.host.Crash(vm))
			b.run(60 * time.Second)
		}},
		{name: "wall clock stepped back", do: func(b *bench) {
			b.run(25 * time.Second)
			b.host.StepWall(-2 * time.Hour)
			b.run(25 * time.Second)
			b.full()
		}},
		{name: "wall clock stepped forward", do: func(b *bench) {
			b.run(25 * time.Second)
			b.host.StepWall(2 * time.Hour)
			b.run(25 * time.Second)
			b.full()
		}},
		{name: "host slept", do: func(b *bench) {
			b.run(25 * time.Second)
			b.host.Sleep(8 * time.Hour)
			b.run(25 * time.Second)
			b.full()
		}},
		{name: "host lost power after a round", do: func(b *bench) {
			b.run(25 * time.Second)
			b.full()
			b.kill()
			b.host.Reboot()
			b.run(60 * time.Second)
			b.start()
			b.run(30 * time.Second)
			b.boot(2)
			b.run(10 * time.Second)
			b.full()
		}},
		{name: "agent ended in order", bridged: 5 * time.Second, do: func(b *bench) {
			b.run(25 * time.Second)
			b.must(b.rig.Finish())
			b.rig = nil
			b.run(5 * time.Second)
			b.start()
			b.full()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.host.SetLoadAtStart(agenttest.Load{
				CPUMillis: 730, UsedMiB: 300, ReadBytes: 1_000_003, ReadOps: 17, WriteBytes: 2_000_007, WriteOps: 29,
				PublicRxBytes: 7919, PublicTxBytes: 104_729, PublicPackets: 77,
				PrivateRxBytes: 15_485_863, PrivateTxBytes: 32_452_843, PrivatePackets: 1001,
			})
			b.boot(1)
			c.do(b)
			b.check(c.bridged, c.but...)
		})
	}
}

// Up to the first sample nobody knows what a guest uses; from then on its last
// value holds.
func TestUsedMemoryHoldsBetweenReads(t *testing.T) {
	b := newBench(t)
	b.host.SetLoadAtStart(agenttest.Load{UsedMiB: 100})
	b.boot(1)
	b.run(10 * time.Second)
	b.full()
	b.must(b.host.SetLoad(vm, agenttest.Load{UsedMiB: 400}))
	b.run(500 * time.Millisecond)
	b.full() // read here: 100 held until now
	b.run(2 * time.Second)
	b.must(b.host.SetUnreadable(vm, true))
	b.run(20 * time.Second)
	b.full()
	b.receive()
	got := b.largest[b.host.Truths()[0].Epoch.ID].Registers[metering.MemoryUsedMiBMS]
	if want := uint64(100*10_500 + 400*22_000); got != want {
		t.Errorf("memory_used_mib_ms = %d, want %d", got, want)
	}
}

// TestMigrationAway ends the time of an epoch when the domain stands still to go on
// elsewhere; when it stays after all, that was a pause.
func TestMigrationAway(t *testing.T) {
	for _, c := range []struct {
		name            string
		then            agent.Event
		running, paused uint64
	}{
		{"it goes", agent.Event{Kind: agent.EventStopped, Off: agent.OffMigrated}, 10_000, 0},
		{"it stays", agent.Event{Kind: agent.EventResumed}, 15_000, 3_000},
		{"it stays, and no event says so", agent.Event{}, 13_000, 5_000}, // until samples have shown it for a while
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.boot(1)
			b.run(10 * time.Second)
			b.must(b.host.SetHung(vm, true)) // it is not sampled while it migrates
			b.rig.Event(agent.Event{ID: vm, Kind: agent.EventLeaving, At: b.host.Now().Wall})
			b.run(3 * time.Second)
			b.must(b.host.SetHung(vm, false))
			if c.then.Kind != "" {
				c.then.ID, c.then.At = vm, b.host.Now().Wall
				b.rig.Event(c.then)
			}
			for range 5 {
				b.full()
				b.run(time.Second)
			}
			b.full()
			b.receive()
			got, _ := b.got(b.host.Truths()[0].Epoch.ID)
			if running, paused := got[metering.RunningMS], got[metering.PausedMS]; running != c.running || paused != c.paused {
				t.Errorf("got %d ms running and %d paused, want %d and %d", running, paused, c.running, c.paused)
			}
		})
	}
}

// TestInterfaceThatChangesSides counts nothing on the one side that was counted on the other.
func TestInterfaceThatChangesSides(t *testing.T) {
	b := newBench(t)
	b.host.SetLoadAtStart(agenttest.Load{})
	b.boot(1)
	sample := func(bytes uint64, private bool) agent.Sample {
		samples, err := b.host.Sample(t.Context())
		b.must(err)
		samples[0].Nets = []agent.NetCounters{{Name: "vnet7", Private: private, RxBytes: &bytes}}
		return samples[0]
	}
	b.rig.TakeSamples([]agent.Sample{sample(1000, false)})
	b.rig.TakeSamples([]agent.Sample{sample(1500, true)})
	b.rig.TakeSamples([]agent.Sample{sample(1600, true)})
	b.run(10 * time.Second)
	b.receive()
	got, _ := b.got(b.host.Truths()[0].Epoch.ID)
	if public, private := got[metering.NetPublicRxBytes], got[metering.NetPrivateRxBytes]; public != 1000 || private != 600 {
		t.Errorf("got %d bytes public and %d private, want 1000 and 600", public, private)
	}
}

func TestSlotBoundariesAreStampedExactly(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.host.Advance(137 * time.Millisecond) // the loop turns off the full second
	b.run(11 * time.Minute)
	b.receive()
	id := b.host.Truths()[0].Epoch.ID
	for _, boundary := range []time.Time{noon.Add(5 * time.Minute), noon.Add(10 * time.Minute)} {
		i := slices.IndexFunc(b.readings, func(r metering.Reading) bool { return r.Epoch == id && r.At.Equal(boundary) })
		if i < 0 {
			t.Fatalf("no reading at %s", boundary)
		}
		want := uint64(boundary.Sub(b.epochs[id].Opened).Milliseconds())
		if got := b.readings[i].Registers[metering.RunningMS]; got != want {
			t.Errorf("running_ms at %s = %d, want %d", boundary, got, want)
		}
	}
	if n := len(b.readings); n < 66 || n > 70 {
		t.Errorf("%d readings in 11 minutes, want one every 10 s", n)
	}
}

// An event that is older than a boundary whose round is still due comes after
// that round's time registers are right: the round is taken first.
func TestEventAfterABoundaryLeavesTheBoundaryExact(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(4*time.Minute + 58*time.Second)
	b.host.Advance(2 * time.Second) // past the boundary, and the loop has not turned
	b.must(b.host.Pause(vm))
	b.host.Advance(time.Second)
	b.rig.Tick()
	b.receive()
	boundary := noon.Add(5 * time.Minute)
	for _, r := range b.readings {
		if r.At.Equal(boundary) {
			if got := r.Registers[metering.RunningMS]; got != 299_000 {
				t.Errorf("running_ms at the boundary = %d, want 299000", got)
			}
			return
		}
	}
	t.Errorf("no reading at %s", boundary)
}

// A sample that was read before a stop and arrives after it does not bring the
// process back.
func TestStaleSampleOfAGoneProcess(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(5 * time.Second)
	stale, err := b.host.Sample(t.Context())
	b.must(err)
	b.must(b.rig.Full())
	b.must(b.host.Crash(vm))
	b.host.Advance(100 * time.Millisecond)
	b.rig.TakeSamples(stale)
	b.run(30 * time.Second)
	b.check(0)
}

// remembers holds an agent without memory to taking no reading until it hears the control plane, and
// then going on with the first epoch: by no more than the truth, and by a tick of the process's
// start less. It returns what is less, and what was bridged.
func (b *bench) remembers() (under metering.Registers, bridged uint64) {
	b.t.Helper()
	b.run(5 * time.Second)
	received := len(b.readings)
	b.receive()
	if len(b.readings) != received {
		b.t.Fatal("an epoch was opened before the control plane was heard")
	}
	b.rig.Known(b.known())
	b.run(10 * time.Second)
	b.full()
	b.receive()
	truth := b.host.Truths()[0]
	got, bridged := b.got(truth.Epoch.ID)
	under = truth.Registers.Sub(got)
	if over := got.Sub(truth.Registers); !over.IsZero() || under[metering.RunningMS] > 10 {
		b.t.Errorf("running_ms = %d, want %d, or up to 10 less", got[metering.RunningMS], truth.Registers[metering.RunningMS])
	}
	return under, bridged
}

// A host that lost its state goes on from what the control plane remembers.
func TestLostState(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(42 * time.Second)
	b.full()
	b.receive()
	b.run(8 * time.Second) // never read by the control plane
	b.kill()
	b.must(os.RemoveAll(b.dir))
	b.host.StepWall(6 * time.Hour) // bills nobody: the process is not that old
	b.run(10 * time.Second)
	b.start()
	under, bridged := b.remembers()
	if bridged > 23_000 || bridged < 22_990 {
		t.Errorf("bridged %d ms, want 23000, or up to 10 less", bridged)
	}
	for _, r := range counters {
		if r != metering.MemoryUsedMiBMS && under[r] != 0 {
			t.Errorf("%s is %d below the truth", r, under[r])
		}
	}
}

// A host that never told the control plane of a process, and forgot it, opens its
// epoch at 0: the counters in full, the time from now on.
func TestLostStateOfAnUnknownProcess(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(40 * time.Second)
	b.kill()
	b.must(os.RemoveAll(b.dir))
	b.start()
	b.rig.Known(nil)
	b.run(10 * time.Second)
	b.full()
	b.receive()
	truth := b.host.Truths()[0]
	got, _ := b.got(truth.Epoch.ID)
	if got[metering.RunningMS] != 10_000 {
		t.Errorf("running_ms = %d, want 10000: from when it was seen", got[metering.RunningMS])
	}
	if got[metering.DiskWriteBytes] != truth.Registers[metering.DiskWriteBytes] {
		t.Errorf("disk_write_bytes = %d, want %d", got[metering.DiskWriteBytes], truth.Registers[metering.DiskWriteBytes])
	}
}

// Once an agent without memory has heard the control plane and seen all that runs, the
// next one needs neither: what it does not know began after that.
func TestMemoryIsRegainedForGood(t *testing.T) {
	b := newBench(t) // a first agent, that has heard the control plane
	b.kill()
	b.boot(1)
	b.host.Advance(5 * time.Second)
	b.start() // and this one has not
	b.run(10 * time.Second)
	b.full()
	b.receive()
	truth := b.host.Truths()[0]
	if got, _ := b.got(truth.Epoch.ID); got[metering.RunningMS] != 10_000 {
		t.Errorf("running_ms = %d, want 10000: from when it was seen", got[metering.RunningMS])
	}
}

// A process that did not answer when the control plane was heard is still unknown,
// and the next agent waits for the control plane, too.
func TestMemoryIsNotRegainedWithoutAllProcesses(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(20 * time.Second)
	b.full()
	b.receive()
	b.kill()
	b.must(os.RemoveAll(b.dir))
	b.must(b.host.SetHung(vm, true))
	b.start()
	b.rig.Known(b.known())
	b.run(20 * time.Second)
	b.kill()
	b.must(b.host.SetHung(vm, false))
	b.start()
	b.remembers()
}

// A sample that was read before anybody watched does not tell that the domain still runs.
func TestSampleFromBeforeWatching(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.host.Advance(8500 * time.Millisecond)
	b.rig.Tick()
	b.rig.Watch(false)
	stale, err := b.host.Sample(t.Context())
	b.must(err)
	b.host.Advance(100 * time.Millisecond)
	b.deaf = true
	b.must(b.host.Crash(vm))
	b.deaf = false
	b.host.Advance(100 * time.Millisecond)
	b.rig.Watch(true)
	b.rig.TakeSamples(stale)
	b.run(5 * time.Second)
	b.receive()
	if got, _ := b.got(b.host.Truths()[0].Epoch.ID); got[metering.RunningMS] != 8500 {
		t.Errorf("running_ms = %d, want 8500: the end was not seen", got[metering.RunningMS])
	}
}

// A domain that stood still while its agent waited for the control plane has not run all that time.
func TestResumedBeforeItWasRemembered(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(10 * time.Second)
	b.must(b.host.Pause(vm))
	b.receive()
	b.kill()
	b.must(os.RemoveAll(b.dir))
	b.host.Advance(3 * time.Second)
	b.start()
	b.host.Advance(2 * time.Second)
	b.must(b.host.Resume(vm))
	b.host.Advance(time.Second)
	b.rig.Known(b.known())
	b.run(10 * time.Second)
	b.full()
	b.receive()
	got, bridged := b.got(b.host.Truths()[0].Epoch.ID)
	if got[metering.RunningMS] != 20_000 || got[metering.PausedMS] > 6_000 || got[metering.PausedMS] < 5_990 || bridged != 0 {
		t.Errorf("running %d, paused %d, bridged %d ms; want 20000, 6000 or up to 10 less, 0",
			got[metering.RunningMS], got[metering.PausedMS], bridged)
	}
}

func TestUnusableStateFileIsPutAside(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(20 * time.Second)
	b.kill()
	path := filepath.Join(b.dir, "meter.json")
	b.must(os.WriteFile(path, []byte(`{"version":1,"open":[{"epo`), 0o600))
	b.start()
	if _, err := os.Stat(path + ".bad"); err != nil {
		t.Errorf("the broken file was not kept: %v", err)
	}
}

// When the state before and after a time that nobody watched differ, that time
// counts as paused, which costs less.
func TestStateThatChangedUnwatchedCountsAsPaused(t *testing.T) {
	for _, c := range []struct {
		name           string
		before, during func(h *agenttest.Host, id metering.InstanceID) error
	}{
		{"paused meanwhile", func(*agenttest.Host, metering.InstanceID) error { return nil }, (*agenttest.Host).Pause},
		{"resumed meanwhile", (*agenttest.Host).Pause, (*agenttest.Host).Resume},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.boot(1)
			b.run(10 * time.Second)
			b.must(c.before(b.host, vm))
			b.full()
			b.kill()
			b.host.Advance(4 * time.Second)
			b.must(c.during(b.host, vm))
			b.host.Advance(3 * time.Second)
			b.start()
			b.full()
			b.receive()
			got, bridged := b.got(b.host.Truths()[0].Epoch.ID)
			if got[metering.RunningMS] != 10_000 || got[metering.PausedMS] != 7_000 || bridged != 0 {
				t.Errorf("running %d, paused %d, bridged %d ms; want 10000, 7000, 0",
					got[metering.RunningMS], got[metering.PausedMS], bridged)
			}
		})
	}
}

// An event that comes before the new agent could read the domain does not make the time
// that nobody watched one of running.
func TestResumedBeforeItWasRead(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(10 * time.Second)
	b.must(b.host.Pause(vm))
	b.kill()
	b.must(b.host.SetHung(vm, true))
	b.host.Advance(5 * time.Second)
	b.start()
	b.must(b.host.Resume(vm))
	b.host.Advance(3 * time.Second)
	b.must(b.host.SetHung(vm, false))
	b.full()
	b.receive()
	got, bridged := b.got(b.host.Truths()[0].Epoch.ID)
	if got[metering.RunningMS] != 10_000 || got[metering.PausedMS] != 8_000 || bridged != 0 {
		t.Errorf("running %d, paused %d, bridged %d ms; want 10000, 8000, 0: of all that nobody watched the lower price",
			got[metering.RunningMS], got[metering.PausedMS], bridged)
	}
}

// An event that samples overtake still says when: what a sample shows first is
// not counted in the state that has ended, nor is the event taken for lost when
// the next sample follows at once.
func TestEventAfterTheSampleThatShowsIt(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(8 * time.Second)
	b.full()
	for _, change := range []struct {
		kind agent.EventKind
		do   func(metering.InstanceID) error
		late time.Duration // not the same, or one error makes up for the other
	}{{agent.EventPaused, b.host.Pause, 56 * time.Millisecond}, {agent.EventResumed, b.host.Resume, 700 * time.Millisecond}} {
		b.host.Advance(1500 * time.Millisecond)
		b.deaf = true
		b.must(change.do(vm))
		at := b.host.Now().Wall
		b.host.Advance(change.late)
		b.full()
		b.host.Advance(3 * time.Millisecond)
		b.full()
		b.deaf = false
		b.rig.Event(agent.Event{ID: vm, Kind: change.kind, At: at})
		b.run(3 * time.Second)
	}
	b.full()
	b.check(0, metering.MemoryUsedMiBMS) // which is read with the counters, and held in between
}

// A sample read before a pause says nothing about the time after it.
func TestStaleSampleDoesNotResume(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(5 * time.Second)
	stale, err := b.host.Sample(t.Context())
	b.must(err)
	b.host.Advance(10 * time.Millisecond)
	b.must(b.host.Pause(vm))
	b.rig.TakeSamples(stale)
	b.host.Advance(400 * time.Millisecond)
	b.must(b.host.Resume(vm))
	b.full()
	b.check(0)
}

// A loop that turns late still takes the boundary's round, and the later one.
func TestLateLoopTakesTheBoundaryBeforeALaterRound(t *testing.T) {
	b := newBench(t)
	b.boot(1)
	b.run(4*time.Minute + 55*time.Second) // last round at 4:50
	b.full()
	b.host.Advance(18 * time.Second) // past 5:00 and 5:10
	b.rig.Tick()
	b.receive()
	var at []time.Time
	for _, r := range b.readings {
		if r.At.After(noon.Add(299 * time.Second)) {
			at = append(at, r.At)
		}
	}
	if want := []time.Time{noon.Add(300 * time.Second), noon.Add(310 * time.Second)}; !slices.EqualFunc(at[:min(2, len(at))], want, time.Time.Equal) {
		t.Errorf("readings at %v, want them to begin with %v", at, want)
	}
	b.full()
	b.check(0)
}

// The event of a start that comes after a sample already showed the process does
// not begin it anew.
func TestLateStartEvent(t *testing.T) {
	b := newBench(t)
	b.deaf = true
	b.boot(1)
	started := b.host.Now().Wall
	b.full()
	b.deaf = false
	b.must(b.host.SetHung(vm, true)) // no sample sets it right
	b.rig.Event(agent.Event{ID: vm, Kind: agent.EventStarted, At: started})
	b.host.Advance(3 * time.Second)
	b.must(b.host.Crash(vm))
	b.check(0, counters...)
}

// An event takes a while to arrive. A round that is due meanwhile does not count
// the domain on in the state that it has left: neither by its own tick nor by a
// sample that comes first.
func TestEventThatArrivesAfterARoundWasDue(t *testing.T) {
	for _, c := range []struct {
		name  string
		kind  agent.EventKind
		do    func(*agenttest.Host) error
		while func(*bench) // between the change and its event
	}{
		{"crash, tick", agent.EventStopped, func(h *agenttest.Host) error { return h.Crash(vm) }, func(b *bench) { b.rig.Tick() }},
		{"pause, tick", agent.EventPaused, func(h *agenttest.Host) error { return h.Pause(vm) }, func(b *bench) { b.rig.Tick() }},
		{"crash, full reading", agent.EventStopped, func(h *agenttest.Host) error { return h.Crash(vm) }, func(b *bench) { b.full() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.boot(1)
			b.must(b.host.Start(t.Context(), spec("ins_00000000000000002", 1)))
			b.run(8 * time.Second)
			b.host.Advance(999 * time.Millisecond) // 1 ms before the round
			b.full()
			b.deaf = true
			b.must(c.do(b.host))
			at := b.host.Now().Wall
			b.host.Advance(40 * time.Millisecond)
			c.while(b)
			b.deaf = false
			b.rig.Event(agent.Event{ID: vm, Kind: c.kind, At: at, Off: agent.OffCrashed})
			b.run(3 * time.Second)
			b.full()
			b.check(0, metering.MemoryUsedMiBMS)
		})
	}
}

// A sample that was read before the end of a process no sample had shown before,
// and arrives after the event of that end, opens no epoch that would run on.
func TestStaleSampleOfAnUnknownProcessThatEnded(t *testing.T) {
	b := newBench(t)
	b.run(8*time.Second + 900*time.Millisecond)
	b.deaf = true
	b.boot(1)
	stale, err := b.host.Sample(t.Context())
	b.must(err)
	b.host.Advance(20 * time.Millisecond)
	b.deaf = false
	b.must(b.host.Crash(vm))
	b.rig.TakeSamples(stale)
	b.host.Advance(1100 * time.Millisecond) // past a round
	b.rig.Tick()
	b.run(time.Minute)
	b.receive()
	for id, r := range b.largest {
		if over := r.Registers.Sub(b.host.Truths()[0].Registers); !over.IsZero() {
			t.Errorf("epoch %s has %v that never was", id, named(over))
		}
	}
}
