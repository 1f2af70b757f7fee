package virt

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/virt/local"
	"github.com/usance/usance/agent/virt/local/localtest"
	"github.com/usance/usance/metering"
)

// killLibvirtd kills libvirtd as a crash would.
func killLibvirtd(t *testing.T, b *bench) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.runDir, "libvirtd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of libvirtd", 5*time.Second, func() bool { _, err := startOf(pid); return err != nil })
}

// restartLibvirtd goes on with what libvirtd left.
func restartLibvirtd(t *testing.T, b *bench) {
	t.Helper()
	if _, err := local.Start(t.Context(), local.Config{Dir: filepath.Dir(b.runDir), Log: b.cfg.Log}); err != nil {
		t.Fatal(err)
	}
}

// TestHungQEMU shows that a QEMU that does not answer delays only its own readings.
func TestHungQEMU(t *testing.T) {
	t.Parallel()
	libvirtd, dir := localtest.Host(t, "hanging")
	b := benchOn(t, libvirtd, dir)
	hung, well := b.spec(t), b.spec(t)
	b.start(t, hung)
	b.start(t, well)
	pid := b.mustSample(t, hung.ID).PID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	for round, limit := range []time.Duration{bulkAttempts * bulkTimeout, bulkTimeout, bulkTimeout} {
		began := time.Now()
		samples, err := b.Sample(t.Context())
		if took := time.Since(began); took > limit {
			t.Errorf("round %d took %s, want at most %s", round, took, limit)
		}
		if err == nil || !strings.Contains(err.Error(), string(hung.ID)) || strings.Contains(err.Error(), string(well.ID)) {
			t.Errorf("round %d: got error %v, want one that names %s alone", round, err, hung.ID)
		}
		if len(samples) != 1 || samples[0].ID != well.ID {
			t.Errorf("round %d: got %+v, want the sample of %s", round, samples, well.ID)
		}
	}
	if d := b.mustDomain(t, hung.ID); d.PID != pid {
		t.Errorf("listed with process %d, want %d", d.PID, pid)
	}
	syscall.Kill(pid, syscall.SIGCONT)
	await(t, "the hung domain's sample", 10*time.Second, func() bool { return b.sample(t, hung.ID) != nil })
}

// TestStopHungQEMU shows that a hung QEMU can be ended.
func TestStopHungQEMU(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec(t)
	b.start(t, spec)
	if err := syscall.Kill(b.mustDomain(t, spec.ID).PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := b.Stop(t.Context(), spec.ID, time.Second); err != nil {
		t.Fatal(err)
	}
	if e := b.awaitEvent(t, spec.ID, agent.EventStopped); e.Off != agent.OffOrdered {
		t.Errorf("got reason %q, want ordered", e.Off)
	}
}

// TestStartFails shows that a start that fails leaves nothing behind.
func TestStartFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, spoil := range map[string]func(*agent.Spec){
		"no such kernel":  func(s *agent.Spec) { s.Image.Kernel = "/nonexistent/kernel" },
		"no such base":    func(s *agent.Spec) { s.Image = agent.ImageFiles{Disk: "/nonexistent/disk.qcow2"} },
		"too much memory": func(s *agent.Spec) { s.Flavor.MemoryMiB = 1 << 40 },
	} {
		t.Run(name, func(t *testing.T) {
			spec := b.spec(t)
			spoil(&spec)
			if err := b.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), string(spec.ID)) {
				t.Fatalf("got %v, want an error that names %s", err, spec.ID)
			}
			if d := b.domain(t, spec.ID); d != nil {
				t.Errorf("still listed: %+v", d)
			}
			if _, err := os.Stat(b.folder(spec.ID)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its folder: %v, want it gone", err)
			}
		})
	}
}

// TestCheck refuses what cannot be made or would escape its place.
func TestCheck(t *testing.T) {
	good := agent.Spec{
		ID: "ins_0123456789abcdef0", Name: "web-1", MAC: "52:54:00:00:00:01",
		Image: agent.ImageFiles{Kernel: "/k"}, SSHKeys: []string{"ssh-ed25519 AAAA me@here"},
	}
	good.Flavor.VCPUs, good.Flavor.MemoryMiB, good.Flavor.DiskMiB = 1, 128, 256
	if err := check(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*agent.Spec){
		"id that leaves the folder": func(s *agent.Spec) { s.ID = "ins_../../../etc/pass" },
		"no vCPU":                   func(s *agent.Spec) { s.Flavor.VCPUs = 0 },
		"group MAC":                 func(s *agent.Spec) { s.MAC = "53:54:00:00:00:01" },
		"host name with a newline":  func(s *agent.Spec) { s.Name = "web\nroot" },
		"key with a newline":        func(s *agent.Spec) { s.SSHKeys = []string{"a\nb"} },
		"key with a quote":          func(s *agent.Spec) { s.SSHKeys = []string{`a"b`} },
		"nothing to boot":           func(s *agent.Spec) { s.Image = agent.ImageFiles{} },
		"two things to boot":        func(s *agent.Spec) { s.Image.Disk = "/d" },
	} {
		spec := good
		spoil(&spec)
		if check(spec) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestStranger leaves a domain alone that is not ours, even under a name like ours.
func TestStranger(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := metering.InstanceID(metering.NewID(metering.PrefixInstance))
	xml := `<domain type='qemu'><name>` + string(id) + `</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>`
	err := act(t.Context(), b.cfg.URI, func(c *libvirt.Connect) error {
		dom, err := c.DomainDefineXML(xml)
		if err != nil {
			return err
		}
		defer dom.Free()
		return dom.Create()
	})
	if err != nil {
		t.Fatal(err)
	}
	virsh := func(args ...string) (string, error) {
		out, err := exec.Command("virsh", append([]string{"--quiet", "-c", b.libvirtd.URI()}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	defer func() { virsh("destroy", string(id)); virsh("undefine", string(id)) }()

	if d := b.domain(t, id); d != nil {
		t.Errorf("listed: %+v", d)
	}
	if s := b.sample(t, id); s != nil {
		t.Errorf("sampled: %+v", s)
	}
	spec := b.spec(t)
	spec.ID = id
	if err := b.Start(t.Context(), spec); err == nil {
		t.Error("started over it")
	}
	if err := errors.Join(b.Stop(t.Context(), id, 0), b.Delete(t.Context(), id)); err != nil {
		t.Error(err)
	}
	if state, err := virsh("domstate", string(id)); err != nil || state != "running" {
		t.Errorf("it is %q (%v), want running", state, err)
	}
}
