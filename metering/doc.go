// Package metering holds what a meter reading is and how usage follows from
// readings: ids, registers, readings, epochs, slots, windows, meters and the
// exact rule of usage.
//
// It owns the words every other room speaks in. It does no I/O, has no clock
// and knows no price.
//
// Invariants:
//   - A register never falls within an epoch. Two readings of one epoch join by
//     taking the larger value of each register; the join is commutative,
//     associative and idempotent, so repeating, delaying or reordering readings
//     cannot change usage.
//   - Usage between two instants is a difference of two readings, never a sum of
//     stored deltas, and never negative; over any partition of time the parts
//     sum to the whole.
//   - A counter that could not be read leaves its register at its last value. It
//     is never zero: absent is not zero.
package metering
