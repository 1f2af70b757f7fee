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
//
// # The rule of usage
//
// R(e,t) is the largest value of epoch e's register over all readings with time
// ≤ t, however old; its opening reading if there is none. W(e) is what is billed
// of e: its last closing reading, its opening reading before the first. What a
// window (a,b] adds to the bill is max(R(e,b), W(e)) − max(R(e,a), W(e)).
//
// This suffices. R depends on the set of readings alone, so order, repetition
// and batching are nothing to it. It rises with t, so no window is negative. The
// terms of adjoining windows cancel, so any partition sums to R(e,now) − W(e). A
// reading that comes after its window was billed raises R there, and lies above
// W: it is late usage of the next invoice, neither lost nor billed twice. Taking
// readings away changes the sum only if the last one is among them.
//
// # Taking readings back
//
// A maximum has no undo. When an operator voids an epoch from an instant on, it
// counts for no more than R(e, that instant), and what its agent goes on to send
// counts for a replacing epoch, whose opening reading is the latest one that was
// taken back. So nothing is deleted, the rule above holds for both epochs, and
// usage is at most the truth: an error that stays in a register is in the opening
// reading and in every later one. W is never lowered: an invoice too high is
// credited. See Void.
//
// # What was not chosen, and what it would have cost
//
//   - Deltas ("used since last time"). A batch whose acknowledgement is lost is
//     sent again and counted twice, or not sent again and lost.
//   - Tokens that tell repeated batches apart. A store remembers so many of them;
//     a host that was away for longer, or thinned and so batched otherwise, is
//     counted twice.
//   - Windows on the time of arrival. A host that was cut off over the end of a
//     month moves its usage into the next, at the next one's prices and tiers.
//   - Interpolation at window ends. Readings 0 at 11:50 and 600 at 12:10 would put
//     300 before noon; if the reading of 12:00 then arrives and says 0, usage that
//     was billed has gone. R may only rise.
//   - Taking the newest reading for the largest. After a clock is stepped back the
//     newest by time is not the last, and a register would fall.
package metering
