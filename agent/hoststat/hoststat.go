// Package hoststat reads how the host itself is doing and what it can offer.
//
// It owns the reading of host CPU, memory, disk, network and uptime. It never
// reads anything about instances: what they use is metered elsewhere, and no
// figure of this package is billed.
//
// Invariants:
//   - A figure that could not be read is nil, never 0.
package hoststat

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/host"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/net"

	"github.com/usance/usance/compute/hostapi"
)

const mib = 1 << 20

// Of the host's memory a tenth, but at least 1 GiB, is not offered: the host's
// own programs and what QEMU needs beyond its guests' memory.
const (
	reservedMemoryShare  = 10
	minReservedMemoryMiB = 1024
)

// Read reports how the host is doing now; dataDir tells which disk is meant. CPU
// is the share used since the last call, by any caller in this process.
func Read(ctx context.Context, dataDir string) hostapi.HostStat {
	var s hostapi.HostStat
	if p, err := cpu.PercentWithContext(ctx, 0, false); err == nil && len(p) == 1 {
		s.CPUPercent = &p[0]
	}
	if m, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		used := int64(m.Total-m.Available) / mib
		s.MemoryUsedMiB = &used
	}
	if d, err := disk.UsageWithContext(ctx, dataDir); err == nil {
		free := int64(d.Free) / mib
		s.DiskFreeMiB = &free
	}
	if rx, tx, err := traffic(ctx); err == nil {
		s.NetworkRxBytes, s.NetworkTxBytes = &rx, &tx
	}
	if up, err := host.UptimeWithContext(ctx); err == nil {
		s.UptimeSeconds = &up
	}
	return s
}

// traffic is what the host's interfaces received and sent since boot, without
// the loopback and without the taps and bridges of guests, whose traffic would
// count twice.
func traffic(ctx context.Context) (rx, tx uint64, err error) {
	nics, err := net.IOCountersWithContext(ctx, true)
	if err != nil {
		return 0, 0, err
	}
	if len(nics) == 0 {
		return 0, 0, errors.New("no interfaces")
	}
	for _, n := range nics {
		if n.Name == "lo" || strings.HasPrefix(n.Name, "vnet") || strings.HasPrefix(n.Name, "virbr") {
			continue
		}
		rx += n.BytesRecv
		tx += n.BytesSent
	}
	return rx, tx, nil
}

// Capacity is what the host can offer to instances: its logical CPUs, its memory
// less a reserve, and the disk of dataDir as far as it is free or already holds
// instances.
func Capacity(ctx context.Context, dataDir string) (hostapi.Capacity, error) {
	cpus, err := cpu.CountsWithContext(ctx, true)
	if err != nil {
		return hostapi.Capacity{}, fmt.Errorf("count the host's CPUs: %w", err)
	}
	m, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return hostapi.Capacity{}, fmt.Errorf("the host's memory: %w", err)
	}
	d, err := disk.UsageWithContext(ctx, dataDir)
	if err != nil {
		return hostapi.Capacity{}, fmt.Errorf("the disk of %s: %w", dataDir, err)
	}
	instances, err := allocated(filepath.Join(dataDir, "instances"))
	if err != nil {
		return hostapi.Capacity{}, fmt.Errorf("the disk used by instances: %w", err)
	}
	return hostapi.Capacity{
		VCPUs:     cpus,
		MemoryMiB: offeredMemory(int64(m.Total / mib)),
		DiskMiB:   (int64(d.Free) + instances) / mib,
	}, nil
}

func offeredMemory(totalMiB int64) int64 {
	return max(0, totalMiB-max(totalMiB/reservedMemoryShare, minReservedMemoryMiB))
}

// allocated is how many bytes of disk the files under dir take up. What goes away
// meanwhile, and a dir that is not there, take up nothing.
func allocated(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}
