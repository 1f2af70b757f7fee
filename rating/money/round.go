package money

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"slices"
	"sort"
)

// Rounding says how a fraction becomes whole minor units.
type Rounding uint8

// The rounding modes. Up and Down are away from and toward zero.
const (
	HalfAway Rounding = iota // 0.5 → 1, −0.5 → −1
	HalfEven                 // 0.5 → 0, 1.5 → 2
	Up                       // 0.1 → 1, −0.1 → −1
	Down                     // 0.9 → 0, −0.9 → 0
)

var roundingNames = [...]string{"half-away", "half-even", "up", "down"}

// String is the mode's name in a plan.
func (m Rounding) String() string { return roundingNames[m] }

// ParseRounding reads a mode's name.
func ParseRounding(s string) (Rounding, error) {
	for i, name := range roundingNames {
		if s == name {
			return Rounding(i), nil
		}
	}
	return 0, fmt.Errorf("%q is not a rounding; half-away, half-even, up and down are", s)
}

// Round is the fraction of currency units as whole minor units. The error
// wraps ErrOverflow when they do not fit in 64 bits.
func Round(f Fraction, currency Currency, mode Rounding) (Amount, error) {
	if a, ok := f.roundFast(currency, mode); ok {
		return a, nil
	}
	return f.round(currency, mode).Amount()
}

// roundFast is Round within 128 bits and well below the largest amount.
func (f Fraction) roundFast(currency Currency, mode Rounding) (Amount, bool) {
	hi, lo, fits := mul128(f.hi, f.lo, currency.minorPerUnit())
	den := f.denominator()
	if f.large != nil || !fits || hi >= den {
		return Amount{}, false
	}
	whole, rem := bits.Div64(hi, lo, den)
	if whole >= math.MaxInt64 {
		return Amount{}, false
	}
	// 2 × rem against den, without doubling.
	if mode.up(cmp.Compare(rem, den-rem), rem == 0, whole%2 == 1) {
		whole++
	}
	if f.negative {
		return Amount{-int64(whole), currency}, true
	}
	return Amount{int64(whole), currency}, true
}

// round is Round of any size.
func (f Fraction) round(currency Currency, mode Rounding) Sum {
	r := f.Rat()
	n := new(big.Int).SetUint64(currency.minorPerUnit())
	whole, rem := n.QuoRem(n.Mul(n, new(big.Int).Abs(r.Num())), r.Denom(), new(big.Int))
	exact := rem.Sign() == 0
	if mode.up(rem.Lsh(rem, 1).Cmp(r.Denom()), exact, whole.Bit(0) == 1) {
		whole.Add(whole, big.NewInt(1))
	}
	if r.Sign() < 0 {
		whole.Neg(whole)
	}
	return Sum{whole, currency}
}

// up reports whether a magnitude is rounded away from zero; half is −1, 0 or 1
// as what would be cut off is below, at or above a half.
func (m Rounding) up(half int, exact, odd bool) bool {
	switch m {
	case HalfAway:
		return half >= 0
	case HalfEven:
		return half > 0 || half == 0 && odd
	case Up:
		return !exact
	}
	return false
}

// Sum is an amount of any size. Amounts of documents and of the ledger are
// Amount; a Sum is what adding up charges may come to.
type Sum struct {
	minor    *big.Int // nil is 0
	Currency Currency
}

// Amount is the sum in 64 bits of minor units. The error wraps ErrOverflow.
func (s Sum) Amount() (Amount, error) {
	if s.minor == nil {
		return Amount{Currency: s.Currency}, nil
	}
	if !s.minor.IsInt64() {
		return Amount{}, fmt.Errorf("%s %s: %w", s, s.Currency, ErrOverflow)
	}
	return Amount{s.minor.Int64(), s.Currency}, nil
}

// Add is s + t, which are of one currency.
func (s Sum) Add(t Sum) Sum {
	if s.minor == nil {
		return t
	}
	if t.minor == nil {
		return s
	}
	return Sum{new(big.Int).Add(s.minor, t.minor), s.Currency}
}

// String is the sum in currency units, as Amount writes it.
func (s Sum) String() string {
	if s.minor == nil {
		return Amount{Currency: s.Currency}.String()
	}
	return decimal(s.minor.String(), s.Currency)
}

// Shares rounds the sum of the exact parts once and splits it again: each part
// gets its floor, and what is left goes in single minor units to the largest
// remainders, the earlier part first where two are equal. The shares sum to
// the whole, and each is within one minor unit of its part. The error wraps
// ErrOverflow.
func Shares(parts []Fraction, currency Currency, mode Rounding) (whole Amount, shares []Amount, err error) {
	if whole, shares, ok := sharesFast(parts, currency, mode); ok {
		return whole, shares, nil
	}
	sum, sums := SumShares(parts, currency, mode)
	if whole, err = sum.Amount(); err != nil {
		return Amount{}, nil, err
	}
	shares, err = amounts(sums)
	return whole, shares, err
}

func amounts(sums []Sum) ([]Amount, error) {
	list := make([]Amount, len(sums))
	for i, s := range sums {
		var err error
		if list[i], err = s.Amount(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// sharesFast is Shares of parts that are not negative and have a common
// denominator of 64 bits; ok is false for others.
func sharesFast(parts []Fraction, currency Currency, mode Rounding) (whole Amount, shares []Amount, ok bool) {
	sum := Fraction{den: 1}
	for _, p := range parts {
		if p.negative && p.Sign() != 0 || p.large != nil {
			return Amount{}, nil, false
		}
		if p.denominator() == sum.den {
			continue
		}
		over, lcm := bits.Mul64(sum.den/gcd(sum.den, p.denominator()), p.denominator())
		if over != 0 {
			return Amount{}, nil, false
		}
		sum.den = lcm
	}
	type rest struct {
		part int
		rem  uint64 // of the part above its floor, over the common denominator
	}
	rests := make([]rest, len(parts))
	shares = make([]Amount, len(parts))
	left, perUnit := int64(0), currency.minorPerUnit()
	for i, p := range parts {
		hi, lo, fits := mul128(p.hi, p.lo, sum.den/p.denominator())
		sum.hi, sum.lo, ok = add128(sum.hi, sum.lo, hi, lo)
		hi, lo, small := mul128(hi, lo, perUnit)
		if !fits || !ok || !small || hi >= sum.den {
			return Amount{}, nil, false
		}
		floor, rem := bits.Div64(hi, lo, sum.den)
		if floor > math.MaxInt64>>1 {
			return Amount{}, nil, false
		}
		shares[i], rests[i] = Amount{int64(floor), currency}, rest{i, rem}
		left -= int64(floor)
	}
	if whole, ok = sum.roundFast(currency, mode); !ok {
		return Amount{}, nil, false
	}
	// The sum of the floors is at most the whole, so left is counted without overflow.
	if left += whole.Minor; left > 0 {
		slices.SortFunc(rests, func(a, b rest) int { return cmp.Or(cmp.Compare(b.rem, a.rem), cmp.Compare(a.part, b.part)) })
	}
	for _, r := range rests[:left] {
		shares[r.part].Minor++
	}
	return whole, shares, true
}

// SumShares is Shares of any size.
func SumShares(parts []Fraction, currency Currency, mode Rounding) (whole Sum, shares []Sum) {
	if fast, amounts, ok := sharesFast(parts, currency, mode); ok {
		shares = make([]Sum, len(amounts))
		for i, a := range amounts {
			shares[i] = Sum{big.NewInt(a.Minor), currency}
		}
		return Sum{big.NewInt(fast.Minor), currency}, shares
	}
	var sum Fraction
	for _, p := range parts {
		sum = sum.Add(p)
	}
	whole = sum.round(currency, mode)
	return whole, spread(whole, parts)
}

// spread splits whole, which is the sum of parts but for less than a minor
// unit, by largest remainder.
func spread(whole Sum, parts []Fraction) []Sum {
	shares := make([]Sum, len(parts))
	rests := make([]*big.Rat, len(parts))
	order := make([]int, len(parts))
	left := new(big.Int).Set(whole.minor)
	scale := new(big.Int).SetUint64(whole.Currency.minorPerUnit())
	for i, p := range parts {
		r := p.Rat()
		floor, rest := new(big.Int).DivMod(new(big.Int).Mul(r.Num(), scale), r.Denom(), new(big.Int))
		shares[i], rests[i], order[i] = Sum{floor, whole.Currency}, new(big.Rat).SetFrac(rest, r.Denom()), i
		left.Sub(left, floor)
	}
	sort.SliceStable(order, func(a, b int) bool { return rests[order[a]].Cmp(rests[order[b]]) > 0 })
	for _, i := range order[:left.Int64()] {
		shares[i].minor.Add(shares[i].minor, big.NewInt(1))
	}
	return shares
}
