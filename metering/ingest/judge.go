package ingest

import (
	"fmt"
	"math/bits"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

const (
	// leaseTolerance is how far a host's clock may be off at the ends of a lease:
	// a reading further outside is quarantined.
	leaseTolerance = 5 * time.Minute
	// clockTolerance is what time registers may exceed the time since the grant,
	// and how far in the future a reading may lie before it is held.
	clockTolerance = time.Minute
)

// byteRegisters are those that a host's bound on bytes holds for.
var byteRegisters = []metering.Register{
	metering.DiskReadBytes, metering.DiskWriteBytes,
	metering.NetPublicRxBytes, metering.NetPublicTxBytes,
	metering.NetPrivateRxBytes, metering.NetPrivateTxBytes,
}

// standing is an epoch of a batch as the control plane sees it.
type standing struct {
	record metering.EpochRecord
	// next are the epochs that replace a voided one, each voided by the one after it.
	next  []metering.EpochRecord
	lease Lease
	// refused says why none of the epoch's readings can be accepted; "" otherwise.
	// The record is then as the host sent it.
	refused Reason
	detail  string
}

// compare refuses an epoch that is registered as something else than the host
// says. An opening reading or time that differs is no reason: what was registered first stays.
func (s *standing) compare(host metering.HostID, e *metering.Epoch) {
	r := &s.record
	if r.Host != host || r.Instance != e.Instance || r.Lease != e.Lease || r.Start != e.Start {
		s.refused = ReasonForeign
		s.detail = fmt.Sprintf("registered for %s, %s, lease %d, start %d; sent by %s for %s, lease %d, start %d",
			r.Host, r.Instance, r.Lease, r.Start, host, e.Instance, e.Lease, e.Start)
	}
}

// counts is the epoch that a reading at the given time counts for: the epoch
// itself, or the last of those that replace it and had opened before.
func (s *standing) counts(atMS int64) *metering.EpochRecord {
	for i := len(s.next) - 1; i >= 0; i-- {
		if atMS > s.next[i].Opened.UnixMilli() {
			return &s.next[i]
		}
	}
	return &s.record
}

// judge says whether reading i of b can be true, received at the given time. It
// looks at that reading, its epoch and its lease alone. What an epoch opened
// with is not counted: a resize carries on what ran under the lease before.
func (s *standing) judge(b *wire.Batch, i int, received time.Time) (Reason, string) {
	if s.refused != "" {
		return s.refused, s.detail
	}
	at := time.UnixMilli(b.AtMS[i])
	switch {
	case at.Before(s.lease.Granted.Add(-leaseTolerance)):
		return ReasonEarly, fmt.Sprintf("at %s; the lease was granted at %s", format(at), format(s.lease.Granted))
	case !s.lease.Ended.IsZero() && at.After(s.lease.Ended.Add(leaseTolerance)):
		return ReasonSuperseded, fmt.Sprintf("at %s; the lease ended at %s", format(at), format(s.lease.Ended))
	}
	opening := &s.counts(b.AtMS[i]).Opening
	possible := received.Sub(s.lease.Granted) + clockTolerance
	grown := func(r metering.Register) uint64 {
		return b.Registers[r][i] - min(b.Registers[r][i], opening[r])
	}
	if ms := grown(metering.RunningMS) + grown(metering.PausedMS); possible < 0 || ms > uint64(possible.Milliseconds()) {
		return ReasonTime, fmt.Sprintf("%d ms running and paused; the lease was granted at %s", ms, format(s.lease.Granted))
	}
	if s.lease.MaxBytesPerSecond > 0 {
		overflow, most := bits.Mul64(s.lease.MaxBytesPerSecond, uint64(possible/time.Second)+1)
		for _, r := range byteRegisters {
			if n := grown(r); overflow == 0 && n > most {
				return ReasonBytes, fmt.Sprintf("%s grew by %d; at most %d bytes are possible since the lease was granted", r, n, most)
			}
		}
	}
	if at.After(received.Add(clockTolerance)) {
		return ReasonFuture, fmt.Sprintf("at %s; received at %s", format(at), format(received))
	}
	return "", ""
}

func format(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
