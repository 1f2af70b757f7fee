package identity_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal/identity"
	"github.com/usance/usance/sql/sqltest"
)

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func nothing(context.Context, pgx.Tx, metering.TenantID) error { return nil }

func open(t *testing.T) *identity.Store {
	t.Helper()
	s, err := identity.New(sqltest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignInAndOut(t *testing.T) {
	s, ctx := open(t), context.Background()
	tenant, err := s.CreateTenant(ctx, identity.NewTenant{Name: "Acme", Email: "a@example.com", Password: "correct horse"}, now, nothing)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ email, password string }{{"a@example.com", "wrong horse"}, {"b@example.com", "correct horse"}, {"a@example.com", ""}} {
		if _, err := s.SignIn(ctx, c.email, c.password, now); !errors.Is(err, identity.ErrCredentials) {
			t.Errorf("sign in as %s with %q: %v, want ErrCredentials", c.email, c.password, err)
		}
	}
	secret, err := s.SignIn(ctx, "A@Example.com", "correct horse", now)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Session(ctx, secret, now)
	if err != nil || got.Tenant != tenant.ID || got.Email != "a@example.com" || got.Name != "Acme" {
		t.Errorf("session = %+v, %v", got, err)
	}
	if _, err := s.Session(ctx, secret, now.AddDate(0, 1, 0)); !errors.Is(err, identity.ErrNoSession) {
		t.Errorf("an old session: %v, want ErrNoSession", err)
	}
	if err := s.SignOut(ctx, secret, now); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Session(ctx, secret, now); !errors.Is(err, identity.ErrNoSession) {
		t.Errorf("after signing out: %v, want ErrNoSession", err)
	}
}

func TestTokens(t *testing.T) {
	pool := sqltest.Postgres(t)
	s, err := identity.New(pool)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	tenant, err := s.CreateTenant(ctx, identity.NewTenant{Name: "Acme", Email: "a@example.com", Password: "correct horse"}, now, nothing)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := s.MintToken(ctx, tenant.ID, "test", now)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Token(ctx, secret); err != nil || got != tenant.ID {
		t.Errorf("token's tenant = %s, %v", got, err)
	}
	if _, err := s.Token(ctx, secret+"x"); !errors.Is(err, identity.ErrNoSession) {
		t.Errorf("another token: %v, want ErrNoSession", err)
	}
	if _, err := s.MintToken(ctx, "ten_unknown", "test", now); !errors.Is(err, identity.ErrInvalid) {
		t.Errorf("token of an unknown tenant: %v, want ErrInvalid", err)
	}
	// Nothing in the database is the secret itself.
	var clear int
	const query = `SELECT count(*) FROM api_tokens WHERE position($1::bytea IN hash) > 0`
	if err := pool.QueryRow(ctx, query, []byte(strings.TrimPrefix(secret, "us_"))).Scan(&clear); err != nil || clear != 0 {
		t.Errorf("%d tokens stored in clear, %v", clear, err)
	}
}

func TestCreateTenantRefuses(t *testing.T) {
	s, ctx := open(t), context.Background()
	ok := identity.NewTenant{Name: "Acme", Email: "a@example.com", Password: "correct horse"}
	if _, err := s.CreateTenant(ctx, ok, now, nothing); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name string
		n    identity.NewTenant
		want error
	}{
		{"same address", identity.NewTenant{Name: "B", Email: "A@example.com", Password: "correct horse"}, identity.ErrEmailTaken},
		{"no name", identity.NewTenant{Email: "b@example.com", Password: "correct horse"}, identity.ErrInvalid},
		{"no address", identity.NewTenant{Name: "B", Email: "b", Password: "correct horse"}, identity.ErrInvalid},
		{"name in address", identity.NewTenant{Name: "B", Email: "B <b@example.com>", Password: "correct horse"}, identity.ErrInvalid},
		{"short password", identity.NewTenant{Name: "B", Email: "b@example.com", Password: "horse"}, identity.ErrInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := s.CreateTenant(ctx, c.n, now, nothing); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	// What another room refuses leaves no tenant behind.
	broken := errors.New("no room")
	n := identity.NewTenant{Name: "C", Email: "c@example.com", Password: "correct horse"}
	if _, err := s.CreateTenant(ctx, n, now, func(context.Context, pgx.Tx, metering.TenantID) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if list, err := s.Tenants(ctx, "c@example.com", "", 10); err != nil || len(list) != 0 {
		t.Errorf("tenants = %v, %v; want none", list, err)
	}
	if list, err := s.Tenants(ctx, "a@EXAMPLE.com", "", 10); err != nil || len(list) != 1 || list[0].Name != "Acme" {
		t.Errorf("tenants = %v, %v; want Acme", list, err)
	}
}
