// Package epochdb keeps in Postgres what the control plane knows of epochs, and
// the readings it did not accept.
//
// It owns the tables epochs, voids and quarantined_readings. It holds no accepted
// reading (those are in ClickHouse) and decides nothing: what is accepted is
// the ingest's rule, what is done with quarantined readings an operator's.
//
// Invariants:
//   - The record of an epoch never changes and is never deleted; that it is
//     voided is a record of its own, which never changes either.
//   - A quarantined reading is never deleted; only its state changes.
//   - What of one host is held or waits for an operator is bounded (Quarantine).
//   - Doing anything twice equals doing it once.
package epochdb
