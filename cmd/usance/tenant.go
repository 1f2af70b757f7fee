package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
	"github.com/usance/usance/portal/identity"
	"github.com/usance/usance/rating/money"
)

// createTenant makes the tenant in every room. The account is first: one without
// a tenant is never looked at.
func (p *plane) createTenant(ctx context.Context, n portal.CreateTenant) (portal.TenantJSON, error) {
	account, err := p.newAccount(ctx, n)
	if err != nil {
		return portal.TenantJSON{}, err
	}
	t, err := p.people.CreateTenant(ctx, identity.NewTenant{Name: n.Name, Email: n.Email, Password: n.Password}, account.Created,
		func(ctx context.Context, _ pgx.Tx, id metering.TenantID) error {
			account.Tenant = id
			return p.books.CreateAccount(ctx, account)
		})
	if err != nil {
		return portal.TenantJSON{}, err
	}
	return portal.TenantJSON{ID: t.ID, Name: t.Name, Email: t.Email, Plan: n.Plan, Currency: n.Currency, Zone: n.Zone}, p.bills.Refresh(ctx, time.Now(), t.ID)
}

// grantCredit gives promotional credit.
func (p *plane) grantCredit(ctx context.Context, tenant metering.TenantID, g portal.GrantCredit) error {
	account, err := p.books.Standing(ctx, tenant)
	if err != nil {
		return err
	}
	amount, expires, err := parseGrant(g, account.Account.Currency)
	if err != nil {
		return err
	}
	return p.books.GrantPromo(ctx, tenant, amount, expires, g.Key, time.Now())
}

// newAccount checks what a new tenant pays by; the account lacks its tenant yet.
func (p *plane) newAccount(ctx context.Context, n portal.CreateTenant) (invoicing.Account, error) {
	currency, err := money.ParseCurrency(n.Currency)
	if err != nil {
		return invoicing.Account{}, fmt.Errorf("%w: %w", identity.ErrInvalid, err)
	}
	zone, err := time.LoadLocation(n.Zone)
	if err != nil || n.Zone == "" || n.Zone == "Local" {
		return invoicing.Account{}, fmt.Errorf("%w billing zone %q: an IANA name such as Europe/Berlin is wanted", identity.ErrInvalid, n.Zone)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	account := invoicing.Account{Tenant: "ten_00000000000000000", Currency: currency, Plan: n.Plan, Zone: zone,
		CreditLimit: money.Amount{Currency: currency}, Tax: invoicing.TaxRule{Category: invoicing.TaxOutside}, Created: now}
	if err := account.Check(); err != nil {
		return invoicing.Account{}, fmt.Errorf("%w: %w", identity.ErrInvalid, err)
	}
	period, err := account.PeriodOf(now)
	if err != nil {
		return invoicing.Account{}, fmt.Errorf("%w: %w", identity.ErrInvalid, err)
	}
	plan, _, err := p.plans.InForce(ctx, n.Plan, period.Start)
	if err != nil {
		return invoicing.Account{}, fmt.Errorf("%w plan %q: %w", identity.ErrInvalid, n.Plan, err)
	}
	if plan.Currency != currency {
		return invoicing.Account{}, fmt.Errorf("%w currency %s: plan %s has prices in %s", identity.ErrInvalid, currency, plan.Name, plan.Currency)
	}
	return account, nil
}

// parseGrant reads the amount and the day of a grant.
func parseGrant(g portal.GrantCredit, currency money.Currency) (amount money.Amount, expires time.Time, err error) {
	amount, err = money.Parse(g.Amount, currency)
	switch {
	case err != nil:
		return amount, expires, fmt.Errorf("%w amount: %w", identity.ErrInvalid, err)
	case amount.Minor <= 0:
		return amount, expires, fmt.Errorf("%w amount %q: it must be above zero", identity.ErrInvalid, g.Amount)
	case g.Key == "":
		return amount, expires, fmt.Errorf("%w key: it must not be empty", identity.ErrInvalid)
	}
	expires = invoicedb.Forever
	if g.Expires != nil {
		expires = *g.Expires
	}
	return amount, expires, nil
}
