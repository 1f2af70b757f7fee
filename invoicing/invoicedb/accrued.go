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

// AccruedMaxAge is how old the accrued cache may be for an admission; beyond it
// the admission is refused with invoicing.ErrAccruedStale.
const AccruedMaxAge = 15 * time.Minute

// Snapshot is what the accrued cache holds of a tenant.
type Snapshot struct {
	Tenant   metering.TenantID
	AsOf     time.Time
	Closing  int   // seq of the tenant's last closing, which Amount counts from
	Amount   int64 // minor units
	Burn     invoicing.Burn
	Revision int64 // as read by Revisions before what runs was looked up
}

// Revisions are the revisions of the cache of all tenants.
func (s *Store) Revisions(ctx context.Context) (map[metering.TenantID]int64, error) {
	rows, err := s.pool.Query(ctx, `SELECT tenant, revision FROM tenant_accrued`)
	if err != nil {
		return nil, fmt.Errorf("accrued cache: %w", err)
	}
	revisions := map[metering.TenantID]int64{}
	var tenant metering.TenantID
	var revision int64
	_, err = pgx.ForEachRow(rows, []any{&tenant, &revision}, func() error {
		revisions[tenant] = revision
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("accrued cache: %w", err)
	}
	return revisions, nil
}

// saveAccruedSQL locks the rows in one order first, so that two refreshes cannot
// wait for each other.
const saveAccruedSQL = `
WITH locked AS MATERIALIZED (
    SELECT tenant FROM tenant_accrued WHERE tenant = ANY ($1) ORDER BY tenant FOR UPDATE
)
UPDATE tenant_accrued AS t
SET as_of = n.as_of, closing = n.closing, amount = n.amount,
    burn_nano = CASE WHEN t.revision = n.revision THEN n.burn_nano ELSE greatest(t.burn_nano, n.burn_nano) END
FROM unnest($1::text[], $2::timestamptz[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS n (tenant, as_of, closing, amount, burn_nano, revision)
JOIN locked USING (tenant)
WHERE t.tenant = n.tenant AND (t.closing, t.as_of) <= (n.closing, n.as_of)`

// SaveAccrued refreshes the cache, in one statement. A snapshot of before the
// closing or the time of the one that is there changes nothing. Where an admission came after Revisions the greater burn stays.
func (s *Store) SaveAccrued(ctx context.Context, all []Snapshot) error {
	var tenants []string
	var asOf []time.Time
	var closings []int32
	var amounts, burns, revisions []int64
	for _, n := range all {
		tenants, asOf, closings = append(tenants, string(n.Tenant)), append(asOf, n.AsOf.UTC()), append(closings, int32(n.Closing))
		amounts, burns, revisions = append(amounts, n.Amount), append(burns, int64(n.Burn)), append(revisions, n.Revision)
	}
	if _, err := s.pool.Exec(ctx, saveAccruedSQL, tenants, asOf, closings, amounts, burns, revisions); err != nil {
		return fmt.Errorf("save accrued of %d tenants: %w", len(all), err)
	}
	return nil
}

const creditSQL = `
SELECT a.currency, a.credit_limit, t.as_of, t.amount, t.burn_nano,
    t.closing = coalesce((SELECT max(seq) FROM closings WHERE tenant = a.tenant), 0),
    (SELECT coalesce(-sum(amount), 0) FROM postings WHERE account = $2)::bigint,
    (SELECT coalesce(sum(amount), 0) FROM postings WHERE account = $3)::bigint,
    (SELECT coalesce(sum(g.amount - coalesce((SELECT sum(amount) FROM promo_uses WHERE grant_entry = g.entry), 0)), 0)
        FROM promo_grants g WHERE g.tenant = a.tenant AND g.expires >= $4)::bigint
FROM accounts a JOIN tenant_accrued t USING (tenant)
WHERE a.tenant = $1`

// standing is credit as Postgres has it.
type standing struct {
	invoicing.Credit
	burn    invoicing.Burn
	current bool // the cache counts from the tenant's last closing
}

// Credit is what the tenant may still spend at now, by the accrued cache grown
// by its burn since. db is a pool or a transaction; nil is the store's own pool.
func (s *Store) Credit(ctx context.Context, db Querier, tenant metering.TenantID, now time.Time) (invoicing.Credit, error) {
	if db == nil {
		db = s.pool
	}
	st, err := credit(ctx, db, tenant, now)
	return st.Credit, err
}

func credit(ctx context.Context, db Querier, tenant metering.TenantID, now time.Time) (standing, error) {
	var st standing
	var currency money.Currency
	c := &st.Credit
	err := db.QueryRow(ctx, creditSQL, tenant, ledger.Prepaid(tenant), ledger.Receivable(tenant), now.UTC()).Scan(
		&currency, &c.Limit.Minor, &c.AsOf, &c.Accrued.Minor, &st.burn, &st.current, &c.Prepaid.Minor, &c.Unpaid.Minor, &c.Promotional.Minor)
	if errors.Is(err, pgx.ErrNoRows) {
		return st, fmt.Errorf("credit: %w: %q", invoicing.ErrNoAccount, tenant)
	}
	if err != nil {
		return st, fmt.Errorf("credit of %s: %w", tenant, err)
	}
	c.AsOf = c.AsOf.UTC()
	for _, a := range []*money.Amount{&c.Limit, &c.Accrued, &c.Prepaid, &c.Unpaid, &c.Promotional} {
		a.Currency = currency
	}
	if age := now.Sub(c.AsOf); age > 0 {
		grown, err := st.burn.Over(age, currency)
		if err != nil {
			return st, fmt.Errorf("accrued of %s: %w", tenant, err)
		}
		if c.Accrued, err = c.Accrued.Add(grown); err != nil {
			return st, fmt.Errorf("accrued of %s: %w", tenant, err)
		}
	}
	if c.Available, err = sum(c.Prepaid, c.Promotional, c.Limit, c.Unpaid.Neg(), c.Accrued.Neg()); err != nil {
		return st, fmt.Errorf("credit of %s: %w", tenant, err)
	}
	return st, nil
}

func sum(amounts ...money.Amount) (total money.Amount, err error) {
	for _, a := range amounts {
		if total, err = total.Add(a); err != nil {
			return total, err
		}
	}
	return total, nil
}

const addBurnSQL = `UPDATE tenant_accrued SET burn_nano = burn_nano + $2, revision = revision + 1 WHERE tenant = $1`

// CreditCheck admits more burn in the caller's transaction: what the tenant may
// still spend must carry all that runs and the new for the given time from now
// on. The new burn counts from here on, so that two admissions cannot both
// spend the same credit. The error wraps invoicing.ErrNoCredit, or
// invoicing.ErrAccruedStale when what is owed is not known well enough: the cache is
// older than AccruedMaxAge, or of before the last closing. The row of the cache
// stays locked until the transaction ends: call it before locking any host.
func (s *Store) CreditCheck(ctx context.Context, tx pgx.Tx, tenant metering.TenantID, now time.Time, more invoicing.Burn, ahead time.Duration) error {
	if more < 0 {
		return fmt.Errorf("admit %s: burn %d is negative", tenant, more)
	}
	// Locking the row first makes the next statement see what the admission before added.
	if _, err := tx.Exec(ctx, `SELECT FROM tenant_accrued WHERE tenant = $1 FOR UPDATE`, tenant); err != nil {
		return fmt.Errorf("admit %s: %w", tenant, err)
	}
	st, err := credit(ctx, tx, tenant, now)
	if err != nil {
		return err
	}
	switch age := now.Sub(st.AsOf); {
	case !st.current:
		return fmt.Errorf("%w: of before the last invoice; try again in a minute", invoicing.ErrAccruedStale)
	case age > AccruedMaxAge:
		return fmt.Errorf("%w: %s old; metering is behind, try again later", invoicing.ErrAccruedStale, age.Round(time.Second))
	}
	need, err := (st.burn + more).Over(ahead, st.Available.Currency)
	if err != nil {
		return fmt.Errorf("admit %s: %w", tenant, err)
	}
	if st.Available.Minor < need.Minor {
		return fmt.Errorf("%w: %s %s available, %s %s needed for the next %s of all that runs", invoicing.ErrNoCredit,
			st.Available, st.Available.Currency, need, need.Currency, ahead)
	}
	if _, err := tx.Exec(ctx, addBurnSQL, tenant, int64(more)); err != nil {
		return fmt.Errorf("admit %s: %w", tenant, err)
	}
	return nil
}
