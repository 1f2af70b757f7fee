package compute

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/usance/usance/metering"
)

// HostSilence is how long a host may say nothing before it counts as
// unreachable: its instances are then unknown, and nothing is placed on it.
const HostSilence = time.Minute

// Host is a physical machine that instances run on.
type Host struct {
	ID       metering.HostID
	Name     string
	Offers   Capacity  // as it last reported
	Granted  Capacity  // Σ over its open leases, and what moves to it
	Seen     time.Time // last report, server's clock
	Draining bool      // takes nothing new
	Removed  bool      // by the operator; its certificate is refused
	Storage  string    // what its disks lie on, the same on all hosts that share it; "": its own
	Version  int       // of the protocol that its agent speaks
}

// Free is what the host can still be granted; negative where it offers less
// than it did.
func (h Host) Free() Capacity { return h.Offers.Sub(h.Granted) }

// The states of a host, as operators see them: what they have to know first.
const (
	HostUp       = "up"
	HostSilent   = "silent" // not heard from for HostSilence
	HostDraining = "draining"
	HostRemoved  = "removed"
)

// HostStates are all of them.
func HostStates() []string { return []string{HostUp, HostSilent, HostDraining, HostRemoved} }

// State is the host's state.
func (h Host) State(now time.Time) string {
	switch {
	case h.Removed:
		return HostRemoved
	case now.Sub(h.Seen) > HostSilence:
		return HostSilent
	case h.Draining:
		return HostDraining
	}
	return HostUp
}

// LeaseKey names a lease.
type LeaseKey struct {
	Instance metering.InstanceID
	No       metering.LeaseNo
}

// Lease is a placement: which instance is on which host, with which labels. It
// never changes but for its end. A lease is kept while the instance is stopped,
// so that it can always be started again. One that a resize of the running
// instance replaced is in force until the host shows it under a newer one.
type Lease struct {
	Instance metering.InstanceID
	No       metering.LeaseNo
	Host     metering.HostID
	Tenant   metering.TenantID
	Flavor   string
	Image    string
	Created  time.Time // the instance; server's clock, as are the others
	Granted  time.Time
	Ended    time.Time // zero while it is in force
}

// Why a host does not take an instance, in the order in which it is asked.
const (
	outRemoved  = "removed"
	outDraining = "draining"
	outSilent   = "not heard from"
	outVCPUs    = "too few vCPUs"
	outMemory   = "too little memory"
	outDisk     = "too little disk"
)

// Unplaced says why no host took an instance. It is ErrNoCapacity.
type Unplaced struct {
	Hosts int            // how many there are
	Out   map[string]int // how many fell out for which reason; they sum to Hosts
}

func (u *Unplaced) Error() string {
	why := make([]string, 0, len(u.Out))
	for reason, n := range u.Out {
		why = append(why, fmt.Sprintf("%d %s", n, reason))
	}
	sort.Strings(why)
	return fmt.Sprintf("%v: %d hosts: %s", ErrNoCapacity, u.Hosts, strings.Join(why, ", "))
}

// Is makes errors.Is(err, ErrNoCapacity) hold.
func (u *Unplaced) Is(target error) bool { return target == ErrNoCapacity }

// Place chooses the host for a new instance of the flavor: of those that are
// there and have room, the one with the most memory left, then the most vCPUs,
// then the smallest id. Spreading by memory loses to packing only in power, and
// it is memory that cannot be shared. The error is an *Unplaced.
func Place(hosts []Host, f Flavor, now time.Time) (Host, error) {
	best := -1
	why := Unplaced{Hosts: len(hosts), Out: map[string]int{}}
	for i, h := range hosts {
		if reason := h.refuses(f, now); reason != "" {
			why.Out[reason]++
		} else if best < 0 || h.better(hosts[best]) {
			best = i
		}
	}
	if best < 0 {
		return Host{}, &why
	}
	return hosts[best], nil
}

// refuses is why the host does not take an instance of the flavor; "": it does.
func (h Host) refuses(f Flavor, now time.Time) string {
	free := h.Free()
	switch {
	case h.Removed:
		return outRemoved
	case h.Draining:
		return outDraining
	case now.Sub(h.Seen) > HostSilence:
		return outSilent
	case f.VCPUs > max(0, free.VCPUs):
		return outVCPUs
	case f.MemoryMiB > max(0, free.MemoryMiB):
		return outMemory
	case f.DiskMiB > max(0, free.DiskMiB):
		return outDisk
	}
	return ""
}

// Takes reports an *Unplaced unless the host takes an instance of the flavor.
func (h Host) Takes(f Flavor, now time.Time) error {
	if reason := h.refuses(f, now); reason != "" {
		return &Unplaced{Hosts: 1, Out: map[string]int{reason: 1}}
	}
	return nil
}

// Grows reports an *Unplaced unless an instance of the host may be of flavor to
// instead of from. A host that is draining takes nothing new, but what is there
// may grow.
func (h Host) Grows(from, to Flavor, now time.Time) error {
	h.Draining = false
	return h.Takes(Flavor{
		VCPUs:     max(0, to.VCPUs-from.VCPUs),
		MemoryMiB: max(0, to.MemoryMiB-from.MemoryMiB),
		DiskMiB:   max(0, to.DiskMiB-from.DiskMiB),
	}, now)
}

// better reports whether h is a better place than o; both have room.
func (h Host) better(o Host) bool {
	a, b := h.Free(), o.Free()
	switch {
	case a.MemoryMiB != b.MemoryMiB:
		return a.MemoryMiB > b.MemoryMiB
	case a.VCPUs != b.VCPUs:
		return a.VCPUs > b.VCPUs
	}
	return h.ID < o.ID
}
