package portal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/metering/trust"
	"github.com/usance/usance/portal"
	"github.com/usance/usance/portal/identity"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
	"github.com/usance/usance/rating/plandb"
	"github.com/usance/usance/sql/sqltest"
)

const (
	operatorToken = "uo_test"
	password      = "correct horse"
)

const planYAML = `plan: standard
currency: EUR
effective: 2020-01-01
flavors:
  small: {vcpus: 1, memory: 256 MiB, disk: 1 GiB}
rates:
  - {id: small-running, meter: instance.running, where: {flavor: small}, price: 6.00 per hour}
  - {id: egress, meter: network.public.tx, price: 1.00 per GiB}
`

// world is a portal on real databases, with a host that is a row in one of them.
type world struct {
	t        testing.TB
	url      string
	pool     *pgxpool.Pool
	people   *identity.Store
	compute  *computedb.Store
	readings *readingdb.Store
	epochs   *epochdb.Store
	books    *invoicedb.Store
	bills    *billrun.Run
	trust    *trust.Run
	host     metering.HostID
	// accruedErr, when set, is what computing the accrued cost fails with.
	accruedErr   atomic.Pointer[error]
	accruedCalls atomic.Int64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, pool: sqltest.Postgres(t), readings: readingtest.Store(t)}
	var err error
	w.people, err = identity.New(w.pool)
	w.must(err)
	w.books, err = invoicedb.New(w.pool)
	w.must(err)
	plans := plandb.New(w.pool)
	w.epochs = epochdb.New(w.pool)
	log := slog.New(slog.DiscardHandler)
	w.compute = computedb.New(w.pool, computedb.Config{Flavor: flavor, Image: image, Log: log, Credit: w.credit})
	w.bills, err = billrun.New(billrun.Config{Books: w.books, Plans: plans, Epochs: w.epochs, Allocations: allocdb.New(w.pool),
		Readings: w.readings, Running: func(context.Context) ([]billrun.Running, error) { return nil, nil }, Log: log})
	w.must(err)
	take, err := ingest.New(ingest.Config{
		Authenticate: func(*http.Request) (metering.HostID, error) { return "", ingest.ErrUnknownHost },
		Known:        w.epochs.Known, Leases: w.leases, Register: w.epochs.Register, Insert: w.readings.Insert, Quarantine: w.epochs.Quarantine, Log: log,
	})
	w.must(err)
	w.trust = &trust.Run{Epochs: w.epochs, Readings: w.readings, Ingest: take, Log: log}
	server := httptest.NewServer(portal.New(portal.Config{
		Identity: w.people, Compute: w.compute, Readings: w.readings, Epochs: w.epochs, Plans: plans, Invoices: w.books, Bills: w.bills,
		Allocations: allocdb.New(w.pool), Trust: w.trust,
		Accrued: w.accrued, Cut: w.cut, CreateTenant: w.createTenant, GrantCredit: w.grantCredit,
		Flavors: func(ctx context.Context, tenant metering.TenantID) ([]portal.FlavorJSON, error) {
			v, err := w.bills.Preview(ctx, tenant, time.Now(), rating.Planned{Labels: metering.Labels{Flavor: "small"}, Running: rating.Always})
			if err != nil {
				return nil, err
			}
			return []portal.FlavorJSON{portal.NewFlavorJSON(rating.Flavor{Name: "small", VCPUs: 1, MemoryMiB: 256, DiskMiB: 1024}, v)}, nil
		},
		JoinToken: func(ctx context.Context) (portal.TokenJSON, error) {
			secret, err := w.compute.MintToken(ctx)
			return portal.TokenJSON{Token: secret}, err
		},
		Images: func() ([]string, error) { return []string{"tiny"}, nil }, OperatorToken: operatorToken, Log: log,
	}))
	t.Cleanup(func() {
		server.CloseClientConnections() // streams of open pages
		server.Close()
	})
	w.url = server.URL
	var published portal.PublishedPlan
	w.operator("POST", "/operator/plans", []byte(planYAML), http.StatusCreated, &published)
	if published.Plan != "standard" || published.Version != 1 || published.Effective != "2020-01-01" || published.Warnings != nil {
		t.Fatalf("published %+v", published)
	}
	w.host = w.joinHost()
	return w
}

func flavor(_ context.Context, _ metering.TenantID, name string) (compute.Flavor, error) {
	switch name {
	case "small":
		return compute.Flavor{Name: name, VCPUs: 1, MemoryMiB: 256, DiskMiB: 1024}, nil
	case "wide": // what a running small one can become
		return compute.Flavor{Name: name, VCPUs: 4, MemoryMiB: 256, DiskMiB: 2048}, nil
	case "tall":
		return compute.Flavor{Name: name, VCPUs: 4, MemoryMiB: 512, DiskMiB: 2048}, nil
	case "widest":
		return compute.Flavor{Name: name, VCPUs: 16, MemoryMiB: 256, DiskMiB: 2048}, nil
	}
	return compute.Flavor{}, fmt.Errorf("flavor %q: %w", name, compute.ErrNoFlavor)
}

func image(name string) (hostapi.Image, error) {
	if name != "tiny" {
		return hostapi.Image{}, fmt.Errorf("image %q: %w", name, compute.ErrNoImage)
	}
	return hostapi.Image{Name: name, Files: []hostapi.ImageFile{{Name: "disk", SHA256: "00", Size: 1}}}, nil
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) accrued(ctx context.Context, tenant metering.TenantID) (invoicing.Accrued, error) {
	w.accruedCalls.Add(1)
	if err := w.accruedErr.Load(); err != nil {
		return invoicing.Accrued{}, *err
	}
	return w.bills.Accrued(ctx, tenant, time.Now())
}

func (w *world) cut(ctx context.Context, tenant metering.TenantID) (time.Time, billrun.Cut, error) {
	at := time.Now().UTC().Truncate(time.Millisecond)
	made, err := w.bills.Cut(ctx, tenant, at)
	if err == nil {
		err = w.bills.RefreshAccrued(ctx, time.Now())
	}
	return at, made, err
}

func (w *world) credit(ctx context.Context, tx pgx.Tx, tenant metering.TenantID, flavor string, _ map[string]int) error {
	return w.books.CreditCheck(ctx, tx, tenant, time.Now(), 6_000_000_000, 24*time.Hour)
}

func (w *world) createTenant(ctx context.Context, n portal.CreateTenant) (portal.TenantJSON, error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	t, err := w.people.CreateTenant(ctx, identity.NewTenant{Name: n.Name, Email: n.Email, Password: n.Password}, now,
		func(ctx context.Context, _ pgx.Tx, id metering.TenantID) error {
			return w.books.CreateAccount(ctx, invoicing.Account{Tenant: id, Currency: "EUR", Plan: n.Plan, Zone: time.UTC,
				CreditLimit: money.Amount{Currency: "EUR"}, Created: now})
		})
	if err != nil {
		return portal.TenantJSON{}, err
	}
	return portal.TenantJSON{ID: t.ID, Name: t.Name, Email: t.Email, Plan: n.Plan, Currency: "EUR", Zone: "UTC"}, w.bills.RefreshAccrued(ctx, now)
}

func (w *world) grantCredit(ctx context.Context, tenant metering.TenantID, g portal.GrantCredit) error {
	if _, err := w.books.Standing(ctx, tenant); err != nil {
		return err
	}
	amount, err := money.Parse(g.Amount, "EUR")
	if err != nil {
		return fmt.Errorf("%w amount: %w", identity.ErrInvalid, err)
	}
	return w.books.GrantPromo(ctx, tenant, amount, invoicedb.Forever, g.Key, time.Now())
}

// leases are leases as ingest wants them.
func (w *world) leases(ctx context.Context, keys []ingest.LeaseKey) (map[ingest.LeaseKey]ingest.Lease, error) {
	asked := make([]compute.LeaseKey, len(keys))
	for i, k := range keys {
		asked[i] = compute.LeaseKey(k)
	}
	found, err := w.compute.Leases(ctx, asked)
	all := map[ingest.LeaseKey]ingest.Lease{}
	for k, l := range found {
		all[ingest.LeaseKey(k)] = ingest.Lease{Tenant: l.Tenant, Host: l.Host, Granted: l.Granted, Ended: l.Ended, Labels: metering.Labels{Flavor: l.Flavor, Image: l.Image}}
	}
	return all, err
}

func (w *world) joinHost() metering.HostID {
	w.t.Helper()
	secret, err := w.compute.MintToken(w.t.Context())
	w.must(err)
	host, err := w.compute.Join(w.t.Context(), secret, "key", "rack-1", hostapi.Capacity{VCPUs: 8, MemoryMiB: 4096, DiskMiB: 16384})
	w.must(err)
	return host
}

// customer is a tenant with credit, an API token and a browser.
type customer struct {
	portal.TenantJSON
	token   string
	browser *http.Client
}

func (w *world) customer(email string) customer {
	w.t.Helper()
	var c customer
	w.operator("POST", "/operator/tenants", portal.CreateTenant{Name: "Acme " + email, Email: email, Password: password, Plan: "standard",
		Currency: "EUR", Zone: "UTC"}, http.StatusCreated, &c.TenantJSON)
	path := "/operator/tenants/" + string(c.ID)
	w.operator("POST", path+"/credit", portal.GrantCredit{Amount: "500.00", Key: "first"}, http.StatusNoContent, nil)
	var token portal.TokenJSON
	w.operator("POST", path+"/tokens", nil, http.StatusCreated, &token)
	c.token = token.Token
	jar, err := cookiejar.New(nil)
	w.must(err)
	c.browser = &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp := w.form(c.browser, "/login", url.Values{"email": {email}, "password": {password}})
	if resp.status != http.StatusSeeOther {
		w.t.Fatalf("sign in: %d %s", resp.status, resp.body)
	}
	return c
}

// answered is a response, read.
type answered struct {
	status int
	header http.Header
	body   []byte
}

func (w *world) send(client *http.Client, req *http.Request) answered {
	w.t.Helper()
	resp, err := client.Do(req)
	w.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	w.must(err)
	return answered{resp.StatusCode, resp.Header, body}
}

// api sends body (nil, bytes, or a value for JSON) to the API.
func (w *world) api(token, method, path string, body any, header ...string) answered {
	w.t.Helper()
	encoded, raw := body.([]byte)
	if !raw && body != nil {
		var err error
		encoded, err = json.Marshal(body)
		w.must(err)
	}
	req, err := http.NewRequest(method, w.url+"/api/v1"+path, bytes.NewReader(encoded))
	w.must(err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return w.send(http.DefaultClient, req)
}

// want calls the API and decodes its answer into out, which must have the status.
func (w *world) want(token, method, path string, body any, status int, out any) {
	w.t.Helper()
	got := w.api(token, method, path, body)
	if got.status != status {
		w.t.Fatalf("%s %s: %d %s, want %d", method, path, got.status, got.body, status)
	}
	if out != nil {
		w.must(json.Unmarshal(got.body, out))
	}
}

func (w *world) operator(method, path string, body any, status int, out any) {
	w.t.Helper()
	w.want(operatorToken, method, path, body, status, out)
}

func (w *world) form(browser *http.Client, path string, values url.Values) answered {
	w.t.Helper()
	req, err := http.NewRequest("POST", w.url+path, bytes.NewReader([]byte(values.Encode())))
	w.must(err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return w.send(browser, req)
}

func (w *world) page(browser *http.Client, path string) answered {
	w.t.Helper()
	req, err := http.NewRequest("GET", w.url+path, nil)
	w.must(err)
	return w.send(browser, req)
}

// instance is a running instance of the customer with an epoch that a reading of
// an hour of running and a GiB sent belongs to.
func (w *world) instance(c customer, name string) (portal.InstanceJSON, metering.EpochID) {
	w.t.Helper()
	var i portal.InstanceJSON
	w.want(c.token, "POST", "/instances", portal.CreateInstance{Name: name, Flavor: "small", Image: "tiny"}, http.StatusCreated, &i)
	w.must(w.compute.Observe(w.t.Context(), w.host, hostapi.Status{Sent: time.Now(), Capacity: hostapi.Capacity{VCPUs: 8, MemoryMiB: 4096, DiskMiB: 16384},
		Instances: []compute.Observation{{ID: i.ID, Generation: 1, Lease: 1, Start: 1, State: compute.StateRunning, Since: time.Now(), Address: "10.0.0.7"}}}))
	opened := time.Now().UTC().Truncate(time.Millisecond).Add(-time.Minute)
	epoch := metering.DeriveEpochID(i.ID, "boot", 1, 1, 0)
	w.must(w.epochs.Register(w.t.Context(), []metering.EpochRecord{{
		Epoch:  metering.Epoch{ID: epoch, Instance: i.ID, Lease: 1, Start: 1, Opened: opened},
		Tenant: c.ID, Host: w.host, Labels: metering.Labels{Flavor: "small", Image: "tiny"},
	}}))
	w.read(c.ID, i.ID, epoch, time.Now().Add(-30*time.Second), 3_600_000, 1<<30)
	return i, epoch
}

// read stores a reading of running time and bytes sent.
func (w *world) read(tenant metering.TenantID, instance metering.InstanceID, epoch metering.EpochID, at time.Time, runningMS, txBytes uint64) {
	w.t.Helper()
	c := &metering.Columns{Tenant: []string{string(tenant)}, Instance: []string{string(instance)}, Epoch: []string{string(epoch)},
		AtMS: []int64{at.UnixMilli()}, ReceivedMS: []int64{time.Now().UnixMilli()}}
	for i := range c.Registers {
		c.Registers[i] = []uint64{0}
	}
	c.Registers[metering.RunningMS][0] = runningMS
	c.Registers[metering.NetPublicTxBytes][0] = txBytes
	w.must(w.readings.Insert(w.t.Context(), c))
}
