package metering

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"time"
)

// Epoch is the record of one unbroken life of an instance's registers under one
// set of labels (host, flavor, image, start). It never changes and travels with
// the batches. Tenant, flavor and image are not in it: they follow from the
// control plane's own record of the lease.
type Epoch struct {
	ID       EpochID
	Instance InstanceID
	Lease    LeaseNo
	Start    StartNo
	Opened   time.Time // UTC, whole milliseconds
	Opening  Registers // the opening reading: 0, or what the hypervisor's counters stood at
}

// Reading is the value of all registers of one epoch at one instant. It
// describes the time up to and including that instant.
type Reading struct {
	Epoch     EpochID
	At        time.Time // UTC, whole milliseconds
	Registers Registers
}

// Batch is what a host sends at once: readings, and the record of every epoch
// they belong to.
type Batch struct {
	Epochs   []Epoch
	Readings []Reading
}

// DeriveEpochID derives the id of an epoch from what tells lives apart on a
// host: the instance, the host's boot id, QEMU's pid and start time (clock ticks
// after boot), and the ordinal of the label change within that process. An
// agent that lost its state derives the same id again.
func DeriveEpochID(instance InstanceID, bootID string, pid int, pidStart uint64, ordinal int) EpochID {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%d\n%d\n%d\n", instance, bootID, pid, pidStart, ordinal)
	return EpochID(hex.EncodeToString(h.Sum(nil)[:16]))
}

// CheckRegisters reports the first register of r that does not fit in an int64.
func CheckRegisters(r Registers) error {
	for i, v := range r {
		if v > math.MaxInt64 {
			return fmt.Errorf("register %s: %d is above %d", Register(i), v, int64(math.MaxInt64))
		}
	}
	return nil
}
