package invoicedb_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
	"github.com/usance/usance/sql/sqltest"
)

var (
	begin = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	end   = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
)

func eur(minor int64) money.Amount { return money.Amount{Minor: minor, Currency: "EUR"} }

func newStore(t *testing.T) (*invoicedb.Store, *pgxpool.Pool) {
	t.Helper()
	pool := sqltest.Postgres(t)
	s, err := invoicedb.New(pool)
	if err != nil {
		t.Fatal(err)
	}
	return s, pool
}

func account(t *testing.T, s *invoicedb.Store, tenant metering.TenantID, limit int64) invoicing.Account {
	t.Helper()
	a := invoicing.Account{Tenant: tenant, Currency: "EUR", Plan: "standard", Zone: time.UTC, CreditLimit: eur(limit),
		Tax: invoicing.TaxRule{Category: invoicing.TaxStandard, PercentMilli: 19_000}, Created: begin}
	if err := s.CreateAccount(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	return a
}

// closing is the tenant's next closing, with an invoice of one line.
func closing(t *testing.T, a invoicing.Account, seq int, cut time.Time, minor int64) (invoicing.Closing, []invoicing.Segment, *invoicing.Invoice) {
	t.Helper()
	period := metering.Window{Start: begin, End: end}
	c := invoicing.Closing{Tenant: a.Tenant, Seq: seq, Period: period, Cut: cut, Plan: "standard", PlanVersion: 1, Closed: cut}
	line := invoicing.LineItem{Period: period, Key: "run/1", Rate: "run", Meter: metering.InstanceRunning, Unit: "hour", Price: "0.03 per hour",
		Quantity: money.Frac(2, 3), Exact: money.Frac(1, 50), Amount: eur(minor), Billed: eur(0), Shares: []invoicing.Share{{Resource: "ins_1", Amount: eur(minor)}}}
	i, err := invoicing.NewInvoice(a, c, []invoicing.LineItem{line})
	if err != nil {
		t.Fatal(err)
	}
	g := invoicing.Segment{Source: invoicing.Source{ID: "e" + string(a.Tenant), Resource: "ins_1", Start: "1"}, Span: invoicing.Span{Period: period, Window: period}}
	g.From[metering.RunningMS], g.To[metering.RunningMS] = uint64(seq-1)*100, uint64(seq)*100
	return c, []invoicing.Segment{g}, i
}

func TestAnInvoiceComesBackAsItWasIssued(t *testing.T) {
	s, _ := newStore(t)
	c, segments, issued := closing(t, account(t, s, "ten_1", 0), 1, end, 1000)
	if err := s.Close(t.Context(), c, segments, issued); err != nil {
		t.Fatal(err)
	}
	got, err := s.Invoice(t.Context(), "ten_1", "INV-000001")
	if err != nil {
		t.Fatal(err)
	}
	l := got.Lines[0]
	if got.Gross != eur(1190) || got.ID != issued.ID || l.Quantity.Text() != "2/3" || l.Exact.Text() != "0.02" || l.Shares[0].Amount != eur(1000) || got.Check() != nil {
		t.Errorf("got %+v, want %+v", got, issued)
	}
	entry, err := got.Entry()
	if err != nil || len(entry.Postings) != 3 {
		t.Errorf("entry %+v, %v", entry, err)
	}
}

func TestOfTwoClosingsOneWins(t *testing.T) {
	s, pool := newStore(t)
	a := account(t, s, "ten_1", 0)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for n := range errs {
		wg.Go(func() {
			c, segments, i := closing(t, a, 1, end.Add(-time.Duration(n)*time.Hour), 100)
			errs[n] = s.Close(t.Context(), c, segments, i)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, invoicedb.ErrConflict):
			t.Error(err)
		}
	}
	var invoices, next int
	if err := pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM invoices), (SELECT next FROM invoice_series)`).Scan(&invoices, &next); err != nil {
		t.Fatal(err)
	}
	if won != 1 || invoices != 1 || next != 2 {
		t.Errorf("%d closings won, %d invoices, next number %d; want 1, 1 and 2", won, invoices, next)
	}
}

// TestTheDatabaseRefuses lists the worst mistakes and that no code is needed
// to stop them.
func TestTheDatabaseRefuses(t *testing.T) {
	s, pool := newStore(t)
	a := account(t, s, "ten_1", 0)
	c, segments, i := closing(t, a, 1, begin.Add(time.Hour), 100)
	if err := s.Close(t.Context(), c, segments, i); err != nil {
		t.Fatal(err)
	}
	if err := s.GrantPromo(t.Context(), "ten_1", eur(10), invoicedb.Forever, "gift", begin); err != nil {
		t.Fatal(err)
	}
	for name, statement := range map[string]string{
		"changing a closing reading": `UPDATE closing_readings SET level_to = level_from`,
		"removing an invoice":        `DELETE FROM invoices`,
		"changing a line":            `UPDATE invoice_lines SET amount = 0`,
		"emptying the ledger":        `TRUNCATE postings`,
		"adding a line to an invoice": `INSERT INTO invoice_lines SELECT tenant, seq, 2, period_start, period_end, 'x', rate, meter, price, unit,
			quantity, exact, allowance, 0, billed_exact, billed, '{}', '{}' FROM invoice_lines`,
		"an unbalanced entry": `WITH e AS (INSERT INTO entries (tenant, kind, at, reference, key) VALUES ('ten_1', 'x', now(), '', 'x') RETURNING id)
			INSERT INTO postings SELECT id, 1, 'cash', 1, 'EUR' FROM e`,
		"an entry of two currencies": `WITH e AS (INSERT INTO entries (tenant, kind, at, reference, key) VALUES ('ten_1', 'x', now(), '', 'x') RETURNING id)
			INSERT INTO postings SELECT id, n, 'cash', CASE n WHEN 1 THEN 1 ELSE -1 END, CASE n WHEN 1 THEN 'EUR' ELSE 'USD' END FROM e, generate_series(1, 2) AS n`,
		"an entry without postings":           `INSERT INTO entries (tenant, kind, at, reference, key) VALUES ('ten_1', 'x', now(), '', 'x')`,
		"a posting added later":               `INSERT INTO postings SELECT min(id), 99, 'cash', 1, 'EUR' FROM entries`,
		"using more than was granted":         `INSERT INTO promo_uses SELECT g.entry, (SELECT min(id) FROM entries), g.amount + 1 FROM promo_grants g`,
		"a closing out of order":              `INSERT INTO closings VALUES ('ten_1', 3, '2026-10-01Z', '2026-11-01Z', '2026-10-05Z', 'standard', 1, NULL, now())`,
		"a closing before the last":           `INSERT INTO closings VALUES ('ten_1', 2, '2026-10-01Z', '2026-11-01Z', '2026-10-01 00:30Z', 'standard', 1, NULL, now())`,
		"a period that skips the rest of one": `INSERT INTO closings VALUES ('ten_1', 2, '2026-11-01Z', '2026-12-01Z', '2026-11-05Z', 'standard', 1, NULL, now())`,
		"billing from a level twice": `
			INSERT INTO closings VALUES ('ten_1', 2, '2026-10-01Z', '2026-11-01Z', '2026-10-05Z', 'standard', 1, NULL, now());
			INSERT INTO closing_readings (tenant, seq, source, period_start, period_end, window_start, window_end, resource, start_id, meter,
				flavor, image, region, host_class, level_from, level_to)
			SELECT tenant, 2, source, period_start, period_end, window_start, window_end, resource, start_id, meter,
				flavor, image, region, host_class, level_from, level_to FROM closing_readings`,
		"an invoice its lines do not sum to": `
			INSERT INTO closings VALUES ('ten_1', 2, '2026-10-01Z', '2026-11-01Z', '2026-10-05Z', 'standard', 1, NULL, now());
			INSERT INTO invoices SELECT 'inv_x', tenant, 2, series, 2, 'INV-000002', period_start, period_end, cut, issued, currency,
				net, tax_category, tax_percent_milli, tax, gross, 0, 0 FROM invoices`,
	} {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := tx.Conn().PgConn().Exec(t.Context(), statement).ReadAll()
			return err
		})
		// Class 23: an integrity constraint, and not a mistake in the statement.
		if pg := (*pgconn.PgError)(nil); !errors.As(err, &pg) || !strings.HasPrefix(pg.Code, "23") {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
}

func TestCreditCheck(t *testing.T) {
	s, pool := newStore(t)
	ctx := t.Context()
	account(t, s, "ten_1", 0)
	if err := s.GrantPromo(ctx, "ten_1", eur(2400), invoicedb.Forever, "gift", begin); err != nil {
		t.Fatal(err)
	}
	const perHour = invoicing.Burn(400_000_000) // 0.40: for 24 hours 9.60
	admit := func(now time.Time) error {
		return pgx.BeginFunc(context.Background(), pool, func(tx pgx.Tx) error {
			return s.CreditCheck(ctx, tx, "ten_1", now, perHour, 24*time.Hour)
		})
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	admitted := 0
	for range 10 {
		wg.Go(func() {
			err := admit(begin)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				admitted++
			} else if !errors.Is(err, invoicing.ErrNoCredit) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if admitted != 2 {
		t.Errorf("24.00 carry %d instances of 9.60 a day, want 2", admitted)
	}
	// A third needs 28.80 for the day; the two burn 0.20 in 15 minutes.
	quarter := begin.Add(15 * time.Minute)
	for _, c := range []struct {
		topUp money.Amount
		at    time.Time
		want  error
	}{
		{eur(499), quarter, invoicing.ErrNoCredit},
		{eur(1), quarter.Add(time.Second), invoicing.ErrAccruedStale},
		{eur(100), quarter, nil},
		{eur(1), quarter, invoicing.ErrNoCredit},
	} {
		if err := s.TopUp(ctx, "ten_1", c.topUp, c.at.String()+c.topUp.String(), begin); err != nil {
			t.Fatal(err)
		}
		if err := admit(c.at); !errors.Is(err, c.want) {
			t.Errorf("after %s more, at %s: got %v, want %v", c.topUp, c.at, err, c.want)
		}
	}
}

func TestCreditCheckAfterAClosing(t *testing.T) {
	s, pool := newStore(t)
	ctx := t.Context()
	a := account(t, s, "ten_1", 100_000)
	c, segments, i := closing(t, a, 1, begin.Add(time.Hour), 100)
	if err := s.Close(ctx, c, segments, i); err != nil {
		t.Fatal(err)
	}
	admit := func() error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			return s.CreditCheck(ctx, tx, "ten_1", begin.Add(time.Minute), 1, 24*time.Hour)
		})
	}
	if err := admit(); !errors.Is(err, invoicing.ErrAccruedStale) {
		t.Errorf("a cache of before the closing: got %v", err)
	}
	revisions, err := s.Revisions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	snapshot := invoicedb.Snapshot{Tenant: "ten_1", AsOf: begin.Add(time.Minute), Closing: 1, Burn: 5, Revision: revisions["ten_1"]}
	if err := s.SaveAccrued(ctx, []invoicedb.Snapshot{snapshot}); err != nil {
		t.Fatal(err)
	}
	if err := admit(); err != nil {
		t.Errorf("a fresh cache: got %v", err)
	}
	// A refresh that began before the admission must not forget its burn.
	if err := s.SaveAccrued(ctx, []invoicedb.Snapshot{snapshot}); err != nil {
		t.Fatal(err)
	}
	var burn int
	if err := pool.QueryRow(ctx, `SELECT burn_nano FROM tenant_accrued`).Scan(&burn); err != nil || burn != 6 {
		t.Errorf("burn after the refresh: got %d, %v, want 6", burn, err)
	}
}

func TestAccountsThatCannotBe(t *testing.T) {
	s, _ := newStore(t)
	good := account(t, s, "ten_1", 0)
	for name, change := range map[string]func(*invoicing.Account){
		"no plan":        func(a *invoicing.Account) { a.Plan = "" },
		"no zone":        func(a *invoicing.Account) { a.Zone = nil },
		"local zone":     func(a *invoicing.Account) { a.Zone = time.Local },
		"limit currency": func(a *invoicing.Account) { a.CreditLimit.Currency = "USD" },
		"negative limit": func(a *invoicing.Account) { a.CreditLimit.Minor = -1 },
		"tax":            func(a *invoicing.Account) { a.Tax.PercentMilli = -1 },
	} {
		a := good
		a.Tenant = "ten_2"
		change(&a)
		if s.CreateAccount(t.Context(), a) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	good.Plan = "other"
	if err := s.CreateAccount(t.Context(), good); err != nil {
		t.Errorf("an account that is there: %v", err)
	}
	got, err := s.Standing(t.Context(), "ten_1")
	if err != nil || got.Plan != "standard" || got.Last.Seq != 0 {
		t.Errorf("got %+v, %v; want it as it was", got, err)
	}
}
