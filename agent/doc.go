// Package agent is the program on each host: it reads what the hypervisor
// counts, turns it into odometer readings, keeps them in a durable spool until
// the control plane has them, and makes the host what the control plane wants.
//
// It owns epochs, rounds and the reconciliation of one host. It knows no money
// and no database, and it never touches a domain that the control plane does not
// list.
//
// Invariants:
//   - A register never falls, whatever restarts.
//   - A round counts as taken only when the spool has it on disk (journal says
//     why no kill -9 loses one).
//   - No instance runs here without a lease that was granted to this host.
//   - Time is measured by the monotonic clock; the wall clock only names instants.
//   - What nobody could know is given away, never guessed: counters of an
//     unordered end stop at the last round; a time whose state is not known
//     counts as paused.
//
// The parts, each in a goroutine of its own: the recorder, which alone touches
// the meter (events and samples in, readings out); the sender, from spool to
// control plane; the reconciler, from desired to real. They meet in three places
// only: a stop and a resize ask the recorder for a full reading first, a full reading
// on demand is reported when the sender has sent it, and an event makes the
// reconciler look.
package agent
