package ledger

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Account names one account: a kind, and what it is of.
type Account string

// Accounts that belong to nobody in particular.
const (
	Cash         Account = "cash"          // money received: bank, card
	PromoExpense Account = "promo-expense" // what promotional credit costs us
)

// Receivable is what the tenant owes.
func Receivable(tenant metering.TenantID) Account { return Account("receivable:" + tenant) }

// Promo is the promotional credit granted to the tenant and not yet used.
func Promo(tenant metering.TenantID) Account { return Account("promo:" + tenant) }

// Prepaid is the money the tenant paid ahead and has not yet used.
func Prepaid(tenant metering.TenantID) Account { return Account("prepaid:" + tenant) }

// Revenue is what was earned with a meter.
func Revenue(meter metering.Meter) Account { return Account("revenue:" + meter) }

// Tax is what is owed to the tax office under a tax code, such as "S:19.000".
func Tax(code string) Account { return Account("tax:" + code) }

// Posting is one signed amount on one account: a debit when positive, a credit
// when negative.
type Posting struct {
	Account Account
	Amount  money.Amount
}

// Kind says what kind of event an entry books.
type Kind string

// The kinds of entries.
const (
	KindInvoice Kind = "invoice" // an invoice was issued
	KindCredit  Kind = "credit"  // promotional and prepaid credit paid an invoice
	KindPromo   Kind = "promo"   // promotional credit was granted
	KindTopUp   Kind = "top-up"  // the tenant paid ahead
	KindExpiry  Kind = "expiry"  // promotional credit was not used in time
)

// Entry is one balanced bookkeeping event of one tenant.
type Entry struct {
	Tenant    metering.TenantID
	Kind      Kind
	At        time.Time
	Reference string // the invoice's number, or what the caller calls the event
	// Key makes the entry unique: the same key a second time is the same entry.
	Key      string
	Postings []Posting
}

// ErrUnbalanced is wrapped by the error of Check when postings do not sum to zero.
var ErrUnbalanced = errors.New("the postings do not sum to zero")

// Check reports what makes e invalid: no key, no postings, a posting of zero or
// without an account, an unbalanced currency.
func (e Entry) Check() error {
	if e.Key == "" || len(e.Postings) == 0 {
		return fmt.Errorf("entry %q of %s: an entry has a key and postings", e.Key, e.Tenant)
	}
	sums := map[money.Currency]int64{}
	for _, p := range e.Postings {
		if p.Account == "" || p.Amount.Minor == 0 {
			return fmt.Errorf("entry %q of %s: posting of %v on account %q", e.Key, e.Tenant, p.Amount, p.Account)
		}
		sum, err := (money.Amount{Minor: sums[p.Amount.Currency], Currency: p.Amount.Currency}).Add(p.Amount)
		if err != nil {
			return fmt.Errorf("entry %q of %s: %w", e.Key, e.Tenant, err)
		}
		sums[p.Amount.Currency] = sum.Minor
	}
	for currency, sum := range sums {
		if sum != 0 {
			return fmt.Errorf("entry %q of %s: %w: %d %s left over", e.Key, e.Tenant, ErrUnbalanced, sum, currency)
		}
	}
	return nil
}

// Debit adds amount to account. Zero adds nothing; a second posting on an
// account is added to the first.
func (e *Entry) Debit(account Account, amount money.Amount) error {
	if amount.Minor == 0 {
		return nil
	}
	i := slices.IndexFunc(e.Postings, func(p Posting) bool {
		return p.Account == account && p.Amount.Currency == amount.Currency
	})
	if i < 0 {
		e.Postings = append(e.Postings, Posting{account, amount})
		return nil
	}
	sum, err := e.Postings[i].Amount.Add(amount)
	if err != nil {
		return fmt.Errorf("entry %q: %s: %w", e.Key, account, err)
	}
	if e.Postings[i].Amount = sum; sum.Minor == 0 {
		e.Postings = slices.Delete(e.Postings, i, i+1)
	}
	return nil
}

// Credit takes amount from account: a debit of its negative.
func (e *Entry) Credit(account Account, amount money.Amount) error {
	return e.Debit(account, money.Amount{Minor: -amount.Minor, Currency: amount.Currency})
}
