package epochdb

import (
	"context"
	"errors"
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

var (
	// ErrNotFound says that there is no such epoch or quarantined reading.
	ErrNotFound = errors.New("it does not exist")
	// ErrDecided says that a quarantined reading was settled otherwise.
	ErrDecided = errors.New("the reading was decided otherwise")
)

// Quarantined is a quarantined reading as it is kept.
type Quarantined struct {
	ID       int64 // rises in the order of arrival
	State    State
	Decision Decision // of an operator; By is "" when there was none
	ingest.Quarantined
}

const quarantineSQL = `
INSERT INTO quarantined_readings (received_at, host, tenant, epoch, instance, lease, start, opened_at, opening,
    at, registers, reason, detail, admit_at, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT DO NOTHING`

// How many readings of one host may be held, and how many may wait for an operator.
// A batch that comes when so many do is refused; one that comes before may go beyond.
const (
	MaxHeld = 20_000
	MaxOpen = 20_000
)

const waitingSQL = `
SELECT (SELECT count(*) FROM quarantined_readings WHERE host = $1 AND state = 'held'),
    (SELECT count(*) FROM quarantined_readings WHERE host = $1 AND state = 'open')`

// Quarantine makes readings of one host that were not accepted durable, all or
// none. Those kept before for the same reason stay as they are. The error wraps
// ingest.ErrQuarantineFull when the host has MaxHeld or MaxOpen already and more
// of that kind would be added: the host, which is not to be believed in as much,
// is then not heard at all until an operator has decided or time has passed.
// (Dropping what exceeds would lose it, and joining it into what is there would
// hide how much it was; the host's own disk is bounded and says when it is full.)
func (s *Store) Quarantine(ctx context.Context, readings []ingest.Quarantined) error {
	if len(readings) == 0 {
		return nil
	}
	host := readings[0].Host
	var batch pgx.Batch
	batch.Queue(waitingSQL, host)
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
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		results := tx.SendBatch(ctx, &batch)
		err := checkRoom(results, readings)
		return errors.Join(err, results.Close())
	})
	if err != nil {
		return fmt.Errorf("quarantine %d readings of host %s: %w", len(readings), host, err)
	}
	return nil
}

// checkRoom reads what waited before the readings were added, and reports an error
// if some were added to a state that was full.
func checkRoom(results pgx.BatchResults, readings []ingest.Quarantined) error {
	var held, open int64
	if err := results.QueryRow().Scan(&held, &open); err != nil {
		return err
	}
	for _, q := range readings {
		tag, err := results.Exec()
		switch {
		case err != nil:
			return err
		case tag.RowsAffected() == 0:
		case !q.AdmitAt.IsZero() && held >= MaxHeld:
			return fmt.Errorf("%w: %d are held", ingest.ErrQuarantineFull, held)
		case q.AdmitAt.IsZero() && open >= MaxOpen:
			return fmt.Errorf("%w: %d wait for an operator", ingest.ErrQuarantineFull, open)
		}
	}
	return nil
}

const selectQuarantinedSQL = `
SELECT id, state, received_at, host, tenant, epoch, instance, lease, start, opened_at, opening,
    at, registers, reason, detail, admit_at, decided_by, decided_at, note
FROM quarantined_readings `

const quarantinedSQL = selectQuarantinedSQL + `WHERE id > $1 AND ($2 = '' OR state = $2) ORDER BY id LIMIT $3`

// Quarantined returns the next limit readings in a state ("": in any) in the order
// of arrival, after the given id; 0 is before the first. Fewer than limit are the last.
func (s *Store) Quarantined(ctx context.Context, state State, after int64, limit int) ([]Quarantined, error) {
	return s.quarantined(ctx, quarantinedSQL, after, state, limit)
}

// The first of each host come before the second, so that a host whose readings
// cannot be taken does not hold up the others'.
const dueSQL = selectQuarantinedSQL + `JOIN (
        SELECT id AS due, row_number() OVER (PARTITION BY host ORDER BY admit_at, id) AS turn
        FROM quarantined_readings WHERE state = 'held' AND admit_at <= $1
    ) d ON d.due = id
ORDER BY d.turn, id LIMIT $2`

// Due returns at most limit held readings whose time has come, of each host as
// many as of any other as long as it has them, for ingest.Handler.Take; Stored
// then takes them out.
func (s *Store) Due(ctx context.Context, now time.Time, limit int) ([]Quarantined, error) {
	return s.quarantined(ctx, dueSQL, now.UTC(), limit)
}

const foundSQL = selectQuarantinedSQL + `WHERE id = $1`

// FindQuarantined returns one quarantined reading. The error wraps ErrNotFound.
func (s *Store) FindQuarantined(ctx context.Context, id int64) (Quarantined, error) {
	found, err := s.quarantined(ctx, foundSQL, id)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("quarantined reading %d: %w", id, ErrNotFound)
	}
	if err != nil {
		return Quarantined{}, err
	}
	return found[0], nil
}

const decideSQL = `
UPDATE quarantined_readings SET state = $2, decided_by = $3, decided_at = $4, note = $5
WHERE id = $1 AND state = 'open'`

// Decide settles an open reading as Accepted or Rejected, and returns it as it
// is then. Repeating it is harmless: the first decision stays. The error wraps
// ErrNotFound, or ErrDecided when it was decided otherwise or is Held, which no
// operator decides. An accepted reading is Unstored until Stored is called.
func (s *Store) Decide(ctx context.Context, id int64, state State, d Decision) (Quarantined, error) {
	if state != Accepted && state != Rejected {
		return Quarantined{}, fmt.Errorf("settle quarantined reading %d: state %q settles nothing", id, state)
	}
	if _, err := s.pool.Exec(ctx, decideSQL, id, state, d.By, d.At.UTC(), d.Note); err != nil {
		return Quarantined{}, fmt.Errorf("settle quarantined reading %d as %s: %w", id, state, err)
	}
	q, err := s.FindQuarantined(ctx, id)
	if err == nil && q.State != state {
		err = fmt.Errorf("settle quarantined reading %d as %s: %w: it is %s", id, state, ErrDecided, q.State)
	}
	return q, err
}

const unstoredSQL = selectQuarantinedSQL + `WHERE state = 'accepted' AND stored_at IS NULL ORDER BY id LIMIT $1`

// Unstored returns at most limit readings that an operator accepted and that
// are not among the readings yet, for ingest.Handler.Accept; Stored then takes them out.
func (s *Store) Unstored(ctx context.Context, limit int) ([]Quarantined, error) {
	return s.quarantined(ctx, unstoredSQL, limit)
}

const storedSQL = `
UPDATE quarantined_readings SET state = 'accepted', stored_at = $2
WHERE id = ANY ($1) AND stored_at IS NULL AND state IN ('held', 'accepted')`

// Stored records that readings that were accepted, or held until their time, are
// durable among the readings, or quarantined for another reason.
func (s *Store) Stored(ctx context.Context, ids []int64, at time.Time) error {
	if _, err := s.pool.Exec(ctx, storedSQL, ids, at.UTC()); err != nil {
		return fmt.Errorf("note %d quarantined readings as stored: %w", len(ids), err)
	}
	return nil
}

// OpenQuarantine is how many readings of one host wait for an operator for one reason.
type OpenQuarantine struct {
	Host   metering.HostID
	Reason ingest.Reason
	Count  int64
	Since  time.Time // when the first of them came in
}

const openSQL = `
SELECT host, reason, count(*), min(received_at) FROM quarantined_readings
WHERE state = 'open' GROUP BY host, reason ORDER BY host, reason`

// OpenQuarantine sums up what waits for an operator.
func (s *Store) OpenQuarantine(ctx context.Context) ([]OpenQuarantine, error) {
	rows, _ := s.pool.Query(ctx, openSQL)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[OpenQuarantine])
	if err != nil {
		return nil, fmt.Errorf("sum up the quarantine: %w", err)
	}
	return all, nil
}

const heldSQL = `SELECT host, count(*) FROM quarantined_readings WHERE state = 'held' GROUP BY host`

// HeldByHost is how many readings of each host wait for their time; hosts without
// any are not among them.
func (s *Store) HeldByHost(ctx context.Context) (map[metering.HostID]int64, error) {
	all := map[metering.HostID]int64{}
	var host metering.HostID
	var n int64
	rows, _ := s.pool.Query(ctx, heldSQL)
	_, err := pgx.ForEachRow(rows, []any{&host, &n}, func() error {
		all[host] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("sum up held readings: %w", err)
	}
	return all, nil
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
	var admitAt, decidedAt *time.Time
	e := &q.Epoch
	if err := row.Scan(&q.ID, &q.State, &q.Received, &q.Host, &q.Tenant, &e.ID, &e.Instance, &lease, &e.Start, &e.Opened, &opening,
		&q.Reading.At, &values, &q.Reason, &q.Detail, &admitAt, &q.Decision.By, &decidedAt, &q.Decision.Note); err != nil {
		return q, err
	}
	e.Lease, q.Reading.Epoch = metering.LeaseNo(lease), e.ID
	q.Received, e.Opened, q.Reading.At = q.Received.UTC(), e.Opened.UTC(), q.Reading.At.UTC()
	if admitAt != nil {
		q.AdmitAt = admitAt.UTC()
	}
	if decidedAt != nil {
		q.Decision.At = decidedAt.UTC()
	}
	if e.Opening, err = registers(opening); err != nil {
		return q, fmt.Errorf("reading %d: opening: %w", q.ID, err)
	}
	if q.Reading.Registers, err = registers(values); err != nil {
		return q, fmt.Errorf("reading %d: %w", q.ID, err)
	}
	return q, nil
}
