package virt

import (
	"context"
	"errors"
	"fmt"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/metering"
)

// Resize gives the running domain the vCPUs and the disk of the flavor, then the
// lease: what it is billed under changes last. vCPUs are plugged in, and it is the
// guest's part to use them; the disk grows under the guest. Memory must be what it
// is: a domain with room for more costs its guest 64 MiB of bounce buffers from the
// start (Linux sets them up when memory above 4 GiB could come, and QEMU
// plugs it in there), and a balloon that is let out is the guest's to refuse.
func (h *Hypervisor) Resize(ctx context.Context, spec agent.Spec) error {
	if err := metering.CheckID(metering.PrefixInstance, string(spec.ID)); err != nil {
		return wrap("resize", spec.ID, err)
	}
	defer h.turn(spec.ID)()
	found := false
	err := act(ctx, h.cfg.URI, func(c *libvirt.Connect) error {
		return withDomain(c, spec.ID, func(dom *libvirt.Domain) error {
			found = true
			defer h.forgetRun(spec.ID) // here, since this goes on when ctx ends
			return resize(dom, spec)
		})
	})
	if err == nil && !found {
		err = errors.New("there is no such domain")
	}
	return wrap("resize", spec.ID, err)
}

func resize(dom *libvirt.Domain, spec agent.Spec) error {
	l, _, err := readLabels(dom)
	if err != nil {
		return err
	}
	if active, err := dom.IsActive(); err != nil {
		return err
	} else if !active {
		return errors.New("it does not run")
	}
	if l.Start != spec.Start || l.Lease > spec.Lease {
		return fmt.Errorf("it runs under lease %d, start %d: not to be put under lease %d, start %d", l.Lease, l.Start, spec.Lease, spec.Start)
	}
	memory, err := dom.GetMaxMemory()
	if err != nil {
		return fmt.Errorf("its memory: %w", err)
	}
	if int64(memory>>10) != spec.Flavor.MemoryMiB {
		return fmt.Errorf("it runs with %d MiB of memory, which cannot become %d MiB before its next start", memory>>10, spec.Flavor.MemoryMiB)
	}
	if err := growVCPUs(dom, spec.Flavor.VCPUs); err != nil {
		return err
	}
	if err := growDisk(dom, uint64(spec.Flavor.DiskMiB)<<20); err != nil {
		return err
	}
	l.Lease, l.Space = spec.Lease, ""
	return setLabels(dom, l)
}

func growVCPUs(dom *libvirt.Domain, want int) error {
	have, err := dom.GetVcpusFlags(libvirt.DOMAIN_VCPU_LIVE)
	if err != nil {
		return fmt.Errorf("its vCPUs: %w", err)
	}
	switch {
	case int(have) == want:
		return nil
	case int(have) > want:
		return fmt.Errorf("it runs with %d vCPUs, and gives none back before its next start; %d are wanted", have, want)
	}
	if err := dom.SetVcpusFlags(uint(want), libvirt.DOMAIN_VCPU_LIVE|libvirt.DOMAIN_VCPU_CONFIG); err != nil {
		return fmt.Errorf("from %d to %d vCPUs: %w", have, want, err)
	}
	return nil
}

func growDisk(dom *libvirt.Domain, bytes uint64) error {
	disk, err := dom.GetBlockInfo(diskTarget, 0)
	if err != nil {
		return fmt.Errorf("its disk: %w", err)
	}
	if disk.Capacity >= bytes {
		return nil
	}
	if err := dom.BlockResize(diskTarget, bytes, libvirt.DOMAIN_BLOCK_RESIZE_BYTES); err != nil {
		return fmt.Errorf("its disk from %d to %d bytes: %w", disk.Capacity, bytes, err)
	}
	return nil
}
