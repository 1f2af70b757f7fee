package usance_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/usance/usance/agent/agenttest"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/spool"
	"github.com/usance/usance/metering/wire"
	"github.com/usance/usance/portal"
)

// faultKinds are all faults. do reports whether it found something to break; it
// returns when the fault is over.
var faultKinds = []struct {
	name string
	do   func(c *chaos, h *chaosHost, f fault) bool
}{
	{"control plane killed", (*chaos).killPlane},
	{"postmaster killed", killing("postgres-child", true)},
	{"guardian of Postgres killed", killing("postgres-child", false)},
	{"ClickHouse child killed", killing("clickhouse-child", false)},
	{"inserts stalled", (*chaos).stallInserts},
	{"agent killed", func(c *chaos, h *chaosHost, f fault) bool { return h.kill(f.length, 0) }},
	{"agent's state lost", func(c *chaos, h *chaosHost, f fault) bool { return h.loseState(f) }},
	{"spool full", func(c *chaos, _ *chaosHost, f fault) bool { return c.busiest().fillSpool(f) }},
	{"network cut", func(c *chaos, h *chaosHost, f fault) bool { return h.cutNetwork(f.length) }},
	{"network silent", func(c *chaos, h *chaosHost, f fault) bool {
		return h.disturb(f.length, `{"type": "timeout", "stream": %q, "attributes": {"timeout": 0}}`)
	}},
	{"network slow", func(c *chaos, h *chaosHost, f fault) bool {
		return h.disturb(f.length, `{"type": "latency", "stream": %q, "attributes": {"latency": 300, "jitter": 300}}`)
	}},
	{"batches repeated in any order", (*chaos).repeatBatches},
	{"clock stepped", func(c *chaos, h *chaosHost, f fault) bool { return h.stepClock(f) }},
	{"QEMU killed", func(c *chaos, h *chaosHost, f fault) bool { return h.crash(f.pick) }},
	{"hypervisor's daemon away", func(c *chaos, h *chaosHost, f fault) bool { return h.daemonAway(f.length) }},
}

// Faults of the control plane's processes.

func (c *chaos) killPlane(_ *chaosHost, f fault) bool {
	c.onePlane.Lock()
	defer c.onePlane.Unlock()
	c.plane.Process.Kill()
	c.plane.Wait()
	time.Sleep(f.length / 4)
	c.launchPlane()
	return await(90*time.Second, c.answers)
}

// killing kills a child of the control plane, or the child of that one.
func killing(word string, below bool) func(*chaos, *chaosHost, fault) bool {
	return func(c *chaos, _ *chaosHost, _ fault) bool {
		c.onePlane.Lock()
		defer c.onePlane.Unlock()
		pid, err := c.findChild(word)
		if err == nil && below {
			pid, err = firstChild(pid)
		}
		return err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil
	}
}

func (c *chaos) stallInserts(_ *chaosHost, f fault) bool {
	c.onePlane.Lock()
	pid, err := c.findChild("clickhouse-child")
	c.onePlane.Unlock()
	if err != nil || syscall.Kill(pid, syscall.SIGSTOP) != nil {
		return false
	}
	time.Sleep(f.length)
	syscall.Kill(pid, syscall.SIGCONT) // it may have been killed meanwhile
	return true
}

// chaosHost is a machine with the process of its agent, which reaches the control
// plane through a network of its own.
type chaosHost struct {
	c       *chaos
	name    string
	machine *machine
	dir     string
	socket  string
	proxy   *toxiproxy.Proxy
	token   string
	agent   *exec.Cmd

	// mu keeps outages of the agent and pauses of domains apart: of a pause that
	// nobody could see no agent can know.
	mu      sync.Mutex
	network sync.Mutex    // one fault of the network at a time
	clock   sync.Mutex    // one step at a time
	stepped time.Duration // of the wall clock so far

	notes   sync.Mutex
	flaws   map[metering.EpochID]flaw
	durable map[metering.EpochID]metering.Registers // readings that were seen on the host's disk
	last    map[metering.EpochID]bool               // epochs whose counters stood still before they ended
	resent  int
}

// flaw is why an epoch may end below the truth; there may be several reasons.
type flaw int

const (
	forgotten flaw = 1 << iota // the agent's memory of it was lost; its time may be short
	unseen                     // it began or ended while nobody watched
)

func (c *chaos) newHost(n int) *chaosHost {
	c.t.Helper()
	h := &chaosHost{c: c, name: fmt.Sprint("host-", n), dir: c.t.TempDir(),
		machine: &machine{Host: agenttest.NewLive(*chaosSeed*chaosHosts + uint64(n))},
		flaws:   map[metering.EpochID]flaw{}, durable: map[metering.EpochID]metering.Registers{}}
	h.socket = filepath.Join(c.data, h.name) // a short path
	h.machine.serve(c.t, h.socket)
	h.proxy = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), h.name, "127.0.0.1:0", c.world.hosts)
	c.must(h.proxy.Start())
	c.t.Cleanup(h.proxy.Stop)
	var token portal.TokenJSON
	c.must(c.call(c.operator, "POST", "/operator/hosts/tokens", nil, &token))
	h.token = token.Token
	c.must(h.launch(0))
	c.t.Cleanup(func() {
		h.end()
		if c.t.Failed() {
			said, _ := os.ReadFile(h.logFile())
			c.t.Logf("the agent of %s said at last:\n%s", h.name, said[max(0, len(said)-20_000):])
		}
	})
	c.eventually(h.name+" has joined", 30*time.Second, func() error {
		_, err := os.Stat(filepath.Join(h.dir, "agent", "host.json"))
		return err
	})
	return h
}

func (h *chaosHost) logFile() string { return filepath.Join(h.dir, "log") }

// launch starts the agent's process, with a bound of its spool.
func (h *chaosHost) launch(spoolBytes int64) error {
	log, err := os.OpenFile(h.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cfg, err := json.Marshal(agentConfig{Server: "https://" + h.proxy.Listen, Token: h.token, Dir: h.dir, Name: h.name, Socket: h.socket,
		Interval: h.c.interval, SpoolBytes: spoolBytes})
	if err != nil {
		return err
	}
	h.agent = exec.Command(os.Args[0])
	h.agent.Env = append(os.Environ(), agentEnv+"="+string(cfg))
	h.agent.Stdout, h.agent.Stderr = log, log
	return h.agent.Start()
}

// end kills the agent as kill -9 does.
func (h *chaosHost) end() {
	h.agent.Process.Kill()
	h.agent.Wait()
}

// open are the epochs of the domains that run.
func (h *chaosHost) open() (ids []metering.EpochID) {
	for _, truth := range h.machine.Truths() {
		if !truth.Ended {
			ids = append(ids, truth.Epoch.ID)
		}
	}
	return ids
}

// settling is how long what happened on a machine may be on its way to its agent's disk.
func (h *chaosHost) settling() time.Duration { return h.c.interval }

// outage does what leaves the machine unwatched, and waits until an agent has
// seen it again. Epochs that began or ended meanwhile, or so shortly before
// that the agent may not have taken it in, are noted: unseen; epochs that go on get
// the flaw also.
func (h *chaosHost) outage(also flaw, f func() bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := map[metering.EpochID]bool{}
	for _, truth := range h.machine.Truths() {
		before[truth.Epoch.ID] = truth.Ended
	}
	time.Sleep(h.settling())
	did := f()
	await(time.Minute, func() error {
		if h.machine.watching.Load() == 0 {
			return errors.New("nobody watches")
		}
		return nil
	})
	passes := h.machine.samples.Load()
	await(time.Minute, func() error {
		if h.machine.samples.Load() < passes+2 {
			return errors.New("nobody has looked")
		}
		return nil
	})
	time.Sleep(h.settling())
	h.notes.Lock()
	defer h.notes.Unlock()
	for _, truth := range h.machine.Truths() {
		ended, known := before[truth.Epoch.ID]
		switch {
		case known && ended:
		case !known || truth.Ended:
			h.flaws[truth.Epoch.ID] |= unseen
		case also != 0:
			h.flaws[truth.Epoch.ID] |= also
		}
	}
	return did
}

// kill kills the agent, looks at what it left on disk, and starts another after a while.
func (h *chaosHost) kill(away time.Duration, spoolBytes int64) bool {
	return h.outage(0, func() bool {
		h.end()
		h.inspect()
		time.Sleep(away)
		return h.launch(spoolBytes) == nil
	})
}

// loseState kills the agent and takes its memory away. What waits in the spool
// is gone with it, so it is let go first; the host's identity stays.
func (h *chaosHost) loseState(f fault) bool {
	return h.outage(forgotten, func() bool {
		if !await(20*time.Second, h.drained) {
			return false
		}
		h.end()
		os.Remove(filepath.Join(h.dir, "agent", "meter.json"))
		os.RemoveAll(filepath.Join(h.dir, "agent", "spool"))
		time.Sleep(f.length)
		said := h.said("epoch continued from the control plane's memory")
		if h.launch(0) != nil {
			return false
		}
		if len(h.open()) > 0 {
			await(time.Minute, func() error {
				if h.said("epoch continued from the control plane's memory") == said {
					return errors.New("it has not heard the control plane")
				}
				return nil
			})
		}
		return true
	})
}

// said is how often the agent's log has the words.
func (h *chaosHost) said(words string) int {
	text, _ := os.ReadFile(h.logFile())
	return bytes.Count(text, []byte(words))
}

// tinySpool is the bound of a spool that a few rounds fill, in bytes.
const tinySpool = 4 << 10

// fullSpool is what the agent's log says of a round that was refused.
const fullSpool = "the spool is full: "

// busiest is the host on which the most domains run.
func (c *chaos) busiest() *chaosHost {
	return slices.MaxFunc(c.hosts, func(a, b *chaosHost) int { return cmp.Compare(len(a.open()), len(b.open())) })
}

// fillSpool gives the agent so small a spool that it refuses rounds within
// seconds without network, and kills it while it does.
func (h *chaosHost) fillSpool(f fault) bool {
	h.network.Lock()
	defer h.network.Unlock()
	said := h.said(fullSpool)
	if !h.kill(0, tinySpool) {
		return false
	}
	h.proxy.Stop()
	full := await(20*time.Second, func() error {
		if h.said(fullSpool) == said {
			return errors.New("there is room")
		}
		return nil
	})
	time.Sleep(f.length)
	killed := h.kill(0, 0)
	return h.proxy.Start() == nil && full && killed
}

func (h *chaosHost) cutNetwork(d time.Duration) bool {
	h.network.Lock()
	defer h.network.Unlock()
	h.proxy.Stop()
	time.Sleep(d)
	return h.proxy.Start() == nil
}

// disturb does something to what goes through the network, both ways.
func (h *chaosHost) disturb(d time.Duration, toxic string) bool {
	h.network.Lock()
	defer h.network.Unlock()
	var names []string
	for _, stream := range []string{"upstream", "downstream"} {
		t, err := h.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(toxic, stream)))
		if err != nil {
			return false
		}
		names = append(names, t.Name)
	}
	time.Sleep(d)
	for _, name := range names {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		h.proxy.Toxics.RemoveToxic(ctx, name)
		cancel()
	}
	return true
}

// The bounds of what a clock is wrong by: hosts that are further ahead have their
// readings held, those further behind are not honest.
const (
	mostBehind = 20 * time.Second
	mostAhead  = 10 * time.Second
)

func (h *chaosHost) stepClock(f fault) bool {
	return h.setClock(time.Duration(f.pick%uint64(mostBehind+mostAhead)) - mostBehind)
}

// setClock makes the machine's wall clock wrong by d.
func (h *chaosHost) setClock(d time.Duration) bool {
	h.clock.Lock()
	defer h.clock.Unlock()
	if !h.machine.step(d - h.stepped) {
		return false
	}
	h.stepped = d
	return true
}

// crash ends a domain's process. One that is so young that no agent may have seen
// its process is left alone: an epoch is named after it, so there would be none.
func (h *chaosHost) crash(pick uint64) bool {
	var ids []metering.InstanceID
	for _, truth := range h.machine.Truths() {
		if lived := truth.Registers[metering.RunningMS] + truth.Registers[metering.PausedMS]; !truth.Ended &&
			lived > uint64(2*h.c.interval.Milliseconds()) {
			ids = append(ids, truth.Epoch.Instance)
		}
	}
	return len(ids) > 0 && h.machine.Crash(ids[pick%uint64(len(ids))]) == nil
}

func (h *chaosHost) daemonAway(d time.Duration) bool {
	return h.outage(0, func() bool {
		h.machine.SetDown(true)
		time.Sleep(d)
		h.machine.SetDown(false)
		return true
	})
}

// choose is one of the domains in a state.
func (h *chaosHost) choose(pick uint64, state compute.State) (metering.InstanceID, bool) {
	domains, err := h.machine.Domains(context.Background())
	if err != nil {
		return "", false
	}
	var ids []metering.InstanceID
	for _, d := range domains {
		if d.State == state {
			ids = append(ids, d.ID)
		}
	}
	if len(ids) == 0 {
		return "", false
	}
	return ids[pick%uint64(len(ids))], true
}

// togglePause pauses a domain, or lets one run on, if the agent watches.
func (h *chaosHost) togglePause(pick uint64) {
	if !h.mu.TryLock() {
		return
	}
	defer h.mu.Unlock()
	if h.machine.watching.Load() == 0 {
		return
	}
	if id, ok := h.choose(pick/2, compute.StateRunning); ok && pick%2 == 0 {
		h.machine.Pause(id)
	} else if id, ok := h.choose(pick/2, compute.StatePaused); ok {
		h.machine.Resume(id)
	}
}

// pauseAll makes all counters stand still.
func (h *chaosHost) pauseAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, ok := h.choose(0, compute.StateRunning); ok; id, ok = h.choose(0, compute.StateRunning) {
		h.machine.Pause(id)
	}
	h.last = map[metering.EpochID]bool{}
	for _, id := range h.open() {
		h.last[id] = true
	}
}

// setRight ends what a fault may have left: the clock is right again.
func (h *chaosHost) setRight() {
	h.c.awaitOrFail("the clock is set", func() error {
		if !h.setClock(0) {
			return errors.New("the machine is not quiet")
		}
		return nil
	})
}

// drained says what still waits in the spool.
func (h *chaosHost) drained() error {
	waiting, err := filepath.Glob(filepath.Join(h.dir, "agent", "spool", "*.seg"))
	if len(waiting) > 0 {
		err = fmt.Errorf("%d segments wait on %s", len(waiting), h.name)
	}
	return err
}

// inspect notes every reading that is on the host's disk.
func (h *chaosHost) inspect() []*metering.Batch {
	batches := h.spooled()
	h.notes.Lock()
	defer h.notes.Unlock()
	for _, b := range batches {
		for _, r := range b.Readings {
			h.durable[r.Epoch] = h.durable[r.Epoch].Join(r.Registers)
		}
	}
	return batches
}

// spooled is what waits in a copy of the spool, so it may be looked at while an
// agent writes: what is half written is cut off.
func (h *chaosHost) spooled() (all []*metering.Batch) {
	dir, err := os.MkdirTemp(h.c.data, "spool")
	if err != nil {
		return nil
	}
	defer os.RemoveAll(dir)
	files, _ := filepath.Glob(filepath.Join(h.dir, "agent", "spool", "*.seg"))
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			os.WriteFile(filepath.Join(dir, filepath.Base(file)), text, 0o600)
		}
	}
	s, err := spool.Open(dir, spool.Config{Log: quietLog})
	if err != nil {
		return nil
	}
	defer s.Close()
	for {
		item, ok, err := s.Next()
		if err != nil || !ok {
			return all
		}
		var b wire.Batch
		if wire.Decode(&b, item.Body) == nil {
			all = append(all, b.Rows())
		}
		if s.Ack(item) != nil {
			return all
		}
	}
}

// repeatBatches lets readings pile up on a host, takes a copy of them as a wiretap
// with the host's key could, and sends it in pieces, each twice, in any order, while the
// agent sends the same.
func (c *chaos) repeatBatches(h *chaosHost, f fault) bool {
	client, err := h.identity()
	if err != nil {
		return false
	}
	h.network.Lock()
	h.proxy.Stop()
	time.Sleep(2*c.interval + f.length)
	batches := h.inspect()
	err = h.proxy.Start()
	h.network.Unlock()
	r := rand.New(rand.NewPCG(f.pick, 0))
	var bodies [][]byte
	for _, b := range batches {
		bodies = append(bodies, pieces(r, b)...)
	}
	bodies = slices.Concat(bodies, bodies)
	r.Shuffle(len(bodies), func(i, j int) { bodies[i], bodies[j] = bodies[j], bodies[i] })
	for _, body := range bodies {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if _, err := client.Send(ctx, body); err == nil {
			h.notes.Lock()
			h.resent++
			h.notes.Unlock()
		}
		cancel()
	}
	return err == nil && len(bodies) > 0
}

// pieces cuts a batch into up to 8 bodies, each of readings from anywhere in it.
func pieces(r *rand.Rand, b *metering.Batch) (bodies [][]byte) {
	parts := make([]metering.Batch, 1+r.IntN(8))
	for _, reading := range b.Readings {
		p := &parts[r.IntN(len(parts))]
		p.Readings = append(p.Readings, reading)
		p.Epochs = b.Epochs
	}
	for i := range parts {
		if body, err := wire.Encode(nil, &parts[i]); err == nil && len(parts[i].Readings) > 0 {
			bodies = append(bodies, body)
		}
	}
	return bodies
}

// identity is a client with the host's certificate.
func (h *chaosHost) identity() (*ingest.Client, error) {
	var id hostapi.Identity
	text, err := os.ReadFile(filepath.Join(h.dir, "agent", "host.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &id); err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(h.dir, "agent", "key.pem"))
	if err != nil {
		return nil, err
	}
	id.Key = string(key)
	server := "https://" + h.c.world.hosts
	client, err := hostapi.NewClient(server, id)
	if err != nil {
		return nil, err
	}
	return &ingest.Client{URL: server, HTTP: client.HTTP()}, nil
}
