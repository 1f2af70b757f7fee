// Package readingdb keeps readings in ClickHouse and answers what usage is
// computed from: the registers of every epoch at given instants.
//
// The statements are the same for one server and for a cluster, where the three
// names are those of Distributed tables (see sql.Cluster).
//
// It owns three tables: readings (what came in), reading_slots (per epoch and
// slot the largest value of each register) and epoch_totals (one row per
// epoch); the last two are fed from the first by materialized views. It never
// adds stored values up in SQL, never knows a price, and never decides which
// readings are true: that is done before Insert.
//
// Invariants:
//   - Inserting is idempotent and commutative. The same readings in any order,
//     split, repeated or late, give the same answers: every answer is a maximum.
//   - What Insert returned nil for is on disk; in a cluster, on as many replicas
//     as the server's insert_quorum says.
//   - No answer depends on which shard of a cluster a reading lies on.
//   - What a method says of one epoch is one consistent result; all but At are one
//     statement. Each has a limit on its time and on its rows. Beyond a limit it
//     fails; it never cuts short in silence.
//   - R(e,t) is exact for every instant, on a slot boundary or inside a slot.
package readingdb
