package virt

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/virt/local"
	"github.com/usance/usance/agent/virt/local/localtest"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

func TestMain(m *testing.M) {
	if settings := os.Getenv(agentVariable); settings != "" {
		fmt.Fprintln(os.Stderr, "agent:", runAgent(settings))
		os.Exit(1)
	}
	os.Exit(localtest.Main(m))
}

// bench is a hypervisor on the tests' libvirtd, watched.
type bench struct {
	*Hypervisor
	libvirtd *local.Libvirtd

	mu     sync.Mutex
	events []agent.Event
}

func newBench(t *testing.T) *bench {
	t.Helper()
	libvirtd, dir := localtest.Start(t)
	return benchOn(t, libvirtd, dir)
}

func benchOn(t *testing.T, libvirtd *local.Libvirtd, dir string) *bench {
	t.Helper()
	h, err := New(Config{
		URI: libvirtd.URI(), DataDir: filepath.Join(dir, "agent"), VirtType: VirtQEMU,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	b := &bench{Hypervisor: h, libvirtd: libvirtd}
	b.watch(t)
	return b
}

// watch collects events until the test ends or the connection breaks; then the
// channel it returns gives why.
func (b *bench) watch(t *testing.T) (ended chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	live := make(chan struct{})
	go func() {
		defer close(done)
		ended <- b.Watch(ctx, func() { close(live) }, func(e agent.Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		})
	}()
	select {
	case <-live:
	case err := <-ended:
		t.Fatalf("watch: %v", err)
	}
	return ended
}

// spec is a small guest of its own for the test; what is left of it at the
// test's end is removed.
func (b *bench) spec(t *testing.T) agent.Spec {
	t.Helper()
	id := metering.InstanceID(metering.NewID(metering.PrefixInstance))
	b.removeAtEnd(t, id)
	return agent.Spec{
		ID: id, Lease: 7, Start: 3, Name: "web-1",
		Flavor:  compute.Flavor{Name: "small", VCPUs: 1, MemoryMiB: 160, DiskMiB: 256},
		Image:   localtest.Tiny(t, "usance.load=off"),
		MAC:     fmt.Sprintf("52:54:00:%s:%s:%s", id[4:6], id[6:8], id[8:10]),
		SSHKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample tenant@example"},
	}
}

// removeAtEnd removes what the test leaves of the instance.
func (b *bench) removeAtEnd(t *testing.T, id metering.InstanceID) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := b.Stop(ctx, id, 0); err != nil {
			t.Error(err)
		}
		if err := b.Delete(ctx, id); err != nil {
			t.Error(err)
		}
	})
}

func (b *bench) start(t *testing.T, spec agent.Spec) {
	t.Helper()
	if err := b.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
}

// await waits until what becomes true.
func await(t *testing.T, what string, within time.Duration, f func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, within)
		}
	}
}

// awaitEvent waits for an event of the domain and forgets it and all before.
func (b *bench) awaitEvent(t *testing.T, id metering.InstanceID, kind agent.EventKind) (found agent.Event) {
	t.Helper()
	await(t, fmt.Sprintf("event %s of %s", kind, id), 30*time.Second, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, e := range b.events {
			if e.ID == id && e.Kind == kind {
				found, b.events = e, b.events[i+1:]
				return true
			}
		}
		return false
	})
	return found
}

// sample is the domain's sample; nil where it has none.
func (b *bench) sample(t *testing.T, id metering.InstanceID) *agent.Sample {
	t.Helper()
	all, err := b.Sample(t.Context())
	if err != nil {
		t.Logf("sample: %v", err)
	}
	for i := range all {
		if all[i].ID == id {
			return &all[i]
		}
	}
	return nil
}

func (b *bench) mustSample(t *testing.T, id metering.InstanceID) agent.Sample {
	t.Helper()
	s := b.sample(t, id)
	if s == nil {
		t.Fatalf("no sample of %s", id)
	}
	return *s
}

// domain is the domain as listed; nil where it is not.
func (b *bench) domain(t *testing.T, id metering.InstanceID) *agent.Domain {
	t.Helper()
	all, err := b.Domains(t.Context())
	if err != nil {
		t.Logf("list: %v", err) // of another test, whose QEMU just ends
	}
	for i := range all {
		if all[i].ID == id {
			return &all[i]
		}
	}
	return nil
}

func (b *bench) mustDomain(t *testing.T, id metering.InstanceID) agent.Domain {
	t.Helper()
	d := b.domain(t, id)
	if d == nil {
		t.Fatalf("%s is not listed", id)
	}
	return *d
}

// do runs f on the instance's domain.
func (b *bench) do(t *testing.T, id metering.InstanceID, f func(*libvirt.Domain) error) {
	t.Helper()
	if err := act(t.Context(), b.cfg.URI, func(c *libvirt.Connect) error { return withDomain(c, id, f) }); err != nil {
		t.Fatal(err)
	}
}

// console is the guest's serial console.
type console struct {
	*os.File
	mu   sync.Mutex
	seen bytes.Buffer
}

// console opens the guest's serial console and waits for its shell.
func (b *bench) console(t *testing.T, id metering.InstanceID) *console {
	t.Helper()
	var d libvirtxml.Domain
	b.do(t, id, func(dom *libvirt.Domain) error {
		text, err := dom.GetXMLDesc(0)
		if err != nil {
			return err
		}
		return d.Unmarshal(text)
	})
	fd, err := syscall.Open(d.Devices.Serials[0].Source.Pty.Path, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &console{File: os.NewFile(uintptr(fd), "console")} // by the poller, so that Close ends a Read
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			c.mu.Lock()
			c.seen.Write(buf[:n])
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	c.Write([]byte("\n")) // a shell that waits says so once more
	c.await(t, "/ # ")
	return c
}

func (c *console) await(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(50 * time.Millisecond) { // a boot on a busy machine
		c.mu.Lock()
		seen := c.seen.String()
		c.mu.Unlock()
		if strings.Contains(seen, text) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("console: no %q in %q", text, seen)
		}
	}
}

// forget begins anew with what was seen.
func (c *console) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen.Reset()
}

// run runs a command in the guest and returns when it ended well.
func (c *console) run(t *testing.T, command string) {
	t.Helper()
	c.forget()
	fmt.Fprintf(c, "%s && echo it-ended-we''ll\n", command) // so that the echo of the line is not it
	c.await(t, "it-ended-well")
}

func TestNew(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]struct {
		cfg  Config
		want string // in the error; "": none
	}{
		"all well":        {Config{URI: "qemu:///system", DataDir: "/d", VirtType: VirtKVM, Log: log}, ""},
		"unsettled type":  {Config{URI: "qemu:///system", DataDir: "/d", VirtType: "auto", Log: log}, `"auto"`},
		"relative folder": {Config{URI: "qemu:///system", DataDir: "d", VirtType: VirtKVM, Log: log}, `"d"`},
		"other driver":    {Config{URI: "lxc:///", DataDir: "/d", VirtType: VirtKVM, Log: log}, `"lxc:///"`},
		"no logger":       {Config{URI: "qemu:///system", DataDir: "/d", VirtType: VirtKVM}, "logger"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(c.cfg)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}
