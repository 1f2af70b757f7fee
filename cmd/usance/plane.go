package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/compute/leaks"
	"github.com/usance/usance/compute/scheduler"
	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/trust"
	"github.com/usance/usance/portal"
	"github.com/usance/usance/portal/identity"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/plandb"
	"github.com/usance/usance/sql"
)

const (
	// creditAhead is how long a tenant's credit must carry all that runs and what
	// is to be started.
	creditAhead = 24 * time.Hour
	// settle is how long after its end a period is closed by itself.
	settle = 10 * time.Minute

	billrunPeriod   = time.Minute
	accruedPeriod   = time.Minute
	schedulerPeriod = 5 * time.Second
	heldPeriod      = 5 * time.Second
	leaksPeriod     = 30 * time.Second
	auditPeriod     = 24 * time.Hour

	// knownEpochs bounds what an agent without state is told; a host has few
	// epochs that may still run.
	knownEpochs = 10_000

	// maxBytesPerSecond is more than any host moves through one instance's disks
	// or interfaces; a register that grows faster is put into quarantine.
	maxBytesPerSecond = 100_000_000_000

	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
)

// imageRoot is where images that came with the installation lie.
const imageRoot = "/usr/local/lib/usance/images"

// plane is the control plane: the stores, the runners and what they need of
// each other.
type plane struct {
	log         *slog.Logger
	data        *dataFolder
	ca          *hostapi.CA
	readings    *readingdb.Store
	epochs      *epochdb.Store
	allocations *allocdb.Store
	plans       *plandb.Store
	books       *invoicedb.Store
	people      *identity.Store
	compute     *computedb.Store
	bills       *billrun.Run
	trust       *trust.Run
	images      hostapi.Images
	accrue      chan struct{} // pokes the refresh of the accrued cache
}

// startPlane locks the data folder, opens both databases, brings their schemas
// up to date, and serves tenants, operators and hosts.
func startPlane(ctx context.Context, cfg config, log *slog.Logger, s *stack) (*plane, error) {
	data, err := openData(cfg.data)
	if err != nil {
		return nil, err
	}
	s.push(func() { data.Close() })
	// The ports first: one that is taken is told before anything is started.
	pages, err := listen("listen", cfg.listen)
	if err != nil {
		return nil, err
	}
	s.push(func() { pages.Close() })
	hosts, err := listen("listen-hosts", cfg.listenHosts)
	if err != nil {
		return nil, err
	}
	s.push(func() { hosts.Close() })
	pool, readings, err := openDatabases(ctx, cfg, log, data, s)
	if err != nil {
		return nil, err
	}
	// Admission asks for prices while its transaction holds a connection; those
	// questions have a pool of their own, so that they cannot wait for each other.
	admission, err := pgxpool.NewWithConfig(ctx, pool.Config())
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	s.push(admission.Close)
	p, err := newPlane(log, data, pool, admission, readings)
	if err != nil {
		return nil, err
	}
	return p, p.serve(ctx, cfg, admission, pages, hosts, s)
}

// openDatabases connects to both databases and migrates them.
func openDatabases(ctx context.Context, cfg config, log *slog.Logger, data *dataFolder, s *stack) (*pgxpool.Pool, *readingdb.Store, error) {
	pool, err := openPostgres(ctx, cfg, log, data, s)
	if err != nil {
		return nil, nil, err
	}
	readings, err := openReadings(ctx, cfg, log, data, s)
	if err != nil {
		return nil, nil, err
	}
	s.push(func() { readings.Close() })
	applied, err := sql.MigratePostgres(ctx, pool)
	if err != nil {
		return nil, nil, err
	}
	if err := readings.Migrate(ctx, cfg.cluster); err != nil {
		return nil, nil, err
	}
	log.Info("databases are up to date", "migrations", len(applied))
	return pool, readings, nil
}

func newPlane(log *slog.Logger, data *dataFolder, pool, admission *pgxpool.Pool, readings *readingdb.Store) (*plane, error) {
	ca, err := hostapi.LoadCA(data.path("keys"))
	if err != nil {
		return nil, err
	}
	books, err := invoicedb.New(pool)
	if err != nil {
		return nil, err
	}
	people, err := identity.New(pool)
	if err != nil {
		return nil, err
	}
	p := &plane{log: log, data: data, ca: ca, readings: readings, epochs: epochdb.New(pool), allocations: allocdb.New(pool), plans: plandb.New(pool), books: books, people: people,
		images: hostapi.Images{Roots: []string{data.path("images"), imageRoot}}, accrue: make(chan struct{}, 1)}
	p.compute = computedb.New(admission, computedb.Config{Flavor: p.flavor, Image: p.images.Find, Credit: p.credit, Log: log})
	p.bills, err = billrun.New(billrun.Config{Books: books, Plans: p.plans, Epochs: p.epochs, Allocations: p.allocations,
		Readings: readings, Running: p.running, Settle: settle, Log: log})
	return p, err
}

// serve serves both ports and runs the tasks until the stack is unwound.
func (p *plane) serve(ctx context.Context, cfg config, admission *pgxpool.Pool, pages, hosts net.Listener, s *stack) error {
	token, err := operatorToken(p.data)
	if err != nil {
		return err
	}
	auth := &hostapi.Authenticator{CA: p.ca, Active: p.compute.Active}
	take, err := ingest.New(ingest.Config{Authenticate: ingestAuth(auth), Known: p.epochs.Known, Leases: p.leases,
		Register: p.epochs.Register, Insert: p.readings.Insert, Quarantine: p.epochs.Quarantine, Log: p.log})
	if err != nil {
		return err
	}
	p.trust = &trust.Run{Epochs: p.epochs, Readings: p.readings, Ingest: take, Log: p.log}
	watcher := computedb.NewWatcher(admission, p.log)
	s.run(ctx, func(ctx context.Context) { watcher.Run(ctx) })
	s.run(ctx, func(ctx context.Context) { repeat(ctx, p.log, "close periods", billrunPeriod, nil, p.bills.Once) })
	s.run(ctx, func(ctx context.Context) {
		repeat(ctx, p.log, "accrued", accruedPeriod, p.accrue, p.bills.RefreshAccrued)
	})
	watch := &leaks.Run{Compute: p.compute, Epochs: p.epochs, Allocations: p.allocations, Readings: p.readings, Hourly: p.hourly, Log: p.log}
	s.run(ctx, func(ctx context.Context) { repeat(ctx, p.log, "leaks", leaksPeriod, nil, watch.Once) })
	s.run(ctx, func(ctx context.Context) { repeat(ctx, p.log, "audit of readings", auditPeriod, nil, watch.Audit) })
	silence := &scheduler.Run{Store: p.compute, Log: p.log}
	s.run(ctx, func(ctx context.Context) { repeat(ctx, p.log, "silent hosts", schedulerPeriod, nil, silence.Once) })
	s.run(ctx, func(ctx context.Context) {
		repeat(ctx, p.log, "held and accepted readings", heldPeriod, nil, p.trust.Once)
	})

	s.run(ctx, serveHTTP(p.log, "hosts", hosts, &http.Server{
		Handler: hostapi.Handler(hostapi.Config{Auth: auth, Join: p.compute.Join, Desired: p.compute.Desired, Watch: watcher.Watch,
			Observe: p.compute.Observe, Epochs: p.knownEpochs, Images: p.images, Readings: take, Log: p.log}),
		TLSConfig: p.ca.ServerConfig(cfg.names()...),
	}))
	s.run(ctx, serveHTTP(p.log, "portal", pages, &http.Server{Handler: portal.New(portal.Config{
		Identity: p.people, Compute: p.compute, Readings: p.readings, Epochs: p.epochs, Plans: p.plans, Invoices: p.books, Bills: p.bills,
		Allocations: p.allocations, Trust: p.trust,
		Accrued: func(ctx context.Context, tenant metering.TenantID) (invoicing.Accrued, error) {
			return p.bills.Accrued(ctx, tenant, time.Now())
		},
		Cut: p.cut, Flavors: p.flavors, CreateTenant: p.createTenant, GrantCredit: p.grantCredit, JoinToken: p.mintToken,
		Images: p.imageNames, OperatorToken: token, Log: p.log,
	})}))
	return nil
}

// serveHTTP serves until ctx ends; then requests may finish for 5 s.
func serveHTTP(log *slog.Logger, name string, l net.Listener, server *http.Server) func(context.Context) {
	return func(ctx context.Context) {
		server.ReadHeaderTimeout, server.IdleTimeout = readHeaderTimeout, idleTimeout
		server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
		server.BaseContext = func(net.Listener) context.Context { return ctx }
		stop := context.AfterFunc(ctx, func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if server.Shutdown(ctx) != nil {
				server.Close()
			}
		})
		defer stop()
		err := error(nil)
		if server.TLSConfig != nil {
			err = server.ServeTLS(l, "", "")
		} else {
			err = server.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			log.Error("server ended", "server", name, "err", err)
		}
	}
}

// operatorToken is kept in the data folder, readable by its owner alone.
func operatorToken(data *dataFolder) (string, error) {
	file := data.path(operatorTokenFile)
	b, err := os.ReadFile(file)
	if err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("operator's token: %w", err)
	}
	token := "uo_" + rand.Text() + rand.Text()
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		return "", diskError(data.dir, err)
	}
	return token, nil
}

// ingestAuth says who sent a batch, in the words of ingest.
func ingestAuth(auth *hostapi.Authenticator) func(r *http.Request) (metering.HostID, error) {
	return func(r *http.Request) (metering.HostID, error) {
		host, err := auth.Authenticate(r)
		switch {
		case errors.Is(err, hostapi.ErrUnauthorized):
			return "", fmt.Errorf("%w: %w", ingest.ErrUnknownHost, err)
		case errors.Is(err, hostapi.ErrRemoved):
			return "", fmt.Errorf("%w: %w", ingest.ErrRemovedHost, err)
		}
		return host, err
	}
}

// leases are leases as ingest wants them: with the labels they give to epochs.
func (p *plane) leases(ctx context.Context, keys []ingest.LeaseKey) (map[ingest.LeaseKey]ingest.Lease, error) {
	asked := make([]compute.LeaseKey, len(keys))
	for i, k := range keys {
		asked[i] = compute.LeaseKey(k)
	}
	found, err := p.compute.Leases(ctx, asked)
	if err != nil {
		return nil, err
	}
	all := make(map[ingest.LeaseKey]ingest.Lease, len(found))
	for k, l := range found {
		all[ingest.LeaseKey(k)] = ingest.Lease{Tenant: l.Tenant, Host: l.Host, Granted: l.Granted, Ended: l.Ended,
			Labels: metering.Labels{Flavor: l.Flavor, Image: l.Image}, MaxBytesPerSecond: maxBytesPerSecond}
	}
	return all, nil
}

// knownEpochs are the host's epochs with their largest readings, for an agent without state.
func (p *plane) knownEpochs(ctx context.Context, host metering.HostID) ([]hostapi.KnownEpoch, error) {
	records, err := p.epochs.OfHost(ctx, host, knownEpochs)
	if err != nil {
		return nil, err
	}
	largest, err := p.trust.Largest(ctx, records)
	if err != nil {
		return nil, err
	}
	known := make([]hostapi.KnownEpoch, len(records))
	for i, r := range records {
		known[i].Epoch = r.Epoch
		if reading, ok := largest[r.ID]; ok {
			known[i].Largest = &reading
		}
	}
	return known, nil
}

// plan is the plan in force for the tenant's present period.
func (p *plane) plan(ctx context.Context, tenant metering.TenantID) (*rating.Plan, error) {
	account, err := p.books.Standing(ctx, tenant)
	if err != nil {
		return nil, err
	}
	period, err := account.Account.PeriodOf(time.Now())
	if err != nil {
		return nil, err
	}
	plan, _, err := p.plans.InForce(ctx, account.Account.Plan, period.Start)
	return plan, err
}

func (p *plane) flavor(ctx context.Context, tenant metering.TenantID, name string) (compute.Flavor, error) {
	plan, err := p.plan(ctx, tenant)
	if err != nil {
		return compute.Flavor{}, err
	}
	for _, f := range plan.Flavors {
		if f.Name == name {
			return compute.Flavor{Name: f.Name, VCPUs: f.VCPUs, MemoryMiB: int64(f.MemoryMiB), DiskMiB: int64(f.DiskMiB)}, nil
		}
	}
	return compute.Flavor{}, fmt.Errorf("plan %s sells no flavor %q: %w", plan.Name, name, compute.ErrNoFlavor)
}

func (p *plane) flavors(ctx context.Context, tenant metering.TenantID) ([]portal.FlavorJSON, error) {
	plan, err := p.plan(ctx, tenant)
	if err != nil {
		return nil, err
	}
	list := make([]portal.FlavorJSON, len(plan.Flavors))
	for i, f := range plan.Flavors {
		v, err := p.bills.Preview(ctx, tenant, rating.Planned{Labels: metering.Labels{Flavor: f.Name}, Running: rating.Always})
		if err != nil {
			return nil, err
		}
		list[i] = portal.NewFlavorJSON(f, v)
	}
	return list, nil
}

// hourly is what an hour of an instance of the flavor costs the tenant, in minor units.
func (p *plane) hourly(ctx context.Context, tenant metering.TenantID, flavor string) (int64, string, error) {
	account, err := p.books.Standing(ctx, tenant)
	if err != nil {
		return 0, "", err
	}
	burn, err := p.bills.Burn(ctx, tenant, metering.Labels{Flavor: flavor})
	if err != nil {
		return 0, "", err
	}
	hour, err := burn.Over(time.Hour, account.Currency)
	return hour.Minor, string(account.Currency), err
}

// credit is admission's question to the books; see startPlane on its connections.
func (p *plane) credit(ctx context.Context, tx pgx.Tx, tenant metering.TenantID, flavor string, _ map[string]int) error {
	more, err := p.bills.Burn(ctx, tenant, metering.Labels{Flavor: flavor})
	if err != nil {
		return err
	}
	return p.books.CreditCheck(ctx, tx, tenant, time.Now(), more, creditAhead)
}

func (p *plane) running(ctx context.Context) ([]billrun.Running, error) {
	wanted, err := p.compute.WantedRunning(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]billrun.Running, len(wanted))
	for i, w := range wanted {
		all[i] = billrun.Running{Tenant: w.Tenant, Labels: metering.Labels{Flavor: w.Flavor, Image: w.Image}}
	}
	return all, nil
}

// cut asks the tenant's hosts for a full reading and closes the period up to now.
func (p *plane) cut(ctx context.Context, tenant metering.TenantID) (time.Time, billrun.Cut, error) {
	wait, err := p.compute.RequestFullReading(ctx, tenant)
	if err != nil {
		return time.Time{}, billrun.Cut{}, err
	}
	if err := wait(ctx); err != nil { // what is missing is late usage on the next invoice
		p.log.Warn("closing without a full reading of every host", "tenant", tenant, "err", err)
	}
	at := time.Now().UTC().Truncate(time.Millisecond)
	made, err := p.bills.Cut(ctx, tenant, at)
	p.pokeAccrued()
	return at, made, err
}

// pokeAccrued has the accrued cache refreshed soon.
func (p *plane) pokeAccrued() {
	select {
	case p.accrue <- struct{}{}:
	default:
	}
}

// refreshAccrued refreshes the accrued cache now: after what lets a tenant buy
// for the first time.
func (p *plane) refreshAccrued(ctx context.Context) error {
	return p.bills.RefreshAccrued(ctx, time.Now())
}

func (p *plane) createTenant(ctx context.Context, n portal.CreateTenant) (portal.TenantJSON, error) {
	account, err := p.newAccount(ctx, n)
	if err != nil {
		return portal.TenantJSON{}, err
	}
	t, err := p.people.CreateTenant(ctx, identity.NewTenant{Name: n.Name, Email: n.Email, Password: n.Password}, account.Created,
		func(ctx context.Context, _ pgx.Tx, id metering.TenantID) error {
			account.Tenant = id
			return p.books.CreateAccount(ctx, account)
		})
	if err != nil {
		return portal.TenantJSON{}, err
	}
	return portal.TenantJSON{ID: t.ID, Name: t.Name, Email: t.Email, Plan: n.Plan, Currency: n.Currency, Zone: n.Zone}, p.refreshAccrued(ctx)
}

func (p *plane) grantCredit(ctx context.Context, tenant metering.TenantID, g portal.GrantCredit) error {
	account, err := p.books.Standing(ctx, tenant)
	if err != nil {
		return err
	}
	amount, expires, err := parseGrant(g, account.Account.Currency)
	if err != nil {
		return err
	}
	return p.books.GrantPromo(ctx, tenant, amount, expires, g.Key, time.Now())
}

// joinToken makes the token of one host.
func (p *plane) joinToken(ctx context.Context) (string, error) {
	secret, err := p.compute.MintToken(ctx)
	if err != nil {
		return "", err
	}
	return p.ca.Token(secret), nil
}

func (p *plane) mintToken(ctx context.Context) (portal.TokenJSON, error) {
	token, err := p.joinToken(ctx)
	expires := time.Now().UTC().Add(computedb.TokenLife).Truncate(time.Second)
	return portal.TokenJSON{Token: token, Expires: &expires}, err
}

// imageNames are the images that are there, by name.
func (p *plane) imageNames() ([]string, error) {
	var names []string
	for _, root := range p.images.Roots {
		found, err := filepath.Glob(filepath.Join(root, "*", "image.json"))
		if err != nil {
			return nil, fmt.Errorf("images: %w", err)
		}
		for _, f := range found {
			names = append(names, filepath.Base(filepath.Dir(f)))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
