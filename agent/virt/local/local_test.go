package local_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usance/usance/agent/virt/local"
	"github.com/usance/usance/agent/virt/local/localtest"
)

func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }

func config(t *testing.T, dir string) local.Config {
	return local.Config{Dir: filepath.Join(dir, "libvirt"), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// pidOf is libvirtd's pid; 0 when it is not alive.
func pidOf(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "libvirt", "run", "libvirtd.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline"); err != nil || len(line) == 0 {
		return 0
	}
	return pid
}

func virsh(t *testing.T, l *local.Libvirtd, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"--quiet", "-c", l.URI()}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestLife starts a libvirtd, goes on with it, kills it under a guest, and ends it.
func TestLife(t *testing.T) {
	l, dir := localtest.Start(t)
	first := pidOf(t, dir)
	if first == 0 || !local.Answers(t.Context(), l.URI()) {
		t.Fatalf("libvirtd (process %d) does not answer at %s", first, l.URI())
	}
	if _, err := net.InterfaceByName("virbr0"); err == nil {
		t.Error("its bridge is among the machine's own interfaces")
	}
	guest := filepath.Join(dir, "guest.xml")
	if err := os.WriteFile(guest, []byte(`<domain type='qemu'><name>g</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>`), 0o644); err != nil {
		t.Fatal(err)
	}
	virsh(t, l, "create", guest)

	again, err := local.Start(t.Context(), config(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if pid := pidOf(t, dir); pid != first {
		t.Errorf("started again as process %d, want %d to go on", pid, first)
	}
	if err := again.Stop(t.Context()); !errors.Is(err, local.ErrGuests) {
		t.Errorf("stop under a guest: got %v, want ErrGuests", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if pid := pidOf(t, dir); pid != 0 && pid != first && local.Answers(t.Context(), l.URI()) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("libvirtd was not started again within 20 s")
		}
	}
	cancel()
	if err := <-ran; err != nil {
		t.Errorf("Run: %v", err)
	}
	if state := virsh(t, l, "domstate", "g"); state != "running" {
		t.Errorf("the guest is %q after libvirtd's death, want running", state)
	}

	if err := l.StopGuests(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if pid := pidOf(t, dir); pid != 0 {
		t.Errorf("libvirtd is still there as process %d", pid)
	}
	if local.Answers(t.Context(), l.URI()) {
		t.Error("libvirtd still answers")
	}
	if left := within(t, dir); len(left) > 0 {
		t.Errorf("processes left in its namespaces: %v", left)
	}
}

// within are the processes that have something of dir mounted, but our own namespace's.
func within(t *testing.T, dir string) (found []string) {
	t.Helper()
	mounts, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range mounts {
		text, _ := os.ReadFile(path)
		if strings.Contains(string(text), filepath.Join(dir, "libvirt", "run")) {
			found = append(found, path)
		}
	}
	return found
}

func TestStartRefusesFolder(t *testing.T) {
	for name, dir := range map[string]string{
		"relative":              "libvirt",
		"too long for a socket": "/tmp/" + strings.Repeat("x", 90),
	} {
		if _, err := local.Start(t.Context(), local.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: got %v, want an error that names %s", name, err, dir)
		}
	}
}

// dyingVariable, in the environment, makes TestDies the test that dies.
const dyingVariable = "USANCE_TEST_DIES"

// TestDies is killed by TestNothingIsLeftBehind once it has a libvirtd.
func TestDies(t *testing.T) {
	if os.Getenv(dyingVariable) == "" {
		t.Skip("only as a child of TestNothingIsLeftBehind")
	}
	_, dir := localtest.Start(t)
	os.Stdout.WriteString("folder " + dir + "\n")
	time.Sleep(time.Minute)
}

func TestNothingIsLeftBehind(t *testing.T) {
	if testing.Short() {
		t.Skip("needs libvirt and QEMU")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestDies$")
	cmd.Env = append(os.Environ(), dyingVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var text string
	for buf := make([]byte, 256); !strings.Contains(text, "\n"); {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("the dying test ended early: %v: %s", err, text)
		}
		text += string(buf[:n])
	}
	dir := strings.TrimSpace(strings.TrimPrefix(text, "folder "))
	if len(within(t, dir)) == 0 {
		t.Fatalf("no process in the namespaces of %s: the test shows nothing", dir)
	}
	cmd.Process.Kill()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := os.Stat(dir)
		left := within(t, dir)
		if os.IsNotExist(err) && len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left after 20 s: folder %s (%v), processes %v", dir, err, left)
		}
	}
}
