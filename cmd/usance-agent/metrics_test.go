package main

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/cmd/metrics"
	"github.com/usance/usance/metering/spool"
)

func TestMetrics(t *testing.T) {
	page := func(s agent.Stat, joined bool) string {
		w := httptest.NewRecorder()
		source := metricsOf(func() (agent.Stat, bool) { return s, joined })
		metrics.Handler(source, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	if got := page(agent.Stat{}, false); strings.Contains(got, "usance_") {
		t.Errorf("before the host has joined:\n%s", got)
	}
	fresh := page(agent.Stat{}, true)
	for _, absent := range []string{"agent_domains", "agent_hypervisor_up", "agent_spool_oldest", "agent_last_sent"} {
		if strings.Contains(fresh, absent) {
			t.Errorf("%s is shown before it is known", absent)
		}
	}
	got := page(agent.Stat{
		Spool:    spool.Stat{Bytes: 1, Limit: 2, Readings: 3, Oldest: time.Unix(4, 0), Thinned: 5, Refused: 6, Aside: 7},
		Recorder: agent.RecorderStat{Rounds: 8, RoundErrors: 9, RoundTime: 10 * time.Second, Passes: 11, PassErrors: 12, PassTime: 13 * time.Second, Domains: 14, Up: true, Watching: true},
		Sender:   agent.SenderStat{Batches: 15, Errors: 16, Accepted: 17, Quarantined: 18, Held: 19, Last: time.Unix(20, 0)},
	}, true)
	for _, want := range []string{
		"spool_bytes 1", "spool_limit_bytes 2", "spool_readings 3", "spool_oldest_timestamp_seconds 4", "readings_thinned_total 5",
		"rounds_refused_total 6", "bodies_aside_total 7", "round_seconds_count 17", "round_errors_total 9", "round_seconds_sum 10",
		"pass_seconds_count 11", "pass_errors_total 12", "pass_seconds_sum 13", "domains 14", "hypervisor_up 1", "hypervisor_watching 1",
		"batches_sent_total 15", "send_errors_total 16", `readings_sent_total{answer="accepted"} 17`,
		`readings_sent_total{answer="quarantined"} 18`, `readings_sent_total{answer="held"} 19`, "last_sent_timestamp_seconds 20",
	} {
		if !strings.Contains(got, "\nusance_agent_"+want+"\n") {
			t.Errorf("%s is not on the page", want)
		}
	}
	problems, err := promlint.New(strings.NewReader(got)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("names: %v, %v", problems, err)
	}
}
