package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

const (
	host    = metering.HostID("hst_0000000000000000a")
	tenant  = metering.TenantID("ten_0000000000000000a")
	foreign = metering.HostID("hst_0000000000000000b")
)

// stores are the stores of a control plane, in memory; they can fail.
type stores struct {
	mu          sync.Mutex
	leases      map[LeaseKey]Lease
	epochs      map[metering.EpochID]metering.EpochRecord
	rows        []metering.Reading
	tenants     map[metering.TenantID]int // rows by tenant
	quarantined []Quarantined
	lookups     int           // calls of Known and Leases
	inserts     []int         // rows of each
	delay       time.Duration // of an insert
	fail        error         // of every store
	full        bool          // the quarantine has no room
}

func newStores() *stores {
	return &stores{leases: map[LeaseKey]Lease{}, epochs: map[metering.EpochID]metering.EpochRecord{}, tenants: map[metering.TenantID]int{}}
}

// grant grants lease no of instance i to h.
func (s *stores) grant(h metering.HostID, i int, no metering.LeaseNo, at time.Time) {
	s.leases[LeaseKey{instance(i), no}] = Lease{Tenant: tenant, Host: h, Labels: metering.Labels{Flavor: "small"}, Granted: at}
}

func (s *stores) handler(t testing.TB) *Handler {
	t.Helper()
	h, err := New(Config{
		Authenticate: func(r *http.Request) (metering.HostID, error) {
			switch h := r.Header.Get("Host-For-Test"); h {
			case "":
				return host, nil
			case "unknown":
				return "", fmt.Errorf("certificate: %w", ErrUnknownHost)
			default:
				return "", fmt.Errorf("%s: %w", h, ErrRemovedHost)
			}
		},
		Known: s.known, Leases: s.leasesOf, Register: s.register, Insert: s.insert, Quarantine: s.quarantine,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (s *stores) known(_ context.Context, ids []metering.EpochID) (map[metering.EpochID]metering.EpochRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookups++
	found := map[metering.EpochID]metering.EpochRecord{}
	for _, id := range ids {
		if e, ok := s.epochs[id]; ok {
			found[id] = e
		}
	}
	return found, s.fail
}

func (s *stores) leasesOf(_ context.Context, keys []LeaseKey) (map[LeaseKey]Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookups++
	found := map[LeaseKey]Lease{}
	for _, key := range keys {
		if l, ok := s.leases[key]; ok {
			found[key] = l
		}
	}
	return found, s.fail
}

func (s *stores) register(_ context.Context, epochs []metering.EpochRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range epochs {
		s.epochs[e.ID] = e
	}
	return s.fail
}

func (s *stores) insert(ctx context.Context, c *metering.Columns) error {
	time.Sleep(s.delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inserts = append(s.inserts, c.Len())
	for i := range c.Len() {
		if _, registered := s.epochs[metering.EpochID(c.Epoch[i])]; !registered {
			return fmt.Errorf("epoch %s is not registered", c.Epoch[i])
		}
		r := metering.Reading{Epoch: metering.EpochID(c.Epoch[i]), At: time.UnixMilli(c.AtMS[i]).UTC()}
		for reg := range c.Registers {
			r.Registers[reg] = c.Registers[reg][i]
		}
		s.rows = append(s.rows, r)
		s.tenants[metering.TenantID(c.Tenant[i])]++
	}
	return s.fail
}

func (s *stores) quarantine(_ context.Context, q []Quarantined) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return fmt.Errorf("host %s: %w", q[0].Host, ErrQuarantineFull)
	}
	s.quarantined = append(s.quarantined, q...)
	return s.fail
}

func instance(i int) metering.InstanceID {
	return metering.InstanceID(fmt.Sprintf("ins_%017x", i))
}

func epoch(i int) metering.Epoch {
	return metering.Epoch{ID: metering.DeriveEpochID(instance(i), "boot", i, 1, 0), Instance: instance(i), Lease: 1, Start: 1,
		Opened: time.Now().UTC().Truncate(time.Second)}
}

// batch has one reading of the epoch at each of the times.
func batch(e metering.Epoch, times ...time.Time) *metering.Batch {
	b := &metering.Batch{Epochs: []metering.Epoch{e}}
	for n, at := range times {
		b.Readings = append(b.Readings, metering.Reading{Epoch: e.ID, At: at, Registers: metering.Registers{metering.RunningMS: uint64(n)}})
	}
	return b
}

func bodyOf(t testing.TB, b *metering.Batch) []byte {
	t.Helper()
	body, err := wire.Encode(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// post gives a body to the handler and returns the answer, decoded when it is 200.
func post(h *Handler, body []byte) (int, Response, http.Header) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body)))
	var response Response
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &response); err != nil {
			panic(err)
		}
	}
	return w.Code, response, w.Header()
}

func TestAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStores()
		h := s.handler(t)
		s.grant(host, 1, 1, time.Now())
		time.Sleep(time.Minute)
		body := bodyOf(t, batch(epoch(1), time.Now(), time.Now().Add(time.Second)))
		for range 3 { // repeating is harmless, and asks no store but for the insert
			code, response, _ := post(h, body)
			if code != 200 || response.Accepted != 2 || response.Quarantined+response.Held != 0 || response.ServerTime.IsZero() {
				t.Fatalf("got %d %+v", code, response)
			}
		}
		if s.lookups != 2 || len(s.rows) != 6 || s.tenants[tenant] != 6 {
			t.Errorf("%d lookups, %d rows, %v; want Known and Leases once", s.lookups, len(s.rows), s.tenants)
		}
		want := metering.EpochRecord{Epoch: epoch(1), Tenant: tenant, Host: host, Labels: metering.Labels{Flavor: "small"}}
		if got := s.epochs[epoch(1).ID]; got.Tenant != want.Tenant || got.Host != want.Host || got.Labels != want.Labels || got.Instance != want.Instance {
			t.Errorf("registered %+v, want %+v", got, want)
		}
	})
}

func TestJudge(t *testing.T) {
	granted := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	received := granted.Add(time.Hour)
	hour := uint64(time.Hour / time.Millisecond)
	for _, test := range []struct {
		name string
		at   time.Time
		set  func(e *metering.Epoch, l *Lease, r *metering.Registers)
		want Reason
	}{
		{"good", received, func(_ *metering.Epoch, _ *Lease, r *metering.Registers) { r[metering.RunningMS] = hour }, ""},
		{"5 min before the grant", granted.Add(-5 * time.Minute), nil, ""},
		{"more than 5 min before", granted.Add(-5*time.Minute - time.Millisecond), nil, ReasonEarly},
		{"5 min after the end", granted.Add(15 * time.Minute), func(_ *metering.Epoch, l *Lease, _ *metering.Registers) { l.Ended = granted.Add(10 * time.Minute) }, ""},
		{"more than 5 min after the end", granted.Add(15*time.Minute + time.Millisecond), func(_ *metering.Epoch, l *Lease, _ *metering.Registers) { l.Ended = granted.Add(10 * time.Minute) }, ReasonSuperseded},
		{"as long as the clock and 60 s", received, func(_ *metering.Epoch, _ *Lease, r *metering.Registers) {
			r[metering.RunningMS], r[metering.PausedMS] = hour, 60_000
		}, ""},
		{"longer than the clock", received, func(_ *metering.Epoch, _ *Lease, r *metering.Registers) {
			r[metering.RunningMS], r[metering.PausedMS] = hour, 60_001
		}, ReasonTime},
		{"the largest of registers", received, func(_ *metering.Epoch, _ *Lease, r *metering.Registers) {
			r[metering.RunningMS], r[metering.PausedMS] = 1<<63-1, 1<<63-1
		}, ReasonTime},
		{"a resize carries on", received, func(e *metering.Epoch, _ *Lease, r *metering.Registers) {
			e.Opening[metering.RunningMS], r[metering.RunningMS] = 50*hour, 51*hour
		}, ""},
		{"below the opening reading", received, func(e *metering.Epoch, _ *Lease, r *metering.Registers) { e.Opening[metering.RunningMS] = hour }, ""},
		{"as many bytes as possible", received, func(_ *metering.Epoch, l *Lease, r *metering.Registers) {
			l.MaxBytesPerSecond, r[metering.NetPublicTxBytes] = 1000, 3660*1000
		}, ""},
		{"more bytes than possible", received, func(_ *metering.Epoch, l *Lease, r *metering.Registers) {
			l.MaxBytesPerSecond, r[metering.NetPublicTxBytes] = 1000, 3662*1000
		}, ReasonBytes},
		{"no bound of bytes", received, func(_ *metering.Epoch, _ *Lease, r *metering.Registers) { r[metering.DiskReadBytes] = 1 << 62 }, ""},
		{"a bound beyond 64 bits", received, func(_ *metering.Epoch, l *Lease, r *metering.Registers) {
			l.MaxBytesPerSecond, r[metering.DiskReadBytes] = 1<<63, 1<<62
		}, ""},
		{"CPU time is no reason", received, func(_ *metering.Epoch, _ *Lease, r *metering.Registers) { r[metering.CPUNS] = 1 << 62 }, ""},
		{"60 s ahead", received.Add(time.Minute), nil, ""},
		{"more than 60 s ahead", received.Add(time.Minute + time.Millisecond), nil, ReasonFuture},
		{"granted after it was received", received, func(_ *metering.Epoch, l *Lease, _ *metering.Registers) { l.Granted = received.Add(2 * time.Minute) }, ReasonTime},
	} {
		e := metering.Epoch{ID: metering.DeriveEpochID(instance(1), "b", 1, 1, 0), Instance: instance(1), Lease: 1, Start: 1, Opened: granted}
		lease := Lease{Tenant: tenant, Host: host, Granted: granted}
		r := metering.Reading{Epoch: e.ID, At: test.at}
		if test.set != nil {
			test.set(&e, &lease, &r.Registers)
		}
		var b wire.Batch
		if err := wire.Decode(&b, bodyOf(t, &metering.Batch{Epochs: []metering.Epoch{e}, Readings: []metering.Reading{r}})); err != nil {
			t.Fatal(err)
		}
		s := standing{record: metering.EpochRecord{Epoch: e, Tenant: tenant, Host: host}, lease: lease}
		got, detail := s.judge(&b, 0, received)
		if got != test.want || (detail == "") != (got == "") {
			t.Errorf("%s: got %q (%s), want %q", test.name, got, detail, test.want)
		}
	}
}

// One bad reading or epoch does not keep the others out.
func TestQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStores()
		h := s.handler(t)
		s.grant(host, 1, 1, time.Now())
		s.grant(foreign, 2, 1, time.Now())
		s.grant(host, 4, 1, time.Now())
		time.Sleep(time.Hour)
		now := time.Now().UTC()
		other := epoch(4) // registered for lease 1, start 1
		if _, err := h.Take(t.Context(), host, batch(other, now)); err != nil {
			t.Fatal(err)
		}
		other.Start = 2

		b := batch(epoch(1), now, now.Add(-2*time.Hour))
		for _, e := range []metering.Epoch{epoch(2), epoch(3), other} {
			more := batch(e, now)
			b.Epochs, b.Readings = append(b.Epochs, more.Epochs...), append(b.Readings, more.Readings...)
		}
		b.Readings = append(b.Readings, metering.Reading{Epoch: epoch(1).ID, At: now.Add(time.Second)})
		response, err := h.Take(t.Context(), host, b)
		if err != nil || response.Accepted != 2 || response.Quarantined != 4 || response.Held != 0 {
			t.Fatalf("got %+v, %v", response, err)
		}
		var reasons []string
		for _, q := range s.quarantined {
			reasons = append(reasons, string(q.Reason))
			if q.Detail == "" || q.Host != host || q.Epoch.ID != q.Reading.Epoch || !q.Received.Equal(response.ServerTime) {
				t.Errorf("quarantined %+v", q)
			}
		}
		if got := strings.Join(reasons, " "); got != "early no-lease no-lease foreign" {
			t.Errorf("reasons %s", got)
		}
		if _, registered := s.epochs[epoch(2).ID]; registered || len(s.rows) != 3 {
			t.Errorf("%d rows; the epoch of another host's lease registered: %v", len(s.rows), registered)
		}
	})
}

// A reading of the future is held, and accepted when it is given back at AdmitAt.
func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStores()
		h := s.handler(t)
		s.grant(host, 1, 1, time.Now())
		b := batch(epoch(1), time.Now().Add(time.Hour))
		response, err := h.Take(t.Context(), host, b)
		if err != nil || response.Held != 1 || response.Accepted+response.Quarantined != 0 || len(s.rows) != 0 {
			t.Fatalf("got %+v, %v", response, err)
		}
		time.Sleep(time.Until(s.quarantined[0].AdmitAt))
		if response, err = h.Take(t.Context(), host, b); err != nil || response.Accepted != 1 || len(s.rows) != 1 {
			t.Fatalf("at its time: %+v, %v", response, err)
		}
	})
}

// The end of a lease is noticed although the lease is remembered.
func TestLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStores()
		h := s.handler(t)
		s.grant(host, 1, 1, time.Now())
		e := epoch(1)
		send := func() Response {
			response, err := h.Take(t.Context(), host, batch(e, time.Now()))
			if err != nil {
				t.Fatal(err)
			}
			return response
		}
		send()
		key := LeaseKey{instance(1), 1}
		lease := s.leases[key]
		lease.Ended = time.Now()
		s.leases[key] = lease
		for range 29 {
			time.Sleep(10*time.Second - flushDelay)
			if r := send(); r.Accepted != 1 {
				t.Fatalf("within the tolerance: %+v", r)
			}
		}
		if s.lookups > 2+2*5 {
			t.Errorf("%d lookups in 5 minutes, want Known and Leases once a minute", s.lookups)
		}
		time.Sleep(10*time.Second + time.Millisecond)
		if r := send(); r.Quarantined != 1 || s.quarantined[0].Reason != ReasonSuperseded {
			t.Errorf("after the tolerance: %+v %+v", r, s.quarantined)
		}
	})
}

// Concurrent requests share an insert, and none is answered before it returned.
func TestCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStores()
		s.delay = time.Second
		h := s.handler(t)
		for i := range 50 {
			s.grant(host, i, 1, time.Now())
		}
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				ctx := t.Context()
				if i == 0 { // the first leaves at once; the others' rows must not go with it
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Millisecond)
					defer cancel()
				} else {
					time.Sleep(10 * time.Millisecond)
				}
				if _, err := h.Take(ctx, host, batch(epoch(i), time.Now())); err != nil {
					t.Errorf("request %d: %v", i, err)
				}
				if took := time.Since(begin); took < flushDelay+s.delay {
					t.Errorf("request %d was answered after %s", i, took)
				}
			})
		}
		wg.Wait()
		if len(s.inserts) != 1 || len(s.rows) != 50 || h.rows.waiting != 0 {
			t.Errorf("inserts of %v rows, %d rows, %d waiting", s.inserts, len(s.rows), h.rows.waiting)
		}

		s.fail = errors.New("disk full")
		failed := 0
		for i := range 3 {
			wg.Go(func() {
				code, _, header := post(h, bodyOf(t, batch(epoch(i), time.Now())))
				if code == http.StatusServiceUnavailable && header.Get("Retry-After") == "5" {
					s.mu.Lock()
					failed++
					s.mu.Unlock()
				}
			})
		}
		wg.Wait()
		if failed != 3 || h.rows.waiting != 0 {
			t.Errorf("%d of 3 requests were told that the insert failed; %d waiting", failed, h.rows.waiting)
		}
	})
}

// A full group does not wait, at most maxInserts run at once, what comes meanwhile
// goes into as few as may be, and what exceeds maxWaitingRows is put off.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStores()
		s.delay = 10 * time.Second
		h := s.handler(t)
		s.grant(host, 1, 1, time.Now())
		times := make([]time.Time, flushRows)
		for i := range times {
			times[i] = time.Now()
		}
		body := bodyOf(t, batch(epoch(1), times...))
		var accepted atomic.Int64
		var wg sync.WaitGroup
		begin := time.Now()
		for range maxWaitingRows / flushRows {
			wg.Go(func() {
				if code, _, _ := post(h, body); code == http.StatusOK {
					accepted.Add(1)
				}
			})
			synctest.Wait()
		}
		if code, _, header := post(h, body); code != http.StatusServiceUnavailable || header.Get("Retry-After") != "1" {
			t.Errorf("beyond %d waiting rows: %d", maxWaitingRows, code)
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("a full group waited %s", waited)
		}
		wg.Wait()
		most := 0
		for _, rows := range s.inserts {
			most = max(most, rows)
		}
		if rest := maxWaitingRows - maxInserts*flushRows; most != maxInsertRows || len(s.inserts) != maxInserts+(rest+most-1)/most {
			t.Errorf("inserts of %v rows", s.inserts)
		}
		if took, want := time.Since(begin), 3*s.delay; took != want { // 2 at once
			t.Errorf("all inserts took %s, want %s", took, want)
		}
		if got := accepted.Load(); got != maxWaitingRows/flushRows {
			t.Errorf("%d requests were accepted", got)
		}
		if code, _, _ := post(h, body); code != http.StatusOK {
			t.Errorf("afterwards: %d", code)
		}
	})
}

// What the client makes of the handler's answers.
func TestClient(t *testing.T) {
	s := newStores()
	s.grant(host, 1, 1, time.Now())
	h := s.handler(t)
	server := httptest.NewServer(http.StripPrefix("/base", h))
	defer server.Close()
	good := bodyOf(t, batch(epoch(1), time.Now()))
	for _, test := range []struct {
		name   string
		host   string
		body   []byte
		failed error
		want   error // nil with retry 0: accepted
		text   string
		retry  time.Duration
	}{
		{name: "accepted", body: good},
		{name: "malformed", body: []byte("x"), want: ErrMalformed, text: "decompress"},
		{name: "too large", body: make([]byte, wire.MaxBodyBytes+1), want: ErrMalformed, text: "more than 6291456 bytes"},
		{name: "unknown host", host: "unknown", body: good, want: ErrUnauthorized},
		{name: "removed host", host: "removed", body: good, want: ErrRemoved},
		{name: "a store fails", body: good, failed: errors.New("secret"), retry: 5 * time.Second, text: "could not be stored"},
	} {
		s.fail = test.failed
		client := Client{URL: server.URL + "/base/", HTTP: &http.Client{Transport: asHost(test.host)}}
		response, err := client.Send(t.Context(), test.body)
		var retry *RetryAfter
		switch {
		case test.retry > 0:
			if !errors.As(err, &retry) || retry.After != test.retry || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: got %v, want a wait of %s without the store's words", test.name, err, test.retry)
			}
		case !errors.Is(err, test.want) || err == nil && response.Accepted != 1:
			t.Errorf("%s: got %+v, %v, want %v", test.name, response, err, test.want)
		}
		if err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %q does not say %q", test.name, err, test.text)
		}
	}
}

// A batch of which something has no room in quarantine stays with the host whole.
func TestQuarantineFull(t *testing.T) {
	s := newStores()
	s.grant(host, 1, 1, time.Now())
	h := s.handler(t)
	body := bodyOf(t, batch(epoch(1), time.Now(), time.Now().Add(time.Hour), time.Now().Add(-time.Hour)))
	s.full = true
	if code, _, header := post(h, body); code != http.StatusTooManyRequests || header.Get("Retry-After") != "60" || len(s.rows) != 0 {
		t.Errorf("got %d, retry after %q s, %d rows stored; want 429, 60 and none", code, header.Get("Retry-After"), len(s.rows))
	}
	s.full = false
	if code, response, _ := post(h, body); code != http.StatusOK || response.Accepted != 1 || response.Held != 1 || response.Quarantined != 1 {
		t.Errorf("with room: %d %+v, want one of each", code, response)
	}
	s.fail = errors.New("down")
	post(h, body)
	got := h.Stat()
	got.Inserts.Time = 0
	want := Stat{Batches: 1, Accepted: 1, Held: 1, Quarantined: map[Reason]int64{ReasonEarly: 1},
		Refused: map[Refusal]int64{RefusedQuarantine: 1, RefusedStore: 1}, Inserts: Inserts{Done: 1, Rows: 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what was counted, -want +got:\n%s", diff)
	}
}

// asHost is a transport that says who it is to the test's Authenticate.
type asHost string

func (h asHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if h != "" {
		r.Header.Set("Host-For-Test", string(h))
	}
	return http.DefaultTransport.RoundTrip(r)
}

// What is no answer of ours is tried again, never taken for an acknowledgement.
func TestClientStrangeAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		after  time.Duration
	}{
		{"another program", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>welcome") }, 0},
		{"429", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "7"); w.WriteHeader(429) }, 7 * time.Second},
		{"a day", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(503)
		}, maxRetryAfter},
		{"a date", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "Sun, 1 Nov")
			w.WriteHeader(503)
		}, 0},
		{"not found", http.NotFound, 0},
		{"cut off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0},
	} {
		server := httptest.NewServer(test.answer)
		client := Client{URL: server.URL, HTTP: server.Client()}
		_, err := client.Send(t.Context(), nil)
		var retry *RetryAfter
		if !errors.As(err, &retry) || retry.After != test.after {
			t.Errorf("%s: got %v, want to retry after %s", test.name, err, test.after)
		}
		server.Close()
	}
}

// A body that broke off on its way is not the host's fault: no 400, or it would
// set good readings aside.
func TestBrokenBody(t *testing.T) {
	h := newStores().handler(t)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, Path, io.MultiReader(strings.NewReader("x"), broken{})))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("got %d", w.Code)
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path, nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestEpochCacheIsBounded(t *testing.T) {
	var c epochCache
	id := func(i int) metering.EpochID { return metering.EpochID(fmt.Sprintf("%032x", i)) }
	put := func(i int) { c.put(cachedEpoch{record: metering.EpochRecord{Epoch: metering.Epoch{ID: id(i)}}}) }
	put(-1)
	for i := range 3 * maxCachedEpochs {
		put(i)
		if i%1000 == 0 {
			if _, ok := c.get(id(-1)); !ok {
				t.Fatalf("an epoch in use was forgotten after %d others", i)
			}
		}
	}
	if n := len(c.young) + len(c.old); n > 2*maxCachedEpochs {
		t.Errorf("%d epochs are remembered", n)
	}
	if _, ok := c.get(id(0)); ok {
		t.Error("an epoch that was not used is still remembered")
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a handler without stores was made")
	}
}

// BenchmarkTake compares the handler, from body to columns, with decoding alone;
// stores cost nothing here.
func BenchmarkTake(b *testing.B) {
	s := newStores()
	in := &metering.Batch{}
	now := time.Now()
	for i := range 100 {
		s.grant(host, i, 1, now.Add(-time.Hour))
		in.Epochs = append(in.Epochs, epoch(i))
		for n := range flushRows / 100 {
			in.Readings = append(in.Readings, metering.Reading{Epoch: epoch(i).ID, At: now.Add(-time.Duration(n) * time.Second),
				Registers: metering.Registers{metering.RunningMS: uint64(1000 * n), metering.CPUNS: uint64(n * i * 12345)}})
		}
	}
	body := bodyOf(b, in)
	h := s.handler(b)
	h.rows.insert = func(context.Context, *metering.Columns) error { return nil }
	var decoded wire.Batch
	var bare, whole time.Duration
	b.ReportAllocs()
	for b.Loop() { // both sides in turn
		begin := time.Now()
		if err := wire.Decode(&decoded, body); err != nil {
			b.Fatal(err)
		}
		between := time.Now()
		if code, _, _ := post(h, body); code != http.StatusOK {
			b.Fatal(code)
		}
		bare += between.Sub(begin)
		whole += time.Since(between)
	}
	b.ReportMetric(flushRows*float64(b.N)/whole.Seconds(), "readings/s")
	b.ReportMetric(float64(whole)/float64(bare), "of-decode")
}
