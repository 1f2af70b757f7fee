package compute

import (
	"errors"
	"fmt"
	"math"
)

// Capacity is what a host offers, what a flavor takes, or what a quota allows.
type Capacity struct {
	VCPUs     int   `json:"vcpus"`
	MemoryMiB int64 `json:"memory_mib"`
	DiskMiB   int64 `json:"disk_mib"`
}

// Add is c + o.
func (c Capacity) Add(o Capacity) Capacity {
	return Capacity{c.VCPUs + o.VCPUs, c.MemoryMiB + o.MemoryMiB, c.DiskMiB + o.DiskMiB}
}

// Sub is c − o; it goes below zero where o is larger (a host that offers less
// than it was granted).
func (c Capacity) Sub(o Capacity) Capacity {
	return Capacity{c.VCPUs - o.VCPUs, c.MemoryMiB - o.MemoryMiB, c.DiskMiB - o.DiskMiB}
}

// Fits reports whether all of c is within o.
func (c Capacity) Fits(o Capacity) bool {
	return c.VCPUs <= o.VCPUs && c.MemoryMiB <= o.MemoryMiB && c.DiskMiB <= o.DiskMiB
}

// Capacity is what an instance of the flavor takes of its host.
func (f Flavor) Capacity() Capacity { return Capacity{f.VCPUs, f.MemoryMiB, f.DiskMiB} }

// maxFlavor bounds a flavor, so that sums over all instances of a tenant or a
// host stay far from overflow. A larger one is refused.
var maxFlavor = Capacity{VCPUs: math.MaxInt16, MemoryMiB: 1 << 30, DiskMiB: 1 << 40}

// Check reports an error unless the flavor has a name, at least one vCPU, some
// memory, no negative disk, and is of a size that exists.
func (f Flavor) Check() error {
	if f.Name == "" || f.VCPUs < 1 || f.MemoryMiB < 1 || f.DiskMiB < 0 || !f.Capacity().Fits(maxFlavor) {
		return fmt.Errorf("flavor %q of %d vCPUs, %d MiB memory, %d MiB disk: out of range",
			f.Name, f.VCPUs, f.MemoryMiB, f.DiskMiB)
	}
	return nil
}

// ErrQuota is what every QuotaError is.
var ErrQuota = errors.New("quota exceeded")

// Quota is the most a tenant may want at once. What is wanted deleted does not
// count; what is stopped does, since it keeps its place.
type Quota struct {
	Instances int
	Capacity
}

// DefaultQuota is the quota of a tenant for whom nobody set another.
var DefaultQuota = Quota{20, Capacity{VCPUs: 40, MemoryMiB: 80 << 10, DiskMiB: 1 << 20}}

// QuotaError says which quota an order would exceed. It is ErrQuota.
type QuotaError struct {
	What              string // "instances", "vcpus", "memory_mib" or "disk_mib"
	Used, More, Limit int64
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("quota exceeded: %d %s in use, %d more wanted, %d allowed", e.Used, e.What, e.More, e.Limit)
}

// Is makes errors.Is(err, ErrQuota) hold.
func (e *QuotaError) Is(target error) bool { return target == ErrQuota }

// Check reports a *QuotaError for the first quota that used and more exceed together.
func (q Quota) Check(used, more Quota) error {
	for _, c := range []QuotaError{
		{"instances", int64(used.Instances), int64(more.Instances), int64(q.Instances)},
		{"vcpus", int64(used.VCPUs), int64(more.VCPUs), int64(q.VCPUs)},
		{"memory_mib", used.MemoryMiB, more.MemoryMiB, q.MemoryMiB},
		{"disk_mib", used.DiskMiB, more.DiskMiB, q.DiskMiB},
	} {
		if c.More > 0 && c.Used+c.More > c.Limit {
			return &c
		}
	}
	return nil
}
