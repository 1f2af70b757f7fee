package virt

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usance/usance/agent/virt/local/localtest"
	"github.com/usance/usance/metering"
)

// inside runs a command in the host's network namespace.
func (b *bench) inside(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"--target", b.libvirtdPID(t), "--net", "--wd=/", "--"}, args...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		t.Fatalf("nsenter %v: %v: %s", args, err, out)
	}
}

func (b *bench) libvirtdPID(t *testing.T) string {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(b.runDir, "libvirtd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(pid))
}

// TestMeteredMigration migrates a running guest from one host to another and back,
// both metered by whole agents, and compares the sum over its epochs with what the
// guest did.
func TestMeteredMigration(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	var hosts [2]*metered
	for i, name := range []string{"left", "right"} {
		libvirtd, dir := localtest.Host(t, name)
		b := benchOn(t, libvirtd, dir)
		hosts[i] = newMetered(t, p, b, name)
	}
	left, right := hosts[0], hosts[1]
	left.inside(t, "ip", "link", "add", "peer", "type", "veth", "peer", "name", "peer", "netns", right.libvirtdPID(t))
	left.inside(t, "ip", "addr", "add", "10.77.0.1/24", "dev", "peer")
	right.inside(t, "ip", "addr", "add", "10.77.0.2/24", "dev", "peer")
	left.inside(t, "ip", "link", "set", "peer", "up")
	right.inside(t, "ip", "link", "set", "peer", "up")
	spec := left.spec(t)
	id := spec.ID
	right.removeAtEnd(t, id)
	began := time.Now()
	left.start(t, spec)
	write := func(on *metered, kib string) {
		con := on.console(t, id)
		con.run(t, "dd if=/dev/zero of=/dev/vda bs=1k count="+kib+" oflag=direct 2>&-")
		con.Close()
	}
	write(left, "512")
	before := left.now(t, id, 1)

	// So slowly that the other host can be looked at meanwhile.
	slow := left.migrate(t, id, right, "10.77.0.2", "8")
	await(t, "a domain on the other host", 20*time.Second, func() bool { return right.domain(t, id) != nil })
	for range 2 {
		right.read(t)
		if s := right.sample(t, id); s != nil && left.sample(t, id) != nil {
			t.Errorf("sampled on both hosts: %+v", *s)
		}
	}
	select {
	case <-slow:
		t.Error("the migration ended before it could be looked at")
	default:
	}
	if all := p.epochsOf(id); len(all) != 1 {
		t.Errorf("%d epochs while the guest still runs on the first host, want 1", len(all))
	}
	left.virsh(t, "migrate-setspeed", string(id), "1000")
	if err := <-slow; err != nil {
		t.Fatal(err)
	}
	await(t, "the end of the first epoch", 10*time.Second, func() bool { return left.domain(t, id) == nil })
	left.read(t)
	write(right, "1024")
	second, counted := right.standstill(t, id, 2, metering.Registers{})
	first := p.epochsOf(id)[0]
	if first.ID != before.ID || second.host == first.host || second.Lease != 7 || second.Start != 3 || !second.Opening.IsZero() {
		t.Errorf("epochs %+v and %+v, want another one of lease 7, start 3 on the other host that opens at 0", first.Epoch, second.Epoch)
	}
	if got := counted[metering.DiskWriteBytes]; got != 1024<<10 {
		t.Errorf("the guest wrote %d bytes after it moved, want %d", got, 1024<<10)
	}

	right.virsh(t, "resume", string(id))
	right.read(t)
	if err := <-right.migrate(t, id, left, "10.77.0.1", "1000"); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of the second epoch", 10*time.Second, func() bool { return right.domain(t, id) == nil })
	right.read(t)
	write(left, "256")
	third, _ := left.standstill(t, id, 3, metering.Registers{})
	elapsed := time.Since(began)

	var sum metering.Registers
	for i, e := range p.epochsOf(id) {
		e.onTheClock(t)
		e.show(t, []string{"first", "second", "third"}[i])
		sum = sum.Add(e.last.Registers)
	}
	if got, want := sum[metering.DiskWriteBytes], uint64((512+1024+256)<<10); got != want {
		t.Errorf("%d bytes written over all epochs, want %d", got, want)
	}
	if lived := time.Duration(sum[metering.RunningMS]+sum[metering.PausedMS]) * time.Millisecond; lived > elapsed {
		t.Errorf("%s running and paused over all epochs, in %s", lived, elapsed)
	}
	if first, second := p.epochsOf(id)[0], p.epochsOf(id)[1]; second.Opened.Before(first.last.At) || third.Opened.Before(second.last.At) {
		t.Errorf("epochs overlap: to %s, from %s to %s, from %s", first.last.At, second.Opened, second.last.At, third.Opened)
	}
}

// migrate begins to move the guest to the other host, at most at that many MiB
// per second.
func (m *metered) migrate(t *testing.T, id metering.InstanceID, to *metered, address, speed string) (ended chan error) {
	t.Helper()
	ended = make(chan error, 1)
	cmd := exec.CommandContext(t.Context(), "virsh", "--quiet", "-c", m.cfg.URI, "migrate", "--live", "--unsafe", "--persistent", "--undefinesource",
		"--bandwidth", speed, "--migrateuri", "tcp://"+address, string(id), to.cfg.URI)
	cmd.Stderr = t.Output()
	go func() { ended <- cmd.Run() }()
	return ended
}
