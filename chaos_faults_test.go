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
	{"inserts stalled", func(c *chaos, _ *chaosHost, f fault) bool { return c.holdInserts(f.length, f.length) }},
	{"inserts slow", func(c *chaos, _ *chaosHost, f fault) bool { return c.holdInserts(f.length, 90*time.Millisecond) }},
	{"agent killed", func(c *chaos, h *chaosHost, f fault) bool { return h.kill(f.length, 0) }},
	{"agent's state lost", func(c *chaos, h *chaosHost, f fault) bool { return h.loseState(f) }},
	{"spool full", func(c *chaos, _ *chaosHost, f fault) bool { return c.busiest().fillSpool(f) }},
	{"disk full", func(c *chaos, _ *chaosHost, f fault) bool { return c.busiest().fillDisk(f) }},
	{"network cut", func(c *chaos, h *chaosHost, f fault) bool { return h.cutNetwork(f.length) }},
	{"network silent", func(c *chaos, h *chaosHost, f fault) bool {
		return h.disturb(f.length, `{"type": "timeout", "stream": %q, "attributes": {"timeout": 0}}`)
	}},
	{"network slow", func(c *chaos, h *chaosHost, f fault) bool {
		return h.disturb(f.length, `{"type": "latency", "stream": %q, "attributes": {"latency": 300, "jitter": 300}}`)
	}},
	{"batches repeated in any order", func(c *chaos, _ *chaosHost, f fault) bool { return c.repeatBatches(c.busiest(), f) }},
	{"clock stepped", func(c *chaos, h *chaosHost, f fault) bool { return h.stepClock(f) }},
	{"QEMU killed", func(c *chaos, _ *chaosHost, f fault) bool { return c.busiest().crash(f.pick) }},
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
		return await(10*time.Second, func() error { // it may just be starting
			pid, err := c.findChild(word)
			if err == nil && below {
				pid, err = firstChild(pid)
			}
			if err != nil {
				return err
			}
			return syscall.Kill(pid, syscall.SIGKILL)
		})
	}
}

// holdInserts lets the ClickHouse child stand still for d, in parts of so long each
// with a tenth of that between them.
func (c *chaos) holdInserts(d, part time.Duration) bool {
	var pid int
	c.onePlane.Lock()
	found := await(10*time.Second, func() (err error) {
		pid, err = c.findChild("clickhouse-child")
		return err
	})
	c.onePlane.Unlock()
	if !found {
		return false
	}
	held := false
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(part / 10) {
		held = syscall.Kill(pid, syscall.SIGSTOP) == nil || held
		time.Sleep(min(part, time.Until(end)))
		syscall.Kill(pid, syscall.SIGCONT) // it may have been killed meanwhile
	}
	return held
}

// chaosHost is a machine with the process of its agent, which keeps its data on a disk
// of its own and reaches the control plane through a network of its own.
type chaosHost struct {
	c       *chaos
	name    string
	id      metering.HostID
	machine *machine
	disk    string // the agent's data folder
	log     string // the file of what it says
	socket  string
	proxy   *toxiproxy.Proxy
	token   string
	agent   *exec.Cmd
	ended   chan struct{} // closed when the agent's process is gone
	witness *witness

	// mu keeps outages of the agent and pauses of domains apart: of a pause that
	// nobody could see no agent can know.
	mu      sync.Mutex
	network sync.Mutex // one fault of the network at a time; taken before mu

	notes   sync.Mutex
	outages []outage
	losses  []int64                   // when agents lost their state, ms of the monotonic clock
	last    map[metering.EpochID]bool // epochs whose counters stood still before they ended
	resent  int
}

// outage is a time of a machine, ms of its monotonic clock, in which an agent may not
// have watched, or not have kept what it saw.
type outage struct{ from, to int64 }

func (c *chaos) newHost(n int) *chaosHost {
	c.t.Helper()
	h := &chaosHost{c: c, name: fmt.Sprint("host-", n), disk: newDisk(c.t), log: filepath.Join(c.t.TempDir(), "log"),
		machine: newMachine(*chaosSeed*chaosHosts + uint64(n))}
	h.socket = filepath.Join(c.data, h.name) // a short path
	h.machine.serve(c.t, h.socket)
	c.must(os.MkdirAll(h.file("spool"), 0o700))
	h.witness = newWitness(c.t, h.file("spool"))
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
			said, _ := os.ReadFile(h.log)
			c.t.Logf("the agent of %s said at last:\n%s", h.name, said[max(0, len(said)-100_000):])
		}
	})
	c.eventually(h.name+" has joined", 30*time.Second, h.remembers)
	identity, err := h.identity()
	c.must(err)
	h.id = identity.Host
	return h
}

// file is one of the agent's files.
func (h *chaosHost) file(name string) string { return filepath.Join(h.disk, "agent", name) }

// launch starts the agent's process, with a bound of its spool.
func (h *chaosHost) launch(spoolBytes int64) error {
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cfg, err := json.Marshal(agentConfig{Server: "https://" + h.proxy.Listen, Token: h.token, Dir: h.disk, Name: h.name, Socket: h.socket,
		Interval: h.c.interval, SpoolBytes: spoolBytes})
	if err != nil {
		return err
	}
	agent, ended := exec.Command(os.Args[0]), make(chan struct{})
	agent.Env = append(os.Environ(), agentEnv+"="+string(cfg))
	agent.Stdout, agent.Stderr = log, log
	if err := agent.Start(); err != nil {
		return err
	}
	go func() {
		agent.Wait()
		close(ended)
	}()
	h.agent, h.ended = agent, ended
	return nil
}

// end kills the agent as kill -9 does.
func (h *chaosHost) end() {
	h.agent.Process.Kill()
	<-h.ended
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

// now is the machine's monotonic clock, ms.
func (h *chaosHost) now() int64 { return h.machine.Now().Mono.Milliseconds() }

// unwatched reports whether a part of a time lies in an outage.
func (h *chaosHost) unwatched(from, to int64) bool {
	h.notes.Lock()
	defer h.notes.Unlock()
	return slices.ContainsFunc(h.outages, func(o outage) bool { return o.from <= to && from <= o.to })
}

// forgot reports whether a part of a time lies in an outage with a loss of state: what the
// agent does not know then waits for the control plane's memory.
func (h *chaosHost) forgot(from, to int64) bool {
	h.notes.Lock()
	defer h.notes.Unlock()
	return slices.ContainsFunc(h.outages, func(o outage) bool {
		return o.from <= to && from <= o.to &&
			slices.ContainsFunc(h.losses, func(ms int64) bool { return o.from <= ms && ms <= o.to })
	})
}

// remembers says why the next agent would have to ask the control plane what ran before it.
func (h *chaosHost) remembers() error {
	text, err := os.ReadFile(h.file("meter.json"))
	var state struct{ Lost bool }
	if err = errors.Join(err, json.Unmarshal(text, &state)); err != nil {
		return err
	}
	if state.Lost {
		return errors.New("its state is not whole yet")
	}
	return nil
}

// looked waits until the agent has got so many samples more; what happened before
// them it has taken in by then.
func (h *chaosHost) looked(more int64) bool {
	passes := h.machine.passes.Load()
	return await(time.Minute, func() error {
		if h.machine.passes.Load() < passes+more {
			return errors.New("nobody has looked")
		}
		return nil
	})
}

// outage does what leaves the machine unwatched, and waits until an agent watches again.
func (h *chaosHost) outage(f func() bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := h.now()
	did := h.looked(2) && f()
	did = await(time.Minute, func() error {
		if h.machine.watching.Load() == 0 {
			return errors.New("nobody watches")
		}
		return nil
	}) && h.looked(2) && did
	h.notes.Lock()
	defer h.notes.Unlock()
	h.outages = append(h.outages, outage{from, h.now()})
	return did
}

// kill kills the agent and starts another after a while.
func (h *chaosHost) kill(away time.Duration, spoolBytes int64) bool {
	return h.outage(func() bool {
		h.end()
		time.Sleep(away)
		return h.launch(spoolBytes) == nil
	})
}

// loseState kills the agent and takes its memory away. What waits in the spool
// is gone with it, so it is let go first; the host's identity stays.
func (h *chaosHost) loseState(f fault) bool {
	return h.outage(func() bool {
		if !await(20*time.Second, h.drained) {
			return false
		}
		h.end()
		h.notes.Lock()
		h.losses = append(h.losses, h.now())
		h.notes.Unlock()
		err := h.witness.forget()
		waiting, _ := filepath.Glob(h.file("spool/*.seg"))
		for _, file := range append(waiting, h.file("meter.json")) {
			err = errors.Join(err, os.Remove(file))
		}
		time.Sleep(f.length)
		err = errors.Join(err, h.launch(0))
		return err == nil && await(time.Minute, h.remembers)
	})
}

// said is how often the agent's log has the words.
func (h *chaosHost) said(words string) int {
	text, _ := os.ReadFile(h.log)
	return bytes.Count(text, []byte(words))
}

// tinySpool is the bound of a spool that a few rounds fill, in bytes.
const tinySpool = 2 << 10

// fullSpool is what the agent's log says of a round that was refused.
const fullSpool = "the spool is full: "

// thinnedSpool is what it says of readings that it gave up for room.
const thinnedSpool = "the spool is full and was thinned"

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

// fullDisk is what the agent's log says of a round for which the disk had no room.
const fullDisk = "no space left on device"

// fillDisk takes all room on the agent's disk, without network, until a round could not be
// kept, and half the time kills the agent then: another has to come up there.
func (h *chaosHost) fillDisk(f fault) bool {
	h.network.Lock()
	defer h.network.Unlock()
	ballast := filepath.Join(h.disk, "ballast")
	return h.outage(func() bool {
		h.proxy.Stop()
		said := h.said(fullDisk)
		full := await(20*time.Second, func() error {
			if err := fill(ballast); err != nil {
				return err
			}
			if h.said(fullDisk) == said {
				return errors.New("there is room")
			}
			return nil
		})
		time.Sleep(f.length)
		var err error
		if f.pick%2 == 0 {
			h.end()
			err = h.launch(0)
			time.Sleep(f.length)
		}
		err = errors.Join(err, os.Remove(ballast), h.proxy.Start())
		select {
		case <-h.ended: // it found no room to start in
			err = errors.Join(err, h.launch(0))
		default:
		}
		return full && err == nil
	})
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
	h.machine.setClock(time.Duration(f.pick%uint64(mostBehind+mostAhead)) - mostBehind)
	return true
}

// crash ends the process of a domain, once there is one that runs.
func (h *chaosHost) crash(pick uint64) bool {
	return await(10*time.Second, func() error {
		id, ok := h.choose(pick, compute.StateRunning)
		if !ok {
			return errors.New("none runs")
		}
		return h.machine.Crash(id)
	})
}

func (h *chaosHost) daemonAway(d time.Duration) bool {
	return h.outage(func() bool {
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

// drained says what still waits in the spool.
func (h *chaosHost) drained() error {
	waiting, err := filepath.Glob(h.file("spool/*.seg"))
	if len(waiting) > 0 {
		err = fmt.Errorf("%d segments wait on %s", len(waiting), h.name)
	}
	return err
}

// spooled is what waits in a copy of the spool, so it may be looked at while an
// agent writes: what is half written is cut off.
func (h *chaosHost) spooled() (all []*metering.Batch) {
	dir, err := os.MkdirTemp(h.c.data, "spool")
	if err != nil {
		return nil
	}
	defer os.RemoveAll(dir)
	files, _ := filepath.Glob(h.file("spool/*.seg"))
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
	client, err := h.client()
	if err != nil {
		return false
	}
	h.network.Lock()
	h.proxy.Stop()
	time.Sleep(2*c.interval + f.length)
	batches := h.spooled()
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

// identity is what the host says it is, with its key.
func (h *chaosHost) identity() (id hostapi.Identity, err error) {
	text, err := os.ReadFile(h.file("host.json"))
	if err != nil {
		return id, err
	}
	key, err := os.ReadFile(h.file("key.pem"))
	if err != nil {
		return id, err
	}
	err = json.Unmarshal(text, &id)
	id.Key = string(key)
	return id, err
}

// client sends as the host does, past its network.
func (h *chaosHost) client() (*ingest.Client, error) {
	id, err := h.identity()
	if err != nil {
		return nil, err
	}
	server := "https://" + h.c.world.hosts
	client, err := hostapi.NewClient(server, id)
	if err != nil {
		return nil, err
	}
	return &ingest.Client{URL: server, HTTP: client.HTTP()}, nil
}
