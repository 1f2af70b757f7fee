package invoicing

import (
	"errors"
	"time"

	"github.com/usance/usance/rating/money"
)

// What callers branch on.
var (
	ErrNotFound  = errors.New("no such invoice")
	ErrNoAccount = errors.New("tenant has no account")
	// ErrCutOrder: a cut is not after the tenant's last one.
	ErrCutOrder = errors.New("cut is not after the last cut")
	// ErrMidPeriod: prices cannot change within a period at that instant.
	ErrMidPeriod = errors.New("prices cannot change within a period then")
	// ErrPeriodClosed: a price would change in a period that is invoiced.
	ErrPeriodClosed = errors.New("a period is closed already")
	// ErrNoBacktest: a backtest that cannot be made.
	ErrNoBacktest = errors.New("this cannot be tried on past usage")
	// ErrNoCredit: what the tenant has left does not carry what it asks for.
	ErrNoCredit = errors.New("not enough credit")
	// ErrAccruedStale: what the tenant owes is not known well enough to promise more.
	ErrAccruedStale = errors.New("accrued cost is not up to date")
)

// Credit is what a tenant may still spend. Available = Prepaid + Promotional +
// Limit − Unpaid − Accrued; it may be negative.
type Credit struct {
	Prepaid     money.Amount
	Promotional money.Amount
	Limit       money.Amount
	Unpaid      money.Amount // of issued invoices
	Accrued     money.Amount // at most this much, from the accrued cache, grown by its burn since
	Available   money.Amount
	AsOf        time.Time // when the accrued cost was computed
}

// Accrued is what is measured and not yet on an issued invoice: the open
// period, ended periods not yet issued, and late usage.
type Accrued struct {
	AsOf       time.Time
	Currency   money.Currency
	Total      money.Amount
	Lines      []LineItem
	ByResource []Share // by resource, pooled rates under ""; they sum to Total
}

// Burn is how fast cost grows, in billionths of the currency unit an hour.
type Burn int64

// Over is what burning for d costs, rounded up.
func (b Burn) Over(d time.Duration, currency money.Currency) (money.Amount, error) {
	perHour := money.Frac(int64(b), 1_000_000_000)
	return money.Round(perHour.Mul(money.Frac(d.Milliseconds(), time.Hour.Milliseconds())), currency, money.Up)
}
