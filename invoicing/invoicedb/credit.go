package invoicedb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/ledger"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// ErrKeyReused: a grant or top-up has the key of another that differs from it.
var ErrKeyReused = errors.New("the key belongs to another booking")

// Forever is the expiry of promotional credit that does not expire.
var Forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

const insertGrantSQL = `INSERT INTO promo_grants (entry, tenant, amount, expires) VALUES ($1, $2, $3, $4)`

// GrantPromo gives a tenant promotional credit for usage up to expires. The same
// key again grants nothing more; with another amount the error wraps ErrKeyReused.
func (s *Store) GrantPromo(ctx context.Context, tenant metering.TenantID, amount money.Amount, expires time.Time, key string, now time.Time) error {
	e := ledger.Entry{Tenant: tenant, Kind: ledger.KindPromo, At: now, Reference: key, Key: "promo:" + string(tenant) + ":" + key,
		Postings: []ledger.Posting{{Account: ledger.PromoExpense, Amount: amount}, {Account: ledger.Promo(tenant), Amount: amount.Neg()}}}
	return s.fund(ctx, e, amount, func(tx pgx.Tx, entry int64) error {
		_, err := tx.Exec(ctx, insertGrantSQL, entry, tenant, amount.Minor, expires.UTC())
		return err
	})
}

// TopUp books money that a tenant paid ahead. The same key again books nothing
// more; with another amount the error wraps ErrKeyReused.
func (s *Store) TopUp(ctx context.Context, tenant metering.TenantID, amount money.Amount, key string, now time.Time) error {
	e := ledger.Entry{Tenant: tenant, Kind: ledger.KindTopUp, At: now, Reference: key, Key: "top-up:" + string(tenant) + ":" + key,
		Postings: []ledger.Posting{{Account: ledger.Cash, Amount: amount}, {Account: ledger.Prepaid(tenant), Amount: amount.Neg()}}}
	return s.fund(ctx, e, amount, func(pgx.Tx, int64) error { return nil })
}

// fund posts e, which raises a tenant's credit by amount, once, and then runs more.
func (s *Store) fund(ctx context.Context, e ledger.Entry, amount money.Amount, more func(tx pgx.Tx, entry int64) error) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var currency money.Currency
		err := tx.QueryRow(ctx, `SELECT currency FROM accounts WHERE tenant = $1`, e.Tenant).Scan(&currency)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return invoicing.ErrNoAccount
		case err != nil:
			return err
		case amount.Minor <= 0 || amount.Currency != currency:
			return fmt.Errorf("amount %s %s; an amount above zero in %s can be credited", amount, amount.Currency, currency)
		}
		id, isNew, err := post(ctx, tx, e)
		if err != nil || !isNew {
			return err
		}
		return more(tx, id)
	})
	if err != nil {
		return fmt.Errorf("%s %q of %s: %w", e.Kind, e.Reference, e.Tenant, err)
	}
	return nil
}

const insertEntrySQL = `
INSERT INTO entries (tenant, kind, at, reference, key) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (key) DO NOTHING
RETURNING id`

const insertPostingsSQL = `
INSERT INTO postings (entry, position, account, amount, currency)
SELECT $1, position, account, amount, currency
FROM unnest($2::text[], $3::bigint[], $4::text[]) WITH ORDINALITY AS p (account, amount, currency, position)`

const entryAmountSQL = `
SELECT e.id, coalesce(sum(p.amount) FILTER (WHERE p.amount > 0), 0)::bigint
FROM entries e LEFT JOIN postings p ON p.entry = e.id
WHERE e.key = $1
GROUP BY e.id`

// post writes an entry; isNew is false when one of the same key and amount is
// there already.
func post(ctx context.Context, tx pgx.Tx, e ledger.Entry) (id int64, isNew bool, err error) {
	if err := e.Check(); err != nil {
		return 0, false, err
	}
	var accounts, currencies []string
	var amounts []int64
	var debits int64
	for _, p := range e.Postings {
		accounts, currencies, amounts = append(accounts, string(p.Account)), append(currencies, string(p.Amount.Currency)), append(amounts, p.Amount.Minor)
		debits += max(p.Amount.Minor, 0)
	}
	err = tx.QueryRow(ctx, insertEntrySQL, e.Tenant, e.Kind, e.At.UTC(), e.Reference, e.Key).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		var booked int64
		if err := tx.QueryRow(ctx, entryAmountSQL, e.Key).Scan(&id, &booked); err != nil {
			return 0, false, fmt.Errorf("entry %s: %w", e.Key, err)
		}
		if booked != debits {
			return 0, false, fmt.Errorf("entry %s: %w", e.Key, ErrKeyReused)
		}
		return id, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("entry %s: %w", e.Key, err)
	}
	if _, err := tx.Exec(ctx, insertPostingsSQL, id, accounts, amounts, currencies); err != nil {
		return 0, false, fmt.Errorf("postings of entry %s: %w", e.Key, err)
	}
	return id, true, nil
}

const grantsSQL = `
SELECT g.entry, g.amount - coalesce((SELECT sum(amount) FROM promo_uses WHERE grant_entry = g.entry), 0)::bigint AS left
FROM promo_grants g
WHERE g.tenant = $1 AND g.expires >= $2
ORDER BY g.expires, g.entry`

const prepaidSQL = `SELECT coalesce(-sum(amount), 0)::bigint FROM postings WHERE account = $1`

// use is what an invoice takes of a grant.
type use struct {
	grant, amount int64
}

// planCredit sets what credit pays of the invoice: promotional credit that was
// good at the cut, what expires first before the rest, then prepaid. The caller
// holds the account's row.
func planCredit(ctx context.Context, tx pgx.Tx, i *invoicing.Invoice) ([]use, error) {
	rows, err := tx.Query(ctx, grantsSQL, i.Tenant, i.Cut.UTC())
	if err != nil {
		return nil, fmt.Errorf("promotional credit: %w", err)
	}
	var uses []use
	var grant, left int64
	open := i.Gross.Minor
	_, err = pgx.ForEachRow(rows, []any{&grant, &left}, func() error {
		if take := min(left, open); take > 0 {
			uses = append(uses, use{grant, take})
			open -= take
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("promotional credit: %w", err)
	}
	i.Promotional.Minor = i.Gross.Minor - open
	var prepaid int64
	if err := tx.QueryRow(ctx, prepaidSQL, ledger.Prepaid(i.Tenant)).Scan(&prepaid); err != nil {
		return nil, fmt.Errorf("prepaid credit: %w", err)
	}
	i.Prepaid.Minor = min(max(prepaid, 0), open)
	return uses, nil
}

const expiredSQL = `
SELECT g.entry, e.reference, a.currency, g.amount - coalesce((SELECT sum(amount) FROM promo_uses WHERE grant_entry = g.entry), 0)::bigint
FROM promo_grants g JOIN entries e ON e.id = g.entry JOIN accounts a ON a.tenant = g.tenant
WHERE g.tenant = $1 AND g.expires <= $2
ORDER BY g.entry`

// expireCredit books what is left of promotional credit that was good up to a
// closing's cut at most: every later cut comes too late for it. The caller holds
// the account's row.
func expireCredit(ctx context.Context, tx pgx.Tx, c invoicing.Closing) error {
	type left struct {
		Grant     int64
		Reference string
		Currency  money.Currency
		Minor     int64
	}
	rows, _ := tx.Query(ctx, expiredSQL, c.Tenant, c.Cut.UTC())
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[left])
	if err != nil {
		return fmt.Errorf("expired credit: %w", err)
	}
	for _, l := range all {
		if l.Minor == 0 {
			continue
		}
		amount := money.Amount{Minor: l.Minor, Currency: l.Currency}
		entry, _, err := post(ctx, tx, ledger.Entry{Tenant: c.Tenant, Kind: ledger.KindExpiry, At: c.Closed, Reference: l.Reference, Key: fmt.Sprintf("expiry:%d", l.Grant),
			Postings: []ledger.Posting{{Account: ledger.Promo(c.Tenant), Amount: amount}, {Account: ledger.PromoExpense, Amount: amount.Neg()}}})
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, insertUsesSQL, entry, []int64{l.Grant}, []int64{l.Minor}); err != nil {
			return fmt.Errorf("expire promotional credit %q: %w", l.Reference, err)
		}
	}
	return nil
}

const insertUsesSQL = `
INSERT INTO promo_uses (grant_entry, entry, amount)
SELECT grant_entry, $1, amount FROM unnest($2::bigint[], $3::bigint[]) AS u (grant_entry, amount)`

// useCredit books what planCredit set.
func useCredit(ctx context.Context, tx pgx.Tx, i *invoicing.Invoice, uses []use) error {
	paid, err := i.Promotional.Add(i.Prepaid)
	if err != nil || paid.Minor == 0 {
		return err
	}
	e := ledger.Entry{Tenant: i.Tenant, Kind: ledger.KindCredit, At: i.Issued, Reference: i.Number, Key: "credit:" + i.Number}
	if err := errors.Join(
		e.Debit(ledger.Promo(i.Tenant), i.Promotional),
		e.Debit(ledger.Prepaid(i.Tenant), i.Prepaid),
		e.Credit(ledger.Receivable(i.Tenant), paid),
	); err != nil {
		return err
	}
	entry, _, err := post(ctx, tx, e)
	if err != nil {
		return err
	}
	var grants, amounts []int64
	for _, u := range uses {
		grants, amounts = append(grants, u.grant), append(amounts, u.amount)
	}
	if _, err := tx.Exec(ctx, insertUsesSQL, entry, grants, amounts); err != nil {
		return fmt.Errorf("use promotional credit for %s: %w", i.Number, err)
	}
	return nil
}
