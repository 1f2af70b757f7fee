package virt

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/virt/local/localtest"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// BenchmarkSample measures a pass over running guests against the bare bulk call
// for the same domains, by the CPU time that each takes in this process (what it
// takes in libvirtd and QEMU is the same): "of-bare" is to stay below 1.25.
func BenchmarkSample(b *testing.B) {
	const guests = 3
	libvirtd, dir := localtest.Start(b)
	h, err := New(Config{URI: libvirtd.URI(), DataDir: filepath.Join(dir, "agent"), VirtType: VirtQEMU, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	for i := range guests {
		id := metering.InstanceID(metering.NewID(metering.PrefixInstance))
		defer h.Delete(b.Context(), id)
		defer h.Stop(b.Context(), id, 0)
		if err := h.Start(b.Context(), agent.Spec{
			ID: id, Lease: 1, Start: 1, Name: "bench", MAC: fmt.Sprintf("52:54:00:00:00:%02x", i),
			Flavor: compute.Flavor{VCPUs: 1, MemoryMiB: 128, DiskMiB: 64}, Image: localtest.Tiny(b, "usance.load=off"),
		}); err != nil {
			b.Fatal(err)
		}
	}
	var bare, sample time.Duration
	for b.Loop() {
		began := cpuTime()
		if _, err := call(b.Context(), h.stats, func(c *libvirt.Connect) (struct{}, error) {
			records, err := c.GetAllDomainStats(nil, statsGroups, statsFlags)
			for _, r := range records {
				r.Domain.Free()
			}
			return struct{}{}, err
		}); err != nil {
			b.Fatal(err)
		}
		middle := cpuTime()
		if samples, err := h.Sample(b.Context()); err != nil || len(samples) != guests {
			b.Fatalf("got %d samples, %v, want %d", len(samples), err, guests)
		}
		bare += middle - began
		sample += cpuTime() - middle
	}
	b.ReportMetric(float64(sample)/float64(bare), "of-bare")
}

// cpuTime is the CPU time of this process so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
