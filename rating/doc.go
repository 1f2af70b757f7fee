// Package rating turns usage into charges: what a price plan says, and what a
// tenant's usage of one period costs under it.
//
// It owns plans, rates, calendars and the one function from usage to money,
// Plan.Rate. It does no I/O, has no clock, knows no invoice and uses no float;
// plans are read by planfile and stored by plandb.
//
// Invariants:
//   - A price is a function F from a period's total usage to an amount: the
//     order, splitting and merging of usage do not change it, and what a span
//     cost is the difference of two Fs.
//   - Nothing is rounded before a line is made: a charge is an exact fraction.
//   - Usage that no rate fits is listed, never silently free.
package rating
