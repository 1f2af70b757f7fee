package usance_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/agenttest"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
)

// The flow as a whole: the real control plane with its real databases, as
// processes; a real agent on a host whose true counters are known; and the API
// as an operator and a tenant use it. What is invoiced must be what was
// consumed, to the unit, and once, whatever died in between.

func TestFromHostToPaidInvoice(t *testing.T) {
	w := newWorld(t)
	w.startPlane()
	w.startAgent()
	id := w.makeInstance()

	w.consume(id, 3*time.Second)
	first := w.cut()
	w.checkBilled(first)
	if first.Due != "0.00" || first.Credit != first.Gross || first.Gross == "0.00" {
		t.Errorf("gross %s, credit applied %s, due %s: the promotional credit should have paid all of it", first.Gross, first.Credit, first.Due)
	}
	if again := w.tryCut(); again != nil {
		t.Errorf("a cut after which nothing was consumed made invoice %s of %s", again.Number, again.Gross)
	}

	w.consume(id, 2*time.Second)
	second := w.cut()
	w.checkBilled(first, second)
	if next(first.Number) != second.Number {
		t.Errorf("invoice numbers %s and %s: a gap", first.Number, second.Number)
	}

	// A stopped instance is in another start when it runs again.
	w.order(id, "stop", "stopped")
	w.order(id, "start", "running")
	w.consume(id, time.Second)
	if n := len(w.host.Truths()); n != 2 {
		t.Errorf("%d epochs, want 2", n)
	}
}

func TestNothingIsLostOrDoubledWhenProcessesDie(t *testing.T) {
	w := newWorld(t)
	w.startPlane()
	w.startAgent()
	id := w.makeInstance()
	w.consume(id, time.Second)
	invoices := []portal.InvoiceJSON{w.cut()}

	for _, victim := range []string{"clickhouse-child", "postgres-child", "postmaster", "control plane", "agent"} {
		t.Logf("killing the %s", victim)
		if err := w.host.Resume(id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		switch victim {
		case "control plane":
			w.plane.Process.Kill()
			w.plane.Wait()
			w.startPlane()
		case "agent":
			w.stopAgent()
			w.startAgent()
		case "postmaster":
			w.kill(w.childOf(w.child("postgres-child")))
		default:
			w.kill(w.child(victim))
		}
		time.Sleep(500 * time.Millisecond)
		if err := w.host.Pause(id); err != nil {
			t.Fatal(err)
		}
		w.waitRead(id)
		invoices = append(invoices, w.cut())
		w.checkBilled(invoices...)
	}
	for i := 1; i < len(invoices); i++ {
		if next(invoices[i-1].Number) != invoices[i].Number {
			t.Errorf("invoice numbers %s and %s: a gap", invoices[i-1].Number, invoices[i].Number)
		}
	}
}

func TestSecondControlPlaneOnTheSameFolderIsRefused(t *testing.T) {
	w := newWorld(t)
	w.startPlane()
	var stderr bytes.Buffer
	second := exec.Command(w.program, "up", "--no-agent", "--data", w.data, "--listen", freeAddress(t), "--listen-hosts", freeAddress(t))
	second.Stderr = &stderr
	err := second.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(stderr.String(), "is in use by process "+strconv.Itoa(w.plane.Process.Pid)) {
		t.Errorf("a second control plane: %v, %q", err, stderr.String())
	}
}

// world is one control plane with one host and one tenant.
type world struct {
	t             testing.TB
	program, data string
	pages, hosts  string // addresses
	plane         *exec.Cmd

	host           *agenttest.Host
	hostDir        string
	stopAgent      func()
	operator, user string // tokens
	tenant         metering.TenantID
}

// newWorld builds the program and makes an empty data folder with one image.
func newWorld(t testing.TB) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Postgres and ClickHouse")
	}
	data, err := os.MkdirTemp("", "usance-flow-") // its parents are searchable by Postgres's user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, program: filepath.Join(t.TempDir(), "usance"), data: data, pages: freeAddress(t), hosts: freeAddress(t),
		host: agenttest.NewLive(1), hostDir: t.TempDir()}
	w.host.SetLoadAtStart(agenttest.Load{CPUMillis: 300, UsedMiB: 60, ReadBytes: 4096, ReadOps: 100, WriteBytes: 1 << 20, WriteOps: 1500,
		PublicRxBytes: 5000, PublicTxBytes: 90 << 20, PublicPackets: 700})
	if out, err := exec.Command("go", "build", "-o", w.program, "./cmd/usance").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	image := filepath.Join(data, "images", "fake")
	if err := os.MkdirAll(image, 0o755); err != nil {
		t.Fatal(err)
	}
	kernel := []byte("not really a kernel")
	sum := sha256.Sum256(kernel)
	record := fmt.Sprintf(`{"name":"fake","files":[{"name":"kernel","sha256":%q,"size":%d}]}`, hex.EncodeToString(sum[:]), len(kernel))
	for name, content := range map[string][]byte{"kernel": kernel, "image.json": []byte(record)} {
		if err := os.WriteFile(filepath.Join(image, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// startPlane starts the control plane, which ends with this process, and waits
// until it answers.
func (w *world) startPlane() {
	w.t.Helper()
	w.launchPlane()
	w.eventually("the control plane answers", 90*time.Second, func() error {
		token, err := os.ReadFile(filepath.Join(w.data, "keys", "operator-token"))
		if err != nil {
			return err
		}
		w.operator = strings.TrimSpace(string(token))
		return w.call(w.operator, "GET", "/operator/hosts", nil, nil)
	})
}

// launchPlane starts the control plane and does not wait.
func (w *world) launchPlane() {
	w.t.Helper()
	r, life, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	log := &bytes.Buffer{}
	w.plane = exec.Command(w.program, "up", "--no-agent", "--data", w.data, "--listen", w.pages, "--listen-hosts", w.hosts)
	w.plane.ExtraFiles = []*os.File{r}
	w.plane.Env = append(os.Environ(), "USANCE_PIPE=1")
	w.plane.Stderr = log
	if err := w.plane.Start(); err != nil {
		w.t.Fatal(err)
	}
	r.Close()
	plane := w.plane
	w.t.Cleanup(func() {
		life.Close()
		plane.Wait()
		if w.t.Failed() {
			said := log.Bytes()
			w.t.Logf("control plane %d said at last:\n%s", plane.Process.Pid, said[max(0, len(said)-50_000):])
		}
	})
}

// startAgent runs an agent on the fake host, which joins by a token if it has
// not yet. Rounds are taken each second.
func (w *world) startAgent() {
	w.t.Helper()
	var token portal.TokenJSON
	w.must(w.call(w.operator, "POST", "/operator/hosts/tokens", nil, &token))
	log := &bytes.Buffer{}
	a, err := agent.New(agent.Config{Server: "https://" + w.hosts, Token: token.Token, DataDir: w.hostDir, Name: "fake",
		Hypervisor: w.host, Clock: w.host.Now, Interval: time.Second, Log: slog.New(slog.NewTextHandler(log, nil))})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	stopped := false
	w.stopAgent = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("agent: %v", err)
		}
		if w.t.Failed() {
			w.t.Logf("agent said:\n%s", log)
		}
	}
	w.t.Cleanup(w.stopAgent)
	w.eventually("the host is up", 20*time.Second, func() error {
		var hosts portal.List[portal.HostJSON]
		if err := w.call(w.operator, "GET", "/operator/hosts", nil, &hosts); err != nil {
			return err
		}
		if len(hosts.Items) != 1 || hosts.Items[0].State != "up" {
			return fmt.Errorf("hosts %+v", hosts.Items)
		}
		return nil
	})
}

// makeInstance publishes the demo's plan, makes a tenant with credit, and an
// instance that runs.
func (w *world) makeInstance() metering.InstanceID {
	w.t.Helper()
	plan, err := os.ReadFile("cmd/usance/demo-plan.yaml")
	w.must(err)
	w.must(w.call(w.operator, "POST", "/operator/plans", plan, nil))
	var tenant portal.TenantJSON
	w.must(w.call(w.operator, "POST", "/operator/tenants", portal.CreateTenant{
		Name: "Flow", Email: "flow@example.com", Password: "correct horse", Plan: "demo", Currency: "EUR", Zone: "UTC"}, &tenant))
	w.tenant = tenant.ID
	path := "/operator/tenants/" + string(tenant.ID)
	w.must(w.call(w.operator, "POST", path+"/credit", portal.GrantCredit{Amount: "500.00", Key: "flow"}, nil))
	var token portal.TokenJSON
	w.must(w.call(w.operator, "POST", path+"/tokens", nil, &token))
	w.user = token.Token
	var i portal.InstanceJSON
	w.must(w.call(w.user, "POST", "/instances", portal.CreateInstance{Name: "flow", Flavor: "small", Image: "fake"}, &i))
	w.waitState(i.ID, "running")
	return i.ID
}

// consume lets the instance run for so long and then pauses it, so that the
// truth stands still while it is compared.
func (w *world) consume(id metering.InstanceID, d time.Duration) {
	w.t.Helper()
	if err := w.host.Resume(id); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(d)
	if err := w.host.Pause(id); err != nil {
		w.t.Fatal(err)
	}
}

// waitRead waits until the control plane has what the host last counted.
func (w *world) waitRead(id metering.InstanceID) {
	w.t.Helper()
	want := strconv.FormatUint(w.truth()[metering.NetPublicTxBytes], 10)
	w.eventually("the last reading is in", 60*time.Second, func() error {
		var i portal.InstanceJSON
		if err := w.call(w.user, "GET", "/instances/"+string(id), nil, &i); err != nil {
			return err
		}
		if got := i.Registers[metering.NetPublicTxBytes.String()]; got != want {
			return fmt.Errorf("%s is %s, want %s", metering.NetPublicTxBytes, got, want)
		}
		return nil
	})
}

func (w *world) order(id metering.InstanceID, verb, state string) {
	w.t.Helper()
	w.must(w.call(w.user, "POST", "/instances/"+string(id)+"/"+verb, nil, nil))
	w.waitState(id, state)
}

func (w *world) waitState(id metering.InstanceID, state string) {
	w.t.Helper()
	w.eventually("instance is "+state, 30*time.Second, func() error {
		var i portal.InstanceJSON
		if err := w.call(w.user, "GET", "/instances/"+string(id), nil, &i); err != nil {
			return err
		}
		if i.State != state {
			return fmt.Errorf("it is %s %s", i.State, i.Error)
		}
		return nil
	})
}

// cut closes the period up to now; there must be an invoice.
func (w *world) cut() portal.InvoiceJSON {
	w.t.Helper()
	invoice := w.tryCut()
	if invoice == nil {
		w.t.Fatal("the cut made no invoice")
	}
	return *invoice
}

func (w *world) tryCut() *portal.InvoiceJSON {
	w.t.Helper()
	var closing portal.ClosingJSON
	w.must(w.call(w.operator, "POST", "/operator/tenants/"+string(w.tenant)+"/closings", nil, &closing))
	return closing.Invoice
}

// truth is what all epochs of the host consumed.
func (w *world) truth() metering.Registers {
	var sum metering.Registers
	for _, e := range w.host.Truths() {
		sum = sum.Add(e.Registers)
	}
	return sum
}

// checkBilled compares the invoices' quantities with what the host knows, to
// the unit: the sum of all invoices is everything there ever was.
func (w *world) checkBilled(invoices ...portal.InvoiceJSON) {
	w.t.Helper()
	truth := w.truth()
	ops := truth[metering.DiskReadOps] + truth[metering.DiskWriteOps]
	want := map[string]*big.Rat{
		"small-running":   big.NewRat(int64(truth[metering.RunningMS]), 3_600_000),
		"disk-operations": big.NewRat(int64(ops), 1000),
		"egress":          big.NewRat(int64(truth[metering.NetPublicTxBytes]), 1<<30),
	}
	prices := map[string]*big.Rat{"small-running": big.NewRat(6, 1), "disk-operations": big.NewRat(1, 10), "egress": big.NewRat(1, 1)}
	quantity, exact, amount := map[string]*big.Rat{}, map[string]*big.Rat{}, map[string]*big.Rat{}
	for _, i := range invoices {
		total := new(big.Rat)
		for _, l := range i.Lines {
			add(w.t, quantity, l.Rate, l.Quantity)
			add(w.t, exact, l.Rate, l.Exact)
			total.Add(total, add(w.t, amount, l.Rate, l.Amount))
		}
		if total.FloatString(2) != i.Net {
			w.t.Errorf("invoice %s: lines sum to %s, not %s", i.Number, total.FloatString(2), i.Net)
		}
	}
	for _, rate := range slices.Sorted(maps.Keys(want)) {
		got, ok := quantity[rate]
		if !ok {
			w.t.Errorf("no line of %s; lines are of %v", rate, slices.Sorted(maps.Keys(quantity)))
			continue
		}
		// The API writes 12 decimals; a byte of a GiB shows in the tenth.
		unit := big.NewRat(int64(len(invoices)), 1e12)
		if off := new(big.Rat).Sub(got, want[rate]); off.Abs(off).Cmp(unit) > 0 {
			w.t.Errorf("%s: billed %s, consumed %s", rate, got.FloatString(12), want[rate].FloatString(12))
		}
		cost := new(big.Rat).Mul(want[rate], prices[rate])
		if amount[rate].FloatString(2) != cost.FloatString(2) {
			w.t.Errorf("%s: %s charged for %s at %s", rate, amount[rate].FloatString(2), want[rate].FloatString(9), prices[rate].FloatString(2))
		}
	}
}

func add(t testing.TB, sums map[string]*big.Rat, key, decimal string) *big.Rat {
	t.Helper()
	n, ok := new(big.Rat).SetString(decimal)
	if !ok {
		t.Fatalf("%s: %q is not a number", key, decimal)
	}
	if sums[key] == nil {
		sums[key] = new(big.Rat)
	}
	sums[key].Add(sums[key], n)
	return n
}

// call calls the API; a refusal is an error with its detail.
func (w *world) call(token, method, path string, body, out any) error {
	reader := io.Reader(http.NoBody)
	if raw, ok := body.([]byte); ok {
		reader = bytes.NewReader(raw)
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+w.pages+"/api/v1"+path, reader)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if _, raw := body.([]byte); body != nil && !raw {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// eventually repeats f until it succeeds, and fails with its last error after limit.
func (w *world) eventually(what string, limit time.Duration, f func() error) {
	w.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// child is the process that the control plane runs with the given first argument.
func (w *world) child(word string) (pid int) {
	w.t.Helper()
	w.eventually("the "+word+" runs", 30*time.Second, func() (err error) {
		pid, err = w.findChild(word)
		return err
	})
	return pid
}

func (w *world) findChild(word string) (int, error) {
	for pid, parent := range processes() {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && parent == w.plane.Process.Pid && strings.Contains(string(cmdline), "\x00"+word+"\x00") {
			return pid, nil
		}
	}
	return 0, errors.New("no such child")
}

// childOf is the one child of a process.
func (w *world) childOf(parent int) int {
	w.t.Helper()
	pid, err := firstChild(parent)
	w.must(err)
	return pid
}

func firstChild(parent int) (int, error) {
	for pid, p := range processes() {
		if p == parent {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("process %d has no child", parent)
}

func (w *world) kill(pid int) {
	w.t.Helper()
	w.must(syscall.Kill(pid, syscall.SIGKILL))
}

// processes maps every process to its parent.
func processes() map[int]int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	parents := make(map[int]int, len(stats))
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		_, rest, _ := strings.Cut(string(b), ") ") // the name in parentheses may hold anything
		fields := strings.Fields(rest)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if len(fields) > 1 {
			parents[pid], _ = strconv.Atoi(fields[1])
		}
	}
	return parents
}

// next is the number after an invoice's number.
func next(number string) string {
	i := strings.LastIndexFunc(number, func(r rune) bool { return r < '0' || r > '9' }) + 1
	n, _ := strconv.Atoi(number[i:])
	return fmt.Sprintf("%s%0*d", number[:i], len(number)-i, n+1)
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
