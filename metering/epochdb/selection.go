package epochdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/ingest"
)

// Selection says which open readings are meant. What is "" may be anything; at
// least one of host, epoch, instance and reason is given.
type Selection struct {
	Host     metering.HostID
	Epoch    metering.EpochID
	Instance metering.InstanceID
	Reason   ingest.Reason
	Through  int64 // the last id that is meant; 0: whatever has come in
}

// Check reports an error unless the selection selects.
func (sel Selection) Check() error {
	if sel.Host == "" && sel.Epoch == "" && sel.Instance == "" && sel.Reason == "" {
		return errors.New("a host, an epoch, an instance or a reason is needed")
	}
	return nil
}

// filter is that of state, id and selection in a query.
const filter = `WHERE state = 'open' AND id > $1 AND ($2 = 0 OR id <= $2)
    AND ($3 = '' OR host = $3) AND ($4 = '' OR epoch = $4) AND ($5 = '' OR instance = $5) AND ($6 = '' OR reason = $6) `

func (sel Selection) args(after int64) []any {
	return []any{after, sel.Through, sel.Host, sel.Epoch, sel.Instance, sel.Reason}
}

// Selected is how much a selection is.
type Selected struct {
	Count   int64
	Through int64     // the last id of them; 0 when there are none
	Since   time.Time // when the first of them came in; zero when there are none
}

const countSQL = `SELECT count(*), coalesce(max(id), 0), min(received_at) FROM quarantined_readings ` + filter

// CountSelected counts the open readings of a selection.
func (s *Store) CountSelected(ctx context.Context, sel Selection) (c Selected, err error) {
	var since *time.Time
	if err = s.pool.QueryRow(ctx, countSQL, sel.args(0)...).Scan(&c.Count, &c.Through, &since); err != nil {
		return c, fmt.Errorf("count selected quarantined readings: %w", err)
	}
	if since != nil {
		c.Since = since.UTC()
	}
	return c, nil
}

const selectedSQL = selectQuarantinedSQL + filter + `ORDER BY id LIMIT $7`

// Selected returns the next limit open readings of a selection in the order of
// arrival, after the given id; 0 is before the first. Fewer than limit are the last.
func (s *Store) Selected(ctx context.Context, sel Selection, after int64, limit int) ([]Quarantined, error) {
	return s.quarantined(ctx, selectedSQL, append(sel.args(after), limit)...)
}

const decideAllSQL = `
UPDATE quarantined_readings SET state = $2, decided_by = $3, decided_at = $4, note = $5
WHERE id = ANY ($1) AND state = 'open'`

// DecideAll settles those of the readings that are open as Accepted or Rejected,
// by one decision, all or none, and returns how many they were.
func (s *Store) DecideAll(ctx context.Context, ids []int64, state State, d Decision) (int, error) {
	if state != Accepted && state != Rejected {
		return 0, fmt.Errorf("settle %d quarantined readings: state %q settles nothing", len(ids), state)
	}
	tag, err := s.pool.Exec(ctx, decideAllSQL, ids, state, d.By, d.At.UTC(), d.Note)
	if err != nil {
		return 0, fmt.Errorf("settle %d quarantined readings as %s: %w", len(ids), state, err)
	}
	return int(tag.RowsAffected()), nil
}
