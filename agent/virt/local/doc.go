// Package local runs a libvirtd of our own where the machine has none that
// answers: in namespaces of its own (network, mounts, host name), so that nothing of it
// appears among the machine's interfaces, firewall rules and libvirt folders.
//
// It owns that libvirtd, the process that holds the namespaces, the network
// "default" inside, and everything under Config.Dir. It never talks to
// another libvirtd, and it links no libvirt.
//
// Invariants:
//   - Guests and libvirtd outlive whoever started them; the next Start on the
//     same folder finds them by what they see as /run/libvirt and goes on with them.
//   - Only StopGuests ends guests. Stop refuses while one runs.
//   - After Stop no process, namespace, mount or cgroup of ours is left.
//
// Domains run without cgroups of their own (cgroup_controllers = []): what we
// bill comes from the counters of QEMU itself, and there is nothing to clean up.
package local
