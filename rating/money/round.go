package money

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"
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
	whole, half, exact, ok := f.minor(currency)
	if !ok || whole >= math.MaxInt64 {
		return Amount{}, fmt.Errorf("%s %s: %w", f.Decimal(0), currency, ErrOverflow)
	}
	up := false
	switch mode {
	case HalfAway:
		up = half >= 0
	case HalfEven:
		up = half > 0 || half == 0 && whole%2 == 1
	case Up:
		up = !exact
	}
	n := int64(whole)
	if up {
		n++
	}
	if f.Sign() < 0 {
		n = -n
	}
	return Amount{n, currency}, nil
}

// minor is |f| in minor units, toward zero; half is −1, 0 or 1 as what is cut
// off is below, at or above a half; exact when nothing is.
func (f Fraction) minor(currency Currency) (whole uint64, half int, exact, ok bool) {
	if f.large == nil {
		den := f.denominator()
		hi, lo, fits := mul128(f.hi, f.lo, currency.minorPerUnit())
		if fits && hi < den {
			whole, rem := bits.Div64(hi, lo, den)
			// 2 × rem against den, without doubling.
			half := 0
			if rem > den-rem {
				half = 1
			} else if rem < den-rem {
				half = -1
			}
			return whole, half, rem == 0, true
		}
	}
	r := f.Rat()
	r.Abs(r)
	n := new(big.Int).Mul(r.Num(), new(big.Int).SetUint64(currency.minorPerUnit()))
	quo, rem := new(big.Int).QuoRem(n, r.Denom(), new(big.Int))
	exact = rem.Sign() == 0
	half = rem.Lsh(rem, 1).Cmp(r.Denom())
	return quo.Uint64(), half, exact, quo.IsUint64()
}

// floor is the greatest whole number of minor units not above f, and what is
// left of f above it, in currency units.
func (f Fraction) floor(currency Currency) (int64, Fraction, error) {
	down, err := Round(f, currency, Down)
	if err != nil {
		return 0, Fraction{}, err
	}
	rest := f.Sub(down.Fraction())
	if rest.Sign() < 0 {
		down.Minor--
		rest = f.Sub(down.Fraction())
	}
	return down.Minor, rest, nil
}

// Shares rounds the sum of the exact parts once and splits it again: each part
// gets its floor, and what is left goes in single minor units to the largest
// remainders, the earlier part first where two are equal. The shares sum to
// the whole, and each is within one minor unit of its part.
func Shares(parts []Fraction, currency Currency, mode Rounding) (whole Amount, shares []Amount, err error) {
	var sum Fraction
	for _, p := range parts {
		sum = sum.Add(p)
	}
	if whole, err = Round(sum, currency, mode); err != nil {
		return Amount{}, nil, err
	}
	shares, err = spread(whole, parts)
	return whole, shares, err
}

// Allocate splits an amount in proportion to weights that are not negative, by
// largest remainder, the earlier weight first where two are equal. Weights of
// nothing share equally. The parts always sum to the whole.
func Allocate(whole Amount, weights []Fraction) ([]Amount, error) {
	if len(weights) == 0 {
		return nil, fmt.Errorf("allocate %s %s: no weights", whole, whole.Currency)
	}
	sum := new(big.Rat)
	for _, w := range weights {
		if w.Sign() < 0 {
			return nil, fmt.Errorf("allocate %s %s: weight %s is negative", whole, whole.Currency, w.Text())
		}
		sum.Add(sum, w.Rat())
	}
	total := whole.Fraction().Rat()
	parts := make([]Fraction, len(weights))
	for i, w := range weights {
		part := big.NewRat(1, int64(len(weights)))
		if sum.Sign() > 0 {
			part.Quo(w.Rat(), sum)
		}
		parts[i] = Fraction{large: part.Mul(part, total)}
	}
	return spread(whole, parts)
}

// spread splits whole, which is the sum of parts but for less than a minor
// unit, by largest remainder.
func spread(whole Amount, parts []Fraction) ([]Amount, error) {
	shares := make([]Amount, len(parts))
	rests := make([]Fraction, len(parts))
	left := whole.Minor
	for i, p := range parts {
		floor, rest, err := p.floor(whole.Currency)
		if err != nil {
			return nil, err
		}
		shares[i], rests[i] = Amount{floor, whole.Currency}, rest
		left -= floor
	}
	if left == 0 {
		return shares, nil
	}
	order := make([]int, len(parts))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return rests[order[a]].Cmp(rests[order[b]]) > 0 })
	for i := int64(0); i < left; i++ {
		shares[order[i]].Minor++
	}
	return shares, nil
}
