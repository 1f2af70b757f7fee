package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/agent/virt/local"
	"github.com/usance/usance/metering/readingdb"
	clickhouse "github.com/usance/usance/metering/readingdb/embedded"
	postgres "github.com/usance/usance/sql/embedded"
)

const (
	defaultData        = "/var/lib/usance"
	defaultListen      = "127.0.0.1:8080"
	defaultListenHosts = ":8443"

	// upStopTime is how long each part may take to end.
	upStopTime = 20 * time.Second
	// startTime is how long each part may take to start, a wait for the lock of
	// a predecessor included.
	startTime = 90 * time.Second

	// libvirtURIFile is where `up` notes how libvirt is reached, in the data folder.
	libvirtURIFile = "run/libvirt-uri"

	postgresChild   = postgres.ChildCommand
	clickhouseChild = clickhouse.ChildCommand
)

func postgresChildCommand(_ context.Context, _ program, args []string) int {
	return postgres.ChildMain(args)
}

func clickhouseChildCommand(_ context.Context, _ program, args []string) int {
	return clickhouse.ChildMain(args)
}

func upCommand(ctx context.Context, p program, args []string) int {
	return serveWith(ctx, p, "up", args, func(ctx context.Context, cfg config, log *slog.Logger, s *stack) error {
		plane, err := startPlane(ctx, cfg, log, s)
		if err != nil || cfg.noAgent {
			return err
		}
		uri, err := startLibvirt(ctx, cfg, log, plane.data, s)
		if err != nil {
			return err
		}
		return startAgent(ctx, cfg, log, plane, uri, s)
	})
}

func serveCommand(ctx context.Context, p program, args []string) int {
	return serveWith(ctx, p, "serve", args, func(ctx context.Context, cfg config, log *slog.Logger, s *stack) error {
		if cfg.postgres == "" || cfg.clickhouse == "" {
			return refuse("serve needs --postgres and --clickhouse; `usance up` brings its own")
		}
		_, err := startPlane(ctx, cfg, log, s)
		return err
	})
}

// serveWith starts what start starts and ends it, in the opposite order, when
// the process is told to end or is orphaned.
func serveWith(ctx context.Context, p program, name string, args []string, start func(context.Context, config, *slog.Logger, *stack) error) int {
	cfg, code, ok := p.config(name, args)
	if !ok {
		return code
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	whenOrphaned(p.getenv, cancel)
	log := slog.New(slog.NewTextHandler(p.stderr, nil))
	s := &stack{log: log}
	defer s.unwind()
	err := start(ctx, cfg, log, s)
	if err == nil {
		log.Info("ready", "portal", "http://"+cfg.listen, "hosts", cfg.listenHosts, "data", cfg.data)
		<-ctx.Done()
	}
	if err == nil || ctx.Err() != nil {
		return exitOK
	}
	p.fail(name, err)
	var r refusal
	if errors.As(err, &r) {
		return exitRefused
	}
	return exitError
}

// stack is what was started, to be ended in the opposite order.
type stack struct {
	log *slog.Logger
	end []func()
}

func (s *stack) push(f func()) { s.end = append(s.end, f) }

func (s *stack) unwind() {
	for _, f := range slices.Backward(s.end) {
		f()
	}
}

// run runs f until it is its turn to end.
func (s *stack) run(ctx context.Context, f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	s.push(func() {
		cancel()
		<-done
	})
}

// supervise starts a part and keeps it running.
func (s *stack) supervise(ctx context.Context, name string, start func(context.Context) (part, error)) (part, error) {
	limited := func(ctx context.Context) (part, error) {
		ctx, cancel := context.WithTimeout(ctx, startTime)
		defer cancel()
		return start(ctx)
	}
	first, err := limited(ctx)
	if err != nil {
		return nil, err
	}
	s.run(ctx, func(ctx context.Context) { supervise(ctx, s.log, name, first, limited) })
	return first, nil
}

// openPostgres connects to the given server, or to a private one that it starts.
func openPostgres(ctx context.Context, cfg config, log *slog.Logger, data *dataFolder, s *stack) (*pgxpool.Pool, error) {
	dsn := cfg.postgres
	if dsn == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		server, err := s.supervise(ctx, "postgres", func(ctx context.Context) (part, error) {
			return postgres.Start(ctx, postgres.Config{Dir: data.path("postgres"), RunDir: data.path("run"),
				Command: []string{self, postgresChild}, Log: log})
		})
		if err != nil {
			return nil, fmt.Errorf("private Postgres (or give --postgres DSN): %w", err)
		}
		dsn = server.(*postgres.Server).DSN()
	}
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("--postgres: %w", err)
	}
	s.push(pool.Close)
	return pool, nil
}

// openReadings connects to the given ClickHouse, or to a private engine that it starts.
func openReadings(ctx context.Context, cfg config, log *slog.Logger, data *dataFolder, s *stack) (*readingdb.Store, error) {
	if cfg.clickhouse != "" {
		options, err := readingdb.ParseDSN(cfg.clickhouse)
		if err != nil {
			return nil, fmt.Errorf("--clickhouse: %w", err)
		}
		return readingdb.Open(ctx, options)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	server, err := s.supervise(ctx, "clickhouse", func(ctx context.Context) (part, error) {
		return clickhouse.Start(ctx, clickhouse.Config{Dir: data.path("clickhouse"), Socket: data.path("run/clickhouse.sock"),
			Command: []string{self, clickhouseChild}, Log: log})
	})
	if errors.Is(err, clickhouse.ErrNoLibrary) {
		return nil, refusal{err}
	}
	if err != nil {
		return nil, fmt.Errorf("private ClickHouse (or give --clickhouse DSN): %w", err)
	}
	return readingdb.Open(ctx, server.(*clickhouse.Server).Options())
}

// startLibvirt returns the URI of a libvirtd that answers: the machine's, or
// one of our own.
func startLibvirt(ctx context.Context, cfg config, log *slog.Logger, data *dataFolder, s *stack) (uri string, err error) {
	uri = cfg.libvirt
	if !local.Answers(ctx, uri) {
		log.Info("no libvirtd answers; starting one of our own in namespaces of its own", "uri", uri)
		l, err := local.Start(ctx, local.Config{Dir: data.path("libvirt"), Log: log})
		if err != nil {
			return "", fmt.Errorf("libvirtd of our own: %w", err)
		}
		s.push(func() {
			ctx, cancel := context.WithTimeout(context.Background(), upStopTime)
			defer cancel()
			if cfg.endGuests {
				if err := l.StopGuests(ctx); err != nil {
					log.Error("guests on our libvirtd", "err", err)
				}
			}
			if err := l.Stop(ctx); err != nil {
				log.Warn("our libvirtd stays", "err", err)
			}
		})
		s.run(ctx, func(ctx context.Context) {
			if err := l.Run(ctx); err != nil {
				log.Error("our libvirtd", "err", err)
			}
		})
		uri = l.URI()
	}
	if err := os.WriteFile(data.path(libvirtURIFile), []byte(uri+"\n"), 0o644); err != nil {
		return "", diskError(data.dir, err)
	}
	return uri, nil
}

// startAgent runs the local host agent, joined by a token like any other host's.
func startAgent(ctx context.Context, cfg config, log *slog.Logger, plane *plane, uri string, s *stack) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program := filepath.Join(filepath.Dir(self), "usance-agent")
	if _, err := os.Stat(program); err != nil {
		return refuse("the host agent is missing beside this program: %w; build it with `make build`, or run without one by --no-agent", err)
	}
	_, err = s.supervise(ctx, "agent", func(ctx context.Context) (part, error) {
		token, err := plane.joinToken(ctx)
		if err != nil {
			return nil, err
		}
		c, err := startChild([]string{program, "--server", "https://" + localAddress(cfg.listenHosts), "--data", plane.data.dir,
			"--libvirt", uri, "--virt-type", cfg.virtType, "--metrics", cfg.agentMetrics}, os.Stderr, "USANCE_TOKEN="+token)
		if err != nil {
			return nil, err
		}
		return c, nil
	})
	return err
}
