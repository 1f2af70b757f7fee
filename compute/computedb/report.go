package computedb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

const reportsSQL = `SELECT id, report - 'instances' FROM hosts WHERE removed_at IS NULL AND report <> '{}' ORDER BY id`

// Reports returns what each present host last reported of itself, without its
// instances. A host that has not reported yet is not among them.
func (s *Store) Reports(ctx context.Context) (map[metering.HostID]hostapi.Status, error) {
	all := make(map[metering.HostID]hostapi.Status)
	var host metering.HostID
	rows, _ := s.pool.Query(ctx, reportsSQL)
	var status hostapi.Status
	_, err := pgx.ForEachRow(rows, []any{&host, &status}, func() error {
		all[host], status = status, hostapi.Status{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reports of hosts: %w", err)
	}
	return all, nil
}
