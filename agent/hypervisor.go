package agent

import (
	"context"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// Hypervisor is what the agent needs of a host's hypervisor. It has two
// implementations: agent/virt (libvirt) and agent/agenttest (a fake whose true
// counters are known). Methods may be called from several goroutines. A domain
// that does not carry an instance id of ours is never listed and never touched.
type Hypervisor interface {
	// Sample reads the counters of all active domains by bulk calls. A domain
	// that could not be read is left out and named in the error, beside the samples of
	// the others. So is one that migrates in, until it runs here.
	Sample(ctx context.Context) ([]Sample, error)
	// Domains lists all defined domains, active or not. One that could not be
	// looked at is left out and named in the error, beside the others.
	Domains(ctx context.Context) ([]Domain, error)
	// Start makes the domain exist as specified and run. It returns when the
	// domain runs. Repeating it is harmless.
	Start(ctx context.Context, spec Spec) error
	// Stop ends the domain: asks the guest, and pulls the plug after grace. It
	// returns when the domain is off. Repeating it is harmless.
	Stop(ctx context.Context, id metering.InstanceID, grace time.Duration) error
	// Resize gives the running domain the vCPUs and the disk of the flavor, as far as
	// they grow, and then the lease. It returns when all is done; after an error the
	// domain runs on under its old lease, and part of it may be done. Repeating it is
	// harmless. A domain that does not run is an error.
	Resize(ctx context.Context, spec Spec) error
	// Release forgets the (stopped) domain and keeps its disks, for a host that
	// shares them. Repeating it is harmless.
	Release(ctx context.Context, id metering.InstanceID) error
	// Delete removes the (stopped) domain and its disks. Repeating it is harmless.
	Delete(ctx context.Context, id metering.InstanceID) error
	// Watch calls live once no change will be missed any more, and then f for
	// every change of a domain until ctx ends or the connection breaks; then it
	// returns why. Events may be lost between two watches: the caller samples and
	// lists after each live.
	Watch(ctx context.Context, live func(), f func(Event)) error
}

// Spec is a domain as it should be made.
type Spec struct {
	ID       metering.InstanceID
	Lease    metering.LeaseNo
	Start    metering.StartNo
	Name     string // host name of the guest
	Flavor   compute.Flavor
	Image    ImageFiles
	MAC      string
	UserData string
	SSHKeys  []string
}

// ImageFiles are the local files of a fetched image.
type ImageFiles struct {
	Kernel, Initrd string // paths; empty without direct boot
	CommandLine    string
	Disk           string // path of the qcow2 base; empty: an empty disk of the flavor's size
}

// Domain is a defined domain of ours.
type Domain struct {
	ID     metering.InstanceID
	Lease  metering.LeaseNo // as stored in the domain's metadata at its last start or resize
	Start  metering.StartNo
	State  compute.State // running, paused, stopped or failed (crashed)
	Reason OffReason     // why it is off
	PID    int           // of QEMU; 0 when off
	// PIDStart is QEMU's start time in clock ticks after boot (/proc/PID/stat,
	// field 22); with PID it tells processes apart.
	PIDStart uint64
	Address  string // IPv4 of the guest, when known
}

// OffReason is why a domain is off.
type OffReason string

// Why a domain can be off.
const (
	OffUnknown  OffReason = ""
	OffOrdered  OffReason = "ordered"  // Stop of ours
	OffGuest    OffReason = "guest"    // the guest powered itself off
	OffCrashed  OffReason = "crashed"  // QEMU died or was killed
	OffMigrated OffReason = "migrated" // it runs elsewhere
	OffSaved    OffReason = "saved"    // suspended to disk
)

// Event is a change of a domain.
type Event struct {
	ID   metering.InstanceID
	Kind EventKind
	At   time.Time // host's clock, as near to the change as can be had
	Off  OffReason // with EventStopped
}

// EventKind is what changed.
type EventKind string

// What can change.
const (
	EventStarted EventKind = "started"
	EventPaused  EventKind = "paused"
	EventResumed EventKind = "resumed"
	// EventLeaving: it stands still here to go on elsewhere. It is stopped when it
	// does, and paused or resumed when it stays after all.
	EventLeaving EventKind = "leaving"
	EventStopped EventKind = "stopped"
)

// Sample is what the hypervisor counted for one active domain. Nil means "could
// not be read", never 0; a device that is not named is not there (any more).
type Sample struct {
	ID        metering.InstanceID
	Lease     metering.LeaseNo
	Start     metering.StartNo
	PID       int
	PIDStart  uint64
	At        time.Time // host's clock when the values were read
	Paused    bool
	VCPUs     *uint64 // allocated
	MemoryMiB *uint64 // allocated
	UsedMiB   *uint64 // what the guest uses, from the balloon driver
	CPUNS     *uint64 // Σ vcpu.N.time
	Disks     []DiskCounters
	Nets      []NetCounters
}

// DiskCounters are one writable disk's counters since the QEMU process began.
type DiskCounters struct {
	Name                                     string // target, such as "vda"
	ReadBytes, ReadOps, WriteBytes, WriteOps *uint64
}

// NetCounters are one interface's counters since it was made, from the guest's
// side: rx is into the guest. Where it cannot be told whether its network is a
// private one, they are nil.
type NetCounters struct {
	Name                                   string
	Private                                bool // on a private network, not a public one
	RxBytes, RxPackets, TxBytes, TxPackets *uint64
}
