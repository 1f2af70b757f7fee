package virt

import (
	"context"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/metering"
)

const (
	// askEvery is how often the guest is asked to shut down: a press of the power
	// button is lost on a guest that still boots.
	askEvery = 5 * time.Second
	// askTimeout bounds one such request: a hung QEMU would hold it for ever.
	askTimeout = 2 * time.Second
	// lookEvery is how often it is looked whether the domain is off.
	lookEvery = 100 * time.Millisecond
)

// Stop ends the domain: it presses the guest's power button, and pulls the plug
// after grace. That the end was ordered is noted in the domain's metadata before, so that
// it is not taken for the guest's own doing, whoever sees it. It returns when the
// domain is off; one that is off or does not exist is fine.
func (h *Hypervisor) Stop(ctx context.Context, id metering.InstanceID, grace time.Duration) error {
	if err := metering.CheckID(metering.PrefixInstance, string(id)); err != nil {
		return wrap("stop", id, err)
	}
	defer h.turn(id)()
	late := time.Now().Add(grace)
	var asked time.Time
	for {
		active, err := call(ctx, h.main, func(c *libvirt.Connect) (bool, error) { return isActive(c, id) })
		if err != nil || !active {
			return wrap("stop", id, err)
		}
		if !time.Now().Before(late) {
			break
		}
		if time.Since(asked) >= askEvery {
			asked = time.Now()
			h.ask(ctx, id)
		}
		select {
		case <-ctx.Done():
			return wrap("stop", id, ctx.Err())
		case <-time.After(lookEvery):
		}
	}
	err := act(ctx, h.cfg.URI, func(c *libvirt.Connect) error {
		return withDomain(c, id, func(dom *libvirt.Domain) error {
			if err := dom.Destroy(); !is(err, libvirt.ERR_OPERATION_INVALID) { // that is: it is off
				return err
			}
			return nil
		})
	})
	return wrap("stop", id, err)
}

// ask notes that the end is ordered and presses the power button. When that
// does not work, the plug will be pulled: it is only logged.
func (h *Hypervisor) ask(ctx context.Context, id metering.InstanceID) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err := act(ctx, h.cfg.URI, func(c *libvirt.Connect) error {
		return withDomain(c, id, func(dom *libvirt.Domain) error {
			if err := markEnd(dom, endOrdered); err != nil {
				return err
			}
			return dom.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
		})
	})
	if err != nil && !is(err, libvirt.ERR_OPERATION_INVALID) {
		h.cfg.Log.Warn("guest not asked to shut down", "instance", id, "err", err)
	}
}

func isActive(c *libvirt.Connect, id metering.InstanceID) (active bool, err error) {
	err = withDomain(c, id, func(dom *libvirt.Domain) error {
		active, err = dom.IsActive()
		return err
	})
	return active, err
}

// withDomain calls f with the instance's domain. None, or one that is not ours, is no
// error and f is not called; nor is it one when the domain goes while f runs.
func withDomain(c *libvirt.Connect, id metering.InstanceID, f func(*libvirt.Domain) error) error {
	dom, err := c.LookupDomainByName(string(id))
	if is(err, libvirt.ERR_NO_DOMAIN) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dom.Free()
	if _, ours, err := readLabels(dom); err != nil || !ours {
		return err
	}
	if err := f(dom); !is(err, libvirt.ERR_NO_DOMAIN) {
		return err
	}
	return nil
}
