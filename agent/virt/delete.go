package virt

import (
	"context"
	"errors"
	"os"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/metering"
)

const undefineAll = libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
	libvirt.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.DOMAIN_UNDEFINE_NVRAM

// Delete removes the domain and the instance's folder with its disks. It refuses
// while the domain runs; one that does not exist is fine.
func (h *Hypervisor) Delete(ctx context.Context, id metering.InstanceID) error {
	if err := metering.CheckID(metering.PrefixInstance, string(id)); err != nil {
		return wrap("delete", id, err)
	}
	defer h.turn(id)()
	err := h.undefine(ctx, id)
	if err == nil {
		err = os.RemoveAll(h.folder(id))
	}
	return wrap("delete", id, err)
}

// Release removes the domain and keeps the instance's folder with its disks, for
// a host that has the same folder. It refuses while the domain runs; one that does
// not exist is fine.
func (h *Hypervisor) Release(ctx context.Context, id metering.InstanceID) error {
	if err := metering.CheckID(metering.PrefixInstance, string(id)); err != nil {
		return wrap("release", id, err)
	}
	defer h.turn(id)()
	return wrap("release", id, h.undefine(ctx, id))
}

// undefine makes libvirt forget the domain, unless it runs.
func (h *Hypervisor) undefine(ctx context.Context, id metering.InstanceID) error {
	err := act(ctx, h.cfg.URI, func(c *libvirt.Connect) error {
		return withDomain(c, id, func(dom *libvirt.Domain) error {
			if active, err := dom.IsActive(); err != nil {
				return err
			} else if active {
				return errors.New("it still runs")
			}
			return dom.UndefineFlags(undefineAll)
		})
	})
	h.forgetRun(id)
	return err
}
