package virt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

// TestResize makes a running guest larger, and a stopped one larger still.
func TestResize(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec(t)
	b.start(t, spec)
	con := b.console(t, spec.ID)
	con.run(t, "[ $(nproc) = 1 ] && [ $(cat /sys/block/vda/size) = $((256 * 2048)) ]")
	before := b.mustSample(t, spec.ID)

	larger := spec
	larger.Lease, larger.Flavor = 8, compute.Flavor{Name: "wide", VCPUs: 3, MemoryMiB: 160, DiskMiB: 512}
	for range 2 { // repeating it is harmless
		if err := b.Resize(t.Context(), larger); err != nil {
			t.Fatal(err)
		}
		after := b.mustSample(t, spec.ID)
		if after.Lease != 8 || after.Start != 3 || after.PID != before.PID || after.PIDStart != before.PIDStart {
			t.Errorf("got %+v, want lease 8 in the process of before", after)
		}
		if *after.VCPUs != 3 || *after.MemoryMiB != 160 {
			t.Errorf("got %d vCPUs, %d MiB; want 3 and 160", *after.VCPUs, *after.MemoryMiB)
		}
		notBelow(t, before, after)
	}
	if d := b.mustDomain(t, spec.ID); d.Lease != 8 || d.State != compute.StateRunning {
		t.Errorf("got %+v, want it running under lease 8", d)
	}
	con.run(t, "until echo 1 >/sys/devices/system/cpu/cpu1/online && echo 1 >/sys/devices/system/cpu/cpu2/online; do sleep 1; done 2>/dev/null; "+
		"[ $(nproc) = 3 ] && [ $(cat /sys/block/vda/size) = $((512 * 2048)) ]")

	for what, c := range map[string]struct {
		change func(*agent.Spec)
		want   string // in the error
	}{
		"less vCPUs":    {func(s *agent.Spec) { s.Flavor.VCPUs = 2 }, "3 vCPUs"},
		"more memory":   {func(s *agent.Spec) { s.Flavor.MemoryMiB = 320 }, "160 MiB"},
		"beyond room":   {func(s *agent.Spec) { s.Flavor.VCPUs = compute.MaxLiveVCPUs + 1 }, "vcpu"},
		"another start": {func(s *agent.Spec) { s.Start++ }, "start 3"},
		"older lease":   {func(s *agent.Spec) { s.Lease = 7 }, "lease 8"},
	} {
		refused := larger
		refused.Lease = 9
		c.change(&refused)
		if err := b.Resize(t.Context(), refused); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", what, err, c.want)
		}
		if s := b.mustSample(t, spec.ID); s.Lease != 8 || *s.VCPUs != 3 {
			t.Errorf("%s: lease %d with %d vCPUs; want what was", what, s.Lease, *s.VCPUs)
		}
	}

	b.stop(t, spec)
	if err := b.Resize(t.Context(), larger); err == nil || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("resize of one that is off: %v", err)
	}
	larger.Lease, larger.Start, larger.Flavor = 9, 4, compute.Flavor{Name: "large", VCPUs: 2, MemoryMiB: 192, DiskMiB: 768}
	b.start(t, larger)
	if s := b.mustSample(t, spec.ID); s.Lease != 9 || s.Start != 4 || *s.VCPUs != 2 || *s.MemoryMiB != 192 {
		t.Errorf("got %+v with %d vCPUs, %d MiB; want lease 9, start 4, 2 and 192", s, *s.VCPUs, *s.MemoryMiB)
	}
}

// TestMeteredResize has a whole agent resize a running guest: its meter goes on in
// a second epoch of the same process and start, which opens where the first closes.
func TestMeteredResize(t *testing.T) {
	t.Parallel()
	clock, err := agent.HostClock()
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	p := newPlane(t)
	m := newMetered(t, p, b, "resize")
	spec := b.spec(t)
	b.start(t, spec)
	b.console(t, spec.ID) // it runs
	m.now(t, spec.ID, 1)
	d := b.mustDomain(t, spec.ID)

	p.want(hostapi.DesiredInstance{ID: spec.ID, Generation: 2, Lease: 8, Start: 3, Power: compute.PowerRunning, Name: spec.Name, MAC: spec.MAC,
		Flavor: compute.Flavor{Name: "wide", VCPUs: 3, MemoryMiB: 160, DiskMiB: 512}})
	await(t, "a second epoch", 30*time.Second, func() bool { return len(p.epochsOf(spec.ID)) == 2 })
	time.Sleep(3 * time.Second)
	after := m.now(t, spec.ID, 2)
	before := p.epochsOf(spec.ID)[0]
	before.show(t, "before")
	after.show(t, "after")
	want := metering.Epoch{ID: metering.DeriveEpochID(spec.ID, clock().Boot, d.PID, d.PIDStart, 1), Instance: spec.ID, Lease: 8, Start: 3,
		Opened: before.last.At, Opening: before.last.Registers}
	if after.Epoch != want {
		t.Errorf("the second epoch is\n%+v, want\n%+v", after.Epoch, want)
	}
	before.onTheClock(t)
	grown := after.last.Registers.Sub(after.Opening)
	ran := grown[metering.RunningMS]
	if off := after.last.At.Sub(after.Opened) - time.Duration(ran)*time.Millisecond; ran < 3000 || off.Abs() > 2*time.Millisecond {
		t.Errorf("%d ms running from %s to %s", ran, after.Opened, after.last.At)
	}
	if grown[metering.VCPUMS] != 3*ran || grown[metering.MemoryMiBMS] != 160*ran {
		t.Errorf("%d vcpu_ms, %d memory_mib_ms in %d ms; want 3 vCPUs and 160 MiB", grown[metering.VCPUMS], grown[metering.MemoryMiBMS], ran)
	}
	// They are plugged in before the lease changes, and samples may fall between.
	if r := before.last.Registers; r[metering.VCPUMS] < r[metering.RunningMS] || r[metering.VCPUMS] > r[metering.RunningMS]+2*2000 {
		t.Errorf("%d vcpu_ms in %d ms before", r[metering.VCPUMS], r[metering.RunningMS])
	}
}

// stop pulls the plug.
func (b *bench) stop(t *testing.T, spec agent.Spec) {
	t.Helper()
	if err := b.Stop(t.Context(), spec.ID, 0); err != nil {
		t.Fatal(err)
	}
}

// TestReleaseAndStartElsewhere moves a guest between two hosts that share the
// folder of its disks: what it wrote is there after.
func TestReleaseAndStartElsewhere(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	cfg := b.cfg
	cfg.DataDir = filepath.Join(filepath.Dir(b.cfg.DataDir), "other")
	if err := os.MkdirAll(filepath.Join(b.cfg.DataDir, "instances"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(cfg.DataDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(b.cfg.DataDir, "instances"), filepath.Join(cfg.DataDir, "instances")); err != nil {
		t.Fatal(err)
	}
	other, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })

	spec := b.spec(t)
	b.start(t, spec)
	b.console(t, spec.ID).run(t, "mke2fs /dev/vda && mount -t ext4 /dev/vda /mnt && echo kept >/mnt/file && umount /mnt && sync")
	if err := b.Release(t.Context(), spec.ID); err == nil || !strings.Contains(err.Error(), "runs") {
		t.Errorf("release of one that runs: %v", err)
	}
	b.stop(t, spec)
	for range 2 { // repeating it is harmless
		if err := b.Release(t.Context(), spec.ID); err != nil {
			t.Fatal(err)
		}
		if d := b.domain(t, spec.ID); d != nil {
			t.Fatalf("still listed after its release: %+v", d)
		}
	}
	spec.Lease, spec.Start = 8, 4
	if err := other.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	b.console(t, spec.ID).run(t, "mount -t ext4 /dev/vda /mnt && [ $(cat /mnt/file) = kept ] && umount /mnt")
}

// TestFitDisk takes a disk over whose image this host keeps elsewhere.
func TestFitDisk(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	img := func(args ...string) []byte {
		t.Helper()
		out, err := qemuImg(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	bases := []string{filepath.Join(dir, "here.qcow2"), filepath.Join(dir, "there.qcow2")}
	for _, base := range bases {
		img("create", "-q", "-f", "qcow2", base, "64M")
	}
	disk := filepath.Join(dir, "disk.qcow2")
	for _, c := range []struct {
		base           string
		diskMiB, bytes int64
	}{
		{bases[0], 64, 64 << 20},
		{bases[1], 64, 64 << 20},
		{bases[1], 96, 96 << 20},
		{bases[0], 80, 96 << 20}, // a disk never shrinks
	} {
		err := makeDisk(ctx, disk, agent.Spec{Flavor: compute.Flavor{DiskMiB: c.diskMiB}, Image: agent.ImageFiles{Disk: c.base}})
		info := string(img("info", "--output=json", disk))
		if err != nil || !strings.Contains(info, fmt.Sprintf(`"backing-filename": %q`, c.base)) || !strings.Contains(info, fmt.Sprintf(`"virtual-size": %d`, c.bytes)) {
			t.Errorf("%+v: %v, %s", c, err, info)
		}
	}
}
