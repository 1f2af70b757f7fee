package virt

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/wire"
)

// agentVariable, in the environment, makes this binary the agent that it describes.
const agentVariable = "USANCE_TEST_AGENT"

// agentSettings are those of an agent in a process of its own.
type agentSettings struct {
	Server, Token, Name, DataDir, URI string
	Private                           []string
	Step                              string // a file with the duration by which the wall clock is stepped
}

// runAgent is a whole agent that takes a round every second, until it is killed
// or its standard input ends.
func runAgent(settings string) error {
	var s agentSettings
	if err := json.Unmarshal([]byte(settings), &s); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	h, err := New(Config{URI: s.URI, DataDir: s.DataDir, VirtType: VirtQEMU, PrivateNetworks: s.Private, Log: log})
	if err != nil {
		return err
	}
	clock, err := agent.HostClock()
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		Server: s.Server, Token: s.Token, Name: s.Name, DataDir: s.DataDir, Hypervisor: h, Interval: time.Second, Log: log,
		Clock: func() agent.Instant {
			now := clock()
			if text, err := os.ReadFile(s.Step); err == nil {
				step, _ := time.ParseDuration(string(text))
				now.Wall = now.Wall.Round(0).Add(step)
			}
			return now
		},
	})
	if err != nil {
		return err
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return a.Run(ctx)
}

// plane is a control plane that wants nothing of its hosts but readings, and of
// one instance what a test says.
type plane struct {
	t      *testing.T
	auth   *hostapi.Authenticator
	server *httptest.Server
	token  string
	log    *slog.Logger

	mu       sync.Mutex
	hosts    map[string]metering.HostID // by name
	demanded map[metering.HostID]uint64 // the number of the last full reading asked for
	taken    map[metering.HostID]uint64
	changed  map[metering.HostID]chan struct{} // what is desired
	wanted   []hostapi.DesiredInstance         // of all hosts
	orders   uint64                            // how often that changed
	epochs   map[metering.EpochID]*epoch
}

// epoch is what was received of an epoch.
type epoch struct {
	metering.Epoch
	host metering.HostID
	last metering.Reading // of the largest registers; At is the latest
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	ca, err := hostapi.LoadCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{
		t: t, token: ca.Token("secret"), log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		auth:  &hostapi.Authenticator{CA: ca, Active: func(context.Context, metering.HostID) error { return nil }},
		hosts: map[string]metering.HostID{}, demanded: map[metering.HostID]uint64{}, taken: map[metering.HostID]uint64{},
		changed: map[metering.HostID]chan struct{}{}, epochs: map[metering.EpochID]*epoch{},
	}
	p.server = httptest.NewUnstartedServer(hostapi.Handler(hostapi.Config{
		Auth: p.auth, Join: p.join, Desired: p.desired, Watch: p.watch, Observe: p.observe, Epochs: p.known,
		Images: hostapi.Images{}, Readings: http.HandlerFunc(p.readings), Log: p.log,
	}))
	p.server.TLS = ca.ServerConfig("127.0.0.1")
	p.server.StartTLS()
	t.Cleanup(p.server.Close)
	return p
}

// join gives a host of the same name the same id, so that it can lose what it knew.
func (p *plane) join(_ context.Context, _, _, name string, _ hostapi.Capacity) (metering.HostID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hosts[name] == "" {
		p.hosts[name] = metering.HostID(metering.NewID(metering.PrefixHost))
		p.changed[p.hosts[name]] = make(chan struct{}, 1)
	}
	return p.hosts[name], nil
}

func (p *plane) desired(_ context.Context, host metering.HostID) (hostapi.Desired, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return hostapi.Desired{Revision: 1 + p.demanded[host] + p.orders, FullReading: p.demanded[host], Instances: p.wanted}, nil
}

// want has the hosts make the instance so.
func (p *plane) want(i hostapi.DesiredInstance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = []hostapi.DesiredInstance{i}
	p.orders++
	for _, changed := range p.changed {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

func (p *plane) watch(host metering.HostID) (<-chan struct{}, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed[host], func() {}, nil
}

func (p *plane) observe(_ context.Context, host metering.HostID, s hostapi.Status) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[host] = s.FullReading
	return nil
}

func (p *plane) known(_ context.Context, host metering.HostID) (all []hostapi.KnownEpoch, _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.epochs {
		if e.host == host {
			last := e.last
			all = append(all, hostapi.KnownEpoch{Epoch: e.Epoch, Largest: &last})
		}
	}
	return all, nil
}

// readings takes a batch. No record of an epoch may change, no register fall.
func (p *plane) readings(w http.ResponseWriter, r *http.Request) {
	host, err := p.auth.Authenticate(r)
	body, _ := io.ReadAll(r.Body)
	var b wire.Batch
	if err = errors.Join(err, wire.Decode(&b, body)); err != nil {
		p.t.Errorf("a batch: %v", err)
	}
	rows := b.Rows()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range rows.Epochs {
		if p.epochs[e.ID] == nil {
			p.epochs[e.ID] = &epoch{Epoch: e, host: host, last: metering.Reading{Epoch: e.ID, At: e.Opened, Registers: e.Opening}}
		} else if was := p.epochs[e.ID].Epoch; was != e {
			p.t.Errorf("the record of an epoch changed from %+v to %+v", was, e)
		}
	}
	for _, r := range rows.Readings {
		last := &p.epochs[r.Epoch].last
		if fell := last.Registers.Sub(r.Registers); !fell.IsZero() {
			p.t.Errorf("epoch %s at %s: registers fell by %v", r.Epoch, r.At, named(fell))
		}
		last.At, last.Registers = r.At, last.Registers.Join(r.Registers)
	}
	json.NewEncoder(w).Encode(ingest.Response{Accepted: b.Len()})
}

// metered is a libvirt host whose agent runs in a process of its own.
type metered struct {
	*bench
	plane    *plane
	settings agentSettings
	agent    *exec.Cmd // nil: killed
	died     chan struct{}
}

// newMetered starts an agent on the host.
func newMetered(t *testing.T, p *plane, b *bench, name string) *metered {
	t.Helper()
	dir := t.TempDir()
	m := &metered{bench: b, plane: p, settings: agentSettings{
		Server: p.server.URL, Token: p.token, Name: name, DataDir: filepath.Join(dir, "data"), URI: b.cfg.URI,
		Step: filepath.Join(dir, "step"),
	}}
	t.Cleanup(func() { m.kill(t) })
	m.startAgent(t)
	return m
}

func (m *metered) startAgent(t *testing.T) {
	t.Helper()
	settings, err := json.Marshal(m.settings)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), agentVariable+"="+string(settings))
	cmd.Stderr = m.plane.t.Output()
	if _, err := cmd.StdinPipe(); err != nil { // it ends with this process
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.agent, m.died = cmd, make(chan struct{})
	go func(died chan struct{}) {
		defer close(died)
		cmd.Wait()
	}(m.died)
	m.read(t) // until it meters
}

// kill ends the agent as kill -9 does.
func (m *metered) kill(t *testing.T) {
	t.Helper()
	if m.agent == nil {
		return
	}
	if err := m.agent.Process.Kill(); err != nil {
		t.Errorf("the agent ended by itself: %v", err)
	}
	<-m.died
	m.agent = nil
}

// read has a full reading taken and waits until it was received.
func (m *metered) read(t *testing.T) {
	t.Helper()
	var host metering.HostID
	var number uint64
	await(t, "the host to join", 20*time.Second, func() bool {
		m.plane.mu.Lock()
		defer m.plane.mu.Unlock()
		host = m.plane.hosts[m.settings.Name]
		return host != ""
	})
	m.plane.mu.Lock()
	m.plane.demanded[host]++
	number = m.plane.demanded[host]
	select {
	case m.plane.changed[host] <- struct{}{}:
	default:
	}
	m.plane.mu.Unlock()
	await(t, "a full reading", 30*time.Second, func() bool {
		m.plane.mu.Lock()
		defer m.plane.mu.Unlock()
		return m.plane.taken[host] == number
	})
}

// epochs are those of the instance in the order of their opening, on whatever host.
func (p *plane) epochsOf(id metering.InstanceID) []epoch {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []epoch
	for e := range maps.Values(p.epochs) {
		if e.Instance == id {
			all = append(all, *e)
		}
	}
	slices.SortFunc(all, func(a, b epoch) int { return cmp.Or(a.Opened.Compare(b.Opened), cmp.Compare(a.ID, b.ID)) })
	return all
}

// now takes a full reading and returns the instance's n-th and last epoch.
func (m *metered) now(t *testing.T, id metering.InstanceID, n int) epoch {
	t.Helper()
	m.read(t)
	all := m.plane.epochsOf(id)
	if len(all) != n {
		t.Fatalf("%d epochs, want %d: %+v", len(all), n, all)
	}
	return all[n-1]
}

// virsh runs a command on the host's libvirt.
func (b *bench) virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"--quiet", "-c", b.cfg.URI}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// counted is what virsh says that the domain's CPUs and devices have counted, as
// registers. The seed, vdz, is not counted; interfaces on the isolated network are private.
func (b *bench) counted(t *testing.T, id metering.InstanceID) (r metering.Registers) {
	t.Helper()
	stats := map[string]string{}
	for line := range strings.Lines(b.virsh(t, "domstats", "--vcpu", "--block", "--interface", string(id))) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			stats[key] = value
		}
	}
	add := func(to metering.Register, key string, n int) {
		if v, ok := stats[fmt.Sprintf(key, n)]; ok {
			u, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				t.Fatalf("domstats %s: %v", key, err)
			}
			r[to] += u
		}
	}
	isolated := b.virsh(t, "domiflist", string(id))
	for n := range 8 {
		add(metering.CPUNS, "vcpu.%d.time", n)
		if stats[fmt.Sprintf("block.%d.name", n)] != "vdz" {
			add(metering.DiskReadBytes, "block.%d.rd.bytes", n)
			add(metering.DiskReadOps, "block.%d.rd.reqs", n)
			add(metering.DiskWriteBytes, "block.%d.wr.bytes", n)
			add(metering.DiskWriteOps, "block.%d.wr.reqs", n)
		}
		side := metering.NetPublicRxBytes
		for line := range strings.Lines(isolated) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == stats[fmt.Sprintf("net.%d.name", n)] && f[2] == isolatedNetwork {
				side = metering.NetPrivateRxBytes
			}
		}
		add(side, "net.%d.rx.bytes", n)
		add(side+1, "net.%d.rx.pkts", n)
		add(side+2, "net.%d.tx.bytes", n)
		add(side+3, "net.%d.tx.pkts", n)
	}
	return r
}

// isolatedNetwork is a network that libvirt forwards nothing of.
const isolatedNetwork = "isolated"

// devicesOnly are the registers that come from counters of CPUs and devices.
func devicesOnly(r metering.Registers) metering.Registers {
	for _, other := range []metering.Register{metering.RunningMS, metering.PausedMS, metering.BridgedMS,
		metering.VCPUMS, metering.MemoryMiBMS, metering.MemoryUsedMiBMS} {
		r[other] = 0
	}
	return r
}

// standstill pauses the guest, and compares what was received of its n-th and
// last epoch with gone, which devices counted that it no longer has, and what
// virsh says of those that it has. It returns the epoch and the latter.
func (m *metered) standstill(t *testing.T, id metering.InstanceID, n int, gone metering.Registers) (e epoch, counted metering.Registers) {
	t.Helper()
	if m.virsh(t, "domstate", string(id)) == "running" {
		m.virsh(t, "suspend", string(id))
	}
	for end := time.Now().Add(10 * time.Second); ; {
		counted = m.counted(t, id)
		e = m.now(t, id, n) // its event may come after a reading, and a frame for it meanwhile
		got, want := devicesOnly(e.last.Registers), counted.Add(gone)
		if got == want {
			return e, counted
		}
		if time.Now().After(end) {
			t.Fatalf("virsh (-) and the registers of epoch %d (+) differ:\n%s", n, gocmp.Diff(named(want), named(got)))
		}
	}
}

// kept pauses the guest, and returns what was received of its n-th and last epoch
// beyond what virsh says of the devices that it has.
func (m *metered) kept(t *testing.T, id metering.InstanceID, n int) metering.Registers {
	t.Helper()
	m.virsh(t, "suspend", string(id))
	for {
		before := m.counted(t, id)
		got := devicesOnly(m.now(t, id, n).last.Registers)
		if m.counted(t, id) == before { // no frame came meanwhile
			return got.Sub(before)
		}
	}
}

func named(r metering.Registers) map[string]uint64 {
	m := map[string]uint64{}
	for i, name := range metering.RegisterNames() {
		if r[i] != 0 {
			m[name] = r[i]
		}
	}
	return m
}

// onTheClock checks that all the time between opening and last reading counts,
// once. Both instants and the sums are whole milliseconds, cut off.
func (e epoch) onTheClock(t *testing.T) {
	t.Helper()
	lived := time.Duration(e.last.Registers[metering.RunningMS]+e.last.Registers[metering.PausedMS]) * time.Millisecond
	if off := lived - e.last.At.Sub(e.Opened); off.Abs() > 2*time.Millisecond {
		t.Errorf("epoch %s: %s running and paused from %s to %s, %s off", e.ID, lived, e.Opened, e.last.At, off)
	}
}

func (e epoch) ms(r metering.Register) time.Duration {
	return time.Duration(e.last.Registers[r]) * time.Millisecond
}

// show logs an epoch's registers, for those who want to see the figures.
func (e epoch) show(t *testing.T, what string) {
	t.Logf("%s: epoch %s opened %s, read %s: %v", what, e.ID, e.Opened.Format(clockTime), e.last.At.Format(clockTime), named(e.last.Registers))
}

const clockTime = "15:04:05.000"
