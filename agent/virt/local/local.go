package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// maxSocketPath is the longest path of a unix socket, with room to spare of
	// the kernel's 107; a longer folder is refused.
	maxSocketPath = 100
	// startTimeout bounds the start of libvirtd and of its network.
	startTimeout = 30 * time.Second
	// endTimeout is how long a process may take to end before it is killed.
	endTimeout = 5 * time.Second
	// watchEvery is how often Run looks whether libvirtd lives.
	watchEvery = 500 * time.Millisecond
	// maxBackOff is the longest pause of Run between two attempts to start it.
	maxBackOff = 30 * time.Second
)

// Config says where a libvirtd of our own lives.
type Config struct {
	// Dir holds libvirt's folders. It is absolute, short enough for a socket
	// beneath it, and belongs to one Libvirtd at a time: whoever calls Start
	// holds the lock of the data folder around it.
	Dir string
	// HostName is the host's name inside, from when the namespaces are made; the
	// machine's when empty. Guests migrate only between hosts of different names.
	HostName string
	Log      *slog.Logger
}

// Libvirtd is a libvirtd of our own.
type Libvirtd struct {
	dir, hostName string
	log           *slog.Logger
}

// Answers reports whether a libvirtd answers at a libvirt URI, such as
// qemu:///system, within ctx, and has the network that guests are to be on.
func Answers(ctx context.Context, uri string) bool {
	networks, err := activeNetworks(ctx, uri)
	return err == nil && slices.Contains(networks, networkName)
}

func activeNetworks(ctx context.Context, uri string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "virsh", "--quiet", "-c", uri, "net-list", "--name").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return strings.Fields(string(out)), nil
}

// Start goes on with the libvirtd of the folder when it is alive, else starts
// one, and waits until it answers and its network is up.
func Start(ctx context.Context, cfg Config) (*Libvirtd, error) {
	l := &Libvirtd{dir: cfg.Dir, hostName: cfg.HostName, log: cfg.Log}
	if !filepath.IsAbs(cfg.Dir) || len(l.socket()) > maxSocketPath {
		return nil, fmt.Errorf("libvirt folder %q: want an absolute path of at most %d bytes",
			cfg.Dir, maxSocketPath-len("/run/libvirt-sock"))
	}
	if err := l.writeFolders(); err != nil {
		return nil, fmt.Errorf("libvirt folder %s: %w", cfg.Dir, err)
	}
	if err := l.ensure(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// URI is where it can be reached from the machine's own namespaces.
func (l *Libvirtd) URI() string {
	return "qemu:///system?" + "socket=" + (&url.URL{Path: l.socket()}).EscapedPath()
}

func (l *Libvirtd) socket() string { return filepath.Join(l.dir, "run", "libvirt-sock") }

// Run starts it again whenever it dies, until ctx ends. Then it returns nil and
// leaves libvirtd and the guests running.
func (l *Libvirtd) Run(ctx context.Context) error {
	pause := watchEvery
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if len(l.members(isLibvirtd)) > 0 {
			pause = watchEvery
			continue
		}
		l.log.Warn("libvirtd is gone: starting it again", "dir", l.dir)
		if err := l.ensure(ctx); err != nil && ctx.Err() == nil {
			pause = min(2*pause, maxBackOff)
			l.log.Error("libvirtd does not start", "dir", l.dir, "retry_in", pause, "err", err)
		}
	}
}

// ensure makes the namespaces, libvirtd and its network exist.
func (l *Libvirtd) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	inside := l.members(isAny)
	if len(inside) == 0 {
		holder, err := l.hold(ctx)
		if err != nil {
			return fmt.Errorf("namespaces for libvirtd in %s: %w", l.dir, err)
		}
		inside = []int{holder}
	}
	if running := l.members(isLibvirtd); len(running) > 0 {
		l.log.Info("libvirtd of our own is already running", "pid", running[0], "uri", l.URI())
	} else {
		if err := l.launch(ctx, inside[0]); err != nil {
			return fmt.Errorf("start libvirtd in %s: %w", l.dir, err)
		}
		l.log.Info("libvirtd of our own started", "uri", l.URI())
		l.warmUp()
	}
	return l.awaitNetwork(ctx)
}

// awaitNetwork waits until libvirtd answers and says that the network is up: it
// starts it by itself, after it began to answer.
func (l *Libvirtd) awaitNetwork(ctx context.Context) error {
	for {
		networks, err := activeNetworks(ctx, l.URI())
		if slices.Contains(networks, networkName) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("libvirtd in %s: its network %s does not come up (see %s): %w",
				l.dir, networkName, filepath.Join(l.dir, "log", "libvirtd.log"), errors.Join(err, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// warmUp has libvirtd find out what QEMU can do, which takes some seconds once
// and is kept then, so that the first guest need not wait for it.
func (l *Libvirtd) warmUp() {
	cmd := exec.Command("virsh", "--quiet", "-c", l.URI(), "domcapabilities", "--virttype", "qemu")
	if cmd.Start() == nil {
		go cmd.Wait()
	}
}

// StopGuests pulls the plug of every guest and waits until they are gone. It
// asks libvirtd first, so that libvirtd knows why they ended.
func (l *Libvirtd) StopGuests(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "virsh", "--quiet", "-c", l.URI(), "list", "--name").Output()
	if err == nil {
		for name := range strings.FieldsSeq(string(out)) {
			exec.CommandContext(ctx, "virsh", "--quiet", "-c", l.URI(), "destroy", name).Run() // what it leaves is ended below
		}
	}
	if err := l.end(ctx, isGuest, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the guests of %s: %w", l.dir, err)
	}
	return nil
}

// ErrGuests means that guests still run.
var ErrGuests = errors.New("guests still run")

// Stop ends libvirtd, its network and its namespaces. It refuses with ErrGuests
// while a guest runs. Repeating it is harmless.
func (l *Libvirtd) Stop(ctx context.Context) error {
	if guests := l.members(isGuest); len(guests) > 0 {
		return fmt.Errorf("stop libvirtd in %s: %w: QEMU %v", l.dir, ErrGuests, guests)
	}
	if err := l.end(ctx, isLibvirtd, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop libvirtd in %s: %w", l.dir, err)
	}
	if err := l.end(ctx, isAny, syscall.SIGKILL); err != nil {
		return fmt.Errorf("end the namespaces of %s: %w", l.dir, err)
	}
	return os.RemoveAll(filepath.Join(l.dir, "run"))
}

// Purge ends all that a libvirtd of ours left running in the folder: guests,
// libvirtd, its network and its namespaces. It starts nothing.
func Purge(ctx context.Context, cfg Config) error {
	l := &Libvirtd{dir: cfg.Dir, log: cfg.Log}
	if err := l.StopGuests(ctx); err != nil {
		return err
	}
	return l.Stop(ctx)
}
