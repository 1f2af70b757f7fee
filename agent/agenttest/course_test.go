package agenttest

import (
	"testing"
	"time"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// What the course says of an instant is what the truth was then.
func TestCourseKnowsEveryInstant(t *testing.T) {
	h := New(1, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	const id = metering.InstanceID("ins_1")
	then := map[int64]metering.Registers{} // by ms
	look := func() {
		t.Helper()
		truths := h.Truths()
		last := truths[len(truths)-1]
		var r metering.Registers
		for _, register := range timed {
			r[register] = last.Registers[register]
		}
		then[h.Now().Mono.Milliseconds()] = r
	}
	pass := func(d time.Duration) { h.Advance(d); look() }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.Start(t.Context(), agent.Spec{ID: id, Lease: 1, Start: 1, Flavor: compute.Flavor{VCPUs: 2, MemoryMiB: 512}}))
	look()
	pass(1500 * time.Millisecond)
	paused := h.Now().Mono.Milliseconds()
	must(h.Pause(id))
	pass(700 * time.Millisecond)
	must(h.Resume(id))
	pass(time.Millisecond)
	must(h.SetFlavor(id, compute.Flavor{VCPUs: 4, MemoryMiB: 2048}))
	pass(250 * time.Millisecond)
	must(h.Resize(t.Context(), agent.Spec{ID: id, Lease: 2, Flavor: compute.Flavor{VCPUs: 8, MemoryMiB: 2048}}))
	opened := h.Now().Mono.Milliseconds()
	pass(90 * time.Millisecond)
	must(h.SetLoad(id, Load{UsedMiB: 3}))
	pass(10 * time.Millisecond)
	must(h.Crash(id))

	truths := h.Truths()
	if len(truths) != 2 || truths[0].EndedMS != opened || truths[1].OpenedMS != opened {
		t.Fatalf("epochs %+v, want two that meet at %d", truths, opened)
	}
	if c := &truths[0].Course; !c.Turned(paused, paused) || !c.Turned(paused+1, opened) || c.Turned(paused+701, opened) || c.Turned(0, paused-1) {
		t.Errorf("turned at other instants than %d ms and 700 ms later", paused)
	}
	late := opened + 60 // an agent sees the new labels then
	under := truths[0].Until(truths[1].Course, late)
	if got, want := under.TimesAt(late)[metering.VCPUMS], truths[0].Registers[metering.VCPUMS]+60*4; got != want || under.EndedMS != late {
		t.Errorf("under the old labels until %d ms: %d vCPU·ms, want %d", late, got, want)
	}
	for ms, want := range then {
		course := &truths[0].Course
		if ms > opened {
			course = &truths[1].Course
		}
		if got := course.TimesAt(ms); got != want {
			t.Errorf("at %d ms: %v, want %v", ms, got, want)
		}
	}
}

// What a sample showed is noted, counter by counter.
func TestCourseNotesWhatSamplesShowed(t *testing.T) {
	h := New(1, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	const id = metering.InstanceID("ins_1")
	h.SetLoadAtStart(Load{CPUMillis: 500, WriteBytes: 1000, PublicTxBytes: 10})
	if err := h.Start(t.Context(), agent.Spec{ID: id, Lease: 1, Start: 1, Flavor: compute.Flavor{VCPUs: 2, MemoryMiB: 512}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		h.Advance(time.Second)
		if _, err := h.Sample(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	looks := h.Truths()[0].Looks
	if len(looks) != 2 {
		t.Fatalf("%d looks, want 2", len(looks))
	}
	var want metering.Registers
	want[metering.CPUNS], want[metering.DiskWriteBytes], want[metering.NetPublicTxBytes] = 1e9, 2000, 20
	if looks[1].Counters != want || looks[1].At != h.Now() || looks[1].Paused {
		t.Errorf("look %+v, want %v now", looks[1], want)
	}
}
