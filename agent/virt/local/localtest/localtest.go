// Package localtest gives a test binary a libvirtd of its own, shared by its tests.
//
// It owns a folder under /tmp and what runs in it. It never leaves anything
// behind: a second process of the same binary waits for the end of the first,
// however that comes about, and then ends guests, libvirtd and namespaces.
//
// Invariant: a machine without libvirt or the test guest fails the test; it does
// not skip it, except under -short.
package localtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/virt/local"
)

// reaperVariable, in the environment, makes this binary the reaper of the folder it names.
const reaperVariable = "USANCE_TEST_LIBVIRT_REAPER"

// hostPrefix begins the name of each libvirtd's folder.
const hostPrefix = "libvirt"

// purgeTimeout bounds the reaper's work.
const purgeTimeout = 30 * time.Second

func init() {
	dir := os.Getenv(reaperVariable)
	if dir == "" {
		return
	}
	io.Copy(io.Discard, os.NewFile(3, "the test's life")) // until the test is gone
	ctx, cancel := context.WithTimeout(context.Background(), purgeTimeout)
	defer cancel()
	hosts, err := filepath.Glob(filepath.Join(dir, hostPrefix+"*"))
	for _, host := range hosts {
		err = errors.Join(err, local.Purge(ctx, local.Config{Dir: host, Log: slog.New(slog.DiscardHandler)}))
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		os.Stderr.WriteString("leftovers in " + dir + ": " + err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

var shared struct {
	sync.Mutex
	dir      string
	libvirtd *local.Libvirtd
	life     *os.File // closed: the reaper begins
	reaper   *exec.Cmd
	stderr   bytes.Buffer
}

// Main runs the tests and then waits until all that Start started is gone. It is
// to be called as os.Exit(localtest.Main(m)).
func Main(m *testing.M) int {
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.reaper == nil {
		return code
	}
	shared.life.Close()
	if err := shared.reaper.Wait(); err != nil {
		os.Stderr.WriteString("end of the tests' libvirtd: " + err.Error() + "\n" + shared.stderr.String())
		return max(code, 1)
	}
	return code
}

// Start is the libvirtd of this test binary, started at the first call, and a folder
// for the data of agents beside it.
func Start(t testing.TB) (l *local.Libvirtd, dir string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs libvirt and QEMU")
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.libvirtd == nil {
		shared.libvirtd = start(t, hostPrefix, "")
	}
	return shared.libvirtd, shared.dir
}

// Host starts another libvirtd, as a host of that name (short, unique in the
// binary): for a test that kills it or needs two. It ends with the binary.
func Host(t testing.TB, name string) (l *local.Libvirtd, dir string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs libvirt and QEMU")
	}
	shared.Lock()
	defer shared.Unlock()
	return start(t, hostPrefix+"-"+name, name), shared.dir
}

func start(t testing.TB, folder, name string) *local.Libvirtd {
	t.Helper()
	if shared.reaper == nil {
		if err := startReaper(); err != nil {
			t.Fatalf("reaper of the tests' libvirtd: %v", err)
		}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	l, err := local.Start(t.Context(), local.Config{Dir: filepath.Join(shared.dir, folder), HostName: name, Log: log})
	if err != nil {
		t.Fatalf("libvirtd for the tests (deploy/deps.sh installs it): %v", err)
	}
	return l
}

func startReaper() error {
	dir, err := os.MkdirTemp("/tmp", "usance-virt-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), reaperVariable+"="+dir)
	cmd.ExtraFiles = []*os.File{read}
	cmd.Stderr = &shared.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what ends the tests must not end it
	if err := cmd.Start(); err != nil {
		return err
	}
	shared.dir, shared.life, shared.reaper = dir, write, cmd
	return nil
}

// TinyFolder is where deploy/deps.sh puts the test guest.
const TinyFolder = "/usr/local/lib/usance/images/tiny"

// Tiny is the test guest, with words added to its kernel's command line.
func Tiny(t testing.TB, words string) agent.ImageFiles {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(TinyFolder, "image.json"))
	if err != nil {
		t.Fatalf("the test guest (deploy/deps.sh builds it): %v", err)
	}
	var image struct {
		CommandLine string `json:"command_line"`
	}
	if err := json.Unmarshal(text, &image); err != nil {
		t.Fatalf("%s/image.json: %v", TinyFolder, err)
	}
	return agent.ImageFiles{
		Kernel:      filepath.Join(TinyFolder, "kernel"),
		Initrd:      filepath.Join(TinyFolder, "initrd"),
		CommandLine: image.CommandLine + " " + words,
	}
}
