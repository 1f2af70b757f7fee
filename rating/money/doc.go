// Package money holds amounts, prices, exact fractions of them, and the only
// rounding in the house.
//
// It owns currencies and their minor units, the arithmetic of money, and the
// splitting of a rounded whole into parts. It never touches a float, never
// converts one currency into another and never rounds unless asked by name.
//
// Invariants:
//   - An Amount is whole minor units of one currency; two currencies never add.
//   - A Fraction is exact, however large: 128 bits carry the usual case, big
//     integers the rest. It never wraps and is never refused.
//   - Parts made by Shares always sum to their whole.
package money
