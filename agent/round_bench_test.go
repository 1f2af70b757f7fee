package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/virt"
	"github.com/usance/usance/agent/virt/local/localtest"
	"github.com/usance/usance/metering"
)

func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }

// benchDomains is how many paused domains BenchmarkRound meters.
const benchDomains = 50

// BenchmarkRound takes rounds of 50 paused domains as the agent does (all their
// counters, the meter, the state file and the spool, both on disk) against the bare
// bulk call for the same domains. "of-bare" is the ratio of the CPU time that both
// take in this process, libvirtd and all QEMUs together, and is to stay below 1.25.
func BenchmarkRound(b *testing.B) {
	libvirtd, dir := localtest.Start(b)
	createPaused(b, libvirtd.URI(), dir)
	log := slog.New(slog.DiscardHandler)
	h, err := virt.New(virt.Config{URI: libvirtd.URI(), DataDir: filepath.Join(dir, "agent"), VirtType: virt.VirtQEMU, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	clock, err := agent.HostClock()
	if err != nil {
		b.Fatal(err)
	}
	rig, err := agent.NewRig(h, clock, b.TempDir(), log)
	if err != nil {
		b.Fatal(err)
	}
	defer rig.Kill()
	rig.Watch(true) // the first pass finds out about each domain what is asked once
	rig.Known(nil)  // nobody remembers anything of these
	processes := processesOf(b, h, libvirtd.URI())
	conn, err := libvirt.NewConnect(libvirtd.URI())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()

	var bare, round time.Duration
	readings := 0
	for b.Loop() {
		bare += processes.cpuTime(b, func() { bulkCall(b, conn) })
		round += processes.cpuTime(b, func() { err = rig.Full() })
		if err != nil {
			b.Fatal(err)
		}
		if err := rig.Drain(func(batch *metering.Batch) { readings = len(batch.Readings) }); err != nil {
			b.Fatal(err)
		}
		if readings < benchDomains {
			b.Fatalf("a round of %d readings, want %d", readings, benchDomains)
		}
	}
	b.ReportMetric(float64(round)/float64(bare), "of-bare")
	b.ReportMetric(bare.Seconds()*1000/float64(b.N), "bare-ms")
	b.ReportMetric(round.Seconds()*1000/float64(b.N), "round-ms")
}

// bulkCall is what a pass asks libvirt for, and nothing else.
func bulkCall(b *testing.B, conn *libvirt.Connect) {
	b.Helper()
	records, err := conn.GetAllDomainStats(nil, libvirt.DOMAIN_STATS_STATE|libvirt.DOMAIN_STATS_VCPU|libvirt.DOMAIN_STATS_BALLOON|
		libvirt.DOMAIN_STATS_INTERFACE|libvirt.DOMAIN_STATS_BLOCK, libvirt.CONNECT_GET_ALL_DOMAINS_STATS_RUNNING|
		libvirt.CONNECT_GET_ALL_DOMAINS_STATS_PAUSED|libvirt.CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
	for _, r := range records {
		r.Domain.Free()
	}
	if err != nil || len(records) != benchDomains {
		b.Fatalf("bulk call: %d domains, %v, want %d", len(records), err, benchDomains)
	}
}

const pausedXML = `<domain type='qemu'>
  <name>%[1]s</name>
  <metadata><instance xmlns='urn:usance:instance:1' id='%[1]s' lease='1' start='1'/></metadata>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%[2]s'/><target dev='vda' bus='virtio'/></disk>
    <interface type='network'><source network='default'/><model type='virtio'/></interface>
    <memballoon model='virtio'><stats period='5'/></memballoon>
  </devices>
</domain>
`

// createPaused makes the domains, which end with the tests' libvirtd.
func createPaused(b *testing.B, uri, dir string) {
	b.Helper()
	folder := filepath.Join(dir, "paused")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		b.Fatal(err)
	}
	var commands strings.Builder
	for range benchDomains {
		id := metering.NewID(metering.PrefixInstance)
		disk, file := filepath.Join(folder, id+".qcow2"), filepath.Join(folder, id+".xml")
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M").CombinedOutput(); err != nil {
			b.Fatalf("disk: %v: %s", err, out)
		}
		if err := os.WriteFile(file, fmt.Appendf(nil, pausedXML, id, disk), 0o644); err != nil {
			b.Fatal(err)
		}
		fmt.Fprintln(&commands, "create --paused", file)
	}
	virsh := exec.Command("virsh", "-q", "-c", uri)
	virsh.Stdin = strings.NewReader(commands.String())
	if out, err := virsh.CombinedOutput(); err != nil || bytes.Contains(out, []byte("error:")) {
		b.Fatalf("virsh create: %v: %s", err, out)
	}
}

// processes are the pids of libvirtd and of all QEMUs.
type processes []int

func processesOf(b *testing.B, h agent.Hypervisor, uri string) (all processes) {
	b.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(u.Query().Get("socket")), "libvirtd.pid"))
	if err != nil {
		b.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		b.Fatal(err)
	}
	domains, err := h.Domains(context.Background())
	if err != nil || len(domains) != benchDomains {
		b.Fatalf("%d domains, %v, want %d", len(domains), err, benchDomains)
	}
	all = processes{pid}
	for _, d := range domains {
		all = append(all, d.PID)
		b.Cleanup(func() { syscall.Kill(d.PID, syscall.SIGKILL) }) // to stop so many takes longer than the end of the tests may
	}
	return all
}

// cpuTime is the CPU time that f takes in this process and in those.
func (p processes) cpuTime(b *testing.B, f func()) time.Duration {
	b.Helper()
	others := p.used(b)
	var before, after syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	f()
	if err = errors.Join(err, syscall.Getrusage(syscall.RUSAGE_SELF, &after)); err != nil {
		b.Fatal(err)
	}
	own := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	return time.Duration(own) + p.used(b) - others
}

// used is the CPU time that the processes have taken so far.
func (p processes) used(b *testing.B) (sum time.Duration) {
	b.Helper()
	for _, pid := range p {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil || len(threads) == 0 {
			b.Fatalf("process %d is gone (%v)", pid, err)
		}
		for _, file := range threads {
			text, err := os.ReadFile(file) // CPU time and time waited for it, both ns, and slices
			if err != nil {
				continue // a thread that ended
			}
			var ns int64
			if _, err := fmt.Sscan(string(text), &ns); err != nil {
				b.Fatalf("%s: %q: %v", file, text, err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum
}
