package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/usance/usance/cmd/metrics"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering/ingest"
)

// metricsOf is the page of the control plane. Counters are since this program
// started; what is asked of the databases is as it is now, and left out when they
// do not answer.
func (p *plane) metricsOf(ctx context.Context, page *metrics.Page) {
	for name, ping := range map[string]func(context.Context) error{"postgres": p.people.Ping, "clickhouse": p.readings.Ping} {
		page.Truth("database_up", "1 when the database answers within a second.", answers(ctx, ping), "database", name)
	}
	ingestMetrics(page, p.trust.Ingest.Stat())
	p.tasks.metrics(page)
	for _, ask := range []struct {
		name string
		of   func(context.Context, *metrics.Page) error
	}{
		{"hosts", p.hostMetrics}, {"quarantine", p.quarantineMetrics}, {"leaks", p.leakMetrics}, {"closings", p.closingMetrics},
	} {
		if err := ask.of(ctx, page); err != nil {
			p.log.Warn("metrics are left out", "of", ask.name, "err", err)
		}
	}
}

// pingTime is how long a database may take to answer.
const pingTime = time.Second

func answers(ctx context.Context, ping func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	return ping(ctx) == nil
}

func ingestMetrics(page *metrics.Page, s ingest.Stat) {
	page.Counter("batches_total", "Batches of hosts that were answered for: all of each is durable.", s.Batches)
	for _, why := range ingest.Refusals() {
		page.Counter("batches_refused_total", "Batches of hosts that were not taken, by why.", s.Refused[why], "why", string(why))
	}
	page.Counter("readings_accepted_total", "Readings accepted, held ones among them once their time has come.", s.Accepted)
	page.Counter("readings_held_total", "Readings put by, since they lay in the future.", s.Held)
	for _, reason := range ingest.Reasons() {
		page.Counter("readings_quarantined_total", "Readings not accepted, by reason.", s.Quarantined[reason], "reason", string(reason))
	}
	page.Gauge("insert_waiting_rows", "Accepted readings that wait for their insert.", float64(s.Waiting))
	page.Duration("insert_seconds", "Inserts of accepted readings, and how long they took.", s.Inserts.Done, s.Inserts.Time)
	page.Counter("insert_errors_total", "Inserts that failed; their batches are sent again.", s.Inserts.Errors)
	page.Counter("insert_rows_total", "Rows inserted, those of repeated batches again.", s.Inserts.Rows)
}

func (p *plane) hostMetrics(ctx context.Context, page *metrics.Page) error {
	hosts, err := p.compute.Hosts(ctx)
	if err != nil {
		return err
	}
	reports, err := p.compute.Reports(ctx)
	if err != nil {
		return err
	}
	states := map[string]int{}
	for _, state := range compute.HostStates() {
		states[state] = 0
	}
	for _, h := range hosts {
		states[h.State(time.Now())]++
		if h.Removed {
			continue
		}
		host := []string{"host", string(h.ID), "name", h.Name}
		page.Time("host_seen_timestamp_seconds", "When the host last reported.", h.Seen, host...)
		r, ok := reports[h.ID]
		if !ok {
			continue
		}
		page.Truth("host_hypervisor_up", "1 when the host's agent reaches its hypervisor, as it last reported.", r.Host.HypervisorError == "", host...)
		page.Gauge("host_waiting_readings", "Readings that wait on the host to be sent, as it last reported.", float64(r.Spool.Readings), host...)
		page.Time("host_oldest_timestamp_seconds", "Time of the oldest of them; absent when none waits.", r.Spool.Oldest, host...)
		if r.Spool.Limit == 0 {
			continue // an agent of the first version does not say what follows
		}
		page.Counter("host_readings_thinned_total", "Readings the host gave up for room since its agent started: usage of a slot stays, its course within the slot is lost.",
			r.Spool.Thinned, host...)
		page.Counter("host_rounds_refused_total", "Rounds for which the host had no room since its agent started.", r.Spool.Refused, host...)
		page.Counter("host_bodies_aside_total", "Bodies the host set aside since its agent started: damaged, or refused as malformed.", r.Spool.Aside, host...)
	}
	for state, n := range states {
		page.Gauge("hosts", "Hosts by state; a silent one has not reported for a minute.", float64(n), "state", state)
	}
	return nil
}

func (p *plane) quarantineMetrics(ctx context.Context, page *metrics.Page) error {
	open, err := p.epochs.OpenQuarantine(ctx)
	if err != nil {
		return err
	}
	for _, q := range open {
		page.Gauge("quarantine_open_readings", "Readings that wait for an operator to accept or reject them.", float64(q.Count), "host", string(q.Host), "reason", string(q.Reason))
	}
	held, err := p.epochs.HeldByHost(ctx)
	if err != nil {
		return err
	}
	for host, n := range held {
		page.Gauge("quarantine_held_readings", "Readings of the future that wait for their time: the host's clock is ahead of ours.", float64(n), "host", string(host))
	}
	return nil
}

func (p *plane) leakMetrics(ctx context.Context, page *metrics.Page) error {
	sums, err := p.compute.LeakSums(ctx)
	if err != nil {
		return err
	}
	open := map[compute.LeakKind]int64{}
	for _, s := range sums {
		open[s.Kind] += s.Count
		if s.Currency != "" {
			page.Gauge("leaks_hourly_minor", "What an hour of the open leaks costs, estimated, in minor units; leaks of which it cannot be said are not in it.",
				float64(s.HourlyMinor), "kind", string(s.Kind), "currency", s.Currency)
		}
	}
	for _, kind := range compute.LeakKinds() {
		page.Gauge("leaks_open", "Open differences between what runs, what is wanted and what is billed.", float64(open[kind]), "kind", string(kind))
	}
	return nil
}

// maxDue is how many tenants with a period to be closed are counted; more show as
// so many.
const maxDue = 1000

func (p *plane) closingMetrics(ctx context.Context, page *metrics.Page) error {
	due, err := p.books.Due(ctx, "", time.Now().Add(-settle), maxDue)
	if err != nil {
		return err
	}
	page.Gauge("closings_due", fmt.Sprintf("Tenants with an ended period that is to be closed by now, counted up to %d.", maxDue), float64(len(due)))
	return nil
}

// tasks counts what the runners do. Its methods may run at the same time.
type tasks struct {
	mu  sync.Mutex
	all map[string]*taskCounts
}

type taskCounts struct {
	runs, failures int64
	took           time.Duration
	succeeded      time.Time
}

// counted is the task, counted under its name.
func (t *tasks) counted(name string, once func(context.Context, time.Time) error) func(context.Context, time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[string]*taskCounts{}
	}
	c := &taskCounts{}
	t.all[name] = c
	return func(ctx context.Context, now time.Time) error {
		began := time.Now()
		err := once(ctx, now)
		t.mu.Lock()
		defer t.mu.Unlock()
		c.runs++
		c.took += time.Since(began)
		if err != nil {
			c.failures++
		} else {
			c.succeeded = time.Now()
		}
		return err
	}
}

func (t *tasks) metrics(page *metrics.Page) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(t.all)) {
		c := t.all[name]
		page.Duration("task_seconds", "Runs of a task, and how long they took.", c.runs, c.took, "task", name)
		page.Counter("task_failures_total", "Runs of a task that failed; the next one tries again.", c.failures, "task", name)
		page.Time("task_succeeded_timestamp_seconds", "When a task last succeeded; absent before it has.", c.succeeded, "task", name)
	}
}
