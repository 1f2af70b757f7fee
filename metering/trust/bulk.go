package trust

import (
	"context"
	"fmt"

	"github.com/usance/usance/metering/epochdb"
)

// BulkSize is how many readings one call decides at most.
const BulkSize = 1000

// Bulk is what one call decided of a selection.
type Bulk struct {
	Decided int    // readings, all by the same decision
	Left    []Left // those that nobody can accept; they stay open
	Next    int64  // where the next call goes on; 0: this one came to the end
}

// Left is a reading that was passed over.
type Left struct {
	Reading int64
	Why     error // wraps ingest.ErrUnacceptable
}

// AcceptAll has open readings of a selection count after all, as Accept does: at
// most BulkSize of those after the given id (0: from the first). They count when it
// returns nil. The error wraps ErrInvalid, or is one of a store: then the readings
// may be accepted, and the next Once stores them. A call that is repeated, or made
// again from where an earlier one stopped, decides what is still open.
func (r *Run) AcceptAll(ctx context.Context, sel epochdb.Selection, after int64, d epochdb.Decision) (Bulk, error) {
	found, b, err := r.selected(ctx, sel, after, d)
	if err != nil {
		return b, err
	}
	plain := quarantined(found)
	refused, err := r.Ingest.Acceptable(ctx, plain)
	if err != nil {
		return b, fmt.Errorf("accept %d readings: %w", len(found), err)
	}
	accepted := found[:0]
	for i, q := range found {
		if refused[i] != nil {
			b.Left = append(b.Left, Left{q.ID, refused[i]})
			continue
		}
		accepted = append(accepted, q)
	}
	if b.Decided, err = r.decideAll(ctx, sel, accepted, epochdb.Accepted, d); err != nil {
		return b, err
	}
	return b, r.store(ctx, accepted, d.At)
}

// RejectAll settles open readings of a selection for good, as Reject does: at most
// BulkSize of those after the given id (0: from the first). The error wraps
// ErrInvalid, or is one of a store.
func (r *Run) RejectAll(ctx context.Context, sel epochdb.Selection, after int64, d epochdb.Decision) (Bulk, error) {
	found, b, err := r.selected(ctx, sel, after, d)
	if err != nil {
		return b, err
	}
	b.Decided, err = r.decideAll(ctx, sel, found, epochdb.Rejected, d)
	return b, err
}

// selected are the readings that one call is about, and where the next goes on.
func (r *Run) selected(ctx context.Context, sel epochdb.Selection, after int64, d epochdb.Decision) (found []epochdb.Quarantined, b Bulk, err error) {
	for _, err := range []error{sel.Check(), d.Check()} {
		if err != nil {
			return nil, b, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	found, err = r.Epochs.Selected(ctx, sel, after, BulkSize)
	if len(found) == BulkSize {
		b.Next = found[BulkSize-1].ID
	}
	return found, b, err
}

func (r *Run) decideAll(ctx context.Context, sel epochdb.Selection, readings []epochdb.Quarantined, state epochdb.State, d epochdb.Decision) (int, error) {
	n, err := r.Epochs.DecideAll(ctx, idsOf(readings), state, d)
	if n > 0 {
		r.Log.Info("quarantined readings are decided", "readings", n, "state", state, "by", d.By, "host", sel.Host, "epoch", sel.Epoch,
			"instance", sel.Instance, "reason", sel.Reason)
	}
	return n, err
}
