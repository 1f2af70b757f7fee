package rating

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/usance/usance/rating/money"
)

// Verify computes a statement again from its own derivations and returns where
// it differs; none means that it is equal. It trusts what was measured, prices,
// allowances and bounds as the derivations state them, and nothing that follows
// from them. A statement without derivations is an error.
func (s *Statement) Verify() (differences []string, err error) {
	mode, err := s.rounding()
	if err != nil {
		return nil, err
	}
	if _, err := money.ParseCurrency(string(s.Currency)); err != nil {
		return nil, err
	}
	v := verifier{statement: s, mode: mode, exact: make([]money.Fraction, len(s.Lines))}
	for i := range s.Lines {
		v.line(i)
	}
	v.sums()
	return v.differences, nil
}

// rounding is the one mode that all lines are rounded by.
func (s *Statement) rounding() (money.Rounding, error) {
	var found money.Rounding
	for i := range s.Lines {
		steps := s.Lines[i].Steps
		if len(steps) == 0 {
			return 0, errors.New("the statement is not explained; --explain makes one that is")
		}
		mode, err := money.ParseRounding(steps[len(steps)-1].Rounding)
		if err != nil {
			return 0, fmt.Errorf("line %d: %w", i+1, err)
		}
		if i > 0 && mode != found {
			return 0, fmt.Errorf("line %d is rounded %s and others %s", i+1, mode, found)
		}
		found = mode
	}
	return found, nil
}

type verifier struct {
	statement   *Statement
	mode        money.Rounding
	exact       []money.Fraction // by line
	differences []string
}

// number reads a decimal or a quotient.
func (v *verifier) number(at, text string) *big.Rat {
	n := new(big.Rat)
	if text == "" {
		return n
	}
	if len(text) > maxNumber || strings.Trim(text, "-.0123456789/") != "" {
		v.differ(at, "%.40q is not a decimal or a quotient of at most %d digits", text, maxNumber)
		return n
	}
	if _, ok := n.SetString(text); !ok {
		v.differ(at, "%q is not a number", text)
		return new(big.Rat)
	}
	return n
}

// maxNumber bounds the text of a number in a statement; a longer one is a difference.
const maxNumber = 1000

func (v *verifier) differ(at, format string, args ...any) {
	v.differences = append(v.differences, at+": "+fmt.Sprintf(format, args...))
}

// same notes a difference where got is not want.
func (v *verifier) same(at, what string, got, want *big.Rat) {
	if got.Cmp(want) != 0 {
		v.differ(at, "%s is %s and should be %s", what, got.RatString(), want.RatString())
	}
}

// line follows one line from its starts to its exact charge.
func (v *verifier) line(i int) {
	l := &v.statement.Lines[i]
	billable, measured, rest, charge := new(big.Rat), new(big.Rat), new(big.Rat), new(big.Rat)
	priced, counted := false, false
	for k := range l.Steps {
		d := &l.Steps[k]
		at := fmt.Sprintf("line %d (%s %s), step %d (%s)", i+1, l.Resource, l.Rate, k+1, d.Rule)
		quantity, amount := v.number(at, d.Quantity), v.number(at, d.Amount)
		switch d.Rule {
		case "start":
			want := new(big.Rat).Sub(v.number(at, d.Measured), v.number(at, d.Covered))
			v.same(at, "quantity", quantity, want.Add(want, v.number(at, d.Added)))
			billable.Add(billable, quantity)
			measured.Add(measured, v.number(at, d.Measured))
			rest.Set(billable)
		case "higher", "percentile":
			// Which side or slot counts is measured, and not derived here.
			billable.Set(quantity)
			rest.Set(quantity)
			counted = true
		case "minimum":
			want := new(big.Rat).Add(billable, v.number(at, d.Added))
			v.same(at, "quantity", quantity, want.Sub(want, v.number(at, d.Covered)))
			billable.Set(quantity)
			rest.Set(quantity)
		case "included":
			want := v.number(at, d.Allowed)
			if want.Cmp(billable) > 0 {
				want.Set(billable)
			}
			v.same(at, "quantity", quantity, want)
			rest.Sub(billable, quantity)
		case "price":
			v.price(at, d, quantity, amount)
			rest.Sub(rest, quantity)
			charge.Add(charge, amount)
			priced = true
		case "cap", "top-up", "discount":
			v.allowance(at, d, charge, amount)
			charge.Add(charge, amount)
		case "share":
			v.same(at, "exact", v.number(at, d.Exact), charge)
		default:
			v.differ(at, "an unknown rule")
		}
	}
	at := fmt.Sprintf("line %d (%s %s)", i+1, l.Resource, l.Rate)
	if !priced || len(l.Steps) == 0 || l.Steps[len(l.Steps)-1].Rule != "share" {
		v.differ(at, "it is not explained from price to share")
	}
	if !counted && len(l.Steps) > 0 && l.Steps[0].Rule == "start" {
		v.same(at, "quantity", v.number(at, l.Quantity), measured)
	}
	if rest.Sign() > 0 {
		v.differ(at, "a quantity of %s has no price", rest.RatString())
	}
	v.exact[i] = money.FracRat(charge)
}

// price checks quantity × price.
func (v *verifier) price(at string, d *Derivation, quantity, amount *big.Rat) {
	if d.Per <= 0 || d.Nano < 0 {
		v.differ(at, "a price of %d for %d", d.Nano, d.Per)
		return
	}
	want := new(big.Rat).SetFrac(big.NewInt(d.Nano), new(big.Int).Mul(big.NewInt(d.Per), big.NewInt(1_000_000_000)))
	v.same(at, "amount", amount, want.Mul(want, quantity))
}

// allowance checks what is taken off a charge: never more than there is, by a
// cap in money what lies above it, by a percentage that part.
func (v *verifier) allowance(at string, d *Derivation, charge, amount *big.Rat) {
	if amount.Sign() > 0 || new(big.Rat).Add(charge, amount).Sign() < 0 {
		v.differ(at, "%s is taken off %s", amount.RatString(), charge.RatString())
	}
	switch {
	case d.Rule == "cap" && d.Bound != "":
		want := new(big.Rat).Sub(v.number(at, d.Bound), charge)
		if want.Sign() > 0 {
			want.SetInt64(0)
		}
		v.same(at, "amount", amount, want)
	case d.Percent != "":
		want := new(big.Rat).Mul(charge, v.number(at, d.Percent))
		v.same(at, "amount", amount, want.Mul(want, big.NewRat(-1, 100)))
	}
}

// sums checks rounding, shares and total, rate by rate.
func (v *verifier) sums() {
	s := v.statement
	total := new(big.Rat)
	var done []string
	for i := range s.Lines {
		if slices.Contains(done, s.Lines[i].Rate) {
			continue
		}
		done = append(done, s.Lines[i].Rate)
		var of []int
		var parts []money.Fraction
		for k := i; k < len(s.Lines); k++ {
			if s.Lines[k].Rate == s.Lines[i].Rate {
				of, parts = append(of, k), append(parts, v.exact[k])
			}
		}
		whole, shares := money.SumShares(parts, s.Currency, v.mode)
		total.Add(total, v.number("total", whole.String()))
		for n, k := range of {
			at := fmt.Sprintf("line %d (%s %s)", k+1, s.Lines[k].Resource, s.Lines[k].Rate)
			if got, want := s.Lines[k].Amount, shares[n].String(); got != want {
				v.differ(at, "amount is %s and should be %s", got, want)
			}
		}
	}
	v.same("total", "it", v.number("total", s.Total), total)
}
