// Package ingest takes batches of readings from hosts: the handler of the
// control plane and the client of the agent.
//
// It owns what is accepted: whether a host may send an epoch, whether a reading
// can be true, and that the answer 200 means durable. It knows no store: the
// functions of Config reach them.
//
// Invariants:
//   - 200 is answered only after every accepted row's insert returned, every new
//     epoch is registered and every quarantined reading is kept.
//   - A check looks at one reading, its epoch, its lease and the server's clock,
//     never at another reading, so order, repetition and batching do not matter.
//   - Tenant and labels come from the lease, never from the host.
//   - One reading that fails does not keep the others from being accepted, unless
//     the quarantine has no room for it: then the whole batch stays with its host.
package ingest
