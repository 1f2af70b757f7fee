package usance_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
)

// The flow under faults: tenants start, stop and delete instances, periods are
// cut, and meanwhile every process dies, every connection breaks, batches come twice
// and in any order, clocks jump and disks fill up. At the end everything that
// was durable once is billed, once, and nothing that did not happen is.
//
// The seed fixes which faults come, where, for how long, and what tenants ask
// for; what the machine makes of it differs from run to run.

var (
	chaosSeed      = flag.Uint64("seed", 1, "what the chaos run's choices are drawn from")
	chaosFaults    = flag.Int("faults", len(faultKinds), "how many faults the chaos run has")
	chaosInstances = flag.Int("instances", 15, "how many instances the chaos run has at most at once")
	chaosPace      = flag.Duration("pace", 700*time.Millisecond, "mean time between two faults of the chaos run")
	chaosReport    = flag.String("report", "", "`file` for the chaos run's table and result, too")
)

const (
	chaosHosts = 3
	// perTenant is how many instances a tenant has at most: the default quota.
	perTenant = 20
	// settleTime bounds how long everything may take to come to rest in the end.
	settleTime = 3 * time.Minute
)

func TestChaos(t *testing.T) {
	since := time.Now()
	c := newChaos(t)
	c.stage("start", &since)
	over := make(chan struct{})
	var life sync.WaitGroup
	life.Go(func() { c.live(over) })
	life.Go(func() { c.closeNowAndThen(over) })
	life.Go(func() { c.watchTotals(over) })
	await(30*time.Second, func() error {
		for _, h := range c.hosts {
			if len(h.open()) == 0 {
				return errors.New("not all hosts have something to lose")
			}
		}
		return nil
	})
	c.runFaults(schedule(c.draw(1), *chaosFaults))
	close(over)
	life.Wait()
	c.stage("faults", &since)
	c.rest(&since)
	r := c.check()
	c.stage("comparison", &since)
	r.write(t, c)
}

// chaos is the run.
type chaos struct {
	*world
	interval time.Duration // between rounds
	hosts    []*chaosHost
	tenants  []*chaosTenant
	stores   *stores

	onePlane sync.Mutex // one fault of the control plane's processes at a time

	mu       sync.Mutex
	done     map[string]int // faults by kind
	skipped  map[string]int // faults that found nothing to do
	orders   map[string]int // that were taken, by kind
	longest  map[string]time.Duration
	closings int               // cuts that succeeded while faults were coming
	fallen   []string          // totals that fell while faults were coming
	leaks    []string          // differences between what ran, what was wanted and what was read after the faults
	ids      []tenantsInstance // created so far

	began  time.Time
	stages []string // how long each took
}

// stage notes how long the run took to get here since the stage before.
func (c *chaos) stage(name string, since *time.Time) {
	c.stages = append(c.stages, fmt.Sprint(name, " ", time.Since(*since).Round(100*time.Millisecond)))
	*since = time.Now()
}

type chaosTenant struct {
	metering.TenantID
	token string
}

type tenantsInstance struct {
	tenant *chaosTenant
	id     metering.InstanceID
}

// draw is a source of choices of its own for each use.
func (c *chaos) draw(use uint64) *rand.Rand { return rand.New(rand.NewPCG(*chaosSeed, use)) }

// chaosPlan prices every meter, in units in which any quantity has at most 12 decimals,
// and time so that no closing costs nothing: one that does makes no invoice.
const chaosPlan = `
plan: chaos
currency: EUR
timezone: UTC
effective: 2020-01-01
flavors:
  small: {vcpus: 1, memory: 256 MiB, disk: 1 GiB}
  wide: {vcpus: 2, memory: 256 MiB, disk: 1 GiB}
  large: {vcpus: 4, memory: 512 MiB, disk: 2 GiB}
rates:
  - {id: running, meter: instance.running, price: 0.1 per s}
  - {id: paused, meter: instance.paused, price: 0.1 per s}
  - {id: vcpu, meter: instance.vcpu, price: 0.001 per vCPU-s}
  - {id: cpu, meter: instance.cpu, price: 0.001 per s}
  - {id: memory, meter: instance.memory, price: 0.00001 per MiB-s}
  - {id: used, meter: instance.memory.used, price: 0.00001 per MiB-s}
  - {id: read, meter: disk.read, price: 0.01 per GB}
  - {id: write, meter: disk.write, price: 0.01 per GB}
  - {id: operations, meter: disk.operations, price: 0.01 per thousand}
  - {id: public-in, meter: network.public.rx, price: 0.01 per GB}
  - {id: public-out, meter: network.public.tx, price: 0.01 per GB}
  - {id: private-in, meter: network.private.rx, price: 0.01 per GB}
  - {id: private-out, meter: network.private.tx, price: 0.01 per GB}
`

// newChaos starts the control plane and the hosts, and makes the tenants.
func newChaos(t *testing.T) *chaos {
	t.Helper()
	c := &chaos{world: newWorld(t), interval: time.Second, done: map[string]int{}, skipped: map[string]int{}, orders: map[string]int{},
		longest: map[string]time.Duration{}, began: time.Now()}
	c.startPlane()
	c.stores = openStores(t, c.data)
	for n := range chaosHosts {
		c.hosts = append(c.hosts, c.newHost(n))
	}
	c.must(c.call(c.operator, "POST", "/operator/plans", []byte(chaosPlan), nil))
	for n := range (*chaosInstances + perTenant - 1) / perTenant {
		c.tenants = append(c.tenants, c.newTenant(n))
	}
	return c
}

func (c *chaos) newTenant(n int) *chaosTenant {
	c.t.Helper()
	var made portal.TenantJSON
	c.must(c.call(c.operator, "POST", "/operator/tenants", portal.CreateTenant{Name: fmt.Sprint("Chaos ", n),
		Email: fmt.Sprintf("chaos-%d@example.com", n), Password: "correct horse", Plan: "chaos", Currency: "EUR", Zone: "UTC"}, &made))
	path := "/operator/tenants/" + string(made.ID)
	c.must(c.call(c.operator, "POST", path+"/credit", portal.GrantCredit{Amount: "1000000.00", Key: "chaos"}, nil))
	var token portal.TokenJSON
	c.must(c.call(c.operator, "POST", path+"/tokens", nil, &token))
	return &chaosTenant{made.ID, token.Token}
}

// live is what tenants and operators of hosts do all the time: orders through the
// API, which may fail, and pauses on the hosts.
func (c *chaos) live(over <-chan struct{}) {
	r := c.draw(2)
	for n := 0; ; n++ {
		select {
		case <-over:
			return
		case <-time.After(time.Duration(50+r.IntN(200)) * time.Millisecond):
		}
		verb, which := r.IntN(100), r.Uint64()
		switch {
		case verb < 30:
			c.create(c.tenants[which%uint64(len(c.tenants))], fmt.Sprintf("chaos-%d", n), flavors[which/16%2])
		case verb < 42:
			c.request(which, "stop", "POST", "/instances/%s/stop", nil)
		case verb < 58:
			c.request(which, "start", "POST", "/instances/%s/start", nil)
		case verb < 63:
			c.request(which, "delete", "DELETE", "/instances/%s", nil)
		case verb < 75:
			c.request(which, "resize", "POST", "/instances/%s/resize", portal.ResizeInstance{Flavor: flavors[which/16%3]})
		case verb < 80:
			c.request(which, "move", "POST", "/operator/instances/%s/move", portal.MoveInstance{Host: c.hosts[which/16%chaosHosts].id})
		default:
			c.hosts[which%chaosHosts].togglePause(which / chaosHosts)
		}
	}
}

// flavors are the sizes on offer. A running instance can be made wide when it is small,
// a stopped one anything that is not less.
var flavors = []string{"small", "large", "wide"}

// create orders an instance, unless the run has enough.
func (c *chaos) create(tenant *chaosTenant, name, flavor string) {
	var all portal.List[portal.InstanceJSON]
	if c.call(tenant.token, "GET", "/instances?limit=100", nil, &all) != nil || len(all.Items) >= min(perTenant, *chaosInstances) {
		return
	}
	var i portal.InstanceJSON
	if err := c.call(tenant.token, "POST", "/instances", portal.CreateInstance{Name: name, Flavor: flavor, Image: "fake"}, &i); err != nil {
		return // if it was made all the same, nobody stops it before the end
	}
	c.ids = append(c.ids, tenantsInstance{tenant, i.ID})
	c.orders["create"]++
}

// request orders something of one of the instances there ever were; it may be refused.
func (c *chaos) request(which uint64, order, method, path string, body any) {
	if len(c.ids) == 0 {
		return
	}
	i := c.ids[which%uint64(len(c.ids))]
	token := i.tenant.token
	if strings.HasPrefix(path, "/operator/") {
		token = c.operator
	}
	if c.call(token, method, fmt.Sprintf(path, i.id), body, nil) == nil {
		c.orders[order]++
	}
}

// closeNowAndThen cuts tenants' periods.
func (c *chaos) closeNowAndThen(over <-chan struct{}) {
	r := c.draw(3)
	for {
		select {
		case <-over:
			return
		case <-time.After(time.Duration(500+r.IntN(4000)) * time.Millisecond):
		}
		path := "/operator/tenants/" + string(c.tenants[r.IntN(len(c.tenants))].TenantID) + "/closings"
		if c.call(c.operator, "POST", path, nil, nil) == nil {
			c.mu.Lock()
			c.closings++
			c.mu.Unlock()
		}
	}
}

// watchTotals sees to it that what ClickHouse has of an epoch never falls.
func (c *chaos) watchTotals(over <-chan struct{}) {
	seen := map[metering.EpochID]metering.Registers{}
	for {
		select {
		case <-over:
			return
		case <-time.After(3 * time.Second):
		}
		totals, err := c.stores.readings.Totals(c.t.Context(), nil)
		if err != nil {
			continue
		}
		for epoch, was := range seen {
			if totals[epoch].Registers.Join(was) != totals[epoch].Registers {
				c.mu.Lock()
				c.fallen = append(c.fallen, fmt.Sprintf("epoch %s: %v, then %v", epoch, was, totals[epoch].Registers))
				c.mu.Unlock()
			}
		}
		for epoch, total := range totals {
			seen[epoch] = total.Registers
		}
	}
}

// rest ends all faults and brings the world to a standstill: counters first, by a
// pause, then time, by a stop; then everything that is anywhere is sent and
// invoiced.
func (c *chaos) rest(since *time.Time) {
	c.awaitOrFail("the control plane answers", c.answers)
	for _, h := range c.hosts {
		h.machine.setClock(0)
	}
	c.awaitOrFail("what is wanted is so", c.settled)
	c.stage("settling", since)
	c.leaks = c.checkLeaks()
	c.stage("leaks", since)
	for _, h := range c.hosts {
		h.pauseAll()
	}
	for _, h := range c.hosts {
		h.looked(2)
	}
	for _, i := range c.instances() {
		if i.Desired == "running" {
			c.awaitOrFail("stop", func() error { return c.call(i.token, "POST", "/instances/"+string(i.ID)+"/stop", nil, nil) })
		}
	}
	c.awaitOrFail("everything is off", func() error { return errors.Join(c.settled(), c.allOff()) })
	c.stage("stopping", since)
	for _, h := range c.hosts {
		c.awaitOrFail("the spool is empty", h.drained)
	}
	c.awaitOrFail("no reading lies in the future", c.allPast)
	for _, tenant := range c.tenants {
		c.must(c.call(c.operator, "POST", "/operator/tenants/"+string(tenant.TenantID)+"/closings", nil, nil))
	}
	c.stage("sending and closing", since)
}

func (c *chaos) answers() error { return c.call(c.operator, "GET", "/operator/hosts", nil, nil) }

// instanceOf is an instance with the token of its tenant.
type instanceOf struct {
	portal.InstanceJSON
	tenant metering.TenantID
	token  string
}

func (c *chaos) instances() (all []instanceOf) {
	for _, tenant := range c.tenants {
		c.awaitOrFail("list instances", func() error {
			var list portal.List[portal.InstanceJSON]
			if err := c.call(tenant.token, "GET", "/instances?limit=100", nil, &list); err != nil {
				return err
			}
			for _, i := range list.Items {
				all = append(all, instanceOf{i, tenant.TenantID, tenant.token})
			}
			return nil
		})
	}
	return all
}

// settled says what is not yet as tenants want it.
func (c *chaos) settled() error {
	for _, i := range c.instances() {
		if i.MovesTo != "" || i.State != i.Desired && !(i.Desired == "running" && i.State == "paused") {
			return fmt.Errorf("%s on %s is %s and should be %s %s", i.ID, i.Host, i.State, i.Desired, i.Error)
		}
	}
	return nil
}

func (c *chaos) allOff() error {
	for _, h := range c.hosts {
		if n := len(h.open()); n > 0 {
			return fmt.Errorf("%d domains run on %s", n, h.name)
		}
	}
	return nil
}

func (c *chaos) allPast() error {
	totals, err := c.stores.readings.Totals(c.t.Context(), nil)
	for epoch, total := range totals {
		if total.At.After(time.Now()) {
			return fmt.Errorf("epoch %s has a reading of %s", epoch, total.At)
		}
	}
	return err
}

// awaitOrFail repeats f until it succeeds.
func (c *chaos) awaitOrFail(what string, f func() error) {
	c.t.Helper()
	c.eventually(what, settleTime, f)
}

// await repeats f until it succeeds, as eventually does, but for goroutines: it
// only reports whether it did.
func await(limit time.Duration, f func() error) bool {
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if f() == nil {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// report is what a run found.
type report struct {
	epochs, billed            int
	equal                     int // all of their readings equal the truth in every register
	toTheEnd, resized         int // of these: up to the end, which an agent saw; from a resize on
	lateStarts, continued     int // of these: from the first sample on; with time given away by an agent that lost its state
	bounded, unmetered        int
	missed                    int // files of spools that nobody saw
	readings, invoices        int
	lost, doubled, leaks      int
	quarantined, bodiesResent int
	refusedRounds             int
	said                      []string // of each difference
}

func (r *report) say(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

// write prints the table, and the result as its last line.
func (r *report) write(t *testing.T, c *chaos) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%-34s %6s %6s %8s\n", "fault", "times", "moot", "longest")
	for _, k := range faultKinds {
		fmt.Fprintf(&b, "%-34s %6d %6d %8s\n", k.name, c.done[k.name], c.skipped[k.name], c.longest[k.name].Round(100*time.Millisecond))
	}
	fmt.Fprintf(&b, "%d hosts, %d instances, %d epochs. Readings equal the truth at their instants, in every register, in %d of %d epochs with\n"+
		"readings (%d up to an end that was seen, %d after a resize, %d from their first sample on, %d continued by agents without memory);\n"+
		"%d are bounded. "+
		"%d epochs were over before they could be metered. What was billed equals the last reading in %d epochs.\n", len(c.hosts), len(c.ids), r.epochs,
		r.equal, r.epochs-r.unmetered, r.toTheEnd, r.resized, r.lateStarts, r.continued, r.bounded, r.unmetered, r.billed)
	fmt.Fprintf(&b, "orders taken: %v.\n", c.orders)
	fmt.Fprintf(&b, "%d closings among the faults, %d invoices; %d batches repeated, %d rounds refused by full spools and disks; %d files not seen.\n",
		c.closings, r.invoices, r.bodiesResent, r.refusedRounds, r.missed)
	fmt.Fprintf(&b, "Took %v: %s.\n", time.Since(c.began).Round(time.Second), strings.Join(c.stages, ", "))
	for i, s := range r.said {
		if i == 30 {
			fmt.Fprintf(&b, "and %d more\n", len(r.said)-i)
			break
		}
		fmt.Fprintln(&b, s)
	}
	fmt.Fprintf(&b, "chaos seed=%d faults=%d readings=%d lost=%d doubled=%d leaks=%d quarantined=%d\n",
		*chaosSeed, sum(c.done), r.readings, r.lost, r.doubled, r.leaks, r.quarantined)
	t.Log("\n" + b.String())
	if *chaosReport != "" {
		if err := os.WriteFile(*chaosReport, []byte(b.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
	if r.lost+r.doubled+r.leaks+r.quarantined > 0 {
		t.Error("something was lost, doubled, leaked, or an honest host quarantined")
	}
	if *chaosFaults < 3*len(faultKinds) {
		return // what each kind finds to do is a matter of luck
	}
	for _, k := range faultKinds {
		if c.done[k.name] == 0 {
			t.Errorf("no fault of the kind %q happened", k.name)
		}
	}
	for _, order := range []string{"create", "start", "stop", "resize", "move", "delete"} {
		if c.orders[order] == 0 {
			t.Errorf("no order to %s was taken", order)
		}
	}
}

func sum(counts map[string]int) (n int) {
	for v := range maps.Values(counts) {
		n += v
	}
	return n
}

// fault is one thing that goes wrong.
type fault struct {
	kind   int
	after  time.Duration // since the one before
	host   int
	length time.Duration
	pick   uint64 // what else has to be chosen
}

// schedule draws faults: every kind in turn, in an order drawn anew each time.
func schedule(r *rand.Rand, n int) (all []fault) {
	for len(all) < n {
		for _, kind := range r.Perm(len(faultKinds)) {
			if len(all) < n {
				all = append(all, fault{kind: kind, after: time.Duration(r.Int64N(int64(2 * *chaosPace))), host: len(all) % chaosHosts, // outages of one host wait for each other
					length: time.Duration(r.Int64N(int64(3 * *chaosPace))), pick: r.Uint64()})
			}
		}
	}
	return all
}

// runFaults makes all of them happen; those that last overlap with the next.
func (c *chaos) runFaults(all []fault) {
	var running sync.WaitGroup
	defer running.Wait()
	for _, f := range all {
		time.Sleep(f.after)
		running.Go(func() {
			kind := faultKinds[f.kind]
			began := time.Now()
			did := kind.do(c, c.hosts[f.host], f)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.longest[kind.name] = max(c.longest[kind.name], time.Since(began))
			if did {
				c.done[kind.name]++
			} else {
				c.skipped[kind.name]++
			}
		})
	}
}
