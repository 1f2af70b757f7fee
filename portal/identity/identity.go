// Package identity stores who may act for whom: tenants, users, memberships,
// sessions and API tokens, in Postgres.
//
// It owns passwords and tokens, which it stores as hashes only. It never decides
// what a tenant may buy, and knows no other room's tables.
//
// Invariants:
//   - A secret leaves it once, when it is made.
//   - Signing in takes the same work whether the address is known or not.
package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/mail"
	"runtime"
	"strings"
	"time"

	"github.com/alexedwards/argon2id"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/metering"
)

// What callers branch on.
var (
	// ErrEmailTaken says that a user with this address exists.
	ErrEmailTaken = errors.New("this e-mail address is taken")
	// ErrCredentials says that address and password do not belong together.
	ErrCredentials = errors.New("unknown e-mail address or wrong password")
	// ErrNoSession says that a session or API token is unknown, ended or revoked.
	ErrNoSession = errors.New("not signed in")
	// ErrInvalid is wrapped by errors about what a person typed.
	ErrInvalid = errors.New("invalid")
)

const (
	sessionLifetime   = 14 * 24 * time.Hour // then a user signs in again
	minPasswordLength = 8
	maxPasswordLength = 1000 // more is refused: hashing costs by length
)

// PageLimit is how many tenants Tenants returns at most; a larger limit is lowered to it.
const PageLimit = 200

// hashing is argon2id with 19 MiB and 2 passes, about 50 ms of one core.
var hashing = &argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// Tenant is who owns resources and pays.
type Tenant struct {
	ID      metering.TenantID
	Name    string
	Email   string // of the first owner
	Created time.Time
}

// Session is a signed-in user acting for a tenant.
type Session struct {
	User   string // "usr_…"
	Email  string
	Tenant metering.TenantID
	Name   string // of the tenant
}

// NewTenant is what a tenant starts with: a name, and its owner's address and password.
type NewTenant struct {
	Name, Email, Password string
}

// Store is the identity part of the Postgres database.
type Store struct {
	pool    *pgxpool.Pool
	hashers chan struct{} // bounds how many passwords are hashed at once
	unknown string        // a hash that no password has
}

// New makes a Store on a migrated database.
func New(pool *pgxpool.Pool) (*Store, error) {
	unknown, err := argon2id.CreateHash(rand.Text(), hashing)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return &Store{pool: pool, hashers: make(chan struct{}, runtime.NumCPU()), unknown: unknown}, nil
}

// CreateTenant makes a tenant with its owner. The other rooms make their own row
// of the tenant in the same transaction, by more. Errors: ErrInvalid, ErrEmailTaken.
func (s *Store) CreateTenant(ctx context.Context, n NewTenant, now time.Time, more func(context.Context, pgx.Tx, metering.TenantID) error) (Tenant, error) {
	n.Name, n.Email = strings.TrimSpace(n.Name), strings.TrimSpace(n.Email)
	address, err := mail.ParseAddress(n.Email)
	switch {
	case n.Name == "" || len(n.Name) > 200:
		return Tenant{}, fmt.Errorf("%w name: 1 to 200 bytes are wanted", ErrInvalid)
	case err != nil || address.Address != n.Email || len(n.Email) > 254:
		return Tenant{}, fmt.Errorf("%w e-mail address %q", ErrInvalid, n.Email)
	case len(n.Password) < minPasswordLength || len(n.Password) > maxPasswordLength:
		return Tenant{}, fmt.Errorf("%w password: %d to %d bytes are wanted", ErrInvalid, minPasswordLength, maxPasswordLength)
	}
	hash, err := s.hash(ctx, n.Password)
	if err != nil {
		return Tenant{}, err
	}
	t := Tenant{ID: metering.TenantID(metering.NewID(metering.PrefixTenant)), Name: n.Name, Email: n.Email, Created: now}
	const insert = `
		WITH t AS (INSERT INTO tenants (id, name, created_at) VALUES ($1, $2, $3)),
		     u AS (INSERT INTO users (id, email, password_hash, created_at) VALUES ($4, $5, $6, $3))
		SELECT`
	const join = `INSERT INTO memberships (tenant, user_id, role) VALUES ($1, $2, 'owner')`
	user := metering.NewID(metering.PrefixUser)
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insert, t.ID, t.Name, now, user, t.Email, hash); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, join, t.ID, user); err != nil {
			return err
		}
		return more(ctx, tx, t.ID)
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.ConstraintName == "users_email" {
		return Tenant{}, fmt.Errorf("%s: %w", n.Email, ErrEmailTaken)
	}
	if err != nil {
		return Tenant{}, fmt.Errorf("create tenant %s: %w", n.Email, err)
	}
	return t, nil
}

// Tenants lists tenants by id, after the given one; with an address, only that user's.
func (s *Store) Tenants(ctx context.Context, email string, after metering.TenantID, limit int) ([]Tenant, error) {
	const query = `
		SELECT DISTINCT ON (t.id) t.id, t.name, u.email, t.created_at
		FROM tenants t
		JOIN memberships m ON m.tenant = t.id AND m.role = 'owner'
		JOIN users u ON u.id = m.user_id
		WHERE t.id > $1 AND ($2 = '' OR lower(u.email) = lower($2))
		ORDER BY t.id, u.created_at
		LIMIT $3`
	rows, err := s.pool.Query(ctx, query, after, email, min(limit, PageLimit))
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Tenant])
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	return list, nil
}

// SignIn starts a session of the user's first tenant and returns its secret.
// Errors: ErrCredentials.
func (s *Store) SignIn(ctx context.Context, email, password string, now time.Time) (string, error) {
	const query = `
		SELECT u.id, u.password_hash, m.tenant
		FROM users u JOIN memberships m ON m.user_id = u.id
		WHERE lower(u.email) = lower($1)
		ORDER BY m.tenant LIMIT 1`
	user, hash, tenant := "", s.unknown, ""
	err := s.pool.QueryRow(ctx, query, strings.TrimSpace(email)).Scan(&user, &hash, &tenant)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("sign in: %w", err)
	}
	ok, err := s.matches(ctx, password, hash)
	if err != nil {
		return "", fmt.Errorf("sign in: %w", err)
	}
	if !ok || user == "" {
		return "", ErrCredentials
	}
	secret, digest := newSecret("")
	const insert = `INSERT INTO sessions (hash, user_id, tenant, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)`
	if _, err := s.pool.Exec(ctx, insert, digest, user, tenant, now, now.Add(sessionLifetime)); err != nil {
		return "", fmt.Errorf("sign in: %w", err)
	}
	return secret, nil
}

// Session is the session with this secret. Errors: ErrNoSession.
func (s *Store) Session(ctx context.Context, secret string, now time.Time) (Session, error) {
	const query = `
		SELECT s.user_id, u.email, s.tenant, t.name
		FROM sessions s JOIN users u ON u.id = s.user_id JOIN tenants t ON t.id = s.tenant
		WHERE s.hash = $1 AND s.expires_at > $2`
	var v Session
	err := s.pool.QueryRow(ctx, query, digestOf(secret), now).Scan(&v.User, &v.Email, &v.Tenant, &v.Name)
	if errors.Is(err, pgx.ErrNoRows) {
		return Session{}, ErrNoSession
	}
	if err != nil {
		return Session{}, fmt.Errorf("session: %w", err)
	}
	return v, nil
}

// SignOut ends the session with this secret; ended sessions of anybody go with it.
func (s *Store) SignOut(ctx context.Context, secret string, now time.Time) error {
	const remove = `DELETE FROM sessions WHERE hash = $1 OR expires_at <= $2`
	if _, err := s.pool.Exec(ctx, remove, digestOf(secret), now); err != nil {
		return fmt.Errorf("sign out: %w", err)
	}
	return nil
}

// MintToken makes an API token of the tenant and returns its secret.
func (s *Store) MintToken(ctx context.Context, tenant metering.TenantID, name string, now time.Time) (string, error) {
	secret, digest := newSecret("us_")
	const insert = `
		INSERT INTO api_tokens (hash, tenant, name, created_at)
		SELECT $1, id, $3, $4 FROM tenants WHERE id = $2`
	tag, err := s.pool.Exec(ctx, insert, digest, tenant, name, now)
	if err != nil {
		return "", fmt.Errorf("token for tenant %s: %w", tenant, err)
	}
	if tag.RowsAffected() == 0 {
		return "", fmt.Errorf("token: %w tenant %q", ErrInvalid, tenant)
	}
	return secret, nil
}

// Token is the tenant whose API token this is. Errors: ErrNoSession.
func (s *Store) Token(ctx context.Context, secret string) (metering.TenantID, error) {
	const query = `SELECT tenant FROM api_tokens WHERE hash = $1 AND revoked_at IS NULL`
	var tenant metering.TenantID
	err := s.pool.QueryRow(ctx, query, digestOf(secret)).Scan(&tenant)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", ErrNoSession
	}
	if err != nil {
		return "", fmt.Errorf("API token: %w", err)
	}
	return tenant, nil
}

func (s *Store) hash(ctx context.Context, password string) (string, error) {
	if err := s.enter(ctx); err != nil {
		return "", err
	}
	defer s.leave()
	return argon2id.CreateHash(password, hashing)
}

func (s *Store) matches(ctx context.Context, password, hash string) (bool, error) {
	if len(password) > maxPasswordLength {
		return false, nil
	}
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	defer s.leave()
	return argon2id.ComparePasswordAndHash(password, hash)
}

func (s *Store) enter(ctx context.Context) error {
	select {
	case s.hashers <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) leave() { <-s.hashers }

// newSecret draws 256 bits; only their digest is stored.
func newSecret(prefix string) (secret string, digest []byte) {
	var b [32]byte
	rand.Read(b[:])
	secret = prefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, digestOf(secret)
}

func digestOf(secret string) []byte {
	d := sha256.Sum256([]byte(secret))
	return d[:]
}

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.pool.Ping(ctx) }
