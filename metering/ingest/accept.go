package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

// ErrUnacceptable is wrapped for a reading that nobody can accept: no lease says
// whose it is, the epoch is another instance's, or a register does not fit.
var ErrUnacceptable = errors.New("the reading cannot be accepted")

// Accept stores quarantined readings that an operator accepted, without judging
// whether they can be true: of the epoch as it is registered, or as its lease has
// it. They are durable when Accept returns nil, and repeating it is harmless. The
// error wraps ErrUnacceptable when one of them is not Acceptable, and nothing is
// stored then; ErrBusy; or is one of a store.
func (h *Handler) Accept(ctx context.Context, all []Quarantined) error {
	epochs, refused, err := h.acceptable(ctx, all)
	if err = errors.Join(append(refused, err)...); err != nil || len(all) == 0 {
		return err
	}
	received := time.Now().UTC()
	var b wire.Batch
	for i, q := range all {
		b.Epoch, b.AtMS = append(b.Epoch, uint32(i)), append(b.AtMS, q.Reading.At.UnixMilli())
		for reg, v := range q.Reading.Registers {
			b.Registers[reg] = append(b.Registers[reg], v)
		}
	}
	wait, err := h.rows.add(ctx, len(all), func(rows *metering.Columns) { appendRows(rows, &b, epochs, received) })
	if err != nil {
		return err
	}
	return wait()
}

// Acceptable says of each reading why Accept would refuse it, nil where it would
// not, and registers the epochs of the latter. The error is one of a store.
func (h *Handler) Acceptable(ctx context.Context, all []Quarantined) ([]error, error) {
	_, refused, err := h.acceptable(ctx, all)
	return refused, err
}

// acceptable is the standing of each reading's epoch, or why it has none.
func (h *Handler) acceptable(ctx context.Context, all []Quarantined) ([]standing, []error, error) {
	type found struct {
		standing
		refused error
	}
	byEpoch := make(map[metering.Epoch]found) // the same id may come with different records
	epochs, refused := make([]standing, len(all)), make([]error, len(all))
	for i, q := range all {
		e, ok := byEpoch[q.Epoch]
		if !ok {
			e.standing, e.refused = h.standingOf(ctx, q.Epoch)
			if e.refused != nil && !errors.Is(e.refused, ErrUnacceptable) {
				return nil, nil, e.refused
			}
			byEpoch[q.Epoch] = e
		}
		epochs[i], refused[i] = e.standing, e.refused
		if err := metering.CheckRegisters(q.Reading.Registers); err != nil {
			refused[i] = fmt.Errorf("%w: %w", ErrUnacceptable, err)
		}
	}
	return epochs, refused, nil
}

// standingOf is the epoch of accepted readings; it is registered.
func (h *Handler) standingOf(ctx context.Context, e metering.Epoch) (standing, error) {
	var s standing
	if err := metering.CheckRegisters(e.Opening); err != nil {
		return s, fmt.Errorf("%w: %w", ErrUnacceptable, err)
	}
	known, err := h.records(ctx, []metering.EpochID{e.ID})
	if err != nil {
		return s, err
	}
	record, registered := known[e.ID]
	switch {
	case registered && record.Instance != e.Instance:
		return s, fmt.Errorf("%w: its epoch is one of %s, not of %s", ErrUnacceptable, record.Instance, e.Instance)
	case registered:
		return standing{record: record, next: replacements(record, known)}, nil
	}
	key := LeaseKey{e.Instance, e.Lease}
	leases, err := h.cfg.Leases(ctx, []LeaseKey{key})
	if err != nil {
		return s, fmt.Errorf("look up lease %d of %s: %w", key.No, key.Instance, err)
	}
	lease, granted := leases[key]
	if !granted {
		return s, fmt.Errorf("%w: lease %d of %s was never granted, so nobody is to be billed", ErrUnacceptable, key.No, key.Instance)
	}
	s.record = metering.EpochRecord{Epoch: e, Tenant: lease.Tenant, Host: lease.Host, Labels: lease.Labels}
	if err := h.cfg.Register(ctx, []metering.EpochRecord{s.record}); err != nil {
		return s, fmt.Errorf("register epoch %s: %w", e.ID, err)
	}
	return s, nil
}

// Forget has the handler read an epoch anew: after it was voided, lest readings
// count for it a minute longer, as they do where another replica takes them. Those
// that did are given away if they were the last of the epoch's life.
func (h *Handler) Forget(epoch metering.EpochID) { h.known.forget(epoch) }
