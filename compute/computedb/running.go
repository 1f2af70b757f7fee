package computedb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/metering"
)

// Wanted is an instance that is wanted running.
type Wanted struct {
	Tenant  metering.TenantID
	Flavor  string
	Image   string
	Created time.Time
}

const wantedRunningSQL = `
	SELECT tenant, flavor, image, created_at
	FROM instances
	WHERE desired = 'running'`

// WantedRunning lists every instance that is wanted running, of all tenants:
// what credit counts as running whether it was measured or not.
func (s *Store) WantedRunning(ctx context.Context) ([]Wanted, error) {
	rows, err := s.pool.Query(ctx, wantedRunningSQL)
	if err != nil {
		return nil, fmt.Errorf("instances wanted running: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Wanted])
	if err != nil {
		return nil, fmt.Errorf("instances wanted running: %w", err)
	}
	return all, nil
}
