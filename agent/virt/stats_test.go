package virt

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
)

func TestVCPUs(t *testing.T) {
	running := func(ns uint64) libvirt.DomainStatsVcpu {
		return libvirt.DomainStatsVcpu{StateSet: true, State: libvirt.VCPU_RUNNING, TimeSet: true, Time: ns}
	}
	unplugged := libvirt.DomainStatsVcpu{StateSet: true, State: libvirt.VCPU_OFFLINE}
	untimed := libvirt.DomainStatsVcpu{StateSet: true, State: libvirt.VCPU_RUNNING}
	for name, c := range map[string]struct {
		all       []libvirt.DomainStatsVcpu
		count, ns *uint64
	}{
		"two":                      {[]libvirt.DomainStatsVcpu{running(3), running(4)}, value(2), value(7)},
		"one, with room for three": {[]libvirt.DomainStatsVcpu{running(3), unplugged, unplugged}, value(1), value(3)},
		"a time not read":          {[]libvirt.DomainStatsVcpu{running(3), untimed}, value(2), nil},
		"not read":                 {nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			count, ns := vcpus(c.all)
			if diff := cmp.Diff([]*uint64{c.count, c.ns}, []*uint64{count, ns}); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestRunsHere(t *testing.T) {
	paused := func(why libvirt.DomainPausedReason) *libvirt.DomainStatsState {
		return &libvirt.DomainStatsState{State: libvirt.DOMAIN_PAUSED, Reason: int(why)}
	}
	for name, c := range map[string]struct {
		state *libvirt.DomainStatsState
		want  bool
	}{
		"running":                      {&libvirt.DomainStatsState{State: libvirt.DOMAIN_RUNNING}, true},
		"paused":                       {paused(libvirt.DOMAIN_PAUSED_USER), true},
		"paused on a full disk":        {paused(libvirt.DOMAIN_PAUSED_IOERROR), true},
		"being saved":                  {paused(libvirt.DOMAIN_PAUSED_SAVE), true},
		"starting":                     {paused(libvirt.DOMAIN_PAUSED_STARTING_UP), false},
		"loaded, or gone on elsewhere": {paused(libvirt.DOMAIN_PAUSED_MIGRATION), false},
		"off":                          {&libvirt.DomainStatsState{State: libvirt.DOMAIN_SHUTOFF}, false},
		"not known":                    {nil, false},
	} {
		if got := runsHere(c.state); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

// TestUnknownDevices names devices that are not known without their counters.
func TestUnknownDevices(t *testing.T) {
	record := &libvirt.DomainStats{
		State: &libvirt.DomainStatsState{State: libvirt.DOMAIN_RUNNING},
		Block: []libvirt.DomainStatsBlock{
			{Name: "vda", WrBytesSet: true, WrBytes: 1}, {Name: "vdb", WrBytesSet: true, WrBytes: 2}, {Name: "vdz", WrBytesSet: true, WrBytes: 3},
		},
		Net: []libvirt.DomainStatsNet{
			{NameSet: true, Name: "vnet0", RxBytesSet: true, RxBytes: 4}, {NameSet: true, Name: "vnet1", RxBytesSet: true, RxBytes: 5},
			{NameSet: true, Name: "vnet2", RxBytesSet: true, RxBytes: 6}, {},
		},
	}
	s := sampleOf(record, run{devices: devices{
		disks: map[string]bool{"vda": true, "vdz": false}, nets: map[string]bool{"vnet0": false, "vnet1": true},
	}}, time.Now())
	wantDisks := []agent.DiskCounters{{Name: "vda", WriteBytes: value(1)}, {Name: "vdb"}}
	wantNets := []agent.NetCounters{{Name: "vnet0", RxBytes: value(4)}, {Name: "vnet1", Private: true, RxBytes: value(5)}, {Name: "vnet2"}}
	if diff := cmp.Diff(wantDisks, s.Disks) + cmp.Diff(wantNets, s.Nets); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
