package virt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
)

const (
	statsGroups = libvirt.DOMAIN_STATS_STATE | libvirt.DOMAIN_STATS_VCPU | libvirt.DOMAIN_STATS_BALLOON |
		libvirt.DOMAIN_STATS_INTERFACE | libvirt.DOMAIN_STATS_BLOCK
	// Only active domains, and none of them waited for: a QEMU that is busy with
	// another call of libvirt's, or hangs in one, gives what is known without it.
	statsFlags = libvirt.CONNECT_GET_ALL_DOMAINS_STATS_RUNNING | libvirt.CONNECT_GET_ALL_DOMAINS_STATS_PAUSED |
		libvirt.CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT

	// A QEMU that begins to hang holds up the bulk call that meets it, and is passed over
	// by the next one, which is made on a new connection: a held call can hold up
	// the others on its own. That many calls are tried, each for bulkTimeout.
	bulkAttempts = 3
	bulkTimeout  = 3 * time.Second

	// busyPause is how long a busy QEMU is given before it is asked once more.
	busyPause = 200 * time.Millisecond

	// balloonFresh is how old what the guest said of its memory may be, to count.
	balloonFresh = 60 * time.Second
)

// Sample reads the counters of all active domains by bulk calls. A domain whose
// counters could not be read is left out and named in the error, beside the
// samples of the others.
func (h *Hypervisor) Sample(ctx context.Context) ([]agent.Sample, error) {
	for range bulkAttempts {
		samples, err := h.sampleOnce(ctx)
		if !errors.Is(err, context.DeadlineExceeded) {
			return samples, err
		}
		h.stats.close() // the call keeps it until it ends
		if ctx.Err() != nil {
			return samples, err
		}
		h.cfg.Log.Warn("a bulk call is held up by a domain that does not answer", "after", bulkTimeout)
	}
	return nil, fmt.Errorf("sample domains: %d calls in a row took more than %s", bulkAttempts, bulkTimeout)
}

// sampled is what a bulk call gave.
type sampled struct {
	samples []agent.Sample
	errs    []error
}

func (h *Hypervisor) sampleOnce(ctx context.Context) ([]agent.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	s, err := call(ctx, h.stats, func(c *libvirt.Connect) (sampled, error) {
		var s sampled
		busy, err := h.read(c, nil, &s)
		defer free(busy)
		if err != nil || len(busy) == 0 {
			return s, err
		}
		time.Sleep(busyPause)
		still, err := h.read(c, busy, &s)
		defer free(still)
		for _, dom := range still {
			name, _ := dom.GetName()
			s.errs = append(s.errs, fmt.Errorf("sample %s: QEMU is busy or hangs", name))
		}
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("sample domains: %w", err)
	}
	return s.samples, errors.Join(s.errs...)
}

// read asks for the counters of some domains, or of all, and adds them to s. It
// returns those that gave less than they have; the caller frees them.
func (h *Hypervisor) read(c *libvirt.Connect, some []*libvirt.Domain, s *sampled) (busy []*libvirt.Domain, err error) {
	records, err := c.GetAllDomainStats(some, statsGroups, statsFlags)
	if err != nil {
		return nil, err
	}
	at := time.Now() // after: no counter holds more than what was before
	for i := range records {
		record := &records[i]
		if !runsHere(record.State) {
			record.Domain.Free()
			continue
		}
		r, ours, err := h.runOf(record.Domain)
		readable := err == nil && ours
		if readable {
			err = h.know(c, record, &r) // what it could not tell is left unread, and nothing else
		}
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("sample: %w", err))
		}
		if readable && !complete(record, r) {
			busy = append(busy, record.Domain)
			continue
		}
		if readable {
			s.samples = append(s.samples, sampleOf(record, r, at))
		}
		record.Domain.Free()
	}
	return busy, nil
}

func free(domains []*libvirt.Domain) {
	for _, d := range domains {
		d.Free()
	}
}

// runsHere reports whether a domain in that state runs or is paused on this host:
// not when its QEMU is starting, nor when it stands still because it is being loaded or
// is about to run elsewhere.
func runsHere(state *libvirt.DomainStatsState) bool {
	if state == nil {
		return false
	}
	switch state.State {
	case libvirt.DOMAIN_SHUTOFF, libvirt.DOMAIN_CRASHED, libvirt.DOMAIN_NOSTATE:
		return false
	case libvirt.DOMAIN_PAUSED:
		return !isStarting(state.State, state.Reason) && libvirt.DomainPausedReason(state.Reason) != libvirt.DOMAIN_PAUSED_MIGRATION
	}
	return true
}

// complete reports whether QEMU itself was asked: only it counts what disks do.
func complete(record *libvirt.DomainStats, r run) bool {
	for _, b := range record.Block {
		if writable, known := r.devices.disks[b.Name]; (writable || !known) && !b.WrReqsSet {
			return false
		}
	}
	return true
}

func sampleOf(record *libvirt.DomainStats, r run, at time.Time) agent.Sample {
	s := agent.Sample{
		ID: r.ID, Lease: r.Lease, Start: r.Start, PID: r.pid, PIDStart: r.pidStart,
		At:     at,
		Paused: record.State.State == libvirt.DOMAIN_PAUSED || record.State.State == libvirt.DOMAIN_PMSUSPENDED,
	}
	s.VCPUs, s.CPUNS = vcpus(record.Vcpu)
	if b := record.Balloon; b != nil {
		// The maximum is the flavor's; the current size is in the guest's hands.
		if b.MaximumSet {
			s.MemoryMiB = value(b.Maximum / 1024)
		}
		s.UsedMiB = used(b, at)
	}
	for _, b := range record.Block {
		writable, known := r.devices.disks[b.Name]
		switch {
		case !known: // it has just been plugged or unplugged
			s.Disks = append(s.Disks, agent.DiskCounters{Name: b.Name})
		case writable:
			s.Disks = append(s.Disks, agent.DiskCounters{
				Name:       b.Name,
				ReadBytes:  counter(b.RdBytesSet, b.RdBytes),
				ReadOps:    counter(b.RdReqsSet, b.RdReqs),
				WriteBytes: counter(b.WrBytesSet, b.WrBytes),
				WriteOps:   counter(b.WrReqsSet, b.WrReqs),
			})
		}
	}
	for _, n := range record.Net { // libvirt counts from the guest's side: rx is into it
		private, known := r.devices.nets[n.Name]
		switch {
		case !known && n.NameSet: // its side cannot be told (yet)
			s.Nets = append(s.Nets, agent.NetCounters{Name: n.Name})
		case known:
			s.Nets = append(s.Nets, agent.NetCounters{
				Name: n.Name, Private: private,
				RxBytes:   counter(n.RxBytesSet, n.RxBytes),
				RxPackets: counter(n.RxPktsSet, n.RxPkts),
				TxBytes:   counter(n.TxBytesSet, n.TxBytes),
				TxPackets: counter(n.TxPktsSet, n.TxPkts),
			})
		}
	}
	return s
}

// vcpus is how many virtual CPUs the domain has and the sum of their times; nil
// where one of them could not be read. One that could be plugged in is listed as
// offline (by the Go binding: libvirt does not list it).
func vcpus(all []libvirt.DomainStatsVcpu) (count, ns *uint64) {
	var n, sum uint64
	timed := true
	for _, v := range all {
		if !v.StateSet || v.State == libvirt.VCPU_OFFLINE {
			continue
		}
		n++
		sum += v.Time
		timed = timed && v.TimeSet
	}
	if n == 0 {
		return nil, nil
	}
	if !timed {
		return &n, nil
	}
	return &n, &sum
}

// used is the memory that the guest uses, as it said through the balloon driver:
// what it sees less what it could still give, as `free` computes it. It is nil
// for a guest without the driver and for one that has not said so lately.
func used(b *libvirt.DomainStatsBalloon, now time.Time) *uint64 {
	if !b.LastUpdateSet || !b.AvailableSet || now.Sub(time.Unix(int64(b.LastUpdate), 0)) > balloonFresh {
		return nil
	}
	rest, known := b.Usable, b.UsableSet
	if !known {
		rest, known = b.Unused, b.UnusedSet
	}
	if !known || rest > b.Available {
		return nil
	}
	return value((b.Available - rest) / 1024)
}

func value(v uint64) *uint64 { return &v }

func counter(set bool, v uint64) *uint64 {
	if !set {
		return nil
	}
	return &v
}
