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
	if err == nil {
		err = os.RemoveAll(h.folder(id))
	}
	if err == nil {
		h.mu.Lock()
		delete(h.runs, id)
		h.mu.Unlock()
	}
	return wrap("delete", id, err)
}
