package hoststat

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReadOfThisMachine(t *testing.T) {
	dir := t.TempDir()
	s := Read(t.Context(), dir)
	if s.MemoryUsedMiB == nil || *s.MemoryUsedMiB <= 0 {
		t.Errorf("memory used: %v, want some", s.MemoryUsedMiB)
	}
	if s.DiskFreeMiB == nil || *s.DiskFreeMiB <= 0 {
		t.Errorf("disk free: %v, want some", s.DiskFreeMiB)
	}
	if s.UptimeSeconds == nil || *s.UptimeSeconds == 0 {
		t.Errorf("uptime: %v, want some", s.UptimeSeconds)
	}
}

func TestUnreadableIsNil(t *testing.T) {
	if s := Read(t.Context(), filepath.Join(t.TempDir(), "missing")); s.DiskFreeMiB != nil {
		t.Errorf("disk free of a folder that is not there: %d, want nil", *s.DiskFreeMiB)
	}
}

func TestCapacityCountsInstancesDisksAsOffered(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "instances", "ins_1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "instances", "ins_1", "root.qcow2"), make([]byte, 3*mib), 0o644); err != nil {
		t.Fatal(err)
	}
	used, err := allocated(filepath.Join(dir, "instances"))
	if err != nil || used < 3*mib || used > 4*mib {
		t.Errorf("allocated = %d, %v; want about 3 MiB", used, err)
	}
	c, err := Capacity(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.VCPUs < 1 || c.DiskMiB < 3 {
		t.Errorf("capacity %+v, want at least one CPU and the disk of the instance", c)
	}
}

func TestMemoryReserve(t *testing.T) {
	for _, c := range []struct{ total, want int64 }{
		{512, 0},
		{2048, 1024},
		{64 * 1024, 64*1024 - 6553},
	} {
		if got := offeredMemory(c.total); got != c.want {
			t.Errorf("offeredMemory(%d) = %d, want %d", c.total, got, c.want)
		}
	}
}
