package invoicing

import (
	"fmt"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Account is a tenant as somebody who pays.
type Account struct {
	Tenant   metering.TenantID
	Currency money.Currency
	Plan     string // name of the price plan
	// Zone is where the billing months begin. It never changes.
	Zone        *time.Location
	CreditLimit money.Amount // how far credit may go below zero
	Tax         TaxRule
	Created     time.Time
}

// Check reports the first thing that makes a an impossible account.
func (a Account) Check() error {
	switch {
	case a.Tenant == "" || len(a.Tenant) > 64:
		return fmt.Errorf("account %q: a tenant id has 1 to 64 characters", a.Tenant)
	case a.Plan == "":
		return fmt.Errorf("account %s has no plan", a.Tenant)
	case a.Zone == nil || a.Zone == time.Local:
		return fmt.Errorf("account %s has no billing zone", a.Tenant)
	case a.CreditLimit.Minor < 0 || a.CreditLimit.Currency != a.Currency:
		return fmt.Errorf("account %s in %s: credit limit %v", a.Tenant, a.Currency, a.CreditLimit)
	case a.Created.IsZero():
		return fmt.Errorf("account %s has no creation time", a.Tenant)
	}
	if err := a.Tax.Check(); err != nil {
		return fmt.Errorf("account %s: %w", a.Tenant, err)
	}
	return nil
}

// PeriodOf is the period that a cut at t belongs to: the one that holds the
// time just before t, since a cut on a month's end is that month's last.
func (a Account) PeriodOf(t time.Time) (metering.Window, error) {
	p := metering.Month(t.Add(-1), a.Zone)
	if first := metering.Month(a.Created, a.Zone); p.Start.Before(first.Start) {
		return metering.Window{}, fmt.Errorf("account %s begins with the period %s; %s is before it", a.Tenant, first, t.UTC().Format(time.RFC3339))
	}
	return p, nil
}

// Periods are the account's periods from its first to the one that a cut at t
// belongs to, in order.
func (a Account) Periods(t time.Time) ([]metering.Window, error) {
	last, err := a.PeriodOf(t)
	if err != nil {
		return nil, err
	}
	var all []metering.Window
	for p := metering.Month(a.Created, a.Zone); !p.Start.After(last.Start); p = metering.Month(p.End, a.Zone) {
		all = append(all, p)
	}
	return all, nil
}

// Closing is one cut of one period of one tenant.
type Closing struct {
	Tenant      metering.TenantID
	Seq         int // counts a tenant's closings from 1
	Period      metering.Window
	Cut         time.Time
	Plan        string // the plan version that the period begins under
	PlanVersion int
	// PlanKnown is the newest version of the plan when the period was rated:
	// mid-period versions up to it split the period.
	PlanKnown int
	// Unsettled is the start of the earliest period of which an amount is left
	// out of all invoices so far; zero when there is none.
	Unsettled time.Time
	Closed    time.Time
	// Unrated is what no rate fits of what is closed: a leak until a closing is
	// made without it.
	Unrated []Unrated
}

// Last reports whether c is the last cut of its period.
func (c Closing) Last() bool { return c.Cut.Equal(c.Period.End) }
