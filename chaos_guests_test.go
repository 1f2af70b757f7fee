package usance_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usance/usance/agent/virt/local"
	"github.com/usance/usance/agent/virt/local/localtest"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
)

func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }

// The chaos run's second form: two real guests of a real libvirtd, the agent as it is
// installed, and the real control plane; the agent, libvirtd and a QEMU are killed.
// What the hypervisor counted is known once the guests stand still; of time, what
// this test saw bounds what is metered.
func TestChaosOfGuests(t *testing.T) {
	since := time.Now()
	g := newGuests(t)
	g.stage("start", &since)
	kept, killed := g.create("kept"), g.create("killed")
	g.awaitRunning(kept)
	g.awaitRunning(killed)
	g.stage("boot", &since)
	g.killAgent()
	g.killLibvirtd()
	g.awaitReading(kept)
	g.awaitReading(killed)
	g.stage("agent and libvirtd killed", &since)
	g.killQEMU(killed)
	g.stage("QEMU killed", &since)
	g.standStill(kept, killed)
	g.must(g.agent.Process.Kill()) // time goes on while they are paused
	g.agent.Wait()
	g.closeNow()
	g.stage("standstill", &since)
	totals := g.compare()
	g.check(totals, kept, 1)
	g.check(totals, killed, 2)
	g.launchAgent()
	for _, i := range []*guest{kept, killed} {
		g.must(g.call(g.user, "DELETE", "/instances/"+string(i.id), nil, nil))
		g.eventually("the guest is deleted", time.Minute, func() error {
			if _, err := os.Stat(g.pidFile(i)); err == nil {
				return errors.New("it runs")
			}
			return nil
		})
	}
	g.stage("comparison and end", &since)
	t.Log(strings.Join(g.stages, ", "))
}

// guests is a world with one host that is this machine.
type guests struct {
	*chaos
	dir      string // of libvirtd and of the host's data
	libvirtd *local.Libvirtd
	agent    *exec.Cmd
	binary   string
	token    string
	tenant   metering.TenantID
	user     string
}

// guest is one instance, and bounds of how long its processes lived: each at least from
// when it was seen until it was killed, and at most from when it was ordered, or its predecessor
// killed, until it was seen to be gone.
type guest struct {
	id          metering.InstanceID
	ordered     time.Time
	seen        time.Time
	least, most []time.Duration // of those that ended
}

func newGuests(t *testing.T) *guests {
	t.Helper()
	g := &guests{chaos: &chaos{world: newWorld(t)}}
	g.libvirtd, g.dir = localtest.Start(t)
	t.Cleanup(func() { g.must(os.RemoveAll(filepath.Join(g.dir, "host"))) }) // the folder of libvirtd stays for the next run
	g.keepLibvirtd()
	g.binary = filepath.Join(t.TempDir(), "usance-agent")
	if out, err := exec.Command("go", "build", "-o", g.binary, "./cmd/usance-agent").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	g.startPlane()
	g.stores = openStores(t, g.data)
	g.must(g.call(g.operator, "POST", "/operator/plans", []byte(chaosPlan), nil))
	tenant := g.newTenant(0)
	g.tenants, g.tenant, g.user = []*chaosTenant{tenant}, tenant.TenantID, tenant.token
	var token portal.TokenJSON
	g.must(g.call(g.operator, "POST", "/operator/hosts/tokens", nil, &token))
	g.token = token.Token
	g.launchAgent()
	return g
}

// keepLibvirtd starts libvirtd again whenever it is gone, as the control plane's
// machine does, until the test ends.
func (g *guests) keepLibvirtd() {
	ended := make(chan error)
	go func() { ended <- g.libvirtd.Run(g.t.Context()) }()
	g.t.Cleanup(func() {
		if err := <-ended; err != nil {
			g.t.Error(err)
		}
	})
}

// launchAgent starts an agent, which ends with this process.
func (g *guests) launchAgent() {
	g.t.Helper()
	r, life, err := os.Pipe()
	g.must(err)
	defer r.Close()
	log := &bytes.Buffer{}
	agent := exec.Command(g.binary, "--server", "https://"+g.world.hosts, "--token", g.token, "--data", filepath.Join(g.dir, "host"),
		"--name", "guests", "--libvirt", g.libvirtd.URI(), "--virt-type", "qemu", "--vcpus", "8", "--memory-mib", "4096", "--disk-mib", "100000")
	agent.Env = append(os.Environ(), "USANCE_PIPE=1")
	agent.ExtraFiles, agent.Stderr = []*os.File{r}, log
	g.must(agent.Start())
	g.agent = agent
	g.t.Cleanup(func() {
		life.Close()
		agent.Wait()
		if g.t.Failed() {
			g.t.Logf("agent %d said:\n%s", agent.Process.Pid, log)
		}
	})
}

// create orders an instance.
func (g *guests) create(name string) *guest {
	g.t.Helper()
	i := &guest{ordered: time.Now()}
	var made portal.InstanceJSON
	g.eventually("the host has room", time.Minute, func() error {
		return g.call(g.user, "POST", "/instances", portal.CreateInstance{Name: name, Flavor: "small", Image: "tiny"}, &made)
	})
	i.id = made.ID
	return i
}

// awaitRunning waits until the hypervisor says that the guest runs.
func (g *guests) awaitRunning(i *guest) {
	g.t.Helper()
	g.eventually(string(i.id)+" runs", 2*time.Minute, func() error {
		if out, err := g.virsh("domstate", string(i.id)); err != nil || out != "running" {
			return fmt.Errorf("%s: %w", out, err)
		}
		return nil
	})
	i.seen = time.Now()
	g.awaitReading(i)
}

// awaitReading waits for a reading of the instance that is newer than now; each closing
// asks for one.
func (g *guests) awaitReading(i *guest) {
	g.t.Helper()
	began := time.Now()
	g.eventually(string(i.id)+" is read", 2*time.Minute, func() error {
		g.closeNow()
		var is portal.InstanceJSON
		if err := g.call(g.user, "GET", "/instances/"+string(i.id), nil, &is); err != nil {
			return err
		}
		if is.ReadAt == nil || is.ReadAt.Before(began) {
			return fmt.Errorf("it is %s %s, read at %v", is.State, is.Error, is.ReadAt)
		}
		return nil
	})
}

func (g *guests) closeNow() {
	g.t.Helper()
	g.must(g.call(g.operator, "POST", "/operator/tenants/"+string(g.tenant)+"/closings", nil, nil))
}

// virsh asks libvirtd.
func (g *guests) virsh(args ...string) (string, error) {
	out, err := exec.Command("virsh", append([]string{"--quiet", "-c", g.libvirtd.URI()}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (g *guests) killAgent() {
	g.t.Helper()
	g.must(g.agent.Process.Kill())
	g.agent.Wait()
	time.Sleep(2 * time.Second) // unwatched
	g.launchAgent()
}

func (g *guests) killLibvirtd() {
	g.t.Helper()
	g.killFile(filepath.Join(g.dir, "libvirt", "run", "libvirtd.pid"))
	g.eventually("libvirtd answers again", time.Minute, func() error {
		out, err := g.virsh("list")
		if err != nil {
			return fmt.Errorf("%s: %w", out, err)
		}
		return nil
	})
}

// pidFile is where libvirtd keeps the process of a guest while it runs.
func (g *guests) pidFile(i *guest) string {
	return filepath.Join(g.dir, "libvirt", "run", "qemu", string(i.id)+".pid")
}

// pidIn is the process that a file names.
func pidIn(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// killFile kills the process that a file names, and waits until it is gone.
func (g *guests) killFile(file string) (pid int) {
	g.t.Helper()
	pid, err := pidIn(file)
	g.must(err)
	g.kill(pid)
	g.eventually("process "+strconv.Itoa(pid)+" is gone", 10*time.Second, func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	return pid
}

// killQEMU kills a guest's process and waits for the next one.
func (g *guests) killQEMU(i *guest) {
	g.t.Helper()
	before := time.Now()
	killed := g.killFile(g.pidFile(i))
	gone := time.Now()
	i.least = append(i.least, before.Sub(i.seen))
	i.most = append(i.most, gone.Sub(i.ordered))
	i.ordered = before
	g.eventually("it came back", 2*time.Minute, func() error {
		pid, err := pidIn(g.pidFile(i))
		if err == nil && pid == killed {
			err = errors.New("libvirtd has not seen it killed")
		}
		return err
	})
	g.awaitRunning(i)
}

// standStill pauses guests, and stops them once the control plane has all that the hypervisor
// counted, in every register.
func (g *guests) standStill(all ...*guest) {
	g.t.Helper()
	for _, i := range all {
		if out, err := g.virsh("suspend", string(i.id)); err != nil {
			g.t.Fatalf("pause: %v: %s", err, out)
		}
	}
	for _, i := range all {
		g.eventually("all that was counted of "+string(i.id)+" is billed", 2*time.Minute, func() error {
			before := g.counters(i)
			g.closeNow()
			if after := g.counters(i); after != before {
				return fmt.Errorf("it does not stand still: %v, then %v", named(before), named(after))
			}
			var is portal.InstanceJSON
			if err := g.call(g.user, "GET", "/instances/"+string(i.id), nil, &is); err != nil {
				return err
			}
			standing, err := g.stores.readings.Latest(g.t.Context(), g.tenant, i.id)
			if err != nil {
				return err
			}
			latest := standing.Epochs[len(standing.Epochs)-1].Registers
			if is.State != "paused" || only(counted, latest) != before {
				return fmt.Errorf("it is %s, libvirt says %v, metered is %v", is.State, named(before), named(only(counted, latest)))
			}
			return nil
		})
	}
}

// counters are what libvirt says of a guest's vCPUs, its disk and its interface, which is public.
func (g *guests) counters(i *guest) (r metering.Registers) {
	g.t.Helper()
	out, err := g.virsh("domstats", "--vcpu", "--block", "--interface", string(i.id))
	if err != nil {
		g.t.Fatalf("domstats: %v: %s", err, out)
	}
	disk := ""
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		key, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		if strings.HasPrefix(key, "block.") && strings.HasSuffix(key, ".name") && value == "vda" {
			disk = strings.TrimSuffix(key, "name")
		}
		n, _ := strconv.ParseUint(value, 10, 64)
		switch {
		case strings.HasPrefix(key, "vcpu.") && strings.HasSuffix(key, ".time"):
			r[metering.CPUNS] += n
		case disk != "" && strings.HasPrefix(key, disk):
			switch strings.TrimPrefix(key, disk) {
			case "rd.bytes":
				r[metering.DiskReadBytes] = n
			case "rd.reqs":
				r[metering.DiskReadOps] = n
			case "wr.bytes":
				r[metering.DiskWriteBytes] = n
			case "wr.reqs":
				r[metering.DiskWriteOps] = n
			}
		case key == "net.0.rx.bytes":
			r[metering.NetPublicRxBytes] = n
		case key == "net.0.rx.pkts":
			r[metering.NetPublicRxPackets] = n
		case key == "net.0.tx.bytes":
			r[metering.NetPublicTxBytes] = n
		case key == "net.0.tx.pkts":
			r[metering.NetPublicTxPackets] = n
		}
	}
	return r
}

// compare holds what is billed against what is metered, and what is metered against what runs.
func (g *guests) compare() map[metering.EpochID]metering.Registers {
	g.t.Helper()
	ctx := g.t.Context()
	totals, err := g.stores.readings.Totals(ctx, nil)
	g.must(err)
	open := g.openLeaks()
	r := &report{said: open, leaks: len(open)}
	g.rawReadings(r, totals)
	g.checkBilled(r, g.tenant, totals)
	g.checkInvoices(r, g.tenant, totals)
	g.countQuarantined(ctx, r)
	if r.lost+r.doubled+r.leaks+r.quarantined > 0 {
		g.t.Errorf("lost=%d doubled=%d leaks=%d quarantined=%d:\n%s", r.lost, r.doubled, r.leaks, r.quarantined, strings.Join(r.said, "\n"))
	}
	metered := map[metering.EpochID]metering.Registers{}
	for id, total := range totals {
		metered[id] = total.Registers
	}
	return metered
}

// check compares the epochs of an instance with how long its processes lived; the last one stands still.
func (g *guests) check(totals map[metering.EpochID]metering.Registers, i *guest, want int) {
	g.t.Helper()
	standing, err := g.stores.readings.Latest(g.t.Context(), g.tenant, i.id)
	g.must(err)
	if len(standing.Epochs) != want {
		g.t.Fatalf("%s has %d epochs, want %d", i.id, len(standing.Epochs), want)
	}
	records, err := g.stores.epochs.OfTenant(g.t.Context(), g.tenant)
	g.must(err)
	for _, record := range records {
		if record.Instance == i.id && record.Start != 1 {
			g.t.Errorf("an epoch of %s is of start %d; a killed QEMU ends no start", i.id, record.Start)
		}
	}
	i.least = append(i.least, 0)
	i.most = append(i.most, time.Since(i.ordered))
	for n, e := range standing.Epochs {
		is := totals[e.Epoch]
		ran := time.Duration(is[metering.RunningMS]) * time.Millisecond
		if ran < i.least[n]-time.Millisecond || ran > i.most[n] {
			g.t.Errorf("epoch %d of %s ran for %v, want %v to %v", n, i.id, ran, i.least[n], i.most[n])
		}
		if is[metering.BridgedMS] > is[metering.RunningMS] || is[metering.VCPUMS] != is[metering.RunningMS] ||
			is[metering.MemoryMiBMS] != 256*is[metering.RunningMS] || is[metering.CPUNS] == 0 {
			g.t.Errorf("epoch %d of %s: %v", n, i.id, named(is))
		}
	}
	first, last := totals[standing.Epochs[0].Epoch], totals[standing.Epochs[want-1].Epoch]
	if first[metering.BridgedMS] == 0 {
		g.t.Errorf("the first epoch of %s was never unwatched: %v", i.id, named(first))
	}
	if last[metering.PausedMS] == 0 || want > 1 && first[metering.PausedMS] > 0 {
		g.t.Errorf("only what stood still in the end was paused, of %s: %v, then %v", i.id, named(first), named(last))
	}
}
