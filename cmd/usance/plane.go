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
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/cmd/metrics"
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
	auditPeriod     = 15 * time.Minute // asks whether a day is to be audited

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
	tasks       tasks
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
	p := &plane{log: log, data: data, ca: ca, readings: readings, epochs: epochdb.New(pool), allocations: allocdb.New(pool), plans: plandb.New(pool),
		books: books, people: people, images: hostapi.Images{Roots: []string{data.path("images"), imageRoot}}}
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
	p.runTasks(ctx, s)
	if cfg.metrics != "" {
		ctx, cancel := context.WithCancel(ctx)
		s.push(cancel)
		if err := metrics.Serve(ctx, cfg.metrics, p.metricsOf, p.log); err != nil {
			return refuse("--metrics: %w", err)
		}
	}
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
		Images: p.imageNames, OperatorToken: token, TrustProxy: cfg.trustProxy, Log: p.log,
	})}))
	return nil
}

// runTasks runs every runner at its period until the stack is unwound.
func (p *plane) runTasks(ctx context.Context, s *stack) {
	watch := &leaks.Run{Compute: p.compute, Epochs: p.epochs, Allocations: p.allocations, Readings: p.readings, Hourly: p.hourly, Unrated: p.unrated, Log: p.log}
	silence := &scheduler.Run{Store: p.compute, Log: p.log}
	for _, task := range []struct {
		name   string
		period time.Duration
		once   func(context.Context, time.Time) error
	}{
		{"close periods", billrunPeriod, p.bills.Once},
		{"accrued", accruedPeriod, p.bills.RefreshAccrued},
		{"leaks", leaksPeriod, watch.Once},
		{"audit of readings", auditPeriod, watch.Audit},
		{"silent hosts", schedulerPeriod, silence.Once},
		{"held and accepted readings", heldPeriod, p.trust.Once},
	} {
		once := p.tasks.counted(task.name, task.once)
		s.run(ctx, func(ctx context.Context) { repeat(ctx, p.log, task.name, task.period, once) })
	}
}

// serveHTTP serves until ctx ends, which requests are told; then they have 5 s to end.
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
