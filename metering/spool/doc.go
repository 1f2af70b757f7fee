// Package spool is the durable queue of readings on a host.
//
// It owns the files between a round being taken and the control plane having
// it. It never looks at what a reading means beyond its epoch and time, never
// talks to the network, and never drops anything silently: what it gives up
// (thinning), refuses (ErrFull) or puts away (SetAside) is counted and logged.
//
// Invariants:
//   - A round counts as taken only when Append returned nil; then it survives
//     kill -9 and loss of power until it is acknowledged.
//   - Thinning keeps the first and the last reading of every epoch and the last
//     of each of its slots, so usage per slot is the same with and without it.
//   - The queue on disk stays within MaxBytes; the last part of it is open only
//     to last readings of epochs.
package spool
