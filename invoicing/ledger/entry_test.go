package ledger_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/usance/usance/invoicing/ledger"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

func TestCheck(t *testing.T) {
	eur := func(n int64) money.Amount { return money.Amount{Minor: n, Currency: "EUR"} }
	for name, c := range map[string]struct {
		entry      ledger.Entry
		ok         bool
		unbalanced bool
	}{
		"balanced":       {ledger.Entry{Key: "k", Postings: []ledger.Posting{{"a", eur(5)}, {"b", eur(-5)}}}, true, false},
		"unbalanced":     {ledger.Entry{Key: "k", Postings: []ledger.Posting{{"a", eur(5)}, {"b", eur(-4)}}}, false, true},
		"two currencies": {ledger.Entry{Key: "k", Postings: []ledger.Posting{{"a", eur(5)}, {"b", money.Amount{Minor: -5, Currency: "USD"}}}}, false, true},
		"no key":         {ledger.Entry{Postings: []ledger.Posting{{"a", eur(5)}, {"b", eur(-5)}}}, false, false},
		"no postings":    {ledger.Entry{Key: "k"}, false, false},
		"zero":           {ledger.Entry{Key: "k", Postings: []ledger.Posting{{"a", eur(0)}}}, false, false},
		"no account":     {ledger.Entry{Key: "k", Postings: []ledger.Posting{{"", eur(1)}, {"b", eur(-1)}}}, false, false},
	} {
		err := c.entry.Check()
		if (err == nil) != c.ok || errors.Is(err, ledger.ErrUnbalanced) != c.unbalanced {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestWhatIsDebitedAndCreditedBalances: the same sums to both sides, in
// whatever pieces, make an entry with at most one posting per account.
func TestWhatIsDebitedAndCreditedBalances(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := ledger.Entry{Tenant: "ten_1", Key: "k"}
		for _, n := range rapid.SliceOf(rapid.Int64Range(-1000, 1000)).Draw(t, "amounts") {
			a := money.Amount{Minor: n, Currency: "EUR"}
			meter := rapid.SampledFrom(metering.Meters()).Draw(t, "meter")
			if err := errors.Join(e.Debit(ledger.Receivable("ten_1"), a), e.Credit(ledger.Revenue(meter), a)); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[ledger.Account]bool{}
		for _, p := range e.Postings {
			if seen[p.Account] {
				t.Fatalf("two postings on %s", p.Account)
			}
			seen[p.Account] = true
		}
		if err := e.Check(); err != nil && len(e.Postings) > 0 {
			t.Fatal(err)
		}
	})
}
