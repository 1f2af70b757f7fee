package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

// leaseTTL is how long the handler relies on what it read of a lease. It is
// shorter than leaseTolerance, so the end of a lease is known before it matters.
const leaseTTL = time.Minute

// Take accepts a batch of the host as if it had been sent now: for held readings
// whose time has come. When it returns nil, every reading is durable, in
// quarantine or held. The error wraps wire.ErrMalformed for a batch that could
// not have been sent, ErrBusy, or is one of a store.
func (h *Handler) Take(ctx context.Context, host metering.HostID, batch *metering.Batch) (Response, error) {
	body, err := wire.Encode(nil, batch)
	if err != nil {
		return Response{}, fmt.Errorf("%w: %w", wire.ErrMalformed, err)
	}
	response, wait, err := h.decodeAndTake(ctx, host, body)
	if err != nil {
		return Response{}, err
	}
	return response, wait()
}

// take judges a batch and stores it: what is not accepted first, so that nothing
// is answered for before it is kept. Refused readings are taken out of b. The others
// are durable when wait has returned nil; it must be called, and no longer needs b.
func (h *Handler) take(ctx context.Context, host metering.HostID, b *wire.Batch, received time.Time) (_ Response, wait func() error, err error) {
	response := Response{ServerTime: received}
	epochs, err := h.standings(ctx, host, b.Epochs, received)
	if err != nil {
		return response, nil, err
	}
	refused := judgeAll(host, b, epochs, received)
	if len(refused) > 0 {
		for i := range refused {
			if refused[i].Reason == ReasonFuture {
				response.Held++
			}
		}
		response.Quarantined = len(refused) - response.Held
		h.cfg.Log.Warn("readings are not accepted", "host", host, "quarantined", response.Quarantined,
			"held", response.Held, "reason", refused[0].Reason, "detail", refused[0].Detail)
		if err := h.cfg.Quarantine(ctx, refused); err != nil {
			return response, nil, fmt.Errorf("quarantine %d readings: %w", len(refused), err)
		}
	}
	response.Accepted = b.Len()
	stored := func() error { return nil }
	if b.Len() > 0 {
		stored, err = h.rows.add(ctx, b.Len(), func(rows *metering.Columns) { appendRows(rows, b, epochs, received) })
	}
	return response, func() error {
		err := stored()
		if err == nil {
			h.counts.taken(response, refused)
		}
		return err
	}, err
}

// judgeAll takes the readings that are not accepted out of b and returns them.
func judgeAll(host metering.HostID, b *wire.Batch, epochs []standing, received time.Time) []Quarantined {
	var refused []Quarantined
	accepted := make([]int, 0, b.Len())
	for i := range b.Len() {
		epoch := &epochs[b.Epoch[i]]
		reason, detail := epoch.judge(b, i, received)
		if reason == "" {
			accepted = append(accepted, i)
			continue
		}
		q := Quarantined{Host: host, Tenant: epoch.record.Tenant, Epoch: b.Epochs[b.Epoch[i]],
			Reading: b.Reading(i), Received: received, Reason: reason, Detail: detail}
		if reason == ReasonFuture {
			q.AdmitAt = q.Reading.At.Add(-clockTolerance)
		}
		refused = append(refused, q)
	}
	if len(refused) > 0 {
		b.Keep(accepted)
	}
	return refused
}

// appendRows appends the readings of b, registers column by column.
func appendRows(rows *metering.Columns, b *wire.Batch, epochs []standing, received time.Time) {
	receivedMS := received.UnixMilli()
	for i, epoch := range b.Epoch {
		record := epochs[epoch].counts(b.AtMS[i])
		rows.Tenant = append(rows.Tenant, string(record.Tenant))
		rows.Instance = append(rows.Instance, string(record.Instance))
		rows.Epoch = append(rows.Epoch, string(record.ID))
		rows.ReceivedMS = append(rows.ReceivedMS, receivedMS)
	}
	rows.AtMS = append(rows.AtMS, b.AtMS...)
	for reg := range rows.Registers {
		rows.Registers[reg] = append(rows.Registers[reg], b.Registers[reg]...)
	}
}

// standings finds out what the control plane knows of each epoch, and registers
// those it has not seen. Epochs seen within leaseTTL ask no store.
func (h *Handler) standings(ctx context.Context, host metering.HostID, epochs []metering.Epoch, now time.Time) ([]standing, error) {
	all := make([]standing, len(epochs))
	var unknown, stale []int
	for i := range epochs {
		cached, ok := h.known.get(epochs[i].ID)
		switch {
		case !ok:
			unknown = append(unknown, i)
		case now.Sub(cached.checked) >= leaseTTL:
			stale = append(stale, i)
			fallthrough
		default:
			all[i].record, all[i].next, all[i].lease = cached.record, cached.next, cached.lease
		}
	}
	if len(unknown)+len(stale) > 0 {
		if err := h.lookUp(ctx, host, epochs, all, unknown, stale, now); err != nil {
			return nil, err
		}
	}
	for i := range all {
		if s, e := &all[i], &epochs[i]; s.refused == "" {
			s.compare(host, e)
		}
	}
	return all, nil
}

// lookUp asks the stores for the epochs that are unknown or stale and for their
// leases, registers what is new, and remembers all of it.
func (h *Handler) lookUp(ctx context.Context, host metering.HostID, epochs []metering.Epoch, all []standing, unknown, stale []int, now time.Time) error {
	asked := append(unknown, stale...)
	ids := make([]metering.EpochID, len(asked))
	for n, i := range asked {
		ids[n] = epochs[i].ID
	}
	known, err := h.records(ctx, ids)
	if err != nil {
		return err
	}
	for _, i := range asked {
		if record, ok := known[epochs[i].ID]; ok {
			all[i].record, all[i].next = record, replacements(record, known)
		} else {
			all[i].record = metering.EpochRecord{Epoch: epochs[i]}
		}
	}
	leases, err := h.leases(ctx, all, asked)
	if err != nil {
		return err
	}
	var fresh []metering.EpochRecord
	for _, i := range asked {
		s := &all[i]
		lease, granted := leases[LeaseKey{s.record.Instance, s.record.Lease}]
		if !granted || s.record.Host == "" && lease.Host != host {
			s.refused = ReasonNoLease
			s.detail = fmt.Sprintf("lease %d of %s was not granted to %s", s.record.Lease, s.record.Instance, host)
			continue
		}
		s.lease = lease
		if s.record.Host == "" {
			s.record.Tenant, s.record.Host, s.record.Labels = lease.Tenant, lease.Host, lease.Labels
			fresh = append(fresh, s.record)
		}
	}
	if len(fresh) > 0 {
		if err := h.cfg.Register(ctx, fresh); err != nil {
			return fmt.Errorf("register %d epochs: %w", len(fresh), err)
		}
	}
	for _, i := range asked {
		if all[i].refused == "" {
			h.known.put(cachedEpoch{record: all[i].record, next: all[i].next, lease: all[i].lease, checked: now})
		}
	}
	return nil
}

// records are the records of the epochs that are registered, and of those that
// replace them.
func (h *Handler) records(ctx context.Context, ids []metering.EpochID) (map[metering.EpochID]metering.EpochRecord, error) {
	all := make(map[metering.EpochID]metering.EpochRecord, len(ids))
	for len(ids) > 0 {
		known, err := h.cfg.Known(ctx, ids)
		if err != nil {
			return nil, fmt.Errorf("look up %d epochs: %w", len(ids), err)
		}
		ids = nil
		for id, record := range known {
			all[id] = record
			if record.Void != nil {
				ids = append(ids, record.Void.Next)
			}
		}
	}
	return all, nil
}

// replacements are the epochs that replace a voided one, in their order.
func replacements(record metering.EpochRecord, known map[metering.EpochID]metering.EpochRecord) []metering.EpochRecord {
	var all []metering.EpochRecord
	for record.Void != nil {
		record = known[record.Void.Next]
		all = append(all, record)
	}
	return all
}

// leases asks for the leases of some of the epochs.
func (h *Handler) leases(ctx context.Context, all []standing, some []int) (map[LeaseKey]Lease, error) {
	keys := make([]LeaseKey, 0, len(some))
	asked := make(map[LeaseKey]bool, len(some))
	for _, i := range some {
		key := LeaseKey{all[i].record.Instance, all[i].record.Lease}
		if !asked[key] {
			asked[key] = true
			keys = append(keys, key)
		}
	}
	leases, err := h.cfg.Leases(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("look up %d leases: %w", len(keys), err)
	}
	return leases, nil
}
