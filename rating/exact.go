package rating

import (
	"math/big"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Exact is a quantity in thousandths of a base unit, whole or not. What is
// measured is whole; what a plan states in units of its own ("2 MB-min" of a
// meter in MiB·s), and shares of it, need not be. Values are immutable, never
// negative, never rounded. The zero value is 0.
type Exact struct {
	whole metering.Quantity
	rest  *big.Rat // beyond whole: above 0 and below 1, or nil
}

// exactly is the measured quantity.
func exactly(q metering.Quantity) Exact { return Exact{whole: q} }

// quotient is num ÷ den thousandths. Beyond 128 bits it is the largest
// quantity: no usage reaches it.
func quotient(num, den *big.Int) Exact {
	quo, rem := new(big.Int).QuoRem(num, den, new(big.Int))
	if quo.BitLen() > 128 {
		return Exact{whole: metering.Quantity{Hi: ^uint64(0), Lo: ^uint64(0)}}
	}
	low := new(big.Int).And(quo, new(big.Int).SetUint64(^uint64(0)))
	e := Exact{whole: metering.Quantity{Lo: low.Uint64(), Hi: quo.Rsh(quo, 64).Uint64()}}
	if rem.Sign() > 0 {
		e.rest = new(big.Rat).SetFrac(rem, den)
	}
	return e
}

// rat is the quantity in thousandths, which the caller may change.
func (e Exact) rat() *big.Rat {
	r := new(big.Rat).SetInt(e.whole.Big())
	if e.rest != nil {
		r.Add(r, e.rest)
	}
	return r
}

func (e Exact) fraction() money.Fraction {
	if e.rest == nil {
		return money.FracOf(e.whole, 1, 1000)
	}
	return money.FracRat(e.rat()).Mul(money.Frac(1, 1000))
}

// String is the quantity in base units: a decimal, or a quotient where there is
// no short one.
func (e Exact) String() string {
	if e.rest == nil {
		return e.whole.String()
	}
	return e.fraction().Text()
}

// IsZero reports whether the quantity is 0.
func (e Exact) IsZero() bool { return e.rest == nil && e.whole.IsZero() }

// Cmp is −1, 0 or 1 as e is less than, equal to or more than o.
func (e Exact) Cmp(o Exact) int {
	order := e.whole.Cmp(o.whole)
	switch {
	case order != 0 || e.rest == o.rest:
		return order
	case e.rest == nil:
		return -1
	case o.rest == nil:
		return 1
	}
	return e.rest.Cmp(o.rest)
}

// Add is e + o.
func (e Exact) Add(o Exact) Exact {
	switch {
	case o.rest == nil:
		return Exact{e.whole.Add(o.whole), e.rest}
	case e.rest == nil:
		return o.Add(e)
	}
	sum := e.rat()
	sum.Add(sum, o.rat())
	return quotient(sum.Num(), sum.Denom())
}

// Sub is e − o, or zero when o is larger.
func (e Exact) Sub(o Exact) Exact {
	switch {
	case e.rest == nil && o.rest == nil:
		return exactly(e.whole.Sub(o.whole))
	case e.Cmp(o) <= 0:
		return Exact{}
	case o.rest == nil:
		e.whole = e.whole.Sub(o.whole)
		return e
	}
	rest := e.rat()
	rest.Sub(rest, o.rat())
	return quotient(rest.Num(), rest.Denom())
}

// part is e × num ÷ den.
func (e Exact) part(num, den metering.Quantity) Exact {
	if num == den {
		return e
	}
	r := e.rat()
	return quotient(new(big.Int).Mul(r.Num(), num.Big()), new(big.Int).Mul(r.Denom(), den.Big()))
}

// roundUp is the smallest multiple of unit that is not below e; a unit of zero
// leaves e as it is.
func (e Exact) roundUp(unit Exact) Exact {
	switch {
	case unit.IsZero():
		return e
	case e.rest == nil && unit.rest == nil && e.whole.Hi == 0 && unit.whole.Hi == 0:
		if over := e.whole.Lo % unit.whole.Lo; over != 0 {
			e.whole = e.whole.Add(metering.Thousandths(unit.whole.Lo - over))
		}
		return e
	}
	size := unit.rat()
	units := e.rat()
	units.Quo(units, size)
	n, over := new(big.Int).QuoRem(units.Num(), units.Denom(), new(big.Int))
	if over.Sign() > 0 {
		n.Add(n, big.NewInt(1))
	}
	return quotient(n.Mul(n, size.Num()), size.Denom())
}

// at is what the quantity costs, in currency units; each is the price of a
// thousandth.
func (e Exact) at(each money.Fraction) money.Fraction {
	if e.rest == nil {
		return each.Times(e.whole)
	}
	return money.FracRat(e.rat()).Mul(each)
}

func smaller(a, b Exact) Exact {
	if a.Cmp(b) < 0 {
		return a
	}
	return b
}

func larger(a, b Exact) Exact {
	if a.Cmp(b) > 0 {
		return a
	}
	return b
}
