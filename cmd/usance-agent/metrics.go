package main

import (
	"context"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/cmd/metrics"
)

// metricsOf is the page of an agent; it is empty until the host has joined.
// Counters are since the agent started.
func metricsOf(stat func() (agent.Stat, bool)) metrics.Source {
	return func(_ context.Context, p *metrics.Page) {
		s, ok := stat()
		if !ok {
			return
		}
		sp := s.Spool
		p.Gauge("agent_spool_bytes", "Bytes on disk of readings that wait to be sent.", float64(sp.Bytes))
		p.Gauge("agent_spool_limit_bytes", "Bytes at which readings are thinned, and then rounds refused.", float64(sp.Limit))
		p.Gauge("agent_spool_readings", "Readings that wait to be sent.", float64(sp.Readings))
		p.Time("agent_spool_oldest_timestamp_seconds", "Time of the oldest reading that waits; absent when none does.", sp.Oldest)
		p.Counter("agent_readings_thinned_total", "Readings given up for room: usage of a slot stays, its course within the slot is lost.", sp.Thinned)
		p.Counter("agent_rounds_refused_total", "Rounds for which the spool had no room: what they showed is in the next that had it.", sp.Refused)
		p.Counter("agent_bodies_aside_total", "Bodies kept in the spool's folder aside: damaged, or refused as malformed.", sp.Aside)

		r := s.Recorder
		p.Duration("agent_round_seconds", "Rounds, and how long it took to make them durable.", r.Rounds+r.RoundErrors, r.RoundTime)
		p.Counter("agent_round_errors_total", "Rounds that could not be made durable, refused ones among them.", r.RoundErrors)
		p.Duration("agent_pass_seconds", "Passes over the hypervisor, and how long they took.", r.Passes, r.PassTime)
		p.Counter("agent_pass_errors_total", "Passes in which the hypervisor or some domain could not be read.", r.PassErrors)
		if r.Passes > 0 {
			p.Gauge("agent_domains", "Domains that the last pass read; absent before the first.", float64(r.Domains))
			p.Truth("agent_hypervisor_up", "1 when the last pass could read the hypervisor; absent before the first.", r.Up)
		}
		p.Truth("agent_hypervisor_watching", "1 while the hypervisor's events arrive.", r.Watching)

		const answered = "Readings sent, by what the control plane made of them: accepted; quarantined (not believed); held (of its future)."
		p.Counter("agent_readings_sent_total", answered, s.Sender.Accepted, "answer", "accepted")
		p.Counter("agent_readings_sent_total", answered, s.Sender.Quarantined, "answer", "quarantined")
		p.Counter("agent_readings_sent_total", answered, s.Sender.Held, "answer", "held")
		p.Counter("agent_batches_sent_total", "Batches that the control plane has.", s.Sender.Batches)
		p.Counter("agent_send_errors_total", "Attempts to send a batch that failed; it is sent again.", s.Sender.Errors)
		p.Time("agent_last_sent_timestamp_seconds", "When the control plane last took a batch; absent before the first.", s.Sender.Last)
	}
}
