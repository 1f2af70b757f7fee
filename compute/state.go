package compute

import (
	"time"

	"github.com/usance/usance/metering"
)

// Observation is what a host says of one instance.
type Observation struct {
	ID         metering.InstanceID `json:"id"`
	Generation uint64              `json:"generation"` // the newest order this state already answers
	Lease      metering.LeaseNo    `json:"lease"`
	Start      metering.StartNo    `json:"start"`
	State      State               `json:"state"`
	Since      time.Time           `json:"since"`
	// GuestOff says that State is stopped because the guest powered itself off.
	GuestOff bool   `json:"guest_off,omitempty"`
	Address  string `json:"address,omitempty"`
	Error    string `json:"error,omitempty"`
}
