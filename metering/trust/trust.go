// Package trust carries out what is decided about readings that were not
// accepted, and takes back what should not have been.
//
// It owns the order of these steps over the stores. It never judges a reading:
// package ingest does when it comes in, and an operator does afterwards.
//
// Invariants:
//   - A decision is durable, with who made it and when, before it has an effect;
//     one that was not carried out yet is by the next Once.
//   - What is accepted is a reading like any other, so it is late usage by itself
//     where its time was billed already.
//   - What is voided is no longer counted but stays where it is; what was billed
//     stays billed.
//   - Doing anything twice equals doing it once.
package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/readingdb"
)

// batchSize is how many held and how many accepted readings Once takes; more
// wait for the next.
const batchSize = 1000

// ErrInvalid is wrapped by errors about what an operator asked for.
var ErrInvalid = errors.New("cannot be decided so")

// Run decides and carries out. All methods may run at the same time.
type Run struct {
	Epochs   *epochdb.Store
	Readings *readingdb.Store
	Ingest   *ingest.Handler
	Log      *slog.Logger
}

// Once takes readings of the future whose time has come as if they had been sent
// now, and stores what operators accepted and is not stored yet.
func (r *Run) Once(ctx context.Context, now time.Time) error {
	return errors.Join(r.admitHeld(ctx, now), r.storeAccepted(ctx, now))
}

func (r *Run) admitHeld(ctx context.Context, now time.Time) error {
	due, err := r.Epochs.Due(ctx, now, batchSize)
	if err != nil {
		return err
	}
	ids := map[metering.HostID][]int64{}
	batches := map[metering.HostID]*metering.Batch{}
	for _, q := range due {
		if batches[q.Host] == nil {
			batches[q.Host] = &metering.Batch{}
		}
		b := batches[q.Host]
		b.Epochs, b.Readings = append(b.Epochs, q.Epoch), append(b.Readings, q.Reading)
		ids[q.Host] = append(ids[q.Host], q.ID)
	}
	var failed []error
	for host, b := range batches { // one that fails does not hold up the others
		if _, err := r.Ingest.Take(ctx, host, b); err != nil {
			failed = append(failed, fmt.Errorf("held readings of host %s: %w", host, err))
			continue
		}
		failed = append(failed, r.Epochs.Stored(ctx, ids[host], now))
	}
	return errors.Join(failed...)
}

func (r *Run) storeAccepted(ctx context.Context, now time.Time) error {
	accepted, err := r.Epochs.Unstored(ctx, batchSize)
	if err != nil {
		return err
	}
	refused, err := r.Ingest.Acceptable(ctx, quarantined(accepted))
	if err != nil {
		return fmt.Errorf("%d accepted readings: %w", len(accepted), err)
	}
	var failed []error
	storable := accepted[:0]
	for i, q := range accepted { // one that fails does not hold up the others
		if refused[i] != nil {
			failed = append(failed, fmt.Errorf("accepted reading %d: %w", q.ID, refused[i]))
			continue
		}
		storable = append(storable, q)
	}
	return errors.Join(append(failed, r.store(ctx, storable, now))...)
}

// store carries out that readings were accepted.
func (r *Run) store(ctx context.Context, accepted []epochdb.Quarantined, now time.Time) error {
	if len(accepted) == 0 {
		return nil
	}
	if err := r.Ingest.Accept(ctx, quarantined(accepted)); err != nil {
		return fmt.Errorf("%d accepted readings, the first %d: %w", len(accepted), accepted[0].ID, err)
	}
	return r.Epochs.Stored(ctx, idsOf(accepted), now)
}

func quarantined(readings []epochdb.Quarantined) []ingest.Quarantined {
	all := make([]ingest.Quarantined, len(readings))
	for i, q := range readings {
		all[i] = q.Quarantined
	}
	return all
}

func idsOf(readings []epochdb.Quarantined) []int64 {
	ids := make([]int64, len(readings))
	for i, q := range readings {
		ids[i] = q.ID
	}
	return ids
}

// Accept has an open quarantined reading count after all; it does when Accept
// returns nil. The error wraps epochdb.ErrNotFound, epochdb.ErrDecided,
// ingest.ErrUnacceptable (nothing is decided then) or ErrInvalid. After any other
// error the reading may be accepted: the next Once stores it then.
func (r *Run) Accept(ctx context.Context, id int64, d epochdb.Decision) (epochdb.Quarantined, error) {
	q, err := r.Epochs.FindQuarantined(ctx, id)
	if err != nil {
		return q, err
	}
	refused, err := r.Ingest.Acceptable(ctx, []ingest.Quarantined{q.Quarantined})
	if err = errors.Join(append(refused, err)...); err != nil {
		return q, fmt.Errorf("accept reading %d: %w", id, err)
	}
	if q, err = r.decide(ctx, id, epochdb.Accepted, d); err != nil {
		return q, err
	}
	return q, r.store(ctx, []epochdb.Quarantined{q}, d.At)
}

// Reject settles an open quarantined reading: it is never billed. The error
// wraps epochdb.ErrNotFound, epochdb.ErrDecided or ErrInvalid.
func (r *Run) Reject(ctx context.Context, id int64, d epochdb.Decision) (epochdb.Quarantined, error) {
	return r.decide(ctx, id, epochdb.Rejected, d)
}

func (r *Run) decide(ctx context.Context, id int64, state epochdb.State, d epochdb.Decision) (epochdb.Quarantined, error) {
	if err := d.Check(); err != nil {
		return epochdb.Quarantined{}, fmt.Errorf("reading %d: %w: %w", id, ErrInvalid, err)
	}
	q, err := r.Epochs.Decide(ctx, id, state, d)
	if err == nil {
		r.Log.Info("a quarantined reading is decided", "reading", id, "state", state, "by", q.Decision.By, "tenant", q.Tenant, "instance", q.Epoch.Instance)
	}
	return q, err
}

// Void takes back the readings of an epoch that are later than an instant, which
// must not lie in the future. Its record with the void comes back; repeating it
// changes nothing. The error wraps epochdb.ErrNotFound, epochdb.ErrVoided when
// another instant was given before, or ErrInvalid. A reason is required.
func (r *Run) Void(ctx context.Context, epoch metering.EpochID, from time.Time, d epochdb.Decision) (metering.EpochRecord, error) {
	known, err := r.Epochs.Known(ctx, []metering.EpochID{epoch})
	if err != nil {
		return metering.EpochRecord{}, err
	}
	e, ok := known[epoch]
	switch {
	case !ok:
		return e, fmt.Errorf("epoch %q: %w", epoch, epochdb.ErrNotFound)
	case d.Note == "":
		return e, fmt.Errorf("void epoch %s: %w: a reason is needed", epoch, ErrInvalid)
	case from.After(d.At):
		return e, fmt.Errorf("void epoch %s: %w: %s is in the future", epoch, ErrInvalid, from.UTC().Format(time.RFC3339Nano))
	}
	if err := d.Check(); err != nil {
		return e, fmt.Errorf("void epoch %s: %w: %w", epoch, ErrInvalid, err)
	}
	void, err := r.newVoid(ctx, e, from)
	if err != nil {
		return e, err
	}
	if void, err = r.Epochs.Void(ctx, e, void, d); err != nil {
		return e, err
	}
	r.Ingest.Forget(epoch)
	r.Log.Warn("an epoch is voided", "epoch", epoch, "tenant", e.Tenant, "instance", e.Instance, "from", void.From, "by", d.By, "reason", d.Note)
	e.Void = &void
	return e, nil
}

func (r *Run) newVoid(ctx context.Context, e metering.EpochRecord, from time.Time) (metering.Void, error) {
	from = from.UTC().Truncate(time.Millisecond)
	levels, err := r.Readings.At(ctx, e.Tenant, []time.Time{from})
	if err != nil {
		return metering.Void{}, err
	}
	last, ok, err := r.Readings.Last(ctx, e)
	if err != nil {
		return metering.Void{}, err
	}
	if !ok {
		last = metering.Reading{Epoch: e.ID, At: e.Opened, Registers: e.Opening}
	}
	at := e.Opening
	if level := levels[e.ID]; level != nil {
		at = level[0]
	}
	return e.NewVoid(from, at, last), nil
}

// Largest are the largest readings of epochs for a host that lost its state:
// what its agent last sent, also where it counts for a replacing epoch. What was
// voided is not among them, lest the agent carries an error on.
func (r *Run) Largest(ctx context.Context, epochs []metering.EpochRecord) (map[metering.EpochID]metering.Reading, error) {
	var ids []metering.EpochID
	byID := make(map[metering.EpochID]metering.EpochRecord, len(epochs))
	for _, e := range epochs {
		ids, byID[e.ID] = append(ids, e.ID), e
		if e.Void != nil { // which may not be among the epochs asked for
			ids = append(ids, e.Void.Next)
		}
	}
	largest, err := r.Readings.Largest(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, e := range epochs {
		if e.Void == nil {
			continue
		}
		last := e
		for last.Void != nil {
			next, ok := byID[last.Void.Next]
			if !ok {
				next = last.Replacing()
			}
			last = next
		}
		reading := metering.Reading{Epoch: e.ID, At: last.Opened, Registers: last.Opening}
		if sent, ok := largest[last.ID]; ok {
			reading.At, reading.Registers = sent.At, last.Opening.Join(sent.Registers)
		}
		largest[e.ID] = reading
	}
	return largest, nil
}
