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
	// ErrDeleted: the instance is being deleted; that cannot be undone.
	ErrDeleted = errors.New("the instance is being deleted")
	// ErrInvalid: the order itself cannot be right (a bad name, for example).
	ErrInvalid = errors.New("invalid order")
)
