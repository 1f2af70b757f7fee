package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

// ErrUnacceptable is wrapped by Accept for a reading that nobody can accept.
var ErrUnacceptable = errors.New("the reading cannot be accepted")

// Accept stores a quarantined reading that an operator accepted, without judging
// whether it can be true: of the epoch as it is registered, or as its lease has
// it. It is durable when Accept returns nil, and repeating it is harmless. The
// error wraps ErrUnacceptable when no lease says whose it is, when the epoch is
// another instance's, or when a register does not fit; ErrBusy; or is one of a store.
func (h *Handler) Accept(ctx context.Context, q Quarantined) error {
	s, err := h.acceptable(ctx, q)
	if err != nil {
		return err
	}
	received := time.Now().UTC()
	b := wire.Batch{Epoch: []uint32{0}, AtMS: []int64{q.Reading.At.UnixMilli()}}
	for i, v := range q.Reading.Registers {
		b.Registers[i] = []uint64{v}
	}
	return h.rows.add(ctx, 1, func(rows *metering.Columns) { appendRows(rows, &b, []standing{s}, received) })
}

// Acceptable reports what Accept would refuse, and registers the epoch.
func (h *Handler) Acceptable(ctx context.Context, q Quarantined) error {
	_, err := h.acceptable(ctx, q)
	return err
}

func (h *Handler) acceptable(ctx context.Context, q Quarantined) (standing, error) {
	var s standing
	if err := errors.Join(metering.CheckRegisters(q.Reading.Registers), metering.CheckRegisters(q.Epoch.Opening)); err != nil {
		return s, fmt.Errorf("%w: %w", ErrUnacceptable, err)
	}
	known, err := h.records(ctx, []metering.EpochID{q.Epoch.ID})
	if err != nil {
		return s, err
	}
	record, registered := known[q.Epoch.ID]
	switch {
	case registered && record.Instance != q.Epoch.Instance:
		return s, fmt.Errorf("%w: its epoch is one of %s, not of %s", ErrUnacceptable, record.Instance, q.Epoch.Instance)
	case registered:
		return standing{record: record, next: replacements(record, known)}, nil
	}
	key := LeaseKey{q.Epoch.Instance, q.Epoch.Lease}
	leases, err := h.cfg.Leases(ctx, []LeaseKey{key})
	if err != nil {
		return s, fmt.Errorf("look up lease %d of %s: %w", key.No, key.Instance, err)
	}
	lease, granted := leases[key]
	if !granted {
		return s, fmt.Errorf("%w: lease %d of %s was never granted, so nobody is to be billed", ErrUnacceptable, key.No, key.Instance)
	}
	s.record = metering.EpochRecord{Epoch: q.Epoch, Tenant: lease.Tenant, Host: lease.Host, Labels: lease.Labels}
	if err := h.cfg.Register(ctx, []metering.EpochRecord{s.record}); err != nil {
		return s, fmt.Errorf("register epoch %s: %w", q.Epoch.ID, err)
	}
	return s, nil
}

// Forget has the handler read an epoch anew: after it was voided, lest readings
// count for it a minute longer, as they do where another replica takes them. Those
// that did are given away if they were the last of the epoch's life.
func (h *Handler) Forget(epoch metering.EpochID) { h.known.forget(epoch) }
