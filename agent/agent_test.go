package agent_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/agenttest"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/wire"
)

const hostID = metering.HostID("hst_00000000000000001")

// plane is a control plane on a real TLS port, whose store is in memory.
type plane struct {
	t      *testing.T
	ca     *hostapi.CA
	server *httptest.Server
	log    *slog.Logger
	images string

	mu      sync.Mutex
	joins   int
	desired hostapi.Desired
	changed chan struct{}
	status  hostapi.Status
	largest map[metering.EpochID]metering.Reading
	answer  int // to readings; 0: take them
	refused int // how many bodies were
	// retryAfter goes with a refusal, in seconds; "": nothing is said.
	retryAfter string
	attempts   []time.Time // to send readings
	agent      *agent.Agent
}

func newPlane(t *testing.T) *plane {
	ca, err := hostapi.LoadCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{t: t, ca: ca, log: slog.New(slog.NewTextHandler(testWriter{t}, nil)), images: t.TempDir(),
		changed: make(chan struct{}, 1), largest: map[metering.EpochID]metering.Reading{}}
	auth := &hostapi.Authenticator{CA: ca, Active: func(context.Context, metering.HostID) error { return nil }}
	handler := hostapi.Handler(hostapi.Config{
		Auth:     auth,
		Join:     p.join,
		Desired:  func(context.Context, metering.HostID) (hostapi.Desired, error) { return p.wanted(), nil },
		Watch:    func(metering.HostID) (<-chan struct{}, func(), error) { return p.changed, func() {}, nil },
		Observe:  p.observe,
		Epochs:   func(context.Context, metering.HostID) ([]hostapi.KnownEpoch, error) { return nil, nil },
		Images:   hostapi.Images{Roots: []string{p.images}},
		Readings: http.HandlerFunc(p.readings),
		Log:      p.log,
	})
	p.server = httptest.NewUnstartedServer(handler)
	p.server.TLS = ca.ServerConfig("127.0.0.1")
	p.server.StartTLS()
	t.Cleanup(p.server.Close)
	return p
}

// testWriter logs to the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (p *plane) join(_ context.Context, secret, _, _ string, _ hostapi.Capacity) (metering.HostID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.joins++
	if secret != "secret" || p.joins > 1 {
		return "", hostapi.ErrToken
	}
	return hostID, nil
}

func (p *plane) wanted() hostapi.Desired {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.desired
}

func (p *plane) observe(_ context.Context, _ metering.HostID, s hostapi.Status) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = s
	return nil
}

func (p *plane) readings(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var b wire.Batch
	if err := wire.Decode(&b, body); err != nil {
		p.t.Errorf("a batch of the agent: %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempts = append(p.attempts, time.Now())
	if p.answer != 0 {
		p.refused++
		if p.retryAfter != "" {
			w.Header().Set("Retry-After", p.retryAfter)
		}
		http.Error(w, "refused by the test", p.answer)
		return
	}
	for _, r := range b.Rows().Readings {
		r.Registers = r.Registers.Join(p.largest[r.Epoch].Registers)
		p.largest[r.Epoch] = r
	}
	json.NewEncoder(w).Encode(ingest.Response{Accepted: b.Len()})
}

// want changes what is desired.
func (p *plane) want(f func(d *hostapi.Desired)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.desired)
	p.desired.Revision++
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// await waits until f holds.
func (p *plane) await(what string, f func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		ok := f()
		p.mu.Unlock()
		if ok {
			return
		}
	}
	p.t.Fatalf("waited a minute in vain for: %s; the last status is %+v", what, p.status)
}

func (p *plane) state(s compute.State) func() bool {
	return func() bool { return len(p.status.Instances) == 1 && p.status.Instances[0].State == s }
}

// image makes an image of one file.
func (p *plane) image() hostapi.Image {
	text := []byte("a disk")
	sum := sha256.Sum256(text)
	img := hostapi.Image{Name: "tiny", Files: []hostapi.ImageFile{{Name: "disk", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(text))}}}
	record, _ := json.Marshal(img)
	dir := filepath.Join(p.images, img.Name)
	for _, err := range []error{
		os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "disk"), text, 0o644),
		os.WriteFile(filepath.Join(dir, "image.json"), record, 0o644),
	} {
		if err != nil {
			p.t.Fatal(err)
		}
	}
	return img
}

// startAgent runs an agent until the returned function is called.
func (p *plane) startAgent(host *agenttest.Host, dir, token string) (stop func()) {
	p.t.Helper()
	a, err := agent.New(agent.Config{
		Server: p.server.URL, Token: token, DataDir: dir, Name: "h1", Capacity: hostapi.Capacity{VCPUs: 8, MemoryMiB: 4096, DiskMiB: 9999},
		Hypervisor: host, Clock: host.Now, Interval: 200 * time.Millisecond, Log: p.log,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Errorf("the agent ended with: %v", err)
		}
	})
	p.t.Cleanup(stop)
	return stop
}

func TestAgentFromJoinToDeletion(t *testing.T) {
	p := newPlane(t)
	host := agenttest.NewLive(1)
	dir := t.TempDir()
	o := order(vm, 1, compute.PowerRunning, 1)
	o.Image = p.image()
	p.want(func(d *hostapi.Desired) { d.Instances = []hostapi.DesiredInstance{o} })

	stop := p.startAgent(host, dir, p.ca.Token("secret"))
	p.await("the instance to run", p.state(compute.StateRunning))
	p.await("readings", func() bool { return len(p.largest) == 1 })

	p.want(func(d *hostapi.Desired) { d.FullReading = 7 })
	asked := time.Now()
	p.await("the full reading", func() bool { return p.status.FullReading == 7 })
	if took := time.Since(asked); took > 5*time.Second {
		t.Errorf("a full reading took %s, want at most 5 s", took)
	}

	stop() // and another agent goes on, without a token
	stop = p.startAgent(host, dir, "")
	host.Advance(time.Minute)
	p.want(func(d *hostapi.Desired) {
		d.Instances[0].Power, d.Instances[0].Generation = compute.PowerDeleted, 2
	})
	p.await("the instance to be deleted", p.state(compute.StateDeleted))
	stop()

	truths := host.Truths()
	if len(truths) != 1 {
		t.Fatalf("%d epochs, want 1", len(truths))
	}
	got := p.largest[truths[0].Epoch.ID].Registers
	for _, r := range []metering.Register{metering.RunningMS, metering.VCPUMS, metering.MemoryMiBMS} {
		if got[r] != truths[0].Registers[r] {
			t.Errorf("%s = %d, want %d", r, got[r], truths[0].Registers[r])
		}
	}
	for _, r := range []metering.Register{metering.CPUNS, metering.DiskWriteBytes, metering.NetPublicTxBytes} {
		want := truths[0].Registers[r]
		if got[r] > want || got[r] < want/100*99 {
			t.Errorf("%s = %d, want %d but for what came between the reading and the stop", r, got[r], want)
		}
	}
	if p.joins != 1 {
		t.Errorf("joined %d times, want once", p.joins)
	}
	if st, err := os.Stat(filepath.Join(dir, "agent", "key.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v; want mode 0600", st, err)
	}
}

func TestAgentKeepsWhatIsNotTaken(t *testing.T) {
	p := newPlane(t)
	p.answer = http.StatusServiceUnavailable
	host := agenttest.NewLive(1)
	if err := host.Start(t.Context(), spec(vm, 1)); err != nil {
		t.Fatal(err)
	}
	p.startAgent(host, t.TempDir(), p.ca.Token("secret"))
	p.await("attempts", func() bool { return p.refused >= 2 })
	p.mu.Lock()
	p.answer = 0
	p.mu.Unlock()
	p.await("readings", func() bool { return len(p.largest) == 1 })
}

// An agent that is asked to wait does, and then sends what it kept.
func TestAgentObeysRetryAfter(t *testing.T) {
	for _, answer := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		p := newPlane(t)
		p.answer, p.retryAfter = answer, "2"
		host := agenttest.NewLive(1)
		if err := host.Start(t.Context(), spec(vm, 1)); err != nil {
			t.Fatal(err)
		}
		stop := p.startAgent(host, t.TempDir(), p.ca.Token("secret"))
		p.await("an attempt", func() bool { return p.refused == 1 })
		p.mu.Lock()
		p.answer = 0
		p.mu.Unlock()
		p.await("readings", func() bool { return len(p.largest) == 1 })
		p.await("their acknowledgement", func() bool {
			s, ok := p.agent.Stat()
			return ok && s.Sender.Batches > 0
		})
		s, _ := p.agent.Stat() // before the end, which an attempt may be cut off by
		stop()
		if waited := p.attempts[1].Sub(p.attempts[0]); waited < 2*time.Second {
			t.Errorf("%d: sent again after %s, asked to wait 2 s", answer, waited)
		}
		if s.Sender.Errors != 1 || s.Sender.Accepted == 0 || s.Sender.Last.IsZero() || s.Recorder.Rounds == 0 || s.Recorder.Domains != 1 || !s.Recorder.Up {
			t.Errorf("%d: counted %+v %+v, want one failure, then accepted readings of one domain", answer, s.Sender, s.Recorder)
		}
	}
}

func TestAgentSetsMalformedReadingsAside(t *testing.T) {
	p := newPlane(t)
	p.answer = http.StatusBadRequest
	host := agenttest.NewLive(1)
	if err := host.Start(t.Context(), spec(vm, 1)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p.startAgent(host, dir, p.ca.Token("secret"))
	p.await("a refusal", func() bool { return p.refused >= 1 })
	p.mu.Lock()
	p.answer = 0
	p.mu.Unlock()
	p.await("the readings that follow", func() bool { return len(p.largest) == 1 })
	if aside, err := filepath.Glob(filepath.Join(dir, "agent", "spool", "aside", "*")); err != nil || len(aside) == 0 {
		t.Errorf("nothing was set aside (%v)", err)
	}
}

func TestAgentOfARefusedTokenEnds(t *testing.T) {
	p := newPlane(t)
	a, err := agent.New(agent.Config{Server: p.server.URL, Token: p.ca.Token("wrong"), DataDir: t.TempDir(),
		Hypervisor: agenttest.NewLive(1), Log: p.log})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil {
		t.Error("the agent ran with a token that was refused")
	}
}

func TestNewRefuses(t *testing.T) {
	good := agent.Config{Server: "https://x", DataDir: "/d", Hypervisor: agenttest.NewLive(1), Log: slog.Default()}
	if _, err := agent.New(good); err != nil {
		t.Fatalf("a good configuration: %v", err)
	}
	for name, spoil := range map[string]func(c *agent.Config){
		"no hypervisor":     func(c *agent.Config) { c.Hypervisor = nil },
		"no logger":         func(c *agent.Config) { c.Log = nil },
		"no server":         func(c *agent.Config) { c.Server = "" },
		"relative folder":   func(c *agent.Config) { c.DataDir = "d" },
		"negative interval": func(c *agent.Config) { c.Interval = -1 },
	} {
		c := good
		spoil(&c)
		if _, err := agent.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
