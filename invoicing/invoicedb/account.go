package invoicedb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

const createAccountSQL = `
WITH created AS (
    INSERT INTO accounts (tenant, currency, plan, zone, credit_limit, tax_category, tax_percent_milli, created)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (tenant) DO NOTHING
    RETURNING tenant, created
)
INSERT INTO tenant_accrued (tenant, as_of, closing, amount, burn_nano)
SELECT tenant, created, 0, 0, 0 FROM created`

// CreateAccount makes the tenant's account, which owes nothing yet. One that is
// there already stays as it is. A tax rule left out is outside the scope of tax.
func (s *Store) CreateAccount(ctx context.Context, a invoicing.Account) error {
	if a.Tax.Category == "" {
		a.Tax.Category = invoicing.TaxOutside
	}
	if a.CreditLimit == (money.Amount{}) {
		a.CreditLimit.Currency = a.Currency
	}
	if err := a.Check(); err != nil {
		return err
	}
	_, err := s.pool.Exec(ctx, createAccountSQL, a.Tenant, a.Currency, a.Plan, a.Zone.String(), a.CreditLimit.Minor,
		a.Tax.Category, a.Tax.PercentMilli, a.Created.UTC())
	if err != nil {
		return fmt.Errorf("create account %s: %w", a.Tenant, err)
	}
	return nil
}

const selectAccountSQL = `
SELECT a.tenant, a.currency, a.plan, a.zone, a.credit_limit, a.tax_category, a.tax_percent_milli, a.created,
    coalesce(c.seq, 0), c.period_start, c.period_end, c.cut, coalesce(c.plan, ''), coalesce(c.plan_version, 0), coalesce(c.plan_known, 0), c.unsettled_from, c.closed
FROM accounts a
LEFT JOIN LATERAL (SELECT * FROM closings WHERE tenant = a.tenant ORDER BY seq DESC LIMIT 1) c ON true
`

// Standing is an account and its last closing.
type Standing struct {
	invoicing.Account
	Last invoicing.Closing // Seq 0 before the first
}

// Standing is the tenant's account and last closing. The error wraps
// invoicing.ErrNoAccount.
func (s *Store) Standing(ctx context.Context, tenant metering.TenantID) (Standing, error) {
	rows, err := s.pool.Query(ctx, selectAccountSQL+`WHERE a.tenant = $1`, tenant)
	if err != nil {
		return Standing{}, fmt.Errorf("account %s: %w", tenant, err)
	}
	one, err := pgx.CollectExactlyOneRow(rows, scanStanding)
	if errors.Is(err, pgx.ErrNoRows) {
		return Standing{}, fmt.Errorf("%w: %q", invoicing.ErrNoAccount, tenant)
	}
	if err != nil {
		return Standing{}, fmt.Errorf("account %s: %w", tenant, err)
	}
	return one, nil
}

// Standings are the accounts after a tenant by id with their last closings, at
// most limit of them.
func (s *Store) Standings(ctx context.Context, after metering.TenantID, limit int) ([]Standing, error) {
	return s.standings(ctx, selectAccountSQL+`WHERE a.tenant > $1 ORDER BY a.tenant LIMIT $2`, after, limit)
}

// dueSQL finds accounts whose next period has ended; Go's time zones decide
// again when it is closed.
const dueSQL = selectAccountSQL + `
WHERE a.tenant > $1
  AND $3 >= CASE
      WHEN c.seq IS NULL THEN (date_trunc('month', a.created AT TIME ZONE a.zone) + interval '1 month') AT TIME ZONE a.zone
      WHEN c.cut < c.period_end THEN c.period_end
      ELSE (date_trunc('month', c.period_end AT TIME ZONE a.zone) + interval '1 month') AT TIME ZONE a.zone
  END
ORDER BY a.tenant
LIMIT $2`

// Due are accounts after a tenant by id of which a period that ended by the
// given time is not closed, at most limit of them.
func (s *Store) Due(ctx context.Context, after metering.TenantID, ended time.Time, limit int) ([]Standing, error) {
	return s.standings(ctx, dueSQL, after, limit, ended.UTC())
}

func (s *Store) standings(ctx context.Context, query string, args ...any) ([]Standing, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanStanding)
	if err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	return all, nil
}

func scanStanding(row pgx.CollectableRow) (s Standing, err error) {
	var start, end, cut, unsettled, closed *time.Time
	var zone string
	l := &s.Last
	err = row.Scan(&s.Tenant, &s.Currency, &s.Plan, &zone, &s.CreditLimit.Minor, &s.Tax.Category, &s.Tax.PercentMilli, &s.Created,
		&l.Seq, &start, &end, &cut, &l.Plan, &l.PlanVersion, &l.PlanKnown, &unsettled, &closed)
	if err == nil {
		s.Zone, err = location(zone)
	}
	s.CreditLimit.Currency = s.Currency
	s.Created = s.Created.UTC()
	l.Tenant = s.Tenant
	l.Period = metering.Window{Start: utc(start), End: utc(end)}
	l.Cut, l.Unsettled, l.Closed = utc(cut), utc(unsettled), utc(closed)
	return s, err
}

// zones are the time zones loaded so far, by name: few, and slow to read.
var zones sync.Map

func location(name string) (*time.Location, error) {
	if zone, ok := zones.Load(name); ok {
		return zone.(*time.Location), nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("billing zone: %w", err)
	}
	zones.Store(name, zone)
	return zone, nil
}

// utc is a nullable time of Postgres; NULL is the zero time.
func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// null is the reverse of utc.
func null(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// PlanVersion is a version of a price plan.
type PlanVersion struct {
	Plan    string
	Version int
}

const planVersionsSQL = `
SELECT DISTINCT ON (tenant, period_start) tenant, period_start, plan, plan_version
FROM closings
WHERE tenant = ANY ($1)
ORDER BY tenant, period_start, seq`

// PlanVersions are the plan versions that the tenants' periods begin under, by the
// period's start: each as its first closing fixed it. A tenant without a closing is absent.
func (s *Store) PlanVersions(ctx context.Context, tenants ...metering.TenantID) (map[metering.TenantID]map[time.Time]PlanVersion, error) {
	versions := map[metering.TenantID]map[time.Time]PlanVersion{}
	var tenant metering.TenantID
	var start time.Time
	var v PlanVersion
	rows, _ := s.pool.Query(ctx, planVersionsSQL, tenants)
	_, err := pgx.ForEachRow(rows, []any{&tenant, &start, &v.Plan, &v.Version}, func() error {
		if versions[tenant] == nil {
			versions[tenant] = map[time.Time]PlanVersion{}
		}
		versions[tenant][start.UTC()] = v
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("plan versions of %d tenants: %w", len(tenants), err)
	}
	return versions, nil
}

// LastCut is the latest cut under a plan.
type LastCut struct {
	Tenant  metering.TenantID
	Cut     time.Time
	Version int // of the plan
}

const lastCutSQL = `
SELECT tenant, cut, plan_version
FROM closings
WHERE plan = $1
ORDER BY cut DESC, tenant
LIMIT 1`

// LastCut is the latest cut of all tenants under a plan; ok is false when there
// is none. db is a transaction that holds the plan, lest another cut come.
func (s *Store) LastCut(ctx context.Context, db Querier, plan string) (c LastCut, ok bool, err error) {
	err = db.QueryRow(ctx, lastCutSQL, plan).Scan(&c.Tenant, &c.Cut, &c.Version)
	if errors.Is(err, pgx.ErrNoRows) {
		return LastCut{}, false, nil
	}
	if err != nil {
		return LastCut{}, false, fmt.Errorf("last cut under plan %s: %w", plan, err)
	}
	c.Cut = c.Cut.UTC()
	return c, true, nil
}

// CountAccounts is how many accounts there are.
func (s *Store) CountAccounts(ctx context.Context) (n int, err error) {
	if err := s.pool.QueryRow(ctx, `SELECT count(*) FROM accounts`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count accounts: %w", err)
	}
	return n, nil
}

// Next is the period that the tenant's next closing cuts.
func (s Standing) Next() (metering.Window, error) {
	switch {
	case s.Last.Seq == 0:
		return s.PeriodOf(s.Created.Add(1)) // holds the creation, also when it is a month's first instant
	case s.Last.Last():
		return s.PeriodOf(s.Last.Period.End.Add(1))
	}
	return s.Last.Period, nil
}
