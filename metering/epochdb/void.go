package epochdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/metering"
)

// ErrVoided says that the epoch is voided already, from another instant on.
var ErrVoided = errors.New("the epoch is voided already")

// Decision is who decided what an operator is asked for, when and why.
type Decision struct {
	By   string // 1 to 64 characters
	At   time.Time
	Note string // at most 1000 characters
}

// Check reports an error unless the decision can be kept.
func (d Decision) Check() error {
	switch {
	case len(d.By) < 1 || len(d.By) > 64:
		return fmt.Errorf("who decides is named in 1 to 64 characters, not %d", len(d.By))
	case len(d.Note) > 1000:
		return fmt.Errorf("a reason has at most 1000 characters, not %d", len(d.Note))
	}
	return nil
}

const voidSQL = `
INSERT INTO voids (epoch, from_at, cap, next, voided_by, voided_at, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (epoch) DO NOTHING`

// Void makes it durable that an epoch is voided, with the epoch that replaces it,
// both or none. Repeating it is harmless: the first void stays, and comes back.
// If that is from another instant on, the error wraps ErrVoided.
func (s *Store) Void(ctx context.Context, e metering.EpochRecord, v metering.Void, d Decision) (metering.Void, error) {
	kept := v
	voided := e
	voided.Void = &v
	next := voided.Replacing()
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		l := next.Labels
		if _, err := tx.Exec(ctx, registerSQL, next.ID, next.Tenant, next.Instance, next.Host, next.Lease, next.Start, next.Opened.UTC(),
			column(next.Opening), l.Flavor, l.Image, l.Region, l.HostClass, l.Created); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, voidSQL, e.ID, v.From.UTC(), column(v.Cap), v.Next, d.By, d.At.UTC(), d.Note); err != nil {
			return err
		}
		known, err := find(ctx, tx, []metering.EpochID{e.ID})
		if err != nil {
			return err
		}
		kept = *known[e.ID].Void
		if !kept.From.Equal(v.From) {
			return fmt.Errorf("%w, from %s on", ErrVoided, kept.From.Format(time.RFC3339Nano))
		}
		return nil
	})
	if err != nil {
		return kept, fmt.Errorf("void epoch %s: %w", e.ID, err)
	}
	return kept, nil
}

const voidedSQL = selectSQL + `WHERE e.tenant = $1 AND v.epoch IS NOT NULL ORDER BY e.id`

// Voided returns the tenant's voided epochs, by id.
func (s *Store) Voided(ctx context.Context, tenant metering.TenantID) ([]metering.EpochRecord, error) {
	epochs, err := collect(ctx, s.pool, voidedSQL, tenant)
	if err != nil {
		return nil, fmt.Errorf("voided epochs of %s: %w", tenant, err)
	}
	return epochs, nil
}
