// Package computedb keeps compute in Postgres: quotas, instances, leases, hosts
// and join tokens.
//
// It owns the admission of instances: quota, credit, capacity and desired state
// in one transaction. It makes no network call inside a transaction, knows no
// price (credit is a function passed in) and speaks to no host (hostapi does; a
// change is announced by NOTIFY). Moves are cold: nobody orders a live migration
// yet, though agents meter one.
//
// Invariants:
//   - No concurrency exceeds a quota or what a host offers; an instance has at
//     most one open lease that no resize has replaced, and those that it replaced
//     are on the same host.
//   - Locks are taken in this order: the tenant's row in compute_quotas, then
//     hosts by id. Leases and instances change only under the lock of their host.
//   - A host's revision rises with everything that changes its desired state, in
//     the same transaction.
//   - A place is held from creation until the host confirmed the deletion: a
//     stopped instance keeps it, so starting it never fails for capacity. One that
//     moves holds the new place, too, from the order on, and has a lease there only
//     when the old host has let it go.
package computedb

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

// Config is what the store needs of others.
type Config struct {
	// Flavor is the flavor of that name in the tenant's plan, or an error that
	// wraps compute.ErrNoFlavor. It is called outside transactions.
	Flavor func(ctx context.Context, tenant metering.TenantID, name string) (compute.Flavor, error)
	// Image is the image of that name, or an error that wraps compute.ErrNoImage.
	Image func(name string) (hostapi.Image, error)
	// Credit reports an error unless the tenant can pay for one more running
	// instance of the flavor beside those that run or are wanted running (how many
	// of each flavor). It must reach the database by tx alone. Nil: all can.
	Credit func(ctx context.Context, tx pgx.Tx, tenant metering.TenantID, flavor string, running map[string]int) error
	// Now is the server's clock; nil: time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Store reads and writes compute's tables. Its methods may be called from
// several goroutines and several processes.
type Store struct {
	pool *pgxpool.Pool
	Config
}

// New makes a store on a migrated database. It does no I/O.
func New(pool *pgxpool.Pool, c Config) *Store {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Store{pool, c}
}

// now is the server's clock in UTC and in Postgres's resolution.
func (s *Store) now() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// hostsChannel is the channel of NOTIFY; its payload is a host's id.
const hostsChannel = "compute_hosts"

// announce makes the host's desired state a new revision and wakes who watches
// it when the transaction commits.
func announce(ctx context.Context, tx pgx.Tx, host metering.HostID) error {
	if _, err := tx.Exec(ctx, `UPDATE hosts SET revision = revision + 1 WHERE id = $1`, host); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT pg_notify($1, $2)`, hostsChannel, host)
	return err
}
