package invoicedb

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// ErrConflict: another closing of the tenant was recorded first. Read its state
// again.
var ErrConflict = errors.New("another closing came first")

// Store is the books of all tenants. All methods may run at the same time.
type Store struct {
	pool *pgxpool.Pool
	jobs *river.Client[pgx.Tx] // only inserts
}

// New is a store on a migrated database.
func New(pool *pgxpool.Pool) (*Store, error) {
	jobs, err := river.NewClient(riverpgxv5.New(pool), &river.Config{})
	if err != nil {
		return nil, fmt.Errorf("invoicedb: job queue: %w", err)
	}
	return &Store{pool, jobs}, nil
}

// Querier is a pool or a transaction.
type Querier interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
}

// levelColumn is registers as an array of Postgres; an allocation's level is its
// first number alone.
func levelColumn(meter metering.Meter, level metering.Registers) []int64 {
	n := len(level)
	if meter != "" {
		n = 1
	}
	values := make([]int64, n)
	for i := range values {
		values[i] = int64(level[i])
	}
	return values
}

// levelOf is the reverse. An array written before a register was introduced is
// shorter: that register stood at 0.
func levelOf(values []int64) (level metering.Registers, err error) {
	if len(values) > len(level) {
		return level, fmt.Errorf("a level of %d numbers, and this program knows %d registers", len(values), len(level))
	}
	for i, v := range values {
		level[i] = uint64(v)
	}
	return level, nil
}

// growthColumn is growth by slot as an array of Postgres, NULL where nothing was read.
func growthColumn(growth []int64) []pgtype.Int8 {
	values := make([]pgtype.Int8, len(growth))
	for i, g := range growth {
		values[i] = pgtype.Int8{Int64: g, Valid: g != invoicing.Unread}
	}
	return values
}

// growthOf is the reverse.
func growthOf(values []pgtype.Int8) []int64 {
	growth := make([]int64, len(values))
	for i, v := range values {
		if growth[i] = v.Int64; !v.Valid {
			growth[i] = invoicing.Unread
		}
	}
	return growth
}

// fraction reads what Fraction.Text wrote.
func fraction(s string) (money.Fraction, error) {
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return money.Fraction{}, fmt.Errorf("%q is not a number", s)
	}
	return money.FracRat(r), nil
}

// billrunLock is the key of the advisory lock of the closing run.
const billrunLock = 0x62696c6c72756e // "billrun"

// TryLock takes the lock of the closing run; ok is false while another program
// holds it. The lock ends with unlock or with the connection.
func (s *Store) TryLock(ctx context.Context) (unlock func(), ok bool, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("lock the closing run: %w", err)
	}
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, billrunLock).Scan(&ok); err != nil || !ok {
		conn.Release()
		if err != nil {
			return nil, false, fmt.Errorf("lock the closing run: %w", err)
		}
		return nil, false, nil
	}
	return func() {
		// A connection that cannot unlock must not return to the pool with the lock.
		if _, err := conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, billrunLock); err != nil {
			conn.Conn().Close(context.WithoutCancel(ctx))
		}
		conn.Release()
	}, true, nil
}
