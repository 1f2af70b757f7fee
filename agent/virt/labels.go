package virt

import (
	"encoding/xml"
	"fmt"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/metering"
)

// labelSpace is the XML namespace of our element in a domain's metadata.
const labelSpace = "urn:usance:instance:1"

// labels are what we wrote into a domain's metadata. libvirt gives them back
// without the namespace, and adds it where they are set on an existing domain.
type labels struct {
	XMLName xml.Name            `xml:"instance"`
	Space   string              `xml:"xmlns,attr,omitempty"` // only in a domain's definition
	ID      metering.InstanceID `xml:"id,attr"`
	Lease   metering.LeaseNo    `xml:"lease,attr"`
	Start   metering.StartNo    `xml:"start,attr"`
	// End is why the domain was about to end, when it was not the guest's own
	// doing: libvirt says "shutdown" for both.
	End ending `xml:"end,attr,omitempty"`
}

type ending string

const (
	endOrdered ending = "ordered" // by Stop
	endKilled  ending = "killed"  // by a signal to QEMU, as at the host's own shutdown
)

// readLabels reads a domain's metadata; ok is false when the domain is not ours.
func readLabels(dom *libvirt.Domain) (l labels, ok bool, err error) {
	name, err := dom.GetName()
	if err != nil {
		return l, false, err
	}
	if metering.CheckID(metering.PrefixInstance, name) != nil {
		return l, false, nil
	}
	text, err := dom.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, labelSpace, libvirt.DOMAIN_AFFECT_CURRENT)
	if is(err, libvirt.ERR_NO_DOMAIN_METADATA) || is(err, libvirt.ERR_NO_DOMAIN) {
		return l, false, nil // a stranger's, or gone meanwhile
	}
	if err != nil {
		return l, false, fmt.Errorf("metadata of domain %s: %w", name, err)
	}
	if err := xml.Unmarshal([]byte(text), &l); err != nil {
		return l, false, fmt.Errorf("metadata of domain %s: %q: %w", name, text, err)
	}
	if string(l.ID) != name {
		return l, false, fmt.Errorf("domain %s: its metadata is of %q", name, l.ID)
	}
	return l, true, nil
}

// markEnd notes in the metadata of a domain why it is about to end. What was
// noted first stays: to pull the plug, libvirt signals QEMU, too.
func markEnd(dom *libvirt.Domain, end ending) error {
	l, ok, err := readLabels(dom)
	if err != nil || !ok || l.End != "" {
		return err
	}
	l.End, l.Space = end, ""
	return setLabels(dom, l)
}

// setLabels replaces the labels of a domain, running or not.
func setLabels(dom *libvirt.Domain, l labels) error {
	flags := libvirt.DOMAIN_AFFECT_CONFIG
	if active, err := dom.IsActive(); err == nil && active {
		flags |= libvirt.DOMAIN_AFFECT_LIVE
	}
	return dom.SetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, l.element(), "usance", labelSpace, flags)
}

// element is the labels as XML.
func (l labels) element() string {
	text, err := xml.Marshal(l)
	if err != nil {
		panic(fmt.Sprintf("labels %+v: %v", l, err)) // numbers and plain strings
	}
	return string(text)
}
