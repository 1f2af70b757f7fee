package virt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// devices are the devices of a domain whose counters are read, as its XML
// describes them. One that the domain has and they lack is not known.
type devices struct {
	disks map[string]bool // by target, such as "vda": whether it is writable
	nets  map[string]bool // by its name on the host, such as "vnet0": whether its side is the private one
}

// know makes the run's devices those of the record. The XML is read when one is
// new, so in no round without a change; one that is gone is forgotten, since another can
// come under its name. The error names interfaces whose side cannot be told.
func (h *Hypervisor) know(c *libvirt.Connect, record *libvirt.DomainStats, r *run) (err error) {
	disks, nets, all := r.devices.count(record)
	if all && disks == len(r.devices.disks) && nets == len(r.devices.nets) {
		return nil
	}
	if !all {
		if r.devices, err = h.devicesOf(c, record.Domain); err != nil {
			err = fmt.Errorf("devices of %s: %w", r.ID, err)
		}
	}
	r.devices = r.devices.only(record)
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, ok := h.runs[r.ID]; ok && known.labels == r.labels && known.pid == r.pid { // else it was forgotten meanwhile
		h.runs[r.ID] = *r
	}
	return err
}

// count is how many of the record's devices are known, and whether all are.
func (d devices) count(record *libvirt.DomainStats) (disks, nets int, all bool) {
	all = true
	for _, b := range record.Block {
		if _, known := d.disks[b.Name]; known {
			disks++
		} else {
			all = false
		}
	}
	for _, n := range record.Net {
		if _, known := d.nets[n.Name]; known {
			nets++
		} else if n.NameSet { // else it has no counters
			all = false
		}
	}
	return disks, nets, all
}

// only is those of d that the record has.
func (d devices) only(record *libvirt.DomainStats) devices {
	kept := devices{map[string]bool{}, map[string]bool{}}
	for _, b := range record.Block {
		if writable, known := d.disks[b.Name]; known {
			kept.disks[b.Name] = writable
		}
	}
	for _, n := range record.Net {
		if private, known := d.nets[n.Name]; known {
			kept.nets[n.Name] = private
		}
	}
	return kept
}

// devicesOf reads the domain's devices. Beside an error about some interfaces
// the other devices are returned.
func (h *Hypervisor) devicesOf(c *libvirt.Connect, dom *libvirt.Domain) (devices, error) {
	text, err := dom.GetXMLDesc(0)
	if err != nil {
		return devices{}, err
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return devices{}, err
	}
	found := devices{map[string]bool{}, map[string]bool{}}
	for _, disk := range x.Devices.Disks {
		found.disks[disk.Target.Dev] = disk.ReadOnly == nil
	}
	var errs []error
	for _, i := range x.Devices.Interfaces {
		if i.Target == nil {
			continue // it has no counters
		}
		private, err := h.isPrivate(c, i.Source)
		if err != nil {
			errs = append(errs, fmt.Errorf("the side of interface %s is not known, and its traffic not counted: %w", i.Target.Dev, err))
			continue
		}
		found.nets[i.Target.Dev] = private
	}
	return found, errors.Join(errs...)
}

// isPrivate tells the side of an interface with that source. The private one has
// what Config.PrivateNetworks names by its network, bridge or device, and
// isolated networks: libvirt forwards nothing of a network without a forward
// element. All else is public. It is asked once in the life of an interface, which
// keeps its side.
//
// An interface whose network has no definition (any more) is on neither side. Its
// counters are not read until it can be told, and then count in full: either
// guess could bill on the dearer side what was not there, and a reading cannot be
// taken back.
func (h *Hypervisor) isPrivate(c *libvirt.Connect, source *libvirtxml.DomainInterfaceSource) (bool, error) {
	if source == nil {
		return false, nil
	}
	names := func(name string) bool { return slices.Contains(h.cfg.PrivateNetworks, name) }
	switch {
	case source.Bridge != nil:
		return names(source.Bridge.Bridge), nil
	case source.Direct != nil:
		return names(source.Direct.Dev), nil
	case source.Network == nil || source.Network.Network == h.cfg.Network:
		return false, nil
	case names(source.Network.Network) || names(source.Network.Bridge):
		return true, nil
	}
	network, err := c.LookupNetworkByName(source.Network.Network)
	if err != nil {
		return false, err
	}
	defer network.Free()
	text, err := network.GetXMLDesc(0)
	if err != nil {
		return false, err
	}
	var x libvirtxml.Network
	if err := x.Unmarshal(text); err != nil {
		return false, fmt.Errorf("network %s: %w", source.Network.Network, err)
	}
	return x.Forward == nil, nil
}

// checkPrivate refuses names of private networks that cannot be meant.
func checkPrivate(names []string, public string) error {
	for _, name := range names {
		switch {
		case name == "" || strings.ContainsAny(name, "/ \t\n"):
			return fmt.Errorf("private network %q: want the name of a network of libvirt's or of a bridge", name)
		case name == public:
			return fmt.Errorf("private network %q: it is the public one", name)
		}
	}
	return nil
}

// CheckNetworks returns an error when libvirt has neither a network nor a host
// interface under a name of Config.PrivateNetworks: its traffic would be counted
// as public. While libvirt cannot be asked, that is only logged.
func (h *Hypervisor) CheckNetworks(ctx context.Context) error {
	if len(h.cfg.PrivateNetworks) == 0 {
		return nil
	}
	missing, err := call(ctx, h.main, func(c *libvirt.Connect) (missing []string, err error) {
		for _, name := range h.cfg.PrivateNetworks {
			network, err := c.LookupNetworkByName(name)
			if err == nil {
				network.Free()
				continue
			}
			bridge, err := c.LookupInterfaceByName(name)
			if is(err, libvirt.ERR_NO_INTERFACE) {
				missing = append(missing, name)
			} else if err != nil {
				return nil, err
			} else {
				bridge.Free()
			}
		}
		return missing, nil
	})
	if err != nil {
		h.cfg.Log.Warn("whether the private networks exist is not known", "names", h.cfg.PrivateNetworks, "err", err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("private networks %q: libvirt has neither a network nor a bridge of that name", missing)
	}
	return nil
}
