// Package virt is the agent's hypervisor on libvirt: it makes QEMU domains of
// instances, has them grow, reads their counters, tells how they end and removes
// them, with their disks or without.
//
// It owns the domains that carry our metadata, and the folder of each under
// DataDir/instances. It never touches another domain, and it never decides what
// should run: the agent does.
//
// Invariants:
//   - A domain's name is its instance's id, its UUID follows from that id, and
//     its metadata holds the start it was last started under, and the lease it was
//     last started or resized under, which changes after all else does.
//   - Domains are persistent, so that one whose QEMU was killed is still listed,
//     with the reason; libvirtd may die and come back at any time, guests stay.
//   - A counter that could not be read is nil, and so are those of an interface of
//     which it cannot be told whether its network is a private one. Counters of shut-off
//     domains are never read: libvirt 9 reports its own CPU time for them.
//   - A domain that migrates is told of and read on one host at a time: where it
//     runs, and from when it does.
//   - A QEMU that does not answer holds up nobody but itself: bulk calls do not
//     wait for it (NOWAIT), and every call ends with its context.
//
// Metadata was preferred to a file of our own beside each domain: libvirt writes
// it in the same step as the domain, so that they cannot disagree.
//
// This is the only package of the module that needs cgo (libvirt-dev to build,
// libvirt.so.0 to run).
package virt
