package virt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/virt/local/localtest"
	"github.com/usance/usance/metering"
)

// eventDelay is how late a busy libvirtd may tell that a QEMU ended.
const eventDelay = 5 * time.Second

// startRoomy starts a guest to which devices and a second vCPU can be plugged.
func (b *bench) startRoomy(t *testing.T, spec agent.Spec) {
	t.Helper()
	var undo undoStack // not run: the spec's clean-up removes all
	disk, seed, err := b.makeFiles(t.Context(), spec, &undo)
	if err != nil {
		t.Fatal(err)
	}
	x := b.Hypervisor.domain(spec, disk, seed)
	x.VCPU = &libvirtxml.DomainVCPU{Current: 1, Value: 2}
	x.Devices.Controllers = []libvirtxml.DomainController{{Type: "pci", Model: "pcie-root"}}
	for range 10 {
		x.Devices.Controllers = append(x.Devices.Controllers, libvirtxml.DomainController{Type: "pci", Model: "pcie-root-port"})
	}
	text, err := x.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := act(t.Context(), b.cfg.URI, func(c *libvirt.Connect) error { return create(c, spec, text) }); err != nil {
		t.Fatal(err)
	}
}

// isolate gives the host the isolated network.
func (b *bench) isolate(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "network.xml")
	text := "<network><name>" + isolatedNetwork + "</name><bridge name='virbr7'/><ip address='10.77.7.1' netmask='255.255.255.0'/></network>"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.virsh(t, "net-define", file)
	b.virsh(t, "net-start", isolatedNetwork)
}

// plug gives the guest the disk as vdb (vdc to itself, after the seed) and an
// interface on the isolated network, and waits until it has both.
func (b *bench) plug(t *testing.T, con *console, id metering.InstanceID, disk string) {
	t.Helper()
	b.virsh(t, "attach-disk", string(id), disk, "vdb", "--subdriver", "raw", "--live")
	b.virsh(t, "attach-interface", string(id), "network", isolatedNetwork, "--model", "virtio", "--mac", "52:54:00:77:07:02", "--live")
	con.run(t, "while ! [ -b /dev/vdc -a -e /sys/class/net/eth1 ]; do sleep 0.1; done; ip addr add 10.77.7.2/24 dev eth1; ip link set eth1 up")
}

// unplug takes both away.
func (b *bench) unplug(t *testing.T, id metering.InstanceID) {
	t.Helper()
	b.virsh(t, "detach-disk", string(id), "vdb", "--live")
	b.virsh(t, "detach-interface", string(id), "network", "--mac", "52:54:00:77:07:02", "--live")
	await(t, "the guest to let go", 20*time.Second, func() bool {
		xml := b.virsh(t, "dumpxml", string(id))
		return !strings.Contains(xml, "dev='vdb'") && !strings.Contains(xml, isolatedNetwork)
	})
}

// TestMeteredLife follows one guest, metered by a whole agent, through all that
// can happen to it on one host, and compares its registers with what virsh says
// whenever it stands still.
func TestMeteredLife(t *testing.T) {
	t.Parallel()
	libvirtd, dir := localtest.Host(t, "life")
	b := benchOn(t, libvirtd, dir)
	b.isolate(t)
	m := newMetered(t, newPlane(t), b, "life")
	spec := b.spec(t)
	id := spec.ID
	began := time.Now()
	b.startRoomy(t, spec)
	started := time.Now()
	con := b.console(t, id)
	none := metering.Registers{}
	resume := func(t *testing.T) { m.virsh(t, "resume", string(id)) }
	step := func(name string, f func(t *testing.T)) {
		if !t.Run(name, f) {
			t.FailNow() // the rest builds on it
		}
	}

	first := m.now(t, id, 1)
	step("the first epoch opens at 0 when QEMU starts", func(t *testing.T) {
		d := b.mustDomain(t, id)
		clock, err := agent.HostClock()
		if err != nil {
			t.Fatal(err)
		}
		want := metering.Epoch{ID: metering.DeriveEpochID(id, clock().Boot, d.PID, d.PIDStart, 0), Instance: id, Lease: 7, Start: 3, Opened: first.Opened}
		if first.Epoch != want {
			t.Errorf("got %+v, want %+v", first.Epoch, want)
		}
		if first.Opened.Before(began.Add(-time.Millisecond)) || first.Opened.After(started) {
			t.Errorf("opened %s, want between %s and %s", first.Opened, began, started)
		}
		first.onTheClock(t)
	})

	step("pause", func(t *testing.T) {
		con.run(t, "dd if=/dev/zero of=/dev/vda bs=64k count=16 oflag=direct 2>&-; ping -q -A -c 20 -s 10000 192.168.122.1 >&-")
		asked := time.Now()
		before, _ := m.standstill(t, id, 1, none)
		paused := time.Now()
		time.Sleep(300 * time.Millisecond)
		atLeast := time.Since(paused)
		resume(t)
		atMost := time.Since(asked)
		e := m.now(t, id, 1)
		if got := e.ms(metering.PausedMS); got < atLeast || got > atMost {
			t.Errorf("%s paused, want between %s and %s", got, atLeast, atMost)
		}
		if before.last.Registers[metering.DiskWriteBytes] < 1<<20 || before.last.Registers[metering.NetPublicTxBytes] < 200_000 {
			t.Errorf("got %v, want what the guest wrote and sent", named(before.last.Registers))
		}
		e.onTheClock(t)
		e.show(t, "resumed")
	})

	var gone metering.Registers // counted by devices that were unplugged
	disk := filepath.Join(t.TempDir(), "second.raw")
	step("disk and interface plugged, unplugged, plugged again", func(t *testing.T) {
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", "raw", disk, "64M").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		m.plug(t, con, id, disk)
		con.run(t, "dd if=/dev/zero of=/dev/vdc bs=64k count=32 oflag=direct 2>&-; ping -q -A -c 10 -s 10000 10.77.7.1 >&-")
		with, counted := m.standstill(t, id, 1, none)
		if r := with.last.Registers; r[metering.NetPrivateTxBytes] < 100_000 || r[metering.NetPrivateRxBytes] < 100_000 {
			t.Errorf("got %v, want private traffic", named(r))
		}
		with.show(t, "plugged")
		resume(t)
		m.unplug(t, id)
		m.read(t)
		gone = m.kept(t, id, 1)
		// Nothing is lost of what was read before, nor made up.
		if got, want := gone[metering.DiskWriteBytes], uint64(32*64<<10); got != want {
			t.Errorf("%d bytes written are kept, want the %d of the disk that is gone", got, want)
		}
		if got, want := gone[metering.NetPrivateTxBytes], counted[metering.NetPrivateTxBytes]; got < want || got > want+10_000 {
			t.Errorf("%d private bytes are kept, want %d or a little more", got, want)
		}
		without, _ := m.standstill(t, id, 1, gone)
		without.show(t, "unplugged")
		resume(t)
		m.plug(t, con, id, disk)
		con.run(t, "dd if=/dev/zero of=/dev/vdc bs=64k count=48 oflag=direct 2>&-; ping -q -A -c 15 -s 10000 10.77.7.1 >&-")
		again, _ := m.standstill(t, id, 1, gone)
		if got, want := again.last.Registers[metering.DiskWriteBytes]-without.last.Registers[metering.DiskWriteBytes], uint64(48*64<<10); got != want {
			t.Errorf("the disk that came back counts %d bytes, want %d from 0", got, want)
		}
		again.show(t, "plugged again")
		resume(t)
	})

	step("a second vCPU", func(t *testing.T) {
		for vcpus := uint64(1); vcpus <= 2; vcpus++ {
			m.virsh(t, "setvcpus", string(id), fmt.Sprint(vcpus), "--live")
			before := m.now(t, id, 1)
			time.Sleep(500 * time.Millisecond)
			grown := m.now(t, id, 1).last.Registers.Sub(before.last.Registers)
			if got, want := grown[metering.VCPUMS], vcpus*grown[metering.RunningMS]; got != want || want == 0 {
				t.Errorf("%d vCPUs: vcpu_ms grew by %d in %d ms", vcpus, got, grown[metering.RunningMS])
			}
		}
		con.run(t, "echo 1 >/sys/devices/system/cpu/cpu1/online; true")
		e, _ := m.standstill(t, id, 1, gone)
		e.show(t, "two vCPUs")
		resume(t)
	})

	step("the agent is killed", func(t *testing.T) {
		before := m.now(t, id, 1)
		killed := time.Now()
		m.kill(t)
		con.run(t, "dd if=/dev/zero of=/dev/vda bs=64k count=16 oflag=direct 2>&-")
		time.Sleep(time.Second)
		atLeast := time.Since(killed)
		m.startAgent(t)
		e, _ := m.standstill(t, id, 1, gone)
		bridged(t, before, e, atLeast)
		e.show(t, "agent killed")
		resume(t)
	})

	step("libvirtd is killed", func(t *testing.T) {
		before := m.now(t, id, 1)
		killed := time.Now()
		killLibvirtd(t, b)
		con.run(t, "dd if=/dev/zero of=/dev/vda bs=64k count=16 oflag=direct 2>&-")
		atLeast := time.Since(killed)
		restartLibvirtd(t, b)
		await(t, "the agent to watch again", 20*time.Second, func() bool { return m.now(t, id, 1).ms(metering.BridgedMS) > before.ms(metering.BridgedMS) })
		e, _ := m.standstill(t, id, 1, gone)
		bridged(t, before, e, atLeast)
		e.show(t, "libvirtd killed")
		resume(t)
	})

	step("the agent's folder is lost", func(t *testing.T) {
		before := m.now(t, id, 1)
		m.kill(t)
		if err := os.RemoveAll(m.settings.DataDir); err != nil {
			t.Fatal(err)
		}
		con.run(t, "dd if=/dev/zero of=/dev/vda bs=64k count=16 oflag=direct 2>&-")
		m.startAgent(t)
		kept := m.kept(t, id, 1)
		// What counters show when they are first seen is in what the control plane
		// remembers, as far as that reaches, and devices that are gone are in there, too:
		// growth may be given away in their place, never counted twice.
		if doubled := kept.Sub(gone); !doubled.IsZero() {
			t.Errorf("counted twice: %v", named(doubled))
		}
		gone = kept
		e, _ := m.standstill(t, id, 1, gone)
		if e.ID != before.ID || e.ms(metering.BridgedMS) <= before.ms(metering.BridgedMS) {
			t.Errorf("epoch %s goes on as %s, bridged from %s to %s", before.ID, e.ID, before.ms(metering.BridgedMS), e.ms(metering.BridgedMS))
		}
		e.onTheClock(t)
		e.show(t, "folder lost")
		resume(t)
	})
	step("the wall clock is stepped", func(t *testing.T) {
		for _, step := range []string{"1h", "-1h", "0s"} {
			asked := time.Now()
			before := m.now(t, id, 1)
			read := time.Now()
			if err := os.WriteFile(m.settings.Step, []byte(step), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1500 * time.Millisecond)
			atLeast := time.Since(read)
			e := m.now(t, id, 1)
			if got, atMost := e.ms(metering.RunningMS)-before.ms(metering.RunningMS), time.Since(asked); got < atLeast || got > atMost {
				t.Errorf("stepped to %s: %s running, want between %s and %s", step, got, atLeast, atMost)
			}
			e.show(t, "clock at "+step)
		}
	})

	// From here on the guest may boot as long as it likes.
	step("reboot and reset", func(t *testing.T) {
		before, _ := m.standstill(t, id, 1, gone)
		resume(t)
		con.forget()
		con.Write([]byte("reboot -f\n"))
		con.await(t, "Restarting system")
		time.Sleep(time.Second)
		m.virsh(t, "reset", string(id))
		e, _ := m.standstill(t, id, 1, gone)
		if p := e.ms(metering.PausedMS) - before.ms(metering.PausedMS); p > 10*time.Second {
			t.Errorf("%s paused: a reset is none", p)
		}
		e.onTheClock(t)
		e.show(t, "rebooted and reset")
		resume(t)
	})

	step("suspended to disk and restored", func(t *testing.T) {
		m.virsh(t, "suspend", string(id))
		before := m.now(t, id, 1)
		m.virsh(t, "managedsave", string(id), "--running")
		await(t, "the end of the epoch", 10*time.Second, func() bool { return m.sample(t, id) == nil })
		saved := m.now(t, id, 1)
		grown := devicesOnly(saved.last.Registers.Sub(before.last.Registers))
		for _, r := range []metering.Register{metering.NetPublicRxBytes, metering.NetPublicRxPackets, metering.NetPrivateRxBytes, metering.NetPrivateRxPackets} {
			grown[r] = 0 // a frame for it is counted all the same
		}
		if !grown.IsZero() {
			t.Errorf("counters grew while it stood still: %v", named(grown))
		}
		m.virsh(t, "start", string(id))
		e, counted := m.standstill(t, id, 2, none)
		if e.ID == saved.ID || e.Start != 3 || e.Lease != 7 || !e.Opening.IsZero() {
			t.Errorf("restored as %+v, want another epoch of start 3 that opens at 0", e.Epoch)
		}
		if e.Opened.Before(saved.last.At) {
			t.Errorf("opened %s, before the other's end %s", e.Opened, saved.last.At)
		}
		if counted[metering.DiskWriteBytes] >= saved.last.Registers[metering.DiskWriteBytes] {
			t.Errorf("QEMU counts on: %v", named(counted))
		}
		e.onTheClock(t)
		saved.show(t, "saved")
		e.show(t, "restored")
		resume(t)
	})

	step("QEMU hangs", func(t *testing.T) {
		other := b.spec(t)
		b.start(t, other)
		m.read(t)
		pid := b.mustDomain(t, id).PID
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer syscall.Kill(pid, syscall.SIGCONT)
		hung := time.Now()
		last := func(id metering.InstanceID) epoch { all := m.plane.epochsOf(id); return all[len(all)-1] }
		time.Sleep(bulkTimeout + 2*time.Second) // until the call that met it was given up
		stuck := last(id)
		for range 3 {
			before := last(other.ID)
			await(t, "a reading of the other guest", 15*time.Second, func() bool { return last(other.ID).last.At.After(before.last.At) })
		}
		if at := last(id).last.At; at != stuck.last.At {
			t.Errorf("the hung domain was read at %s", at)
		}
		took := time.Since(hung)
		syscall.Kill(pid, syscall.SIGCONT)
		e, _ := m.standstill(t, id, 2, none)
		if got := e.ms(metering.RunningMS) - stuck.ms(metering.RunningMS); got < took-5*time.Second {
			t.Errorf("%s running while it hung for %s", got, took)
		}
		e.onTheClock(t)
		e.show(t, "hung")
		resume(t)
	})

	step("QEMU is killed", func(t *testing.T) {
		e, _ := m.standstill(t, id, 2, none)
		resume(t)
		before := m.now(t, id, 2)
		d := b.mustDomain(t, id)
		if err := syscall.Kill(d.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		await(t, "the end of the domain", 10*time.Second, func() bool { return m.sample(t, id) == nil })
		ended := m.now(t, id, 2)
		if ended.last.At.Before(before.last.At) || ended.last.At.After(killed.Add(eventDelay)) {
			t.Errorf("ended %s, want between the reading at %s and the kill at %s", ended.last.At, before.last.At, killed)
		}
		ended.onTheClock(t)
		if fell := e.last.Registers.Sub(ended.last.Registers); !fell.IsZero() {
			t.Errorf("fell by %v", named(fell))
		}
		m.virsh(t, "start", string(id))
		e, _ = m.standstill(t, id, 3, none)
		if e.Start != 3 || !e.Opening.IsZero() || e.Opened.Before(ended.last.At) {
			t.Errorf("started again as %+v, want start 3, an opening of 0 after %s", e.Epoch, ended.last.At)
		}
		ended.show(t, "killed")
		e.show(t, "started again")
		resume(t)
	})

	startAgain := func(t *testing.T) {
		await(t, "the end of the domain", 10*time.Second, func() bool { return m.virsh(t, "domstate", string(id)) == "shut off" })
		m.virsh(t, "start", string(id))
	}
	for i, away := range []struct {
		what       string
		begin, end func(t *testing.T)
	}{
		{"libvirtd", func(t *testing.T) { killLibvirtd(t, b) }, func(t *testing.T) { restartLibvirtd(t, b); startAgain(t) }},
		{"the agent", m.kill, func(t *testing.T) { startAgain(t); m.startAgent(t) }},
	} {
		step("QEMU is killed and started again while "+away.what+" is away", func(t *testing.T) {
			before := m.now(t, id, 3+i)
			pid := b.mustDomain(t, id).PID
			away.begin(t)
			gone := time.Now()
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			await(t, "the end of QEMU", 5*time.Second, func() bool { _, err := startOf(pid); return err != nil })
			time.Sleep(500 * time.Millisecond)
			back := time.Now()
			away.end(t)
			await(t, "another epoch", 30*time.Second, func() bool { m.read(t); return len(m.plane.epochsOf(id)) == 4+i })
			ended := m.plane.epochsOf(id)[2+i]
			if ended.ID != before.ID || ended.last.At.After(gone.Add(time.Second)) || ended.ms(metering.BridgedMS) != before.ms(metering.BridgedMS) {
				t.Errorf("ended %s, want its last reading before %s: nobody saw it end", ended.last.At, gone)
			}
			e, _ := m.standstill(t, id, 4+i, none)
			if e.Start != 3 || !e.Opening.IsZero() || e.Opened.Before(back.Truncate(time.Millisecond)) {
				t.Errorf("started again as %+v, want start 3, an opening of 0 after %s", e.Epoch, back)
			}
			ended.onTheClock(t)
			e.onTheClock(t)
			e.show(t, "started again while "+away.what+" was away")
			resume(t)
		})
	}
}

// bridged checks that what ran while nobody watched, at least so long, counts as
// running and as bridged.
func bridged(t *testing.T, before, after epoch, atLeast time.Duration) {
	t.Helper()
	grown := after.ms(metering.BridgedMS) - before.ms(metering.BridgedMS)
	running := after.ms(metering.RunningMS) - before.ms(metering.RunningMS)
	if before.ID != after.ID || grown < atLeast-time.Second || grown > running {
		t.Errorf("epoch %s bridged %s of %s running, want about %s, in epoch %s", after.ID, grown, running, atLeast, before.ID)
	}
	after.onTheClock(t)
}
