// Package sqltest gives a test a clean, migrated Postgres database.
//
// It owns one private server per test binary, started when first needed and
// ended with the test process however that ends, by the same shim that serves
// production. It never uses a server or a folder of anyone else, and nothing
// outside tests imports it.
//
// Invariants:
//   - Each call gives a database of its own, with every migration applied and no row.
//   - A missing or broken server fails the test; only -short skips it.
//
// The server differs from production in one thing: it does not wait for the
// disk (fsync off). Killed with -9 it still loses nothing, since what it wrote
// is the kernel's; only a power cut would.
package sqltest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/sql"
	"github.com/usance/usance/sql/embedded"
)

// shimCommand is the first argument with which a test binary is the shim of its
// server; the second is the folder that the shim removes in the end.
const shimCommand = "sqltest-shim"

// startTimeout bounds making, starting and migrating the server; the machine
// may be busy with other tests.
const startTimeout = 2 * time.Minute

// A test binary that imports this package is also the shim of an embedded
// server, as the real program is.
func init() {
	if len(os.Args) < 3 {
		return
	}
	switch os.Args[1] {
	case embedded.ChildCommand:
		os.Exit(embedded.ChildMain(os.Args[2:]))
	case shimCommand:
		code := embedded.ChildMain(os.Args[3:])
		os.RemoveAll(os.Args[2])
		os.Exit(code)
	}
}

// Postgres is a pool on a clean, migrated database of the test's own, which is
// dropped when the test ends. Under -short the test is skipped.
func Postgres(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePool(t, pool) }) // before the database is dropped
	return pool
}

// leakTimeout is how long a test's pool may take to close before the test fails
// for keeping a connection.
const leakTimeout = 10 * time.Second

func closePool(t testing.TB, pool *pgxpool.Pool) {
	closed := make(chan struct{})
	go func() {
		pool.Close() // waits for every connection that was taken from it
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(leakTimeout):
		t.Errorf("sqltest: %d connections were never given back", pool.Stat().AcquiredConns())
	}
}

// DSN is the address of such a database, for a program under test.
func DSN(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Postgres server, and -short has none")
	}
	admin, err := start()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("test_%d", databases.Add(1))
	// Copying files takes a quarter of the time of the default, which logs every page.
	if err := execute(admin, "CREATE DATABASE "+name+" TEMPLATE "+template+" STRATEGY FILE_COPY"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := execute(admin, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return withDatabase(admin, name)
}

// template is the migrated database that others are copies of. Nobody stays
// connected to it.
const template = "migrated"

var databases atomic.Int64 // how many were made

// start is the address of the administrative database of the binary's server,
// which it starts and migrates the first time.
var start = sync.OnceValues(func() (admin string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	server, err := startServer(ctx)
	if err != nil {
		return "", fmt.Errorf("sqltest: %w", err)
	}
	admin = server.DSN()
	if err := execute(admin, "CREATE DATABASE "+template); err != nil {
		return "", err
	}
	pool, err := pgxpool.New(ctx, withDatabase(admin, template))
	if err != nil {
		return "", err
	}
	defer pool.Close()
	if _, err := sql.MigratePostgres(ctx, pool); err != nil {
		return "", fmt.Errorf("sqltest: %w", err)
	}
	return admin, nil
})

// startServer starts the server on a copy of a freshly initialised data folder.
// Its folder is not the test's own (t.TempDir), which a system user postgres
// could not enter and which would go before the server does.
func startServer(ctx context.Context) (*embedded.Server, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "usance-pg-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	cfg := embedded.Config{
		Dir:      filepath.Join(dir, "data"),
		RunDir:   dir,
		Log:      slog.New(slog.DiscardHandler),
		Command:  []string{program, shimCommand, dir},
		Settings: []string{"fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=300"},
	}
	if err := copyInitialised(ctx, cfg); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return embedded.Start(ctx, cfg)
}

// copyInitialised copies the cached data folder to cfg.Dir. The first test
// binary makes it, others wait for that one.
func copyInitialised(ctx context.Context, cfg embedded.Config) error {
	cache := filepath.Join(os.TempDir(), fmt.Sprintf("usance-sqltest-%d", os.Geteuid()))
	if err := os.Mkdir(cache, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	// Anyone may write to the temporary folder: use nothing there that is not ours.
	info, err := os.Lstat(cache)
	if err != nil {
		return err
	}
	if !info.IsDir() || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a folder of ours; remove it", cache)
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return err
	}
	defer unlock()

	bin, err := embedded.FindBinaries()
	if err != nil {
		return err
	}
	made := cfg
	made.Dir = filepath.Join(cache, filepath.Base(filepath.Dir(bin)))
	made.Command = []string{cfg.Command[0], embedded.ChildCommand}
	if _, err := os.Stat(made.Dir); errors.Is(err, os.ErrNotExist) {
		server, err := embedded.Start(ctx, made)
		if err != nil {
			return err
		}
		if err := server.Stop(ctx); err != nil {
			return err
		}
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", made.Dir, cfg.Dir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", made.Dir, err, out)
	}
	return nil
}

// lock takes a lock between processes, waiting for it.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// execute runs one statement on a connection of its own.
func execute(dsn, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("sqltest: %s: %w", statement, err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("sqltest: %s: %w", statement, err)
	}
	return nil
}

func withDatabase(dsn, name string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic(err) // the server makes it
	}
	u.Path = "/" + name
	return u.String()
}
