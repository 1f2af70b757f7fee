package compute

import (
	"fmt"

	"github.com/usance/usance/metering"
)

// MaxLiveVCPUs is how many vCPUs a running instance can grow to: each domain is
// made with room for so many, which costs its guest a few hundred KiB of memory
// for each. A larger flavor is taken while the instance is stopped.
const MaxLiveVCPUs = 16

// growsLive reports whether a running instance of flavor f can become one of
// flavor to: more vCPUs within MaxLiveVCPUs, a larger disk, the same memory.
func (f Flavor) growsLive(to Flavor) bool {
	return (to.VCPUs == f.VCPUs || to.VCPUs > f.VCPUs && to.VCPUs <= MaxLiveVCPUs) &&
		to.MemoryMiB == f.MemoryMiB && to.DiskMiB >= f.DiskMiB
}

// Resizing reports whether a resize waits for the host to carry it out.
func (i Instance) Resizing() bool { return i.Under != i.Lease }

// off reports whether the instance is wanted off, and its host, which knows all
// that is wanted, said that it is.
func (i Instance) off() bool {
	return i.Desired == PowerStopped && i.State == StateStopped && i.Answered == i.Generation
}

// Resize is the instance after an order that it be of flavor to instead of from,
// under a new lease on the same host. A resize ends no start. The same flavor
// changes nothing: then changed is false. One that is off is under the new lease
// at once; any other may run under the one before (Under) until its host shows
// that it carried the resize out. The error is ErrDeleted, ErrMoving,
// ErrDiskShrinks, or ErrStopFirst for what cannot be done live.
func (i Instance) Resize(from, to Flavor) (next Instance, changed bool, err error) {
	switch {
	case i.Desired == PowerDeleted:
		return i, false, ErrDeleted
	case i.MovesTo != "":
		return i, false, ErrMoving
	case from == to:
		return i, false, nil
	case to.DiskMiB < from.DiskMiB:
		return i, false, fmt.Errorf("%w: flavor %s has %d MiB, the instance's disk has %d MiB; take a flavor with at least that",
			ErrDiskShrinks, to.Name, to.DiskMiB, from.DiskMiB)
	case !i.off() && !from.growsLive(to):
		return i, false, fmt.Errorf("%w: while it is %s it can get more vCPUs (up to %d) and a larger disk, with the same memory; "+
			"flavor %s has %d vCPUs and %d MiB memory, now it has %d and %d MiB",
			ErrStopFirst, i.State, MaxLiveVCPUs, to.Name, to.VCPUs, to.MemoryMiB, from.VCPUs, from.MemoryMiB)
	}
	if i.off() {
		i.Under = i.Lease + 1
	}
	i.Flavor = to.Name
	i.Lease++
	i.Generation++
	return i, true, nil
}

// Move is the instance after an order that it go to another host: it stays where
// it is until that host has released it (Released), and is then Arrived. What is
// ordered already changes nothing; a move to where it is takes an earlier one
// back. The error is ErrDeleted, or ErrStopFirst for one that is not off.
func (i Instance) Move(to metering.HostID) (next Instance, changed bool, err error) {
	if to == i.Host {
		to = ""
	}
	switch {
	case i.Desired == PowerDeleted:
		return i, false, ErrDeleted
	case i.MovesTo == to:
		return i, false, nil
	case i.MovesTo == "" && !i.off():
		return i, false, fmt.Errorf("%w: only a stopped instance is moved; it is %s, wanted %s", ErrStopFirst, i.State, i.Desired)
	}
	i.MovesTo = to
	i.Generation++
	return i, true, nil
}

// Released reports whether o says that the host has let the instance go for the
// move that was ordered last.
func (i Instance) Released(o Observation) bool {
	return i.MovesTo != "" && o.State == StateReleased && o.Lease == i.Lease && o.Generation == i.Generation
}

// Arrived is the instance, which its host has released, under its new lease on
// the host that it moves to.
func (i Instance) Arrived() Instance {
	i.Host, i.MovesTo = i.MovesTo, ""
	i.Lease++
	i.Under = i.Lease
	i.Generation++
	return i
}
