// Package hostapi is how hosts and the control plane speak: the wire types, the
// agent's client and the control plane's handler.
//
// It owns joining (token, certificate), the desired state of a host by long
// poll, and what a host reports. It never carries readings (metering/ingest
// does) and never decides anything.
//
// Everything is JSON over HTTPS. The host proves who it is by a client
// certificate that the control plane's own authority signed; a request without
// one or with a foreign one is answered 401, with that of a removed host 403.
package hostapi

import (
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// Version is the version of the protocol, sent as the header Usance-Version.
// The control plane accepts the current and the previous one.
//
//	1: join, desired, status, epochs, images
//	2: power and state "released"; a newer lease with the start that runs is a
//	   resize. Hosts say in Status which version they speak and what storage they
//	   share. To one that speaks 1, which would end the guest of a newer lease and
//	   knows no release, such orders are refused (compute.ErrOldAgent).
const Version = 2

// The paths under which the control plane serves hosts.
const (
	PathJoin     = "/v1/join"     // POST JoinRequest → JoinResponse; no certificate needed
	PathRenew    = "/v1/renew"    // POST RenewRequest → RenewResponse
	PathDesired  = "/v1/desired"  // GET ?revision=N&wait=SECONDS → Desired; waits until revision ≠ N
	PathStatus   = "/v1/status"   // POST Status → 204
	PathEpochs   = "/v1/epochs"   // GET → EpochsResponse
	PathImages   = "/v1/images/"  // GET NAME/FILE → the file
	PathReadings = "/v1/readings" // POST a batch; served by metering/ingest
)

// JoinRequest asks to become a host. Token is the secret part of the join token.
type JoinRequest struct {
	Token    string   `json:"token"`
	CSR      string   `json:"csr"` // PEM
	Name     string   `json:"name"`
	Capacity Capacity `json:"capacity"`
}

// JoinResponse is the identity of a new host.
type JoinResponse struct {
	Host        metering.HostID `json:"host"`
	Certificate string          `json:"certificate"` // PEM; the common name is Host
	CA          string          `json:"ca"`          // PEM
}

// RenewRequest asks for a new certificate before the present one ends.
type RenewRequest struct {
	CSR string `json:"csr"`
}

// RenewResponse is the new certificate.
type RenewResponse struct {
	Certificate string `json:"certificate"`
}

// Capacity is what a host offers to instances.
type Capacity = compute.Capacity

// Desired is everything that should be on one host.
type Desired struct {
	Revision  uint64            `json:"revision"` // changes whenever anything below does
	Instances []DesiredInstance `json:"instances"`
	// FullReading rises when the control plane wants a full reading of every
	// epoch at once (a closing on demand); the agent answers by reporting
	// the same number in Status once such a round is acknowledged as durable.
	FullReading uint64 `json:"full_reading"`
}

// DesiredInstance is one instance as it should be. An instance that the control
// plane no longer lists is not to be touched: deletion is always said (Power
// deleted), and so is letting it go for a move (released).
type DesiredInstance struct {
	ID         metering.InstanceID `json:"id"`
	Tenant     metering.TenantID   `json:"tenant"`
	Name       string              `json:"name"` // host name of the guest
	Generation uint64              `json:"generation"`
	Lease      metering.LeaseNo    `json:"lease"`
	Start      metering.StartNo    `json:"start"`
	Power      compute.Power       `json:"power"`
	Flavor     compute.Flavor      `json:"flavor"`
	Image      Image               `json:"image"`
	MAC        string              `json:"mac"`
	UserData   string              `json:"user_data,omitempty"` // cloud-init
	SSHKeys    []string            `json:"ssh_keys,omitempty"`
}

// Image is a bootable image: a folder of files that the host fetches under
// PathImages and keeps by checksum.
type Image struct {
	Name  string      `json:"name"`
	Files []ImageFile `json:"files"` // "kernel" and "initrd" (direct boot), or "disk" (qcow2)
	// CommandLine is the kernel's, with direct boot.
	CommandLine string `json:"command_line,omitempty"`
	// DiskMiB is how large its disk is for the guest; 0: it has none. No smaller
	// disk can be made over it. The control plane reads it from the file.
	DiskMiB int64 `json:"disk_mib,omitempty"`
}

// ImageFile is one file of an image.
type ImageFile struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // hex
	Size   int64  `json:"size"`   // bytes
}

// Status is what a host reports after every change and at least every 10 s.
type Status struct {
	Sent        time.Time          `json:"sent"` // the host's clock
	Revision    uint64             `json:"revision"`
	FullReading uint64             `json:"full_reading"`
	Capacity    Capacity           `json:"capacity"`
	Version     int                `json:"version"` // of the protocol; 0: 1
	Storage     string             `json:"storage"` // what its disks lie on, if other hosts share it
	Host        HostStat           `json:"host"`
	Spool       SpoolStat          `json:"spool"`
	Instances   []ObservedInstance `json:"instances"` // every domain that carries one of our ids
}

// HostStat is how the host itself is doing. A nil field could not be read.
type HostStat struct {
	CPUPercent      *float64 `json:"cpu_percent,omitempty"`
	MemoryUsedMiB   *int64   `json:"memory_used_mib,omitempty"`
	DiskFreeMiB     *int64   `json:"disk_free_mib,omitempty"`
	NetworkRxBytes  *uint64  `json:"network_rx_bytes,omitempty"`
	NetworkTxBytes  *uint64  `json:"network_tx_bytes,omitempty"`
	UptimeSeconds   *uint64  `json:"uptime_seconds,omitempty"`
	HypervisorError string   `json:"hypervisor_error,omitempty"`
}

// SpoolStat is how much waits on the host to be sent, and what the wait has cost
// since its agent started. An agent of the first version says neither Limit nor the latter.
type SpoolStat struct {
	Bytes    int64     `json:"bytes"`
	Limit    int64     `json:"limit,omitzero"` // of Bytes
	Readings int64     `json:"readings"`
	Oldest   time.Time `json:"oldest,omitzero"`
	Thinned  int64     `json:"thinned,omitzero"` // readings given up where a later one of their slot stays
	Refused  int64     `json:"refused,omitzero"` // rounds for which there was no room
	Aside    int64     `json:"aside,omitzero"`   // bodies that could not be read or were refused as malformed
}

// ObservedInstance is one instance as it is.
type ObservedInstance = compute.Observation

// EpochsResponse is what the control plane has of this host's epochs that may
// still run: an agent without state starts from it and never goes below.
type EpochsResponse struct {
	Epochs []KnownEpoch `json:"epochs"`
}

// KnownEpoch is an epoch's record and its largest reading.
type KnownEpoch struct {
	Epoch   metering.Epoch    `json:"epoch"`
	Largest *metering.Reading `json:"largest,omitempty"`
}
