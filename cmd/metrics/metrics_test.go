package metrics_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/usance/usance/cmd/metrics"
)

func TestPage(t *testing.T) {
	source := func(ctx context.Context, p *metrics.Page) {
		if _, limited := ctx.Deadline(); !limited {
			t.Error("a source may take for ever")
		}
		p.Gauge("room", "Room.", 1.5)
		p.Counter("batches_total", "Batches.", 3, "why", `a "b"`)
		p.Counter("batches_total", "Batches.", 4, "why", "c")
		p.Time("seen_timestamp_seconds", "Seen.", time.UnixMilli(1_500))
		p.Time("never_timestamp_seconds", "Never.", time.Time{})
		p.Duration("round_seconds", "Rounds.", 2, 1500*time.Millisecond)
		p.Truth("up", "Up.", true, "database", "postgres")
	}
	w := httptest.NewRecorder()
	metrics.Handler(source, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var got strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, "usance_") {
			got.WriteString(line)
		}
	}
	const want = `# HELP usance_batches_total Batches.
# TYPE usance_batches_total counter
usance_batches_total{why="a \"b\""} 3
usance_batches_total{why="c"} 4
# HELP usance_room Room.
# TYPE usance_room gauge
usance_room 1.5
# HELP usance_round_seconds Rounds.
# TYPE usance_round_seconds summary
usance_round_seconds_sum 1.5
usance_round_seconds_count 2
# HELP usance_seen_timestamp_seconds Seen.
# TYPE usance_seen_timestamp_seconds gauge
usance_seen_timestamp_seconds 1.5
# HELP usance_up Up.
# TYPE usance_up gauge
usance_up{database="postgres"} 1
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
	if !strings.Contains(w.Body.String(), "\nprocess_resident_memory_bytes ") {
		t.Error("what the process uses is not on the page")
	}
}

// Serve ends with its context, and a taken address is told.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log, source := slog.New(slog.DiscardHandler), func(context.Context, *metrics.Page) {}
	address := l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	if err := metrics.Serve(ctx, address, source, log); err == nil || !strings.Contains(err.Error(), address) {
		t.Errorf("on a taken address: %v", err)
	}
	l.Close()
	if err := metrics.Serve(ctx, address, source, log); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/metrics": http.StatusOK, "/": http.StatusNotFound} {
		answer, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, answer.Status, want)
		}
	}
	cancel()
	for deadline := time.Now().Add(10 * time.Second); ; {
		answer, err := http.Get("http://" + address + "/metrics")
		if errors.As(err, new(*net.OpError)) {
			return
		}
		if err == nil {
			answer.Body.Close()
		}
		if time.Now().After(deadline) {
			t.Fatalf("still served: %v", err)
		}
	}
}
