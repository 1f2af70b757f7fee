package invoicing

import (
	"fmt"

	"github.com/usance/usance/rating/money"
)

// Category is a tax category of EN 16931.
type Category string

// The categories in use.
const (
	TaxStandard      Category = "S"  // a rate applies
	TaxReverseCharge Category = "AE" // the customer accounts for it
	TaxOutside       Category = "O"  // outside the scope of tax: the default
	TaxExempt        Category = "E"
	TaxZero          Category = "Z"
)

// TaxRule is how a tenant's invoices are taxed. It is frozen on each invoice.
type TaxRule struct {
	Category     Category
	PercentMilli int32 // thousandths of a percent: 25.5 % is 25500
}

// Check reports an error for an unknown category or a percentage that does not fit it.
func (t TaxRule) Check() error {
	switch t.Category {
	case TaxStandard:
		if t.PercentMilli > 0 && t.PercentMilli <= 100_000 {
			return nil
		}
	case TaxReverseCharge, TaxOutside, TaxExempt, TaxZero:
		if t.PercentMilli == 0 {
			return nil
		}
	}
	return fmt.Errorf("tax category %q with %d thousandths of a percent", t.Category, t.PercentMilli)
}

// Code names the rule in the ledger: "O", "S:25.500".
func (t TaxRule) Code() string {
	if t.PercentMilli == 0 {
		return string(t.Category)
	}
	return fmt.Sprintf("%s:%d.%03d", t.Category, t.PercentMilli/1000, t.PercentMilli%1000)
}

// On is the tax on a net sum, rounded once, half away from zero.
func (t TaxRule) On(net money.Amount) (money.Amount, error) {
	tax, err := money.Round(net.Fraction().Mul(money.Frac(int64(t.PercentMilli), 100_000)), net.Currency, money.HalfAway)
	if err != nil {
		return money.Amount{}, fmt.Errorf("tax on %s %s: %w", net, net.Currency, err)
	}
	return tax, nil
}
