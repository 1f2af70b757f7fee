package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/usance/usance/cmd/metrics"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/metering/trust"
	"github.com/usance/usance/sql/sqltest"
)

// testPlane is a control plane on real databases that serves nothing.
func testPlane(t *testing.T) *plane {
	t.Helper()
	data, err := openData(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { data.Close() })
	pool, log := sqltest.Postgres(t), slog.New(slog.DiscardHandler)
	p, err := newPlane(log, data, pool, pool, readingtest.Store(t))
	if err != nil {
		t.Fatal(err)
	}
	take, err := ingest.New(ingest.Config{Authenticate: func(*http.Request) (metering.HostID, error) { return "", ingest.ErrUnknownHost }, Known: p.epochs.Known,
		Leases: p.leases, Register: p.epochs.Register, Insert: p.readings.Insert, Quarantine: p.epochs.Quarantine, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	p.trust = &trust.Run{Epochs: p.epochs, Readings: p.readings, Ingest: take, Log: log}
	return p
}

func TestMetrics(t *testing.T) {
	p := testPlane(t)
	secret, err := p.compute.MintToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	host, err := p.compute.Join(t.Context(), secret, "key", "rack-1", hostapi.Capacity{VCPUs: 8})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().UTC().Truncate(time.Second)
	hourly := int64(75)
	q := ingest.Quarantined{Host: host, Tenant: "ten_secret", Received: at, Reason: ingest.ReasonTime, Reading: metering.Reading{Epoch: "e", At: at}, Epoch: metering.Epoch{ID: "e"}}
	held := q
	held.Reason, held.AdmitAt = ingest.ReasonFuture, at.Add(time.Hour)
	for _, err := range []error{
		p.compute.Observe(t.Context(), host, hostapi.Status{Sent: at, Capacity: hostapi.Capacity{VCPUs: 8},
			Spool: hostapi.SpoolStat{Limit: 9, Readings: 3, Oldest: at, Thinned: 4, Refused: 5, Aside: 6}, Host: hostapi.HostStat{HypervisorError: "gone"}}),
		p.epochs.Quarantine(t.Context(), []ingest.Quarantined{q, held}),
		second(p.compute.SaveLeaks(t.Context(), []compute.LeakKind{compute.LeakUnmetered}, []computedb.Leak{
			{Leak: compute.Leak{Kind: compute.LeakUnmetered, Subject: "ins_secret", Tenant: "ten_secret", Since: at}, Hourly: &hourly, Currency: "EUR"}},
			func(compute.LeakKind, string) string { return "" }, at)),
		p.tasks.counted("good", func(context.Context, time.Time) error { return nil })(t.Context(), at),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	failing := errors.New("no")
	if err := p.tasks.counted("bad", func(context.Context, time.Time) error { return failing })(t.Context(), at); err != failing {
		t.Errorf("a counted task returned %v", err)
	}
	p.trust.Ingest.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", ingest.Path, nil))

	w := httptest.NewRecorder()
	metrics.Handler(p.metricsOf, p.log).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	got := w.Body.String()
	of := `{host="` + string(host) + `",name="rack-1"}`
	for _, want := range []string{
		`hosts{state="up"} 1`, `hosts{state="silent"} 0`, "host_waiting_readings" + of + " 3", "host_readings_thinned_total" + of + " 4",
		"host_rounds_refused_total" + of + " 5", "host_bodies_aside_total" + of + " 6", "host_hypervisor_up" + of + " 0",
		`quarantine_open_readings{host="` + string(host) + `",reason="time"} 1`, `quarantine_held_readings{host="` + string(host) + `"} 1`,
		`leaks_open{kind="unmetered"} 1`, `leaks_open{kind="gap"} 0`, `leaks_hourly_minor{currency="EUR",kind="unmetered"} 75`,
		`task_failures_total{task="bad"} 1`, `task_failures_total{task="good"} 0`, `task_seconds_count{task="good"} 1`,
		`batches_refused_total{why="unknown-host"} 1`, `readings_quarantined_total{reason="bytes"} 0`, "insert_seconds_count 0", "closings_due 0",
		`database_up{database="postgres"} 1`, `database_up{database="clickhouse"} 1`,
	} {
		if !strings.Contains(got, "\nusance_"+want+"\n") {
			t.Errorf("%s is not on the page", want)
		}
	}
	for _, no := range []string{"_secret", `task_succeeded_timestamp_seconds{task="bad"}`} {
		if strings.Contains(got, no) {
			t.Errorf("%s is on the page", no)
		}
	}
	if !strings.Contains(got, `task_succeeded_timestamp_seconds{task="good"}`) {
		t.Error("when the good task succeeded is not on the page")
	}
	problems, err := promlint.New(strings.NewReader(got)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("names: %v, %v", problems, err)
	}
}

func second[T any](_ T, err error) error { return err }
