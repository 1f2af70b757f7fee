package virt

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/virt/local/localtest"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// TestLife follows one guest from its start to its removal.
func TestLife(t *testing.T) {
	t.Parallel()
	libvirtd, dir := localtest.Host(t, "dying") // it is killed on the way
	b := benchOn(t, libvirtd, dir)
	spec := b.spec(t)
	b.start(t, spec)
	b.awaitEvent(t, spec.ID, agent.EventStarted)

	if err := b.Start(t.Context(), spec); err != nil {
		t.Errorf("the same start again: %v", err)
	}
	other := spec
	other.Start++
	if err := b.Start(t.Context(), other); err == nil || !strings.Contains(err.Error(), "start 3") {
		t.Errorf("another start while it runs: got %v, want an error that names start 3", err)
	}
	if err := b.Delete(t.Context(), spec.ID); err == nil {
		t.Error("a running domain was deleted")
	}

	con := b.console(t, spec.ID)
	con.run(t, "grep AAAAIExample /root/.ssh/authorized_keys && [ $(hostname) = web-1 ]")
	d := b.mustDomain(t, spec.ID)
	if want := (agent.Domain{
		ID: spec.ID, Lease: 7, Start: 3, State: compute.StateRunning,
		PID: d.PID, PIDStart: d.PIDStart, Address: d.Address,
	}); d != want || d.PID == 0 || d.PIDStart == 0 || !strings.HasPrefix(d.Address, "192.168.122.") {
		t.Errorf("domain: got %+v, want %+v with a process and an address", d, want)
	}

	t.Run("all counters are there", func(t *testing.T) {
		await(t, "the guest's word on its memory", 20*time.Second, func() bool { return b.mustSample(t, spec.ID).UsedMiB != nil })
		s := b.mustSample(t, spec.ID)
		if s.Lease != 7 || s.Start != 3 || s.PID != d.PID || s.PIDStart != d.PIDStart || s.Paused {
			t.Errorf("got %+v, want lease 7, start 3, running as process %d", s, d.PID)
		}
		if *s.VCPUs != 1 || *s.MemoryMiB != 160 || *s.UsedMiB == 0 || *s.UsedMiB >= 160 || *s.CPUNS == 0 {
			t.Errorf("got %d vCPUs, %d MiB, %d MiB used, %d ns", *s.VCPUs, *s.MemoryMiB, *s.UsedMiB, *s.CPUNS)
		}
		if len(s.Disks) != 1 || s.Disks[0].Name != "vda" || len(s.Nets) != 1 {
			t.Fatalf("got disks %+v and interfaces %+v, want vda (not the seed) and one", s.Disks, s.Nets)
		}
		for name, v := range counters(s) {
			if v == nil {
				t.Errorf("%s could not be read", name)
			}
		}
	})

	t.Run("they count what the guest does", func(t *testing.T) {
		before := b.mustSample(t, spec.ID)
		con.run(t, "dd if=/dev/zero of=/dev/vda bs=64k count=16 oflag=direct 2>&-")
		con.run(t, "dd if=/dev/vda of=/dev/null bs=64k count=8 iflag=direct 2>&-")
		con.run(t, "ping -q -A -c 20 -s 10000 192.168.122.1 >&-")
		after := b.mustSample(t, spec.ID)
		grown := func(name string) uint64 { return *counters(after)[name] - *counters(before)[name] }
		for name, want := range map[string]uint64{
			"write bytes": 16 * 64 << 10, "write ops": 16, "read bytes": 8 * 64 << 10, "read ops": 8,
		} {
			if got := grown(name); got != want {
				t.Errorf("%s grew by %d, want %d", name, got, want)
			}
		}
		for _, name := range []string{"rx bytes", "tx bytes"} {
			if got := grown(name); got < 200_000 || got > 250_000 {
				t.Errorf("%s grew by %d, want 200000 and the headers", name, got)
			}
		}
		if grown("cpu") == 0 {
			t.Error("no CPU time")
		}
	})

	t.Run("pause and resume", func(t *testing.T) {
		b.do(t, spec.ID, (*libvirt.Domain).Suspend)
		b.awaitEvent(t, spec.ID, agent.EventPaused)
		s := b.mustSample(t, spec.ID)
		if state := b.mustDomain(t, spec.ID).State; !s.Paused || state != compute.StatePaused {
			t.Errorf("got paused %v, state %s", s.Paused, state)
		}
		compareWithVirsh(t, b, spec.ID)
		b.do(t, spec.ID, (*libvirt.Domain).Resume)
		b.awaitEvent(t, spec.ID, agent.EventResumed)
	})

	t.Run("libvirtd dies", func(sub *testing.T) {
		ended := b.watch(sub)
		before := b.mustSample(sub, spec.ID)
		killLibvirtd(sub, b)
		select {
		case err := <-ended:
			if err == nil {
				sub.Error("Watch ended without a reason")
			}
		case <-time.After(10 * time.Second):
			sub.Fatal("Watch goes on without libvirtd")
		}
		if _, err := b.Domains(sub.Context()); err == nil {
			sub.Error("domains listed without libvirtd")
		}
		restartLibvirtd(sub, b)
		notBelow(sub, before, b.mustSample(sub, spec.ID))
		b.watch(t) // for what follows
	})

	t.Run("an ordered stop", func(t *testing.T) {
		began := time.Now()
		if err := b.Stop(t.Context(), spec.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 50*time.Second {
			t.Errorf("the guest did not follow the power button: %s", took)
		}
		if e := b.awaitEvent(t, spec.ID, agent.EventStopped); e.Off != agent.OffOrdered {
			t.Errorf("event: got reason %q, want ordered", e.Off)
		}
		want := agent.Domain{ID: spec.ID, Lease: 7, Start: 3, State: compute.StateStopped, Reason: agent.OffOrdered}
		if d := b.mustDomain(t, spec.ID); d != want {
			t.Errorf("got %+v, want %+v", d, want)
		}
		if s := b.sample(t, spec.ID); s != nil {
			t.Errorf("a domain that is off was sampled: %+v", s)
		}
		if err := b.Stop(t.Context(), spec.ID, time.Minute); err != nil {
			t.Errorf("stop again: %v", err)
		}
	})

	t.Run("delete", func(t *testing.T) {
		for range 2 {
			if err := b.Delete(t.Context(), spec.ID); err != nil {
				t.Fatal(err)
			}
		}
		if d := b.domain(t, spec.ID); d != nil {
			t.Errorf("still listed: %+v", d)
		}
		if _, err := os.Stat(b.folder(spec.ID)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("its folder: %v, want it gone", err)
		}
	})
}

// TestHowItEnded tells the ways apart in which a domain can end.
func TestHowItEnded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec(t)
	for _, c := range []struct {
		name  string
		end   func(t *testing.T, d agent.Domain)
		want  agent.OffReason
		state compute.State
	}{
		{"the guest powers itself off", func(t *testing.T, d agent.Domain) {
			b.console(t, d.ID).Write([]byte("poweroff -f\n"))
		}, agent.OffGuest, compute.StateStopped},
		{"QEMU is killed", func(t *testing.T, d agent.Domain) {
			syscall.Kill(d.PID, syscall.SIGKILL)
		}, agent.OffCrashed, compute.StateFailed},
		{"the host ends QEMU", func(t *testing.T, d agent.Domain) {
			syscall.Kill(d.PID, syscall.SIGTERM)
		}, agent.OffCrashed, compute.StateFailed},
		{"the plug is pulled", func(t *testing.T, d agent.Domain) {
			if err := b.Stop(t.Context(), d.ID, 0); err != nil {
				t.Error(err)
			}
		}, agent.OffOrdered, compute.StateStopped},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec.Start++
			b.start(t, spec)
			c.end(t, b.mustDomain(t, spec.ID))
			if e := b.awaitEvent(t, spec.ID, agent.EventStopped); e.Off != c.want {
				t.Errorf("event: got reason %q, want %q", e.Off, c.want)
			}
			want := agent.Domain{ID: spec.ID, Lease: 7, Start: spec.Start, State: c.state, Reason: c.want}
			if d := b.mustDomain(t, spec.ID); d != want {
				t.Errorf("got %+v, want %+v", d, want)
			}
		})
	}
}

// counters are a sample's counters by name.
func counters(s agent.Sample) map[string]*uint64 {
	d, n := s.Disks[0], s.Nets[0]
	return map[string]*uint64{
		"cpu":        s.CPUNS,
		"read bytes": d.ReadBytes, "read ops": d.ReadOps, "write bytes": d.WriteBytes, "write ops": d.WriteOps,
		"rx bytes": n.RxBytes, "rx packets": n.RxPackets, "tx bytes": n.TxBytes, "tx packets": n.TxPackets,
	}
}

// notBelow checks that the same process goes on and no counter fell.
func notBelow(t *testing.T, before, after agent.Sample) {
	t.Helper()
	if before.PID != after.PID || before.PIDStart != after.PIDStart {
		t.Errorf("process %d (%d) became %d (%d)", before.PID, before.PIDStart, after.PID, after.PIDStart)
	}
	for name, v := range counters(before) {
		if now := counters(after)[name]; *now < *v {
			t.Errorf("%s fell from %d to %d", name, *v, *now)
		}
	}
}

// compareWithVirsh compares a paused domain's sample with what virsh prints.
func compareWithVirsh(t *testing.T, b *bench, id metering.InstanceID) {
	t.Helper()
	out, err := exec.Command("virsh", "--quiet", "-c", b.libvirtd.URI(), "domstats", "--vcpu", "--block", "--interface", string(id)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := b.mustSample(t, id)
	t.Logf("virsh domstats:\n%s", out)
	virsh := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			virsh[key] = value
		}
	}
	want, got := map[string]string{}, map[string]string{}
	for name, key := range map[string]string{
		"cpu": "vcpu.0.time", "read bytes": "block.0.rd.bytes", "read ops": "block.0.rd.reqs",
		"write bytes": "block.0.wr.bytes", "write ops": "block.0.wr.reqs",
		"rx bytes": "net.0.rx.bytes", "rx packets": "net.0.rx.pkts", "tx bytes": "net.0.tx.bytes", "tx packets": "net.0.tx.pkts",
	} {
		want[name], got[name] = virsh[key], strconv.FormatUint(*counters(s)[name], 10)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("virsh domstats (-) and Sample (+) differ:\n%s", diff)
	}
	t.Logf("Sample: %v", got)
}
