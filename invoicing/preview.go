package invoicing

import (
	"fmt"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
)

// Preview is what a planned instance costs somebody who pays: Month is without,
// Gross with tax.
type Preview struct {
	*rating.Preview
	Period  metering.Window
	TaxRule TaxRule
	Tax     money.Amount // on Month
	Gross   money.Amount
}

// NewPreview prices a planned instance for an account, in a period, by the hour
// as of now.
func NewPreview(a Account, rated Rated, now time.Time, planned rating.Planned) (Preview, error) {
	priced, err := rating.PreviewParts(rated.Period, rated.Parts, now, planned)
	if err != nil {
		return Preview{}, err
	}
	v := Preview{Preview: priced, Period: rated.Period, TaxRule: a.Tax}
	if v.Tax, err = a.Tax.On(v.Month); err != nil {
		return Preview{}, err
	}
	if v.Gross, err = v.Month.Add(v.Tax); err != nil {
		return Preview{}, fmt.Errorf("preview for %s: %w", a.Tenant, err)
	}
	return v, nil
}
