package metering

import (
	"errors"
	"fmt"
	"math/big"
	"math/bits"
	"strconv"
	"strings"
)

// Quantity is an amount of usage in thousandths of its meter's base unit: 128
// bits, never negative, never wrapped. The zero value is zero.
type Quantity struct {
	Hi, Lo uint64
}

// ErrQuantity is wrapped by every error of ParseQuantity.
var ErrQuantity = errors.New("not a quantity")

// Thousandths is the quantity n/1000 base units.
func Thousandths(n uint64) Quantity { return Quantity{Lo: n} }

// IsZero reports whether q is 0.
func (q Quantity) IsZero() bool { return q == Quantity{} }

// Cmp is −1, 0 or 1 as q is less than, equal to or more than o.
func (q Quantity) Cmp(o Quantity) int {
	switch {
	case q.Hi < o.Hi || q.Hi == o.Hi && q.Lo < o.Lo:
		return -1
	case q == o:
		return 0
	}
	return 1
}

// Add is q + o. It panics beyond 128 bits: ParseQuantity and registers of 63
// bits leave room for 2^60 summands, so that is a broken program.
func (q Quantity) Add(o Quantity) Quantity {
	lo, c := bits.Add64(q.Lo, o.Lo, 0)
	hi, c := bits.Add64(q.Hi, o.Hi, c)
	if c != 0 {
		panic("metering: a quantity of more than 128 bits")
	}
	return Quantity{hi, lo}
}

// Sub is q − o, or zero when o is larger.
func (q Quantity) Sub(o Quantity) Quantity {
	if q.Cmp(o) <= 0 {
		return Quantity{}
	}
	lo, b := bits.Sub64(q.Lo, o.Lo, 0)
	hi, _ := bits.Sub64(q.Hi, o.Hi, b)
	return Quantity{hi, lo}
}

// Big is q as a big integer of thousandths.
func (q Quantity) Big() *big.Int {
	n := new(big.Int).SetUint64(q.Hi)
	n.Lsh(n, 64)
	return n.Add(n, new(big.Int).SetUint64(q.Lo))
}

// String is q in base units: a decimal with at most 3 decimals and no trailing zeros.
func (q Quantity) String() string {
	s := strconv.FormatUint(q.Lo, 10)
	if q.Hi != 0 {
		s = q.Big().String()
	}
	if len(s) < 4 {
		s = strings.Repeat("0", 4-len(s)) + s
	}
	whole, frac := s[:len(s)-3], strings.TrimRight(s[len(s)-3:], "0")
	if frac == "" {
		return whole
	}
	return whole + "." + frac
}

// maxQuantityDigits keeps parsed quantities below 2^113 thousandths, so that
// sums of many of them fit.
const maxQuantityDigits = 31

// ParseQuantity reads a decimal in base units with at most 3 decimals, as
// String writes it. The error wraps ErrQuantity and names the input.
func ParseQuantity(s string) (Quantity, error) {
	whole, frac, dot := strings.Cut(s, ".")
	switch {
	case strings.HasPrefix(s, "-"):
		return Quantity{}, fmt.Errorf("%w: %q is negative", ErrQuantity, s)
	case !digits(whole) || dot && !digits(frac):
		return Quantity{}, fmt.Errorf("%w: %q; a decimal such as 3600 or 0.125 is", ErrQuantity, s)
	case len(frac) > 3:
		return Quantity{}, fmt.Errorf("%w: %q has more than 3 decimals", ErrQuantity, s)
	case len(strings.TrimLeft(whole, "0")) > maxQuantityDigits:
		return Quantity{}, fmt.Errorf("%w: %q has more than %d digits", ErrQuantity, s, maxQuantityDigits)
	}
	n, _ := new(big.Int).SetString(whole+frac+strings.Repeat("0", 3-len(frac)), 10)
	lo := new(big.Int).And(n, new(big.Int).SetUint64(^uint64(0))).Uint64()
	return Quantity{new(big.Int).Rsh(n, 64).Uint64(), lo}, nil
}

func digits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}
