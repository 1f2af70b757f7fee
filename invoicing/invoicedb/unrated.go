package invoicedb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
)

// insertUnrated adds what no rate fits of what is closed.
func insertUnrated(ctx context.Context, tx pgx.Tx, c invoicing.Closing) error {
	if len(c.Unrated) == 0 {
		return nil
	}
	columns := []string{"tenant", "seq", "meter", "flavor", "resources", "quantity"}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"closing_unrated"}, columns, pgx.CopyFromSlice(len(c.Unrated), func(i int) ([]any, error) {
		u := &c.Unrated[i]
		return []any{c.Tenant, c.Seq, u.Meter, u.Flavor, u.Resources, u.Quantity.String()}, nil
	}))
	if err != nil {
		return fmt.Errorf("unrated usage: %w", err)
	}
	return nil
}

// Unrated is usage of a tenant's last closing that no rate fits.
type Unrated struct {
	Tenant    metering.TenantID
	Cut       time.Time // of the closing
	Plan      string
	Meter     metering.Meter
	Flavor    string
	Resources int
	Quantity  string // in the meter's base unit
}

const unratedSQL = `
SELECT u.tenant, c.cut, c.plan, u.meter, u.flavor, u.resources, u.quantity
FROM closing_unrated u JOIN closings c USING (tenant, seq)
WHERE NOT EXISTS (SELECT FROM closings l WHERE l.tenant = u.tenant AND l.seq > u.seq)
ORDER BY u.tenant, u.meter, u.flavor`

// Unrated returns what no rate fitted at the last closing of each tenant, by
// tenant, meter and flavor.
func (s *Store) Unrated(ctx context.Context) ([]Unrated, error) {
	rows, _ := s.pool.Query(ctx, unratedSQL)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Unrated])
	if err != nil {
		return nil, fmt.Errorf("unrated usage: %w", err)
	}
	for i := range all {
		all[i].Cut = all[i].Cut.UTC()
	}
	return all, nil
}
