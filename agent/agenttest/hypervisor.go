// Package agenttest is a host without a machine: a hypervisor whose domains
// consume at set rates, whose clocks can be stepped, and whose true counters are
// known to the unit.
//
// It owns the fake and the truth about it. It never measures anything: what a
// test compares with Truth came through the agent.
//
// Invariants:
//   - All methods may be called from several goroutines.
//   - The truth of an epoch depends only on the clock and the calls made, not on
//     when or how often it is sampled.
package agenttest
