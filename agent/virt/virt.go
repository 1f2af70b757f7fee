package virt

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/metering"
)

// The hypervisors that libvirt can run a domain under.
const (
	VirtKVM  = "kvm"  // with the processor's help
	VirtQEMU = "qemu" // emulated (TCG): everywhere, about ten times slower
)

// Config says which libvirt to use, and how.
type Config struct {
	URI      string // libvirt's, such as qemu:///system or qemu:///system?socket=PATH
	DataDir  string // holds instances/; absolute, and readable by QEMU's user
	VirtType string // VirtKVM or VirtQEMU (see ChooseVirtType)
	Network  string // libvirt's name of the public network; "default" when empty
	// PrivateNetworks are names of networks of libvirt's, bridges and devices of the
	// host: what guests have on them is private traffic. So is, without being
	// named, what they have on an isolated network.
	PrivateNetworks []string
	VNC             bool // give each domain a VNC screen on the host's loopback
	Log             *slog.Logger
}

// Hypervisor is libvirt as the agent sees it. Its methods may be called from
// several goroutines. It connects when first used, and again after libvirtd went
// away.
type Hypervisor struct {
	cfg    Config
	runDir string // where libvirt keeps its sockets and QEMU's pid files

	main  *connection // for looks that no QEMU can hold up
	stats *connection // for bulk statistics

	mu        sync.Mutex
	runs      map[metering.InstanceID]run         // what is known of running domains
	forgotten int                                 // how often a run was forgotten
	turns     map[metering.InstanceID]*sync.Mutex // one change of a domain at a time
}

var _ agent.Hypervisor = (*Hypervisor)(nil)

// New checks the configuration. It does not connect yet.
func New(cfg Config) (*Hypervisor, error) {
	if cfg.VirtType != VirtKVM && cfg.VirtType != VirtQEMU {
		return nil, fmt.Errorf("virt type %q: want %q or %q", cfg.VirtType, VirtKVM, VirtQEMU)
	}
	if !filepath.IsAbs(cfg.DataDir) {
		return nil, fmt.Errorf("data folder %q of the hypervisor: not an absolute path", cfg.DataDir)
	}
	if cfg.Log == nil {
		return nil, errors.New("hypervisor: no logger")
	}
	if cfg.Network == "" {
		cfg.Network = "default"
	}
	if err := checkPrivate(cfg.PrivateNetworks, cfg.Network); err != nil {
		return nil, err
	}
	uri, err := url.Parse(cfg.URI)
	if err != nil || !strings.HasPrefix(uri.Scheme, "qemu") {
		return nil, fmt.Errorf("libvirt URI %q: want qemu:///system, with ?socket=PATH where it is not the usual one", cfg.URI)
	}
	runDir := "/run/libvirt"
	if socket := uri.Query().Get("socket"); socket != "" {
		runDir = filepath.Dir(socket)
	}
	startEventLoop()
	return &Hypervisor{
		cfg:    cfg,
		runDir: runDir,
		main:   &connection{uri: cfg.URI},
		stats:  &connection{uri: cfg.URI},
		runs:   map[metering.InstanceID]run{},
		turns:  map[metering.InstanceID]*sync.Mutex{},
	}, nil
}

// Close ends the connections. Domains keep running.
func (h *Hypervisor) Close() error {
	return errors.Join(h.main.close(), h.stats.close())
}

// turn waits until nobody else changes the instance's domain; the caller calls
// the function it returns when done.
func (h *Hypervisor) turn(id metering.InstanceID) (done func()) {
	h.mu.Lock()
	turn := h.turns[id]
	if turn == nil {
		turn = new(sync.Mutex)
		h.turns[id] = turn
	}
	h.mu.Unlock()
	turn.Lock()
	return turn.Unlock
}

// folder is where an instance's files are.
func (h *Hypervisor) folder(id metering.InstanceID) string {
	return filepath.Join(h.cfg.DataDir, "instances", string(id))
}

var eventLoop sync.Once

// startEventLoop starts libvirt's event loop: one for the process, for its whole
// life, before the first connection, as libvirt wants it.
func startEventLoop() {
	eventLoop.Do(func() {
		if err := libvirt.EventRegisterDefaultImpl(); err != nil {
			panic(fmt.Sprintf("libvirt's event loop: %v", err)) // only when registered twice
		}
		go func() {
			for {
				libvirt.EventRunDefaultImpl() // an error concerns one turn of the loop
			}
		}()
	})
}
