package money

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Amount is a sum in the currency's minor unit: {1234, "EUR"} is 12.34 euros.
type Amount struct {
	Minor    int64
	Currency Currency
}

// ErrOverflow is wrapped where a sum does not fit in 64 bits of minor units.
var ErrOverflow = errors.New("amount beyond 64 bits")

// ErrAmount is wrapped where a text is not an amount.
var ErrAmount = errors.New("not an amount")

// String is the amount in currency units without the currency: "12.34", "-0.05".
func (a Amount) String() string {
	return decimal(strconv.FormatInt(a.Minor, 10), a.Currency)
}

// decimal puts the point into a whole number of minor units.
func decimal(s string, currency Currency) string {
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	digits := currency.Digits()
	if digits == 0 {
		return sign + s
	}
	if len(s) <= digits {
		s = strings.Repeat("0", digits+1-len(s)) + s
	}
	return sign + s[:len(s)-digits] + "." + s[len(s)-digits:]
}

// Parse reads an amount as String writes it: an optional minus, digits, and at
// most the currency's number of decimals. The error wraps ErrAmount.
func Parse(s string, currency Currency) (Amount, error) {
	body, negative := strings.CutPrefix(s, "-")
	whole, frac, dot := strings.Cut(body, ".")
	digits := currency.Digits()
	switch {
	case !isDigits(whole) || dot && !isDigits(frac):
		return Amount{}, fmt.Errorf("%w: %q; a decimal such as 12.34 is", ErrAmount, s)
	case len(frac) > digits:
		return Amount{}, fmt.Errorf("%w: %q has more than the %d decimals of %s", ErrAmount, s, digits, currency)
	}
	text := whole + frac + strings.Repeat("0", digits-len(frac))
	if negative {
		text = "-" + text
	}
	minor, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return Amount{}, fmt.Errorf("%w: %q: %w", ErrAmount, s, ErrOverflow)
	}
	return Amount{minor, currency}, nil
}

func isDigits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// Add is a + b. The error wraps ErrCurrency or ErrOverflow. An amount of no
// currency and no minor units adds to any.
func (a Amount) Add(b Amount) (Amount, error) {
	switch {
	case a == Amount{}:
		return b, nil
	case b == Amount{}:
		return a, nil
	case a.Currency != b.Currency:
		return Amount{}, fmt.Errorf("%s %s + %s %s: %w", a, a.Currency, b, b.Currency, ErrCurrency)
	}
	sum := a.Minor + b.Minor
	if b.Minor > 0 && sum < a.Minor || b.Minor < 0 && sum > a.Minor {
		return Amount{}, fmt.Errorf("%s + %s %s: %w", a, b, a.Currency, ErrOverflow)
	}
	return Amount{sum, a.Currency}, nil
}

// Sub is a − b, with the errors of Add.
func (a Amount) Sub(b Amount) (Amount, error) {
	if b.Minor == math.MinInt64 {
		return Amount{}, fmt.Errorf("%s − %s %s: %w", a, b, a.Currency, ErrOverflow)
	}
	return a.Add(b.Neg())
}

// Neg is −a. The smallest int64 has no negative and does not come out of
// Parse, Round or Add of documents; it stays itself.
func (a Amount) Neg() Amount { return Amount{-a.Minor, a.Currency} }

// IsZero reports whether the amount is 0 of whatever currency.
func (a Amount) IsZero() bool { return a.Minor == 0 }

// Fraction is the amount as an exact fraction of currency units.
func (a Amount) Fraction() Fraction {
	return Frac(a.Minor, int64(a.Currency.minorPerUnit()))
}

// MarshalText is String, so that JSON carries amounts as decimal strings.
func (a Amount) MarshalText() ([]byte, error) { return []byte(a.String()), nil }
