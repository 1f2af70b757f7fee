package usance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/agenttest"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

// A host of the chaos run is two processes. The machine (its domains, clocks and
// true counters) is an agenttest.Host in the test; the agent is a process of its
// own, this test binary started again, that reaches the machine through a unix
// socket. So kill -9 of the agent is the real one for its spool, its state file
// and its connections, and the truth outlives it.

// machine serves an agenttest.Host on a unix socket.
type machine struct {
	*agenttest.Host
	epoch    time.Time    // what a wall clock that was never stepped showed when the monotonic one was 0
	watching atomic.Int32 // agents that hear its events
	passes   atomic.Int64 // samples that reached an agent

	mu      sync.Mutex
	steps   []time.Duration // by how much the wall clock was wrong, at first 0
	reached map[int64]bool  // the stamps of those samples, ns since 1970
}

func newMachine(seed uint64) *machine {
	m := &machine{Host: agenttest.NewLive(seed), steps: []time.Duration{0}, reached: map[int64]bool{}}
	now := m.Now()
	m.epoch = now.Wall.Add(-now.Mono)
	return m
}

// setClock makes the machine's wall clock wrong by d.
func (m *machine) setClock(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.StepWall(d - m.steps[len(m.steps)-1])
	m.steps = append(m.steps, d)
}

// offsets are what the wall clock was ever wrong by.
func (m *machine) offsets() []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.steps)
}

// mono is the monotonic clock's time of a stamp that was made just now.
func (m *machine) mono(stamp time.Time) (latest time.Duration) {
	now := m.Now().Mono
	for _, offset := range m.offsets() {
		if mono := stamp.Sub(m.epoch) - offset; mono <= now {
			latest = max(latest, mono)
		}
	}
	return latest
}

// delivered reports whether an agent got what a look showed.
func (m *machine) delivered(look agenttest.Look) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reached[look.At.Wall.UnixNano()]
}

// timed is something with a stamp, and what the monotonic clock showed then.
type timed[T any] struct {
	What T
	Mono time.Duration
}

// firstStamp is the first second that a time with two clocks can tell.
var firstStamp = time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC).Unix()

// stamp is a time of the wall clock that carries one of the monotonic clock, as those do that a
// program asks its own machine for: differences are exact whatever steps lie between.
// Nothing makes one of two given times, so it is made the way package time does.
func stamp(wall time.Time, mono time.Duration) time.Time {
	const has = 1 << 63
	t := struct {
		wall uint64
		mono int64
		zone *time.Location
	}{has | uint64(wall.Unix()-firstStamp)<<30 | uint64(wall.Nanosecond()), int64(mono), nil}
	return *(*time.Time)(unsafe.Pointer(&t))
}

// answer is what a call of the machine returns: a value and an error may come together.
type answer[T any] struct {
	Value T
	Error string
}

// order is the body of a stop and a delete.
type order struct {
	ID    metering.InstanceID
	Grace time.Duration
}

// serve answers on the socket until the test ends.
func (m *machine) serve(t testing.TB, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	handle(mux, "/now", func(context.Context, struct{}) (agent.Instant, error) { return m.Now(), nil })
	handle(mux, "/sample", func(ctx context.Context, _ struct{}) (timed[[]agent.Sample], error) {
		all, err := m.Sample(ctx)
		if len(all) == 0 {
			return timed[[]agent.Sample]{}, err
		}
		return timed[[]agent.Sample]{all, m.mono(all[0].At)}, err // they all bear one stamp
	})
	handle(mux, "/sampled", func(_ context.Context, at time.Time) (struct{}, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.reached[at.UnixNano()] = true
		m.passes.Add(1)
		return struct{}{}, nil
	})
	handle(mux, "/domains", func(ctx context.Context, _ struct{}) ([]agent.Domain, error) { return m.Domains(ctx) })
	handle(mux, "/start", func(ctx context.Context, s agent.Spec) (struct{}, error) { return struct{}{}, m.Start(ctx, s) })
	handle(mux, "/stop", func(ctx context.Context, o order) (struct{}, error) { return struct{}{}, m.Stop(ctx, o.ID, o.Grace) })
	handle(mux, "/resize", func(ctx context.Context, s agent.Spec) (struct{}, error) { return struct{}{}, m.Resize(ctx, s) })
	handle(mux, "/release", func(ctx context.Context, o order) (struct{}, error) { return struct{}{}, m.Release(ctx, o.ID) })
	handle(mux, "/delete", func(ctx context.Context, o order) (struct{}, error) { return struct{}{}, m.Delete(ctx, o.ID) })
	mux.HandleFunc("/watch", m.serveEvents)
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

// handle serves one call; its body and its answer are JSON.
func handle[In, Out any](mux *http.ServeMux, path string, f func(context.Context, In) (Out, error)) {
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		value, err := f(r.Context(), in)
		a := answer[Out]{Value: value}
		if err != nil {
			a.Error = err.Error()
		}
		json.NewEncoder(w).Encode(a)
	})
}

// serveEvents writes events, one JSON value each, until the agent is gone or the
// hypervisor's daemon is.
func (m *machine) serveEvents(w http.ResponseWriter, r *http.Request) {
	var mu sync.Mutex
	live, over := false, false // an event may come in while Watch ends
	err := m.Watch(r.Context(), func() {
		mu.Lock()
		defer mu.Unlock()
		live = true
		m.watching.Add(1)
		w.(http.Flusher).Flush()
	}, func(e agent.Event) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		json.NewEncoder(w).Encode(timed[agent.Event]{e, m.mono(e.At)})
		w.(http.Flusher).Flush()
	})
	mu.Lock()
	defer mu.Unlock()
	over = true
	if !live {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	m.watching.Add(-1)
}

// remote is the machine as its agent's process sees it: an agent.Hypervisor.
type remote struct{ http *http.Client }

func newRemote(socket string) *remote {
	return &remote{&http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (r *remote) post(ctx context.Context, path string, in any) (*http.Response, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://machine"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return r.http.Do(req)
}

func ask[Out any](ctx context.Context, r *remote, path string, in any) (out Out, err error) {
	resp, err := r.post(ctx, path, in)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	var a answer[Out]
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return out, fmt.Errorf("%s: %w", path, err)
	}
	if a.Error != "" {
		err = errors.New(a.Error)
	}
	return a.Value, err
}

// now is the machine's clock. Without the machine the agent ends, as it would.
func (r *remote) now() agent.Instant {
	now, err := ask[agent.Instant](context.Background(), r, "/now", struct{}{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "the machine is gone:", err)
		os.Exit(1)
	}
	now.Wall = stamp(now.Wall, now.Mono)
	return now
}

func (r *remote) Sample(ctx context.Context) ([]agent.Sample, error) {
	pass, err := ask[timed[[]agent.Sample]](ctx, r, "/sample", struct{}{})
	var at time.Time
	for i := range pass.What {
		at = pass.What[i].At
		pass.What[i].At = stamp(at, pass.Mono)
	}
	if err == nil {
		ask[struct{}](ctx, r, "/sampled", at) // if it fails, the machine thinks that they never came
	}
	return pass.What, err
}

func (r *remote) Domains(ctx context.Context) ([]agent.Domain, error) {
	return ask[[]agent.Domain](ctx, r, "/domains", struct{}{})
}

func (r *remote) Start(ctx context.Context, s agent.Spec) error {
	_, err := ask[struct{}](ctx, r, "/start", s)
	return err
}

func (r *remote) Stop(ctx context.Context, id metering.InstanceID, grace time.Duration) error {
	_, err := ask[struct{}](ctx, r, "/stop", order{id, grace})
	return err
}

func (r *remote) Resize(ctx context.Context, s agent.Spec) error {
	_, err := ask[struct{}](ctx, r, "/resize", s)
	return err
}

func (r *remote) Release(ctx context.Context, id metering.InstanceID) error {
	_, err := ask[struct{}](ctx, r, "/release", order{ID: id})
	return err
}

func (r *remote) Delete(ctx context.Context, id metering.InstanceID) error {
	_, err := ask[struct{}](ctx, r, "/delete", order{ID: id})
	return err
}

func (r *remote) Watch(ctx context.Context, live func(), f func(agent.Event)) error {
	resp, err := r.post(ctx, "/watch", struct{}{})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return agenttest.ErrDown
	}
	live()
	for events := json.NewDecoder(resp.Body); ; {
		var e timed[agent.Event]
		if err := events.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				err = agenttest.ErrDown
			}
			return err
		}
		e.What.At = stamp(e.What.At, e.Mono)
		f(e.What)
	}
}

// agentConfig is what the agent's process is told, as JSON in agentEnv.
type agentConfig struct {
	Server, Token, Dir, Name, Socket string
	Interval                         time.Duration
	SpoolBytes                       int64
}

const agentEnv = "USANCE_CHAOS_AGENT"

// init makes this program an agent when it was started as one.
func init() {
	text := os.Getenv(agentEnv)
	if text == "" {
		return
	}
	if err := runAgent(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runAgent(text string) error {
	var cfg agentConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	machine := newRemote(cfg.Socket)
	a, err := agent.New(agent.Config{
		Server: cfg.Server, Token: cfg.Token, DataDir: cfg.Dir, Name: cfg.Name,
		Capacity: hostapi.Capacity{VCPUs: 1000, MemoryMiB: 1 << 20, DiskMiB: 1 << 24},
		Storage:  "chaos", Hypervisor: machine, Clock: machine.now, Interval: cfg.Interval, SpoolBytes: cfg.SpoolBytes,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return a.Run(context.Background())
}

func TestStampCarriesBothClocks(t *testing.T) {
	wall := time.Date(2026, 11, 22, 5, 6, 7, 123456789, time.UTC)
	a, b := stamp(wall, 1000*time.Second), stamp(wall.Add(-time.Hour), 1001*time.Second)
	if !a.Round(0).Equal(wall) || a.Location() != time.UTC {
		t.Errorf("stamped %s, want %s", a, wall)
	}
	if d := b.Sub(a); d != time.Second {
		t.Errorf("%s between two stamps, want 1s by the monotonic clock", d)
	}
}
