package virt

import (
	"crypto/sha256"
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// balloonPeriodSeconds is how often QEMU asks the guest how much memory it uses.
const balloonPeriodSeconds = 5

// diskTarget is the instance's disk in its domain.
const diskTarget = "vda"

// domain is the instance as libvirt describes it.
func (h *Hypervisor) domain(spec agent.Spec, disk, seed string) *libvirtxml.Domain {
	l := labels{Space: labelSpace, ID: spec.ID, Lease: spec.Lease, Start: spec.Start}
	d := &libvirtxml.Domain{
		Type:     h.cfg.VirtType,
		Name:     string(spec.ID),
		UUID:     uuidOf(spec.ID),
		Metadata: &libvirtxml.DomainMetadata{XML: l.element()},
		Memory:   &libvirtxml.DomainMemory{Value: uint(spec.Flavor.MemoryMiB), Unit: "MiB"},
		VCPU: &libvirtxml.DomainVCPU{
			Current: uint(spec.Flavor.VCPUs),
			Value:   uint(max(spec.Flavor.VCPUs, compute.MaxLiveVCPUs)), // Resize plugs them in
		},
		OS: &libvirtxml.DomainOS{
			Type:    &libvirtxml.DomainOSType{Type: "hvm", Arch: "x86_64", Machine: "q35"},
			Kernel:  spec.Image.Kernel,
			Initrd:  spec.Image.Initrd,
			Cmdline: spec.Image.CommandLine,
		},
		Features:   &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		OnPoweroff: "destroy",
		OnReboot:   "restart",
		OnCrash:    "destroy",
		Devices: &libvirtxml.DomainDeviceList{
			Disks:      []libvirtxml.DomainDisk{fileDisk(disk, "qcow2", diskTarget), fileDisk(seed, "raw", "vdz")},
			Interfaces: []libvirtxml.DomainInterface{h.publicInterface(spec.MAC)},
			Serials: []libvirtxml.DomainSerial{{
				Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
			}},
			MemBalloon: &libvirtxml.DomainMemBalloon{
				Model: "virtio",
				Stats: &libvirtxml.DomainMemBalloonStats{Period: balloonPeriodSeconds},
			},
			RNGs: []libvirtxml.DomainRNG{{
				Model: "virtio",
				Backend: &libvirtxml.DomainRNGBackend{
					Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"},
				},
			}},
		},
	}
	d.Devices.Disks[1].ReadOnly = &libvirtxml.DomainDiskReadOnly{} // the seed
	if spec.Image.Kernel == "" {
		d.OS.BootDevices = []libvirtxml.DomainBootDevice{{Dev: "hd"}}
	}
	if h.cfg.VirtType == VirtKVM {
		d.CPU = &libvirtxml.DomainCPU{Mode: "host-passthrough"}
	}
	if h.cfg.VNC {
		d.Devices.Graphics = []libvirtxml.DomainGraphic{{
			VNC: &libvirtxml.DomainGraphicVNC{Port: -1, AutoPort: "yes", WebSocket: -1, Listen: "127.0.0.1"},
		}}
	}
	return d
}

func fileDisk(path, format, target string) libvirtxml.DomainDisk {
	return libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: format},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}},
		Target: &libvirtxml.DomainDiskTarget{Dev: target, Bus: "virtio"},
	}
}

func (h *Hypervisor) publicInterface(mac string) libvirtxml.DomainInterface {
	return libvirtxml.DomainInterface{
		MAC:    &libvirtxml.DomainInterfaceMAC{Address: mac},
		Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: h.cfg.Network}},
		Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
	}
}

// uuidOf derives a domain's UUID (version 8: by a rule of our own) from the
// instance's id, so that the same instance is the same domain on every host.
func uuidOf(id metering.InstanceID) string {
	u := sha256.Sum256([]byte("usance domain " + id))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
