package metering

// Register names one counter of one epoch that only grows. Its number is its
// place in Registers and on the wire: new registers are appended, none is reused.
type Register uint8

// The registers of an instance. rx is into the guest, tx out of it. Disk
// registers sum all writable disks.
const (
	RunningMS           Register = iota // time the domain ran, ms
	PausedMS                            // time it was paused, ms
	BridgedMS                           // the part of RunningMS that no agent watched, ms
	VCPUMS                              // allocated vCPUs × running, vCPU·ms
	CPUNS                               // Σ vcpu.N.time, ns
	MemoryMiBMS                         // allocated memory × running, MiB·ms
	MemoryUsedMiBMS                     // memory the guest used × running, MiB·ms
	DiskReadBytes                       // bytes
	DiskReadOps                         // operations
	DiskWriteBytes                      // bytes
	DiskWriteOps                        // operations
	NetPublicRxBytes                    // bytes
	NetPublicRxPackets                  // packets
	NetPublicTxBytes                    // bytes
	NetPublicTxPackets                  // packets
	NetPrivateRxBytes                   // bytes
	NetPrivateRxPackets                 // packets
	NetPrivateTxBytes                   // bytes
	NetPrivateTxPackets                 // packets

	RegisterCount = iota // how many registers there are
)

var registerNames = [RegisterCount]string{
	"running_ms", "paused_ms", "bridged_ms", "vcpu_ms", "cpu_ns",
	"memory_mib_ms", "memory_used_mib_ms",
	"disk_read_bytes", "disk_read_ops", "disk_write_bytes", "disk_write_ops",
	"net_public_rx_bytes", "net_public_rx_packets", "net_public_tx_bytes", "net_public_tx_packets",
	"net_private_rx_bytes", "net_private_rx_packets", "net_private_tx_bytes", "net_private_tx_packets",
}

// String is the register's name in SQL, JSON and logs, such as "running_ms".
func (r Register) String() string { return registerNames[r] }

// RegisterNames are the names of all registers in the order of Registers.
func RegisterNames() []string { return registerNames[:] }

// Registers is the value of every register of one epoch at one instant. A value
// fits in an int64 (CheckRegisters): the stores and the arithmetic of usage rely on it.
type Registers [RegisterCount]uint64

// Join is the larger value of each register.
func (r Registers) Join(o Registers) Registers {
	for i := range r {
		r[i] = max(r[i], o[i])
	}
	return r
}

// Sub is r − o where r is larger and 0 elsewhere.
func (r Registers) Sub(o Registers) Registers {
	for i := range r {
		if r[i] > o[i] {
			r[i] -= o[i]
		} else {
			r[i] = 0
		}
	}
	return r
}

// Add is the sum of each register.
func (r Registers) Add(o Registers) Registers {
	for i := range r {
		r[i] += o[i]
	}
	return r
}

// IsZero reports whether every register is 0.
func (r Registers) IsZero() bool { return r == Registers{} }
