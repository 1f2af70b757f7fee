package computedb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
)

// say has a host report: it speaks the present protocol and shares the storage san.
func (w *world) say(t testing.TB, host metering.HostID, offers compute.Capacity, instances ...hostapi.ObservedInstance) {
	t.Helper()
	now := *w.now.Load()
	for i := range instances {
		instances[i].Since = now
	}
	err := w.Observe(t.Context(), host, hostapi.Status{Sent: now, Capacity: offers, Version: hostapi.Version, Storage: "san", Instances: instances})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) get(t testing.TB, in compute.Instance) compute.Instance {
	t.Helper()
	got, err := w.Get(t.Context(), in.Tenant, in.ID)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// observed is what a host says of an instance that is as it was ordered.
func observed(in compute.Instance, state compute.State) hostapi.ObservedInstance {
	return hostapi.ObservedInstance{ID: in.ID, Generation: in.Generation, Lease: in.Lease, Start: in.Start, State: state}
}

func (w *world) resize(t testing.TB, in compute.Instance, flavor string) compute.Instance {
	t.Helper()
	got, err := w.Resize(t.Context(), in.Tenant, in.ID, flavor)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// leases are all there ever were of an instance, "no host flavor" and " ended" each.
func (w *world) leases(t testing.TB, in compute.Instance) (all []string) {
	t.Helper()
	for no := metering.LeaseNo(1); ; no++ {
		l, err := w.Lease(t.Context(), in.ID, no)
		if errors.Is(err, compute.ErrNotFound) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%d %s", l.No, l.Flavor)
		if !l.Ended.IsZero() {
			s += " ended"
		}
		all = append(all, s)
	}
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestResizeRunning(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	host := w.host(t, 12)
	w.say(t, host, room(12))
	in := w.report(t, w.create(t, "ten_a"), compute.StateRunning, false)
	w.say(t, host, room(12), observed(in, compute.StateRunning))
	was := in

	in = w.resize(t, in, "wide")
	if in.Flavor != "wide" || in.Lease != 2 || in.Under != 1 || in.Generation != 2 || in.Start != 1 || in.State != compute.StateRunning {
		t.Errorf("resized: %+v", in)
	}
	if got := w.get(t, in); got != in {
		t.Errorf("Get:\n got %+v\nwant %+v", got, in)
	}
	same(t, "leases until the host has done it", w.leases(t, in), []string{"1 small", "2 wide"})
	if _, err := w.pool.Exec(t.Context(), `UPDATE leases SET host = $1 WHERE no = 1`, w.host(t, 1)); err == nil {
		t.Error("the database allows leases in force on two hosts")
	}
	if again := w.resize(t, in, "wide"); again != in {
		t.Errorf("the same flavor: %+v, want nothing new", again)
	}
	d, err := w.Desired(t.Context(), host)
	if err != nil || len(d.Instances) != 1 || d.Instances[0].Flavor != wide || d.Instances[0].Lease != 2 || d.Instances[0].Start != 1 {
		t.Errorf("desired: %+v, %v", d.Instances, err)
	}
	hosts, err := w.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if h.ID == host && h.Granted != wide.Capacity() {
			t.Errorf("granted %+v; want the new flavor alone", h.Granted)
		}
	}

	failed := observed(was, compute.StateRunning)
	failed.Error = "no room for vCPUs"
	w.say(t, host, room(12), failed)
	if got := w.get(t, in); got.State != compute.StateRunning || got.Error != failed.Error || !got.Resizing() {
		t.Errorf("a resize that failed: %+v", got)
	}
	same(t, "leases after it failed", w.leases(t, in), []string{"1 small", "2 wide"})
	w.at(noon.Add(time.Minute))
	w.say(t, host, room(12), observed(in, compute.StateRunning))
	if got := w.get(t, in); got.Error != "" || got.Resizing() || !got.Since.Equal(noon) {
		t.Errorf("done: %+v", got)
	}
	same(t, "leases after it was done", w.leases(t, in), []string{"1 small ended", "2 wide"})
	if l, _ := w.Lease(t.Context(), in.ID, 1); !l.Ended.Equal(noon.Add(time.Minute)) {
		t.Errorf("the old lease ended at %s, want when the host showed the new one", l.Ended)
	}

	again := w.resize(t, w.resize(t, in, "wider"), "widest") // neither is heard of before the guest goes off
	off := observed(in, compute.StateStopped)
	off.GuestOff = true
	w.say(t, host, room(12), off)
	got := w.get(t, in)
	if got.Desired != compute.PowerStopped || got.Reason != compute.ReasonGuest || got.State != compute.StateStopping {
		t.Errorf("the guest went off: %+v", got)
	}
	off.Generation = got.Generation
	w.say(t, host, room(12), off)
	if got := w.get(t, in); got.State != compute.StateStopped || got.Resizing() || got.Lease != again.Lease {
		t.Errorf("off, and the host knows: %+v", got)
	}
	same(t, "leases of one that is off", w.leases(t, in), []string{"1 small ended", "2 wide ended", "3 wider ended", "4 widest"})
}

func TestResizeStopped(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	host := w.host(t, 4)
	in := w.report(t, w.create(t, "ten_a"), compute.StateRunning, false)
	in = w.report(t, w.power(t, in, compute.PowerStopped), compute.StateStopped, false)
	w.at(noon.Add(time.Minute))
	in = w.resize(t, in, "tall")
	same(t, "leases", w.leases(t, in), []string{"1 small ended", "2 tall"})
	if in.State != compute.StateStopped || in.Resizing() || in.Host != host {
		t.Errorf("resized: %+v", in)
	}
	w.at(noon.Add(2 * time.Minute))
	in = w.report(t, w.power(t, in, compute.PowerRunning), compute.StateRunning, false)
	all, err := allocdb.New(w.pool).OfTenant(t.Context(), "ten_a", metering.Window{Start: noon, End: noon.Add(time.Hour)})
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v; want stopped time under both flavors", all, err)
	}
	for i, flavor := range []string{"small", "tall"} {
		start := noon.Add(time.Duration(i) * time.Minute)
		if a := all[i]; a.Labels.Flavor != flavor || !a.Start.Equal(start) || !a.End.Equal(start.Add(time.Minute)) {
			t.Errorf("stopped time %d: %+v, want the minute from %s as %s", i, a, start, flavor)
		}
	}
}

func TestResizeRefusals(t *testing.T) {
	poor := false
	var asked []string
	w := newWorld(t, computedb.Config{
		Credit: func(_ context.Context, _ pgx.Tx, _ metering.TenantID, flavor string, running map[string]int) error {
			asked = append(asked, fmt.Sprintf("%s beside %v", flavor, running))
			if poor {
				return errPoor
			}
			return nil
		},
	})
	host := w.host(t, 10)
	w.say(t, host, room(10))
	running := w.create(t, "ten_a")
	w.say(t, host, room(10), observed(running, compute.StateRunning))
	stopped := w.power(t, w.create(t, "ten_a"), compute.PowerStopped)
	w.say(t, host, room(10), observed(stopped, compute.StateStopped))
	refused := func(name string, in compute.Instance, tenant metering.TenantID, flavor string, want error) {
		t.Helper()
		before := w.get(t, in)
		if _, err := w.Resize(t.Context(), tenant, in.ID, flavor); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if after := w.get(t, in); after != before {
			t.Errorf("%s, and it changed:\n%+v\n%+v", name, before, after)
		}
	}
	asked = nil
	poor = true
	refused("credit", running, "ten_a", "wide", errPoor)
	same(t, "credit is asked", asked, []string{"wide beside map[small:1]"})
	w.resize(t, stopped, "wide") // costs nothing more before it is started
	poor = false

	refused("another tenant's", running, "ten_b", "wide", compute.ErrNotFound)
	refused("a flavor of none", running, "ten_a", "none", compute.ErrNoFlavor)
	refused("other memory", running, "ten_a", "tall", compute.ErrStopFirst)
	refused("a smaller disk", stopped, "ten_a", "small", compute.ErrDiskShrinks)
	refused("no room", running, "ten_a", "widest", compute.ErrNoCapacity)

	q := compute.Quota{Instances: 1, Capacity: room(7)} // it has two instances and 5 vCPUs already
	if err := w.SetQuota(t.Context(), "ten_a", q); err != nil {
		t.Fatal(err)
	}
	refused("quota", running, "ten_a", "wide", compute.ErrQuota)
	q.VCPUs = 8
	if err := w.SetQuota(t.Context(), "ten_a", q); err != nil {
		t.Fatal(err)
	}
	status := hostapi.Status{Sent: noon, Capacity: room(10)} // of an agent that says no version
	if err := w.Observe(t.Context(), host, status); err != nil {
		t.Fatal(err)
	}
	refused("an old agent", running, "ten_a", "wide", compute.ErrOldAgent)
	w.say(t, host, room(10))
	w.resize(t, running, "wide") // with all of the quota
	if err := w.SetQuota(t.Context(), "ten_a", compute.DefaultQuota); err != nil {
		t.Fatal(err)
	}
	w.at(noon.Add(compute.HostSilence + time.Second))
	refused("a silent host", stopped, "ten_a", "wider", compute.ErrNoCapacity)
}

func TestMove(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	a, b := w.host(t, 4), w.host(t, 1)
	if err := w.SetDraining(t.Context(), b, true); err != nil {
		t.Fatal(err)
	}
	in := w.create(t, "ten_a")
	w.say(t, a, room(4), observed(in, compute.StateRunning))
	refused := func(name string, to metering.HostID, want error) {
		t.Helper()
		if _, err := w.Move(t.Context(), in.ID, to); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	refused("running", b, compute.ErrStopFirst)
	in = w.power(t, in, compute.PowerStopped)
	refused("not off yet", b, compute.ErrStopFirst)
	w.say(t, a, room(4), observed(in, compute.StateStopped))
	refused("no storage", b, compute.ErrNoSharedStorage)
	w.say(t, b, room(1))
	refused("draining", b, compute.ErrNoCapacity)
	if err := w.SetDraining(t.Context(), b, false); err != nil {
		t.Fatal(err)
	}
	refused("no such host", "hst_00000000000000000", compute.ErrNotFound)
	if _, err := w.Move(t.Context(), "ins_00000000000000000", b); !errors.Is(err, compute.ErrNotFound) {
		t.Errorf("no such instance: %v", err)
	}

	moving, err := w.Move(t.Context(), in.ID, b)
	if err != nil || moving.Host != a || moving.MovesTo != b {
		t.Fatalf("%+v, %v", moving, err)
	}
	if got := w.get(t, in); got != moving {
		t.Errorf("Get:\n got %+v\nwant %+v", got, moving)
	}
	hosts, err := w.Hosts(t.Context())
	if err != nil || hosts[0].Granted != small.Capacity() || hosts[1].Granted != small.Capacity() {
		t.Errorf("%+v, %v; want its place on both", hosts, err)
	}
	if _, err := w.SetPower(t.Context(), "ten_a", in.ID, compute.PowerRunning, compute.ReasonTenant); !errors.Is(err, compute.ErrMoving) {
		t.Errorf("start while it moves: %v", err)
	}
	if _, err := w.Resize(t.Context(), "ten_a", in.ID, "tall"); !errors.Is(err, compute.ErrMoving) {
		t.Errorf("resize while it moves: %v", err)
	}
	if d, _ := w.Desired(t.Context(), a); len(d.Instances) != 1 || d.Instances[0].Power != compute.PowerReleased {
		t.Errorf("desired of the old host: %+v, want it released", d.Instances)
	}
	if d, _ := w.Desired(t.Context(), b); len(d.Instances) != 0 {
		t.Errorf("desired of the new host before the old one let go: %+v", d.Instances)
	}
	w.say(t, a, room(4), observed(in, compute.StateReleased)) // of an order before
	if got := w.get(t, in); got.Host != a {
		t.Errorf("a release of an earlier order moved it: %+v", got)
	}
	for range 2 { // repeated, it changes nothing
		w.say(t, a, room(4), observed(moving, compute.StateReleased))
		if strays, err := w.Strays(t.Context(), noon); err != nil || len(strays) != 0 {
			t.Errorf("a released instance is a stray: %+v, %v", strays, err)
		}
	}
	moved := w.get(t, in)
	if moved.Host != b || moved.MovesTo != "" || moved.Lease != 2 || moved.State != compute.StateStopped {
		t.Errorf("moved: %+v", moved)
	}
	same(t, "leases", w.leases(t, in), []string{"1 small ended", "2 small"})
	if d, _ := w.Desired(t.Context(), a); len(d.Instances) != 0 {
		t.Errorf("desired of the old host: %+v", d.Instances)
	}
	w.say(t, b, room(1), observed(moved, compute.StateStopped))
	started := w.power(t, moved, compute.PowerRunning)
	w.say(t, b, room(1), observed(started, compute.StateRunning))
	if got := w.get(t, in); got.State != compute.StateRunning || got.Start != 2 {
		t.Errorf("started there: %+v", got)
	}
	all, err := allocdb.New(w.pool).OfTenant(t.Context(), "ten_a", metering.Window{Start: noon.Add(-time.Hour), End: noon.Add(time.Hour)})
	if err != nil || len(all) != 1 || all[0].End.IsZero() {
		t.Errorf("stopped time: %+v, %v; want one from its stop to its start", all, err)
	}
}

// TestMoveTakenBack is a move that ends before the old host has let go: by an
// order, by a deletion, and because the new host was removed.
func TestMoveTakenBack(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	a, b := w.host(t, 3), w.host(t, 3)
	if err := w.SetDraining(t.Context(), b, true); err != nil {
		t.Fatal(err)
	}
	var moving []compute.Instance
	var seen []hostapi.ObservedInstance
	for range 3 {
		in := w.power(t, w.create(t, "ten_a"), compute.PowerStopped)
		moving, seen = append(moving, in), append(seen, observed(in, compute.StateStopped))
	}
	w.say(t, a, room(3), seen...)
	w.say(t, b, room(3))
	if err := w.SetDraining(t.Context(), b, false); err != nil {
		t.Fatal(err)
	}
	for i, in := range moving {
		var err error
		if moving[i], err = w.Move(t.Context(), in.ID, b); err != nil {
			t.Fatal(err)
		}
		seen[i] = observed(moving[i], compute.StateReleased)
	}
	if _, err := w.Move(t.Context(), moving[0].ID, a); err != nil {
		t.Fatal(err)
	}
	w.power(t, moving[1], compute.PowerDeleted)
	if err := w.RemoveHost(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	w.say(t, a, room(3), seen...)
	for i, power := range []compute.Power{compute.PowerStopped, compute.PowerDeleted, compute.PowerStopped} {
		got := w.get(t, moving[i])
		if got.Host != a || got.MovesTo != "" || got.Lease != 1 || got.Desired != power {
			t.Errorf("%d: %+v; want it on its host, wanted %s", i, got, power)
		}
	}
	hosts, err := w.Hosts(t.Context())
	if err != nil || hosts[1].Granted != (compute.Capacity{}) && hosts[0].Granted != (compute.Capacity{}) {
		t.Errorf("%+v, %v; want no place taken on the removed host", hosts, err)
	}
}

// TestConcurrentOrders is invariant 6 with all orders there are: whatever happens
// at once, no quota, credit or host is exceeded, no order fails for another reason
// than it may, and an instance has at no time leases in force on two hosts.
func TestConcurrentOrders(t *testing.T) {
	const tenants, workers, steps, credit = 3, 8, 40, 5 // credit for so many vCPUs
	w := newWorld(t, computedb.Config{
		Credit: func(_ context.Context, _ pgx.Tx, _ metering.TenantID, flavor string, running map[string]int) error {
			cost := 0
			for _, f := range flavors {
				cost += f.VCPUs * running[f.Name]
				if f.Name == flavor {
					cost += f.VCPUs
				}
			}
			if cost > credit {
				return errPoor
			}
			return nil
		},
	})
	var hosts []metering.HostID
	for range 3 {
		hosts = append(hosts, w.host(t, 8))
	}
	quota := compute.Quota{Instances: 6, Capacity: room(7)}
	for i := range tenants {
		if err := w.SetQuota(t.Context(), tenantNo(i), quota); err != nil {
			t.Fatal(err)
		}
	}
	agents := make([]*agentOf, len(hosts))
	for i, host := range hosts {
		agents[i] = &agentOf{world: w, host: host, offers: room(8)}
		agents[i].turn(t)
	}
	var group sync.WaitGroup
	stop := make(chan struct{})
	for _, a := range agents {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					a.turn(t)
				}
			}
		})
	}
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				w.check(t, quota, credit)
			}
		}
	})
	var orders sync.WaitGroup
	var mu sync.Mutex
	done := map[string]int{}
	for i := range workers {
		orders.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for range steps {
				what, err := w.order(t, tenantNo(random.IntN(tenants)), hosts, random)
				mu.Lock()
				if err == nil {
					done[what]++
				}
				mu.Unlock()
				if err != nil && !mayBeRefused(err) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	orders.Wait()
	close(stop)
	group.Wait()
	for range 5 { // what was ordered last is carried out
		for _, a := range agents {
			a.turn(t)
		}
	}
	w.check(t, quota, credit)
	for _, what := range []string{"create", "resize", "move", "running", "stopped"} {
		if done[what] == 0 {
			t.Errorf("never done: %s; the run shows nothing: %v", what, done)
		}
	}
	all, err := w.Placed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range all {
		if in.Resizing() || in.MovesTo != "" || in.Answered != in.Generation {
			t.Errorf("not carried out: %+v", in)
		}
	}
}

var errPoor = errors.New("no credit")

func tenantNo(i int) metering.TenantID { return metering.TenantID(fmt.Sprintf("ten_%d", i)) }

func mayBeRefused(err error) bool {
	for _, may := range []error{compute.ErrNoCapacity, compute.ErrQuota, compute.ErrStopFirst, compute.ErrDiskShrinks,
		compute.ErrMoving, compute.ErrDeleted, compute.ErrNotFound, errPoor} {
		if errors.Is(err, may) {
			return true
		}
	}
	return false
}

// order gives one order to one of the tenant's instances.
func (w *world) order(t testing.TB, tenant metering.TenantID, hosts []metering.HostID, random *rand.Rand) (what string, err error) {
	list, err := w.List(t.Context(), tenant, "", 100)
	if err != nil {
		return "list", err
	}
	if len(list) == 0 || random.IntN(6) == 0 {
		_, err = w.Create(t.Context(), request(tenant))
		return "create", err
	}
	in := list[random.IntN(len(list))]
	switch random.IntN(5) {
	case 0, 1:
		_, err = w.Resize(t.Context(), tenant, in.ID, []string{"small", "wide", "wider", "tall"}[random.IntN(4)])
		return "resize", err
	case 2:
		_, err = w.Move(t.Context(), in.ID, hosts[random.IntN(len(hosts))])
		return "move", err
	default:
		power := []compute.Power{compute.PowerRunning, compute.PowerStopped, compute.PowerStopped, compute.PowerRunning, compute.PowerDeleted}[random.IntN(5)]
		_, err = w.SetPower(t.Context(), tenant, in.ID, power, compute.ReasonTenant)
		return string(power), err
	}
}

// check holds what must be true at every instant.
func (w *world) check(t testing.TB, quota compute.Quota, credit int) {
	t.Helper()
	hosts, err := w.Hosts(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, h := range hosts {
		if !h.Granted.Fits(h.Offers) {
			t.Errorf("host %s was granted %+v of %+v", h.ID, h.Granted, h.Offers)
		}
	}
	var twice, over, poor int
	err = w.pool.QueryRow(t.Context(), `SELECT
		(SELECT count(*) FROM (SELECT FROM leases WHERE ended_at IS NULL GROUP BY instance HAVING count(DISTINCT host) > 1) AS t),
		(SELECT count(*) FROM (SELECT FROM instances WHERE desired <> 'deleted' GROUP BY tenant
			HAVING count(*) > $1 OR sum(vcpus) > $2 OR sum(memory_mib) > $3 OR sum(disk_mib) > $4) AS t),
		(SELECT count(*) FROM (SELECT FROM instances WHERE desired = 'running' GROUP BY tenant HAVING sum(vcpus) > $5) AS t)`,
		quota.Instances, quota.VCPUs, quota.MemoryMiB, quota.DiskMiB, credit).Scan(&twice, &over, &poor)
	if err != nil || twice+over+poor != 0 {
		t.Errorf("%d instances with leases on two hosts, %d tenants over their quota, %d over their credit, %v", twice, over, poor, err)
	}
}

// agentOf is a host's agent that carries out all that is wanted of it, at once, and says so.
type agentOf struct {
	*world
	host   metering.HostID
	offers compute.Capacity
}

func (a *agentOf) turn(t testing.TB) {
	d, err := a.Desired(t.Context(), a.host)
	if err != nil {
		t.Error(err)
		return
	}
	states := map[compute.Power]compute.State{compute.PowerRunning: compute.StateRunning, compute.PowerStopped: compute.StateStopped,
		compute.PowerDeleted: compute.StateDeleted, compute.PowerReleased: compute.StateReleased}
	status := hostapi.Status{Sent: noon, Revision: d.Revision, Capacity: a.offers, Version: hostapi.Version, Storage: "san"}
	for _, i := range d.Instances {
		status.Instances = append(status.Instances, hostapi.ObservedInstance{ID: i.ID, Generation: i.Generation, Lease: i.Lease,
			Start: i.Start, State: states[i.Power], Since: noon})
	}
	if err := a.Observe(t.Context(), a.host, status); err != nil {
		t.Error(err)
	}
}
