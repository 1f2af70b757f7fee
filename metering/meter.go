package metering

// Meter names what can be priced. Each has a base unit.
type Meter string

// The meters, with their base units.
const (
	InstanceRunning    Meter = "instance.running"     // s
	InstancePaused     Meter = "instance.paused"      // s
	InstanceStopped    Meter = "instance.stopped"     // s; exists and is off: an allocation
	InstanceVCPU       Meter = "instance.vcpu"        // vCPU·s
	InstanceCPU        Meter = "instance.cpu"         // s
	InstanceMemory     Meter = "instance.memory"      // MiB·s
	InstanceMemoryUsed Meter = "instance.memory.used" // MiB·s
	DiskRead           Meter = "disk.read"            // B
	DiskWrite          Meter = "disk.write"           // B
	DiskOperations     Meter = "disk.operations"      // 1: reads + writes
	NetworkPublicRx    Meter = "network.public.rx"    // B
	NetworkPublicTx    Meter = "network.public.tx"    // B
	NetworkPrivateRx   Meter = "network.private.rx"   // B
	NetworkPrivateTx   Meter = "network.private.tx"   // B
	VolumeAllocated    Meter = "volume.allocated"     // MiB·s
	SnapshotStored     Meter = "snapshot.stored"      // MiB·s
	ImageStored        Meter = "image.stored"         // MiB·s
	AddressAllocated   Meter = "address.allocated"    // s
)

// meterSource says how a register meter follows from registers: the sum of the
// registers × num ÷ den is thousandths of the base unit. den > 1 only for
// cpu_ns, where the quantity is floored at each end of a window so that parts
// still sum to the whole.
type meterSource struct {
	meter     Meter
	base      string
	registers []Register // none: the meter comes from allocations
	num, den  uint64
}

var meterTable = []meterSource{
	{InstanceRunning, "s", []Register{RunningMS}, 1, 1},
	{InstancePaused, "s", []Register{PausedMS}, 1, 1},
	{InstanceStopped, "s", nil, 1, 1},
	{InstanceVCPU, "vCPU·s", []Register{VCPUMS}, 1, 1},
	{InstanceCPU, "s", []Register{CPUNS}, 1, 1_000_000},
	{InstanceMemory, "MiB·s", []Register{MemoryMiBMS}, 1, 1},
	{InstanceMemoryUsed, "MiB·s", []Register{MemoryUsedMiBMS}, 1, 1},
	{DiskRead, "B", []Register{DiskReadBytes}, 1000, 1},
	{DiskWrite, "B", []Register{DiskWriteBytes}, 1000, 1},
	{DiskOperations, "1", []Register{DiskReadOps, DiskWriteOps}, 1000, 1},
	{NetworkPublicRx, "B", []Register{NetPublicRxBytes}, 1000, 1},
	{NetworkPublicTx, "B", []Register{NetPublicTxBytes}, 1000, 1},
	{NetworkPrivateRx, "B", []Register{NetPrivateRxBytes}, 1000, 1},
	{NetworkPrivateTx, "B", []Register{NetPrivateTxBytes}, 1000, 1},
	{VolumeAllocated, "MiB·s", nil, 1, 1},
	{SnapshotStored, "MiB·s", nil, 1, 1},
	{ImageStored, "MiB·s", nil, 1, 1},
	{AddressAllocated, "s", nil, 1, 1},
}

// Meters are all meters, in the order of the tables of the documentation.
func Meters() []Meter {
	all := make([]Meter, len(meterTable))
	for i, m := range meterTable {
		all[i] = m.meter
	}
	return all
}

// BaseUnit is the unit of a meter's quantities ("s", "vCPU·s", "MiB·s", "B",
// "1"); ok is false for a meter that does not exist.
func (m Meter) BaseUnit() (unit string, ok bool) {
	for i := range meterTable {
		if meterTable[i].meter == m {
			return meterTable[i].base, true
		}
	}
	return "", false
}
