package virt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/compute"
)

// A domain that changes while it is looked at (its QEMU has just ended, say) is
// looked at again, describeTries times in all with describePause between.
const (
	describeTries = 10
	describePause = 50 * time.Millisecond
)

// Domains lists all domains of ours, active or not. A domain that cannot be
// described is left out and named in the error, beside the others. One that
// libvirt is starting is listed as running, with PID 0 until QEMU is there.
func (h *Hypervisor) Domains(ctx context.Context) ([]agent.Domain, error) {
	type list struct {
		domains []agent.Domain
		errs    []error
	}
	l, err := call(ctx, h.main, func(c *libvirt.Connect) (l list, err error) {
		all, err := c.ListAllDomains(0)
		if err != nil {
			return l, err
		}
		for i := range all {
			defer all[i].Free()
			d, ours, err := h.describe(&all[i])
			for try := 1; err != nil && try < describeTries; try++ {
				time.Sleep(describePause)
				d, ours, err = h.describe(&all[i])
			}
			if err != nil {
				l.errs = append(l.errs, err)
			} else if ours {
				l.domains = append(l.domains, d)
			}
		}
		return l, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	return l.domains, errors.Join(l.errs...)
}

func (h *Hypervisor) describe(dom *libvirt.Domain) (d agent.Domain, ours bool, err error) {
	l, ours, err := readLabels(dom)
	if err != nil || !ours {
		return d, false, err
	}
	d = agent.Domain{ID: l.ID, Lease: l.Lease, Start: l.Start}
	state, reason, err := dom.GetState()
	if is(err, libvirt.ERR_NO_DOMAIN) {
		return d, false, nil
	}
	if err != nil {
		return d, false, fmt.Errorf("state of %s: %w", l.ID, err)
	}
	switch state {
	case libvirt.DOMAIN_SHUTOFF, libvirt.DOMAIN_CRASHED:
		d.State = compute.StateStopped
		d.Reason = offReason(libvirt.DomainShutoffReason(reason), l.End)
		if state == libvirt.DOMAIN_CRASHED {
			d.Reason = agent.OffCrashed
		}
		if d.Reason == agent.OffCrashed {
			d.State = compute.StateFailed
		}
		return d, true, nil
	case libvirt.DOMAIN_PAUSED, libvirt.DOMAIN_PMSUSPENDED:
		d.State = compute.StatePaused
	default: // running, blocked, or about to be off, which an event will tell
		d.State = compute.StateRunning
	}
	if isStarting(state, reason) {
		d.State = compute.StateRunning
		return d, true, nil
	}
	r, ours, err := h.runOf(dom)
	if err != nil || !ours {
		return d, false, err
	}
	d.PID, d.PIDStart, d.Address = r.pid, r.pidStart, leasedAddress(dom)
	return d, true, nil
}

// isStarting reports whether libvirt is still starting the domain's QEMU.
func isStarting(state libvirt.DomainState, reason int) bool {
	return state == libvirt.DOMAIN_PAUSED && libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_STARTING_UP
}

// offReason tells why a domain is off from what libvirt says and what we noted.
func offReason(reason libvirt.DomainShutoffReason, end ending) agent.OffReason {
	switch reason {
	case libvirt.DOMAIN_SHUTOFF_SHUTDOWN:
		switch end {
		case endOrdered:
			return agent.OffOrdered
		case endKilled:
			return agent.OffCrashed
		}
		return agent.OffGuest
	case libvirt.DOMAIN_SHUTOFF_DESTROYED:
		return agent.OffOrdered
	case libvirt.DOMAIN_SHUTOFF_CRASHED, libvirt.DOMAIN_SHUTOFF_FAILED:
		return agent.OffCrashed
	case libvirt.DOMAIN_SHUTOFF_MIGRATED:
		return agent.OffMigrated
	case libvirt.DOMAIN_SHUTOFF_SAVED:
		return agent.OffSaved
	}
	// Off since before libvirtd started, which then no longer knows why.
	if end == endOrdered {
		return agent.OffOrdered
	}
	return agent.OffUnknown
}

// leasedAddress is the IPv4 address that libvirt's DHCP server gave the guest;
// "" when there is none or it cannot be told.
func leasedAddress(dom *libvirt.Domain) string {
	interfaces, err := dom.ListAllInterfaceAddresses(libvirt.DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
	if err != nil {
		return ""
	}
	for _, i := range interfaces {
		for _, a := range i.Addrs {
			if a.Type == libvirt.IP_ADDR_TYPE_IPV4 {
				return a.Addr
			}
		}
	}
	return ""
}
