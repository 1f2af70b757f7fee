package metering

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
)

// Ids are distinct string types with a prefix and 17 lower-case hex digits.
type (
	// TenantID names who owns resources and pays ("ten_…").
	TenantID string
	// ResourceID names anything that can be billed: an instance ("ins_…"), a
	// volume ("vol_…"), an address ("adr_…"), a snapshot ("snp_…"), an image ("img_…").
	ResourceID string
	// InstanceID is the ResourceID of an instance.
	InstanceID string
	// HostID names a physical machine ("hst_…").
	HostID string
	// EpochID names one unbroken life of a resource's registers: 32 lower-case
	// hex digits, derived on the host by DeriveEpochID, never drawn.
	EpochID string
	// LeaseNo numbers the placements of one instance, rising, from 1. One
	// lease fixes the host and the labels (flavor, image) of the epochs under it.
	LeaseNo uint64
	// StartNo numbers the starts of one instance, rising, from 1.
	StartNo uint32
)

// The prefixes of ids.
const (
	PrefixTenant   = "ten_"
	PrefixUser     = "usr_"
	PrefixInstance = "ins_"
	PrefixVolume   = "vol_"
	PrefixImage    = "img_"
	PrefixHost     = "hst_"
	PrefixAddress  = "adr_"
	PrefixSnapshot = "snp_"
	PrefixInvoice  = "inv_"

	PrefixAllocation = "all_"
)

var idTail = regexp.MustCompile(`^[0-9a-f]{17}$`)

// NewID draws an id with the given prefix and 68 random bits.
func NewID(prefix string) string {
	var b [9]byte
	rand.Read(b[:]) // never fails (crypto/rand panics instead)
	return prefix + hex.EncodeToString(b[:])[:17]
}

// CheckID reports an error that names s unless s is prefix and 17 lower-case hex digits.
func CheckID(prefix, s string) error {
	if len(s) < len(prefix) || s[:len(prefix)] != prefix || !idTail.MatchString(s[len(prefix):]) {
		return fmt.Errorf("%q is not an id of the form %s and 17 hex digits", s, prefix)
	}
	return nil
}
