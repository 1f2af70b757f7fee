package computedb_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/sql/sqltest"
)

// The flavors on offer: small, wider and wider ones, and one with more memory.
var (
	small   = compute.Flavor{Name: "small", VCPUs: 1, MemoryMiB: 1024, DiskMiB: 10240}
	wide    = compute.Flavor{Name: "wide", VCPUs: 4, MemoryMiB: 1024, DiskMiB: 20480}
	flavors = []compute.Flavor{small, wide,
		{Name: "wider", VCPUs: 5, MemoryMiB: 1024, DiskMiB: 20480},
		{Name: "widest", VCPUs: 12, MemoryMiB: 1024, DiskMiB: 20480},
		{Name: "tall", VCPUs: 2, MemoryMiB: 2048, DiskMiB: 20480},
	}
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// world is a store with a clock that the test sets.
type world struct {
	*computedb.Store
	pool *pgxpool.Pool
	now  atomic.Pointer[time.Time]
}

func newWorld(t testing.TB, c computedb.Config) *world {
	t.Helper()
	w := &world{pool: sqltest.Postgres(t)}
	w.at(noon)
	c.Flavor = func(_ context.Context, _ metering.TenantID, name string) (compute.Flavor, error) {
		for _, f := range flavors {
			if f.Name == name {
				return f, nil
			}
		}
		return compute.Flavor{}, fmt.Errorf("flavor %q: %w", name, compute.ErrNoFlavor)
	}
	c.Image = func(name string) (hostapi.Image, error) {
		size := int64(0)
		if name == "heavy" {
			size = small.DiskMiB + 1
		}
		return hostapi.Image{Name: name, DiskMiB: size, Files: []hostapi.ImageFile{{Name: "disk", SHA256: "00", Size: 1}}}, nil
	}
	c.Now = func() time.Time { return *w.now.Load() }
	c.Log = slog.New(slog.DiscardHandler)
	w.Store = computedb.New(w.pool, c)
	return w
}

func (w *world) at(t time.Time) { w.now.Store(&t) }

// host joins a host that has room for n small instances.
func (w *world) host(t testing.TB, n int) metering.HostID {
	t.Helper()
	secret, err := w.MintToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id, err := w.Join(t.Context(), secret, "key", "h", room(n))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func room(n int) compute.Capacity {
	return compute.Capacity{VCPUs: n, MemoryMiB: int64(n) * small.MemoryMiB, DiskMiB: int64(n) * small.DiskMiB}
}

func (w *world) create(t testing.TB, tenant metering.TenantID) compute.Instance {
	t.Helper()
	in, err := w.Create(t.Context(), request(tenant))
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func request(tenant metering.TenantID) computedb.CreateRequest {
	return computedb.CreateRequest{Tenant: tenant, Name: "web", Flavor: "small", Image: "demo"}
}

// report has the instance's host say that it is in the state, answering its newest order.
func (w *world) report(t testing.TB, in compute.Instance, state compute.State, guestOff bool) compute.Instance {
	t.Helper()
	now := *w.now.Load()
	err := w.Observe(t.Context(), in.Host, hostapi.Status{Sent: now, Capacity: room(10), Instances: []hostapi.ObservedInstance{
		{ID: in.ID, Generation: in.Generation, Lease: in.Lease, Start: in.Start, State: state, Since: now, GuestOff: guestOff},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.Get(t.Context(), in.Tenant, in.ID)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (w *world) power(t testing.TB, in compute.Instance, p compute.Power) compute.Instance {
	t.Helper()
	got, err := w.SetPower(t.Context(), in.Tenant, in.ID, p, compute.ReasonTenant)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestCreatedInstanceIsPlacedAndDesired(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	host := w.host(t, 2)
	before, err := w.Desired(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	req := request("ten_a")
	req.UserData, req.SSHKeys = "#cloud-config", []string{"ssh-ed25519 AAAA"}
	in, err := w.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	want := compute.Instance{
		ID: in.ID, Tenant: "ten_a", Name: "web", Flavor: "small", Image: "demo",
		Desired: compute.PowerRunning, Reason: compute.ReasonTenant, Generation: 1, Start: 1,
		Host: host, Lease: 1, Under: 1, State: compute.StatePending, Since: noon, Created: noon,
	}
	if in != want {
		t.Errorf("Create:\n got %+v\nwant %+v", in, want)
	}
	if got, err := w.Get(t.Context(), "ten_a", in.ID); err != nil || got != want {
		t.Errorf("Get:\n got %+v, %v\nwant %+v", got, err, want)
	}
	// What the resource is priced by goes with the lease.
	if l, err := w.Lease(t.Context(), in.ID, 1); err != nil || l.Tenant != "ten_a" || l.Flavor != "small" || l.Created != noon {
		t.Errorf("Lease: got %+v, %v", l, err)
	}
	d, err := w.Desired(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	if d.Revision == before.Revision || len(d.Instances) != 1 {
		t.Fatalf("desired state after a creation: revision %d → %d, instances %+v", before.Revision, d.Revision, d.Instances)
	}
	i := d.Instances[0]
	if i.ID != in.ID || i.Power != compute.PowerRunning || i.Flavor != small || i.UserData != req.UserData ||
		len(i.SSHKeys) != 1 || i.Lease != 1 || i.Start != 1 || i.MAC != compute.MAC(in.ID) || i.Image.Files[0].Name != "disk" {
		t.Errorf("desired instance: %+v", i)
	}
	l, err := w.Lease(t.Context(), in.ID, 1)
	if want := (compute.Lease{Instance: in.ID, No: 1, Host: host, Tenant: "ten_a", Flavor: "small", Image: "demo", Created: noon, Granted: noon}); err != nil || l != want {
		t.Errorf("lease %+v, %v; want %+v", l, err, want)
	}
	if _, err := w.Lease(t.Context(), in.ID, 2); !errors.Is(err, compute.ErrNotFound) {
		t.Errorf("a lease never granted: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	errPoor := errors.New("no credit")
	asked := map[string]int{}
	w := newWorld(t, computedb.Config{
		Credit: func(_ context.Context, _ pgx.Tx, tenant metering.TenantID, flavor string, running map[string]int) error {
			if tenant == "ten_poor" {
				return errPoor
			}
			asked[fmt.Sprintf("%s beside %v", flavor, running)]++
			return nil
		},
	})
	_, err := w.Create(t.Context(), request("ten_a"))
	if !errors.Is(err, compute.ErrNoCapacity) {
		t.Errorf("without a host: %v", err)
	}
	w.host(t, 2)
	if err := w.SetQuota(t.Context(), "ten_full", compute.Quota{Instances: 5, Capacity: compute.Capacity{VCPUs: 0, MemoryMiB: 1 << 20, DiskMiB: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		edit func(*computedb.CreateRequest)
		want error
	}{
		{"quota", func(r *computedb.CreateRequest) { r.Tenant = "ten_full" }, compute.ErrQuota},
		{"credit", func(r *computedb.CreateRequest) { r.Tenant = "ten_poor" }, errPoor},
		{"flavor", func(r *computedb.CreateRequest) { r.Flavor = "huge" }, compute.ErrNoFlavor},
		{"image too large", func(r *computedb.CreateRequest) { r.Image = "heavy" }, compute.ErrImageTooLarge},
		{"name", func(r *computedb.CreateRequest) { r.Name = "-web" }, compute.ErrInvalid},
		{"user data", func(r *computedb.CreateRequest) { r.UserData = string(make([]byte, 65<<10)) }, compute.ErrInvalid},
	} {
		req := request("ten_a")
		c.edit(&req)
		if _, err := w.Create(t.Context(), req); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	var quota *compute.QuotaError
	full := request("ten_full")
	if _, err := w.Create(t.Context(), full); !errors.As(err, &quota) || quota.What != "vcpus" || quota.Limit != 0 {
		t.Errorf("quota error %+v", quota)
	}
	w.create(t, "ten_a")
	w.create(t, "ten_a")
	if _, err := w.Create(t.Context(), request("ten_a")); !errors.Is(err, compute.ErrNoCapacity) {
		t.Errorf("a third instance on a host for two: %v", err)
	}
	for _, want := range []string{"small beside map[]", "small beside map[small:1]", "small beside map[small:2]"} {
		if asked[want] == 0 {
			t.Errorf("credit was not asked for %s, but for %v", want, asked)
		}
	}
	if list, err := w.List(t.Context(), "ten_a", "", 10); err != nil || len(list) != 2 {
		t.Errorf("refused orders left something: %d instances, %v", len(list), err)
	}
}

func TestRepeatedRequestMakesOneInstance(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	w.host(t, 5)
	req := request("ten_a")
	req.Key = "k1"
	var ids sync.Map
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			in, err := w.Create(t.Context(), req)
			if err != nil {
				t.Error(err)
			}
			ids.Store(in.ID, true)
		})
	}
	group.Wait()
	n := 0
	ids.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("8 requests with one key made %d instances", n)
	}
	req.Tenant = "ten_b" // keys are each tenant's own
	if _, err := w.Create(t.Context(), req); err != nil {
		t.Error(err)
	}
}

func TestLifeOfAnInstance(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	host := w.host(t, 1)
	in := w.create(t, "ten_a")
	allocations := func() []metering.Allocation {
		t.Helper()
		all, err := allocdb.New(w.pool).OfTenant(t.Context(), "ten_a", metering.Window{Start: noon, End: noon.Add(24 * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	step := func(got compute.Instance, state compute.State, desired compute.Power, reason string, generation uint64, start metering.StartNo) {
		t.Helper()
		if got.State != state || got.Desired != desired || got.Reason != reason || got.Generation != generation || got.Start != start {
			t.Fatalf("got %s, wanted %s for %s, generation %d, start %d;\nwant %s, wanted %s for %s, generation %d, start %d",
				got.State, got.Desired, got.Reason, got.Generation, got.Start, state, desired, reason, generation, start)
		}
		in = got
	}
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }

	step(w.report(t, in, compute.StateRunning, false), compute.StateRunning, compute.PowerRunning, "tenant", 1, 1)
	step(w.power(t, in, compute.PowerRunning), compute.StateRunning, compute.PowerRunning, "tenant", 1, 1)
	if n := len(allocations()); n != 0 {
		t.Fatalf("%d allocations while it runs", n)
	}
	w.at(minute(1))
	step(w.power(t, in, compute.PowerStopped), compute.StateStopping, compute.PowerStopped, "tenant", 2, 1)
	w.at(minute(2))
	step(w.report(t, in, compute.StateStopped, false), compute.StateStopped, compute.PowerStopped, "tenant", 2, 1)
	w.at(minute(3))
	step(w.report(t, in, compute.StateStopped, false), compute.StateStopped, compute.PowerStopped, "tenant", 2, 1)
	if !in.Since.Equal(minute(2)) {
		t.Errorf("stopped since %s, want %s", in.Since, minute(2))
	}
	step(w.power(t, in, compute.PowerRunning), compute.StateStarting, compute.PowerRunning, "tenant", 3, 2)
	w.at(minute(4))
	step(w.report(t, in, compute.StateRunning, false), compute.StateRunning, compute.PowerRunning, "tenant", 3, 2)
	if all := allocations(); len(all) != 1 || !all[0].Start.Equal(minute(2)) || !all[0].End.Equal(minute(4)) {
		t.Fatalf("stopped from minute 2 to 4: %+v", all)
	}
	w.at(minute(5))
	step(w.report(t, in, compute.StateStopped, true), compute.StateStopped, compute.PowerStopped, "guest", 4, 2)
	step(w.power(t, in, compute.PowerDeleted), compute.StateStopping, compute.PowerDeleted, "tenant", 5, 2)
	if _, err := w.SetPower(t.Context(), "ten_a", in.ID, compute.PowerRunning, compute.ReasonTenant); !errors.Is(err, compute.ErrDeleted) {
		t.Errorf("start while being deleted: %v", err)
	}
	if d, _ := w.Desired(t.Context(), host); len(d.Instances) != 1 || d.Instances[0].Power != compute.PowerDeleted {
		t.Errorf("a deletion has to be said: %+v", d.Instances)
	}
	w.at(minute(6))
	deleted := in
	step(w.report(t, in, compute.StateDeleted, false), compute.StateDeleted, compute.PowerDeleted, "tenant", 5, 2)
	if in.Host != "" || in.Lease != 0 {
		t.Errorf("deleted, but still on %s with lease %d", in.Host, in.Lease)
	}
	if l, err := w.Lease(t.Context(), in.ID, 1); err != nil || !l.Ended.Equal(minute(6)) {
		t.Errorf("lease %+v, %v; want its end at minute 6", l, err)
	}
	if all := allocations(); len(all) != 2 || !all[1].Start.Equal(minute(5)) || !all[1].End.Equal(minute(6)) {
		t.Fatalf("stopped again from minute 5 to 6: %+v", all)
	}
	if got := w.report(t, deleted, compute.StateRunning, false); got.State != compute.StateDeleted {
		t.Errorf("a deleted instance came back as %s", got.State)
	}
	for _, p := range []compute.Power{compute.PowerDeleted, compute.PowerRunning} {
		if _, err := w.SetPower(t.Context(), "ten_a", in.ID, p, compute.ReasonTenant); !errors.Is(err, compute.ErrNotFound) {
			t.Errorf("%s of a deleted instance: %v", p, err)
		}
	}
	w.create(t, "ten_a") // its capacity is free again
}

func TestStaleGuestOffDoesNotUndoANewerOrder(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	w.host(t, 1)
	old := w.report(t, w.create(t, "ten_a"), compute.StateRunning, false)
	w.power(t, old, compute.PowerStopped)
	w.power(t, old, compute.PowerRunning)
	got := w.report(t, old, compute.StateStopped, true) // says generation 1, start 1
	if got.Desired != compute.PowerRunning || got.State != compute.StateStarting || got.Generation != 3 {
		t.Errorf("got wanted %s, %s, generation %d", got.Desired, got.State, got.Generation)
	}
}

func TestHostClockIsCorrected(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	w.host(t, 1)
	in := w.create(t, "ten_a")
	w.at(noon.Add(time.Minute))
	hostClock := noon.Add(time.Minute).Add(-3 * time.Hour)
	err := w.Observe(t.Context(), in.Host, hostapi.Status{Sent: hostClock, Capacity: room(1), Instances: []hostapi.ObservedInstance{
		{ID: in.ID, Generation: 1, Lease: 1, Start: 1, State: compute.StateRunning, Since: hostClock.Add(-20 * time.Second)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.Get(t.Context(), "ten_a", in.ID)
	if want := noon.Add(40 * time.Second); err != nil || !got.Since.Equal(want) {
		t.Errorf("running since %s, %v; want %s", got.Since, err, want)
	}
}

func TestForeignAndMissingAreNotFound(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	w.host(t, 1)
	in := w.create(t, "ten_a")
	for name, c := range map[string]struct {
		tenant metering.TenantID
		id     metering.InstanceID
	}{
		"foreign": {"ten_b", in.ID},
		"missing": {"ten_a", "ins_00000000000000000"},
	} {
		if _, err := w.Get(t.Context(), c.tenant, c.id); !errors.Is(err, compute.ErrNotFound) {
			t.Errorf("Get of a %s instance: %v", name, err)
		}
		if _, err := w.SetPower(t.Context(), c.tenant, c.id, compute.PowerDeleted, compute.ReasonTenant); !errors.Is(err, compute.ErrNotFound) {
			t.Errorf("SetPower of a %s instance: %v", name, err)
		}
		if list, err := w.List(t.Context(), c.tenant, c.id, 10); err != nil || len(list) != 0 {
			t.Errorf("List after a %s instance: %d, %v", name, len(list), err)
		}
	}
}

func TestListPagesMeetEveryInstanceOnce(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	w.host(t, 7)
	want := map[metering.InstanceID]bool{}
	for i := range 7 {
		w.at(noon.Add(time.Duration(i/3) * time.Second)) // some at the same instant
		want[w.create(t, "ten_a").ID] = true
	}
	var after metering.InstanceID
	for range 4 {
		page, err := w.List(t.Context(), "ten_a", after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range page {
			if !want[in.ID] {
				t.Errorf("%s is listed twice or is not ours", in.ID)
			}
			delete(want, in.ID)
			after = in.ID
		}
	}
	if len(want) != 0 {
		t.Errorf("not listed: %v", want)
	}
}

// TestConcurrentCreates is invariant 6: whatever happens at once, no quota and
// no host is exceeded, and nobody is refused who would have fitted.
func TestConcurrentCreates(t *testing.T) {
	const creates, perHost, quota = 50, 12, 15
	w := newWorld(t, computedb.Config{})
	w.host(t, perHost)
	w.host(t, perHost)
	tenants := []metering.TenantID{"ten_a", "ten_b"}
	for _, tenant := range tenants {
		q := compute.Quota{Instances: quota, Capacity: room(100)}
		if err := w.SetQuota(t.Context(), tenant, q); err != nil {
			t.Fatal(err)
		}
	}
	var made, full, overQuota atomic.Int64
	var group sync.WaitGroup
	for i := range creates {
		group.Go(func() {
			in, err := w.Create(t.Context(), request(tenants[i%2]))
			switch {
			case err == nil:
				made.Add(1)
				if i%10 == 0 { // orders and reports go on meanwhile
					w.power(t, in, compute.PowerStopped)
				}
			case errors.Is(err, compute.ErrNoCapacity):
				full.Add(1)
			case errors.Is(err, compute.ErrQuota):
				overQuota.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	group.Wait()
	if made.Load() != 2*perHost || made.Load()+full.Load()+overQuota.Load() != creates {
		t.Errorf("%d made, %d found no room, %d over quota; want %d made of %d", made.Load(), full.Load(), overQuota.Load(), 2*perHost, creates)
	}
	hosts, err := w.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if h.Granted != room(perHost) {
			t.Errorf("host %s was granted %+v of %+v", h.ID, h.Granted, h.Offers)
		}
	}
	for _, tenant := range tenants {
		if list, err := w.List(t.Context(), tenant, "", 100); err != nil || len(list) > quota {
			t.Errorf("%s has %d instances with a quota of %d, %v", tenant, len(list), quota, err)
		}
	}
	var twice int
	err = w.pool.QueryRow(t.Context(), `SELECT count(*) FROM (
		SELECT FROM leases WHERE ended_at IS NULL GROUP BY instance HAVING count(*) > 1) AS t`).Scan(&twice)
	if err != nil || twice != 0 {
		t.Errorf("%d instances with two open leases, %v", twice, err)
	}
	_, err = w.pool.Exec(t.Context(), `INSERT INTO leases
		SELECT instance, no + 1, host, tenant, flavor, image, vcpus, memory_mib, disk_mib, granted_at, NULL FROM leases LIMIT 1`)
	if err == nil {
		t.Error("the database allows a second open lease")
	}
}

func TestJoinTokenIsSpentOnOneKeyInTime(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	mint := func() string {
		t.Helper()
		secret, err := w.MintToken(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	secret := mint()
	first, err := w.Join(t.Context(), secret, "key 1", "h", room(1))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.Join(t.Context(), secret, "key 1", "h", room(1)); err != nil || again != first {
		t.Errorf("the same key again: %s, %v; want %s", again, err, first)
	}
	if _, err := w.Join(t.Context(), secret, "key 2", "h", room(1)); !errors.Is(err, hostapi.ErrToken) {
		t.Errorf("another key with a spent token: %v", err)
	}
	if _, err := w.Join(t.Context(), "guessed", "key 2", "h", room(1)); !errors.Is(err, hostapi.ErrToken) {
		t.Errorf("a token nobody minted: %v", err)
	}
	late := mint()
	w.at(noon.Add(computedb.TokenLife))
	for _, s := range []string{late, secret} {
		if _, err := w.Join(t.Context(), s, "key 1", "h", room(1)); !errors.Is(err, hostapi.ErrToken) {
			t.Errorf("after %s: %v", computedb.TokenLife, err)
		}
	}
	var stored int
	if err := w.pool.QueryRow(t.Context(), `SELECT count(*) FROM join_tokens t WHERE t::text LIKE '%' || $1 || '%'`, secret).Scan(&stored); err != nil || stored != 0 {
		t.Errorf("the secret itself is in %d rows, %v", stored, err)
	}
}

func TestDrainingAndRemovedHostsTakeNothing(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	host := w.host(t, 2)
	in := w.create(t, "ten_a")
	if err := w.SetDraining(t.Context(), host, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Create(t.Context(), request("ten_a")); !errors.Is(err, compute.ErrNoCapacity) {
		t.Errorf("a draining host: %v", err)
	}
	if err := w.Active(t.Context(), host); err != nil {
		t.Errorf("a draining host is still one: %v", err)
	}
	if err := w.RemoveHost(t.Context(), host); err != nil {
		t.Fatal(err)
	}
	if err := w.Active(t.Context(), host); !errors.Is(err, hostapi.ErrRemoved) {
		t.Errorf("a removed host: %v", err)
	}
	if err := w.Active(t.Context(), "hst_00000000000000000"); !errors.Is(err, hostapi.ErrUnauthorized) {
		t.Errorf("a host that never joined: %v", err)
	}
	w.power(t, in, compute.PowerDeleted)
	for range 2 {
		if err := w.ReleaseRemoved(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := w.Get(t.Context(), "ten_a", in.ID); err != nil || got.State != compute.StateDeleted || got.Host != "" {
		t.Errorf("deleted on a removed host: %+v, %v", got, err)
	}
}

func TestFullReadingIsAwaited(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	silent := w.host(t, 1)
	w.create(t, "ten_a")
	w.at(noon.Add(2 * compute.HostSilence)) // not asked: it would not answer
	host := w.host(t, 1)
	in := w.create(t, "ten_a")
	if in.Host != host {
		t.Fatalf("placed on %s, which is silent", in.Host)
	}
	wait, err := w.RequestFullReading(t.Context(), "ten_a")
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody has read, and wait says %v", err)
	}
	d, err := w.Desired(t.Context(), host)
	if err != nil || d.FullReading != 1 {
		t.Fatalf("the host is asked for %d, %v", d.FullReading, err)
	}
	if d, _ := w.Desired(t.Context(), silent); d.FullReading != 0 {
		t.Error("a silent host was asked")
	}
	status := hostapi.Status{Sent: *w.now.Load(), FullReading: d.FullReading, Capacity: room(1)}
	if err := w.Observe(t.Context(), host, status); err != nil {
		t.Fatal(err)
	}
	if err := wait(t.Context()); err != nil {
		t.Error(err)
	}
	if wait, err = w.RequestFullReading(t.Context(), "ten_nobody"); err != nil || wait(t.Context()) != nil {
		t.Error("a tenant without hosts has to wait for nobody")
	}
}

func TestWatchWakesOnChangesOfItsHostOnly(t *testing.T) {
	w := newWorld(t, computedb.Config{})
	host := w.host(t, 2)
	watcher := computedb.NewWatcher(w.pool, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- watcher.Run(ctx) }()

	changed, stop, err := watcher.Watch(host)
	if err != nil {
		t.Fatal(err)
	}
	other, stopOther, err := watcher.Watch("hst_00000000000000000")
	if err != nil {
		t.Fatal(err)
	}
	defer stopOther()
	await := func(c <-chan struct{}, what string) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(10 * time.Second):
			t.Fatalf("not woken by %s", what)
		}
	}
	await(changed, "the beginning of listening")
	await(other, "the beginning of listening")
	in := w.create(t, "ten_a")
	await(changed, "a creation")
	w.power(t, in, compute.PowerStopped)
	await(changed, "an order")
	if _, err := w.RequestFullReading(t.Context(), "ten_a"); err != nil {
		t.Fatal(err)
	}
	await(changed, "a request for a full reading")
	if len(other) != 0 {
		t.Error("woken by another host's change")
	}
	if _, err := w.pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'`); err != nil {
		t.Fatal(err)
	}
	await(changed, "a connection made anew")
	stop()
	stop()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
}
