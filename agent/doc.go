// Package agent is the program on each host: it reads what the hypervisor
// counts, turns it into odometer readings, keeps them in a durable spool until
// the control plane has them, and makes the host what the control plane wants.
//
// It owns epochs, rounds and the reconciliation of one host. It knows no money
// and no database.
//
// Invariants:
//   - A register never falls, whatever restarts.
//   - A round counts as taken only when the spool has it on disk.
//   - No instance runs here without a lease that was granted to this host.
package agent
