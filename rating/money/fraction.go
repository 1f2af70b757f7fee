package money

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"

	"github.com/usance/usance/metering"
)

// Fraction is an exact rational number: a charge in currency units before
// rounding, or a quantity in the unit of a price. The zero value is 0. Values
// are immutable; compare them with Cmp, since one number has many forms.
type Fraction struct {
	negative bool
	hi, lo   uint64   // numerator, 128 bits
	den      uint64   // denominator; 0 stands for 1
	large    *big.Rat // where not nil, the value, and the rest is unused
}

// Frac is num ÷ den. It panics when den is not positive: denominators are
// units and month lengths, checked where they are read.
func Frac(num, den int64) Fraction {
	if den <= 0 {
		panic("money: a denominator that is not positive")
	}
	if num < 0 {
		return Fraction{negative: true, lo: -uint64(num), den: uint64(den)}
	}
	return Fraction{lo: uint64(num), den: uint64(den)}
}

// FracOf is the quantity × num ÷ den, where the quantity counts its
// thousandths as whole: FracOf(q, 1, 1000) is q in base units.
func FracOf(q metering.Quantity, num, den uint64) Fraction {
	if den == 0 {
		panic("money: a denominator of 0")
	}
	if g := gcd(num, den); g > 1 {
		num, den = num/g, den/g
	}
	if hi, lo, ok := mul128(q.Hi, q.Lo, num); ok {
		return Fraction{hi: hi, lo: lo, den: den}
	}
	n := q.Big()
	n.Mul(n, new(big.Int).SetUint64(num))
	return Fraction{large: new(big.Rat).SetFrac(n, new(big.Int).SetUint64(den))}
}

func (f Fraction) denominator() uint64 {
	if f.den == 0 {
		return 1
	}
	return f.den
}

// Rat is the fraction as a big rational, which the caller may change.
func (f Fraction) Rat() *big.Rat {
	if f.large != nil {
		return new(big.Rat).Set(f.large)
	}
	n := metering.Quantity{Hi: f.hi, Lo: f.lo}.Big()
	if f.negative {
		n.Neg(n)
	}
	return new(big.Rat).SetFrac(n, new(big.Int).SetUint64(f.denominator()))
}

// FracRat is the value of r.
func FracRat(r *big.Rat) Fraction {
	if !r.Denom().IsUint64() || r.Num().BitLen() > 128 {
		return Fraction{large: new(big.Rat).Set(r)}
	}
	num := new(big.Int).Abs(r.Num())
	low := new(big.Int).And(num, new(big.Int).SetUint64(math.MaxUint64))
	return Fraction{negative: r.Sign() < 0, hi: num.Rsh(num, 64).Uint64(), lo: low.Uint64(), den: r.Denom().Uint64()}
}

// Sign is −1, 0 or 1.
func (f Fraction) Sign() int {
	switch {
	case f.large != nil:
		return f.large.Sign()
	case f.hi == 0 && f.lo == 0:
		return 0
	case f.negative:
		return -1
	}
	return 1
}

// IsZero reports whether the fraction is 0.
func (f Fraction) IsZero() bool { return f.Sign() == 0 }

// Neg is −f.
func (f Fraction) Neg() Fraction {
	if f.large != nil {
		return Fraction{large: new(big.Rat).Neg(f.large)}
	}
	f.negative = !f.negative
	return f
}

// Add is f + g.
func (f Fraction) Add(g Fraction) Fraction {
	switch {
	case g.large == nil && g.hi|g.lo == 0:
		return f
	case f.large == nil && f.hi|f.lo == 0:
		return g
	case f.large == nil && g.large == nil && f.den == g.den:
		if sum, ok := addSame(f, g); ok {
			return sum
		}
	}
	if a, b, ok := common(f, g); ok {
		if sum, ok := addSame(a, b); ok {
			return sum
		}
	}
	return Fraction{large: f.Rat().Add(f.Rat(), g.Rat())}
}

// Sub is f − g.
func (f Fraction) Sub(g Fraction) Fraction { return f.Add(g.Neg()) }

// Mul is f × g.
func (f Fraction) Mul(g Fraction) Fraction {
	if f.IsZero() || g.IsZero() {
		return Fraction{}
	}
	if f.large == nil && g.large == nil && f.hi == 0 && g.hi == 0 {
		dh, dl := bits.Mul64(f.denominator(), g.denominator())
		if dh == 0 {
			hi, lo := bits.Mul64(f.lo, g.lo)
			return Fraction{negative: f.negative != g.negative, hi: hi, lo: lo, den: dl}
		}
	}
	return Fraction{large: f.Rat().Mul(f.Rat(), g.Rat())}
}

// Over is f ÷ g, which is not 0.
func (f Fraction) Over(g Fraction) Fraction {
	return f.Mul(FracRat(new(big.Rat).Inv(g.Rat())))
}

// Times is f × the quantity, whose thousandths count as whole.
func (f Fraction) Times(q metering.Quantity) Fraction {
	if f.large == nil && f.hi == 0 {
		if hi, lo, ok := mul128(q.Hi, q.Lo, f.lo); ok {
			f.hi, f.lo = hi, lo
			return f
		}
	}
	r := new(big.Rat).SetInt(q.Big())
	return Fraction{large: r.Mul(r, f.Rat())}
}

// Cmp is −1, 0 or 1 as f is less than, equal to or more than g.
func (f Fraction) Cmp(g Fraction) int {
	if f.large == nil && g.large == nil && f.den == g.den && !f.negative && !g.negative {
		return metering.Quantity{Hi: f.hi, Lo: f.lo}.Cmp(metering.Quantity{Hi: g.hi, Lo: g.lo})
	}
	return f.Sub(g).Sign()
}

// Min is the smaller of the two.
func (f Fraction) Min(g Fraction) Fraction {
	if g.Cmp(f) < 0 {
		return g
	}
	return f
}

// Common gives all fractions one denominator, where that fits, so that adding
// what is multiplied by them is cheap.
func Common(all ...*Fraction) {
	one := Fraction{den: 1}
	for _, f := range all {
		_, both, ok := common(*f, one)
		if !ok {
			return
		}
		one.den = both.den
	}
	for _, f := range all {
		if same, _, ok := common(*f, one); ok {
			*f = same
		}
	}
}

// common brings two fractions of 128 bits to one denominator; ok is false when
// that does not fit.
func common(f, g Fraction) (Fraction, Fraction, bool) {
	if f.large != nil || g.large != nil {
		return f, g, false
	}
	fd, gd := f.denominator(), g.denominator()
	if fd == gd {
		return f, g, true
	}
	k := gcd(fd, gd)
	over, lcm := bits.Mul64(fd/k, gd)
	if over != 0 {
		return f, g, false
	}
	var fits, fits2 bool
	f.hi, f.lo, fits = mul128(f.hi, f.lo, gd/k)
	g.hi, g.lo, fits2 = mul128(g.hi, g.lo, fd/k)
	f.den, g.den = lcm, lcm
	return f, g, fits && fits2
}

// addSame adds two fractions of one denominator; ok is false beyond 128 bits.
func addSame(f, g Fraction) (Fraction, bool) {
	if f.negative == g.negative {
		var ok bool
		f.hi, f.lo, ok = add128(f.hi, f.lo, g.hi, g.lo)
		return f, ok
	}
	if f.hi < g.hi || f.hi == g.hi && f.lo < g.lo {
		f, g = g, f
	}
	lo, b := bits.Sub64(f.lo, g.lo, 0)
	hi, _ := bits.Sub64(f.hi, g.hi, b)
	f.hi, f.lo = hi, lo
	return f, true
}

// add128 is the sum of two numbers; ok is false beyond 128 bits.
func add128(ahi, alo, bhi, blo uint64) (hi, lo uint64, ok bool) {
	lo, c := bits.Add64(alo, blo, 0)
	hi, c = bits.Add64(ahi, bhi, c)
	return hi, lo, c == 0
}

// mul128 is (hi, lo) × m; ok is false beyond 128 bits.
func mul128(hi, lo, m uint64) (uint64, uint64, bool) {
	over, top := bits.Mul64(hi, m)
	carry, low := bits.Mul64(lo, m)
	top, c := bits.Add64(top, carry, 0)
	return top, low, over == 0 && c == 0
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// maxDecimals bounds Text: what has more decimals, or infinitely many, is
// written as a quotient.
const maxDecimals = 18

// Text is the exact value: a decimal where one of at most 18 decimals exists
// ("1.234"), else a reduced quotient ("2/3").
func (f Fraction) Text() string {
	if text, ok := f.textFast(); ok {
		return text
	}
	r := f.Rat()
	ten := big.NewInt(10)
	pow := big.NewInt(1)
	for n := 0; n <= maxDecimals; n++ {
		if new(big.Int).Rem(pow, r.Denom()).Sign() == 0 {
			return r.FloatString(n)
		}
		pow.Mul(pow, ten)
	}
	return r.RatString()
}

// textFast is Text where numerator and denominator have 64 bits when reduced,
// and the digits too.
func (f Fraction) textFast() (string, bool) {
	if f.large != nil || f.hi != 0 {
		return "", false
	}
	g := gcd(f.denominator(), f.lo)
	num, den := f.lo/g, f.denominator()/g
	text := make([]byte, 0, 48)
	if f.negative && num != 0 {
		text = append(text, '-')
	}
	decimals, rest, scale := 0, den, uint64(1)
	for ; rest%10 == 0 || rest%5 == 0 || rest%2 == 0; decimals++ {
		switch { // one decimal more takes a two and a five out of the denominator
		case rest%10 == 0:
			rest /= 10
		case rest%5 == 0:
			rest, scale = rest/5, scale*2
		default:
			rest, scale = rest/2, scale*5
		}
		if decimals == maxDecimals {
			rest = 3 // too many: a quotient
		}
	}
	over, digits := bits.Mul64(num, scale)
	switch {
	case rest != 1:
		text = strconv.AppendUint(text, num, 10)
		text = append(text, '/')
		return string(strconv.AppendUint(text, den, 10)), true
	case over != 0:
		return "", false
	case decimals == 0:
		return string(strconv.AppendUint(text, digits, 10)), true
	}
	pow := pow10(decimals)
	text = strconv.AppendUint(text, digits/pow, 10)
	text = append(text, '.')
	for low := digits % pow; pow > 1; low %= pow {
		pow /= 10
		text = append(text, byte('0'+low/pow))
	}
	return string(text), true
}

// pow10 is 10^n for n up to 19.
func pow10(n int) uint64 {
	p := uint64(1)
	for range n {
		p *= 10
	}
	return p
}

// Decimal is the value with at most the given number of decimals, half away
// from zero: for people to read, never to compute with.
func (f Fraction) Decimal(decimals int) string { return f.Rat().FloatString(decimals) }
