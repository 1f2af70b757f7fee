package computedb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const unauditedSQL = `
	SELECT d::date::timestamp AT TIME ZONE 'UTC'
	FROM generate_series($1::date - ($2::integer - 1), $1::date, interval '1 day') d
	WHERE NOT EXISTS (SELECT FROM audited_days WHERE day = d::date)
	ORDER BY d DESC`

// Unaudited returns those of so many days up to and with last that were not
// audited yet, the last first; each is the instant it begins at, in UTC.
func (s *Store) Unaudited(ctx context.Context, last time.Time, days int) ([]time.Time, error) {
	rows, _ := s.pool.Query(ctx, unauditedSQL, last.UTC().Format(time.DateOnly), days)
	all, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return nil, fmt.Errorf("days to audit up to %s: %w", last.UTC().Format(time.DateOnly), err)
	}
	for i := range all {
		all[i] = all[i].UTC()
	}
	return all, nil
}

const saveAuditSQL = `
	INSERT INTO audited_days (day, audited_at, differences, gaps) VALUES ($1, $2, $3, $4)
	ON CONFLICT (day) DO UPDATE SET audited_at = excluded.audited_at, differences = excluded.differences, gaps = excluded.gaps`

// SaveAudit notes that a day (UTC) was audited, and what was found.
func (s *Store) SaveAudit(ctx context.Context, day time.Time, differences, gaps int, now time.Time) error {
	if _, err := s.pool.Exec(ctx, saveAuditSQL, day.UTC().Format(time.DateOnly), now.UTC(), differences, gaps); err != nil {
		return fmt.Errorf("note the audit of %s: %w", day.UTC().Format(time.DateOnly), err)
	}
	return nil
}
