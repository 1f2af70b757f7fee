package compute

import "errors"

// What an order can be refused for. ErrQuota stands beside Quota.
var (
	// ErrNotFound: there is no such thing, or it is another tenant's.
	ErrNotFound = errors.New("not found")
	// ErrNoCapacity: no host has room. See Unplaced for the reasons.
	ErrNoCapacity = errors.New("no host has room")
	// ErrNoFlavor: the tenant's plan does not offer the flavor.
	ErrNoFlavor = errors.New("no such flavor")
	// ErrNoImage: there is no image of that name.
	ErrNoImage = errors.New("no such image")
	// ErrImageTooLarge: the image does not fit on the flavor's disk.
	ErrImageTooLarge = errors.New("the image is too large for the flavor")
	// ErrDeleted: the instance is being deleted; that cannot be undone.
	ErrDeleted = errors.New("the instance is being deleted")
	// ErrStopFirst: it cannot be done while the instance runs.
	ErrStopFirst = errors.New("stop the instance first")
	// ErrDiskShrinks: the flavor's disk is smaller than the instance's.
	ErrDiskShrinks = errors.New("a disk never shrinks")
	// ErrMoving: the instance is being moved to another host.
	ErrMoving = errors.New("the instance is being moved to another host")
	// ErrHeld: the instance was stopped for a reason that is not its tenant's.
	ErrHeld = errors.New("the hosting provider stopped the instance, and alone can start it again")
	// ErrNoSharedStorage: the instance's disks cannot be reached from the other host.
	ErrNoSharedStorage = errors.New("the hosts share no storage")
	// ErrOldAgent: the host's agent does not know such an order yet.
	ErrOldAgent = errors.New("the host's agent is too old for this; update it")
	// ErrInvalid: the order itself cannot be right (a bad name, for example).
	ErrInvalid = errors.New("invalid order")
)
