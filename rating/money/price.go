package money

import (
	"math/big"
	"math/bits"

	"github.com/usance/usance/metering"
)

// Price is the cost of Per base units of a meter, in billionths of the currency
// unit: 0.0075 EUR an hour is {7_500_000, 3600, "EUR"}. It stays a fraction,
// since an hourly price is not a decimal number of anything per second. A unit
// that is no whole number of base units (GB-month of a meter in MiB·s) scales
// both numbers.
type Price struct {
	Nano     int64 // not negative
	Per      int64 // base units, at least 1
	Currency Currency
}

// nanoPerUnit and the thousandths of a quantity stand in every product.
const (
	nanoPerUnit    = 1_000_000_000
	thousandths    = 1000
	nanoThousandth = nanoPerUnit * thousandths
)

// Times is what the quantity costs, in currency units: quantity × Nano ÷ (Per × 10^12).
func (p Price) Times(q metering.Quantity) Fraction {
	num, over, den := p.reduced()
	if over == 0 {
		if hi, lo, ok := mul128(q.Hi, q.Lo, num); ok {
			return Fraction{hi: hi, lo: lo, den: den}
		}
	}
	n := q.Big()
	n.Mul(n, new(big.Int).SetUint64(num))
	return Fraction{large: new(big.Rat).SetFrac(n, metering.Quantity{Hi: over, Lo: den}.Big())}
}

// reduced is Nano ÷ (Per × 10^12) in small numbers, so that 128 bits go far; the
// denominator is (over, den).
func (p Price) reduced() (num, over, den uint64) {
	num, per, scale := uint64(p.Nano), uint64(p.Per), uint64(nanoThousandth)
	g := gcd(num, scale)
	num, scale = num/g, scale/g
	g = gcd(num, per)
	num, per = num/g, per/g
	over, den = bits.Mul64(per, scale)
	return num, over, den
}
