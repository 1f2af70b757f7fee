// Package wire turns a batch of readings into bytes and back.
//
// It owns the body that hosts send and that the spool keeps: one zstd frame
// that holds the version (a varint), then two blocks in ClickHouse's Native
// format: the epoch records (id, instance, lease, start, opened_ms and the
// opening reading) and the readings (epoch, the index of its record; at_ms; the
// registers). Every register is a UInt64 column under its own name.
//
// It never checks whether a reading is plausible and knows no tenant.
//
// Invariants:
//   - Whatever comes in, Decode returns an error or a batch within the limits;
//     it never panics, and what it allocates is bounded by the limits.
//   - A body of a version has exactly the registers of that version, in any
//     order of columns. A column that is unknown, missing or there twice is
//     refused by its name: a register silently left out would be read as "did
//     not grow", which a host must say itself by repeating the last value.
//   - Every register fits in an int64.
package wire
