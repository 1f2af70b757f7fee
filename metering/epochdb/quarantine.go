package epochdb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/ingest"
)

// State is what became of a quarantined reading.
type State string

// The states.
const (
	Held     State = "held"     // of the future; to be taken again at its time
	Open     State = "open"     // an operator has to decide
	Accepted State = "accepted" // taken after all
	Rejected State = "rejected" // never billed
)

// Quarantined is a quarantined reading as it is kept.
type Quarantined struct {
	ID    int64 // rises in the order of arrival
	State State
	ingest.Quarantined
}

const quarantineSQL = `
INSERT INTO quarantined_readings (received_at, host, tenant, epoch, instance, lease, start, opened_at, opening,
    at, registers, reason, detail, admit_at, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT DO NOTHING`

// Quarantine makes readings that were not accepted durable, all or none. Those
// kept before for the same reason stay as they are.
func (s *Store) Quarantine(ctx context.Context, readings []ingest.Quarantined) error {
	var batch pgx.Batch
	for _, q := range readings {
		state, admitAt := Open, (*time.Time)(nil)
		if !q.AdmitAt.IsZero() {
			t := q.AdmitAt.UTC()
			state, admitAt = Held, &t
		}
		e := q.Epoch
		batch.Queue(quarantineSQL, q.Received.UTC(), q.Host, q.Tenant, e.ID, e.Instance, int64(e.Lease), e.Start, e.Opened.UTC(), column(e.Opening),
			q.Reading.At.UTC(), column(q.Reading.Registers), q.Reason, q.Detail, admitAt, state)
	}
	// A batch is one transaction.
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("quarantine %d readings: %w", len(readings), err)
	}
	return nil
}

const selectQuarantinedSQL = `
SELECT id, state, received_at, host, tenant, epoch, instance, lease, start, opened_at, opening,
    at, registers, reason, detail, admit_at
FROM quarantined_readings `

const quarantinedSQL = selectQuarantinedSQL + `WHERE id > $1 ORDER BY id LIMIT $2`

// Quarantined returns the next limit readings in the order of arrival, after
// the given id; 0 is before the first. Fewer than limit are the last.
func (s *Store) Quarantined(ctx context.Context, after int64, limit int) ([]Quarantined, error) {
	return s.quarantined(ctx, quarantinedSQL, after, limit)
}

const dueSQL = selectQuarantinedSQL + `WHERE state = 'held' AND admit_at <= $1 ORDER BY admit_at, id LIMIT $2`

// Due returns at most limit held readings whose time has come, for
// ingest.Handler.Take; Decide then takes them out.
func (s *Store) Due(ctx context.Context, now time.Time, limit int) ([]Quarantined, error) {
	return s.quarantined(ctx, dueSQL, now.UTC(), limit)
}

const decideSQL = `
UPDATE quarantined_readings SET state = $2
WHERE id = ANY ($1) AND state IN ('held', 'open')`

// Decide settles readings that are held or open as Accepted or Rejected. Those
// that are settled stay as they are.
func (s *Store) Decide(ctx context.Context, ids []int64, state State) error {
	if state != Accepted && state != Rejected {
		return fmt.Errorf("settle quarantined readings: state %q settles nothing", state)
	}
	if _, err := s.pool.Exec(ctx, decideSQL, ids, state); err != nil {
		return fmt.Errorf("settle %d quarantined readings as %s: %w", len(ids), state, err)
	}
	return nil
}

func (s *Store) quarantined(ctx context.Context, query string, args ...any) ([]Quarantined, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("quarantined readings: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanQuarantined)
	if err != nil {
		return nil, fmt.Errorf("quarantined readings: %w", err)
	}
	return all, nil
}

func scanQuarantined(row pgx.CollectableRow) (q Quarantined, err error) {
	var opening, values []int64
	var lease int64
	var admitAt *time.Time
	e := &q.Epoch
	if err := row.Scan(&q.ID, &q.State, &q.Received, &q.Host, &q.Tenant, &e.ID, &e.Instance, &lease, &e.Start, &e.Opened, &opening,
		&q.Reading.At, &values, &q.Reason, &q.Detail, &admitAt); err != nil {
		return q, err
	}
	e.Lease, q.Reading.Epoch = metering.LeaseNo(lease), e.ID
	q.Received, e.Opened, q.Reading.At = q.Received.UTC(), e.Opened.UTC(), q.Reading.At.UTC()
	if admitAt != nil {
		q.AdmitAt = admitAt.UTC()
	}
	if e.Opening, err = registers(opening); err != nil {
		return q, fmt.Errorf("reading %d: opening: %w", q.ID, err)
	}
	if q.Reading.Registers, err = registers(values); err != nil {
		return q, fmt.Errorf("reading %d: %w", q.ID, err)
	}
	return q, nil
}
