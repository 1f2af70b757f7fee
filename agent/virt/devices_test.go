package virt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// TestSideOfAnInterface asks a real libvirt; guests on such networks are in TestMeteredLife.
func TestSideOfAnInterface(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	define := func(name, forward string) {
		file := filepath.Join(t.TempDir(), name+".xml")
		if err := os.WriteFile(file, []byte("<network><name>"+name+"</name>"+forward+"</network>"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.virsh(t, "net-define", file)
		t.Cleanup(func() { b.virsh(t, "net-undefine", name) })
	}
	define("alone", "")
	define("routed", "<forward mode='route'/><ip address='10.77.8.1' netmask='255.255.255.0'/>")
	define("backbone", "<forward mode='open'/><ip address='10.77.9.1' netmask='255.255.255.0'/>")
	b.cfg.PrivateNetworks = []string{"backbone", "br-int", "virbr9", "eth7"}

	network := func(name, bridge string) *libvirtxml.DomainInterfaceSource {
		return &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: name, Bridge: bridge}}
	}
	bridge := func(name string) *libvirtxml.DomainInterfaceSource {
		return &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: name}}
	}
	device := func(name string) *libvirtxml.DomainInterfaceSource {
		return &libvirtxml.DomainInterfaceSource{Direct: &libvirtxml.DomainInterfaceSourceDirect{Dev: name}}
	}
	for name, c := range map[string]struct {
		source  *libvirtxml.DomainInterfaceSource
		private bool
		unknown bool
	}{
		"the public network":          {source: network("default", "virbr0")},
		"a routed network":            {source: network("routed", "virbr1")},
		"an isolated network":         {source: network("alone", "virbr2"), private: true},
		"a named network":             {source: network("backbone", "virbr3"), private: true},
		"a network on a named bridge": {source: network("routed", "virbr9"), private: true},
		"a network that is gone":      {source: network("gone", "virbr4"), unknown: true},
		"a bridge":                    {source: bridge("br0")},
		"a named bridge":              {source: bridge("br-int"), private: true},
		"a device":                    {source: device("eth0")},
		"a named device":              {source: device("eth7"), private: true},
		"nothing":                     {},
	} {
		t.Run(name, func(t *testing.T) {
			private, err := call(t.Context(), b.stats, func(conn *libvirt.Connect) (bool, error) { return b.isPrivate(conn, c.source) })
			if private != c.private || (err != nil) != c.unknown {
				t.Errorf("got %v, %v, want %v, an error: %v", private, err, c.private, c.unknown)
			}
		})
	}

	if err := b.CheckNetworks(t.Context()); err == nil || !strings.Contains(err.Error(), `["br-int" "virbr9" "eth7"]`) {
		t.Errorf("names of nothing: got %v, want an error with the three of them", err)
	}
	b.cfg.PrivateNetworks = []string{"backbone", "virbr0"}
	if err := b.CheckNetworks(t.Context()); err != nil {
		t.Errorf("a network and a bridge that are there: %v", err)
	}
}
