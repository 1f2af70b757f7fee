// Package compute says what a tenant's machines are: flavors, instances and
// their states, hosts, leases, and where a new instance fits.
//
// It owns what is wanted (the desired state) and what was observed; it never
// touches a hypervisor, a database or a price. Instances move between hosts only
// while they are off: nobody orders a live migration yet, though one that an
// operator makes by hand is metered.
//
// Invariants:
//   - What is wanted changes only by an order (tenant, operator, dunning) or by
//     a guest that powers itself off; what is observed never overwrites it.
//   - One instance is never granted to two hosts: a placement is a lease with a
//     number. Its leases under which it may run at one time are all on one host.
//   - A host's granted capacity never exceeds what it offers.
package compute

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"time"

	"github.com/usance/usance/metering"
)

// Flavor is a size on offer.
type Flavor struct {
	Name      string `json:"name"`
	VCPUs     int    `json:"vcpus"`
	MemoryMiB int64  `json:"memory_mib"`
	DiskMiB   int64  `json:"disk_mib"`
}

// Power is what a tenant wants of an instance.
type Power string

// What can be wanted.
const (
	PowerRunning Power = "running"
	PowerStopped Power = "stopped"
	PowerDeleted Power = "deleted"
	// PowerReleased is what a host is told of an instance that moves to another:
	// to forget it and keep its disks. Nobody wants it of an instance.
	PowerReleased Power = "released"
)

// State is what an instance was observed to be.
type State string

// The states of an instance. Unknown is shown while its host cannot be reached.
const (
	StatePending  State = "pending"
	StateStarting State = "starting"
	StateRunning  State = "running"
	StatePaused   State = "paused"
	StateStopping State = "stopping"
	StateStopped  State = "stopped"
	StateFailed   State = "failed"
	StateDeleted  State = "deleted"
	StateUnknown  State = "unknown"
	// StateReleased is what a host says of an instance that it has let go for a
	// move (PowerReleased). No instance is ever in it: it is stopped all the while.
	StateReleased State = "released"
)

// Reasons why what is wanted is what it is.
const (
	ReasonTenant   = "tenant"   // the tenant ordered it
	ReasonGuest    = "guest"    // the guest powered itself off
	ReasonUnpaid   = "unpaid"   // dunning stopped it
	ReasonOperator = "operator" // the hosting provider ordered it
)

// Instance is a VM of a tenant.
type Instance struct {
	ID         metering.InstanceID
	Tenant     metering.TenantID
	Name       string
	Flavor     string
	Image      string
	Desired    Power
	Reason     string           // why Desired is what it is
	Generation uint64           // rises with every order
	Start      metering.StartNo // rises when an order turns it on; 0 before the first
	Host       metering.HostID  // of the present lease
	Lease      metering.LeaseNo
	// Under is the oldest lease under which it may still run: below Lease as long
	// as its host has not carried out a resize of it running; else the same.
	Under    metering.LeaseNo
	MovesTo  metering.HostID // where it is being moved to; "": nowhere
	Answered uint64          // the newest order that the host has carried out; at most Generation
	State    State
	Since    time.Time // when State became so, by the host's clock corrected to the server's
	Error    string    // what the host said went wrong, while State is failed or a resize waits
	Address  string    // IPv4 of the guest, when the host knows it
	Created  time.Time
}

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName reports an ErrInvalid unless s can be the host name of a guest: 1 to
// 63 lower-case letters, digits and inner hyphens.
func CheckName(s string) error {
	if !hostName.MatchString(s) {
		return fmt.Errorf("%w: name %q: 1 to 63 lower-case letters, digits and inner hyphens are", ErrInvalid, s)
	}
	return nil
}

// MAC is the hardware address of the instance's first interface: locally
// administered and derived from the id, so that it is the same wherever it runs.
func MAC(id metering.InstanceID) string {
	h := sha256.Sum256([]byte(id))
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", h[0], h[1], h[2], h[3], h[4])
}
