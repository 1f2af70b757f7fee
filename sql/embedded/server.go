package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	role     = "usance" // the one role and the one database
	database = "usance"

	// maxSocketPath is the longest path of a socket in bytes; a longer one is
	// refused before anything starts. The kernel's own limit is 107.
	maxSocketPath = 100
	socketFile    = ".s.PGSQL.5432"

	// holderPatience is how long Start waits for an earlier server on the same
	// folder to end before it says who holds the folder.
	holderPatience = 30 * time.Second

	// stderrPatience is how long a server that is gone may hold up the news by
	// processes of it that still write.
	stderrPatience = 10 * time.Second

	pollInterval = 20 * time.Millisecond

	startingUp = "57P03" // SQLSTATE cannot_connect_now: starting, recovering or stopping
)

// Config says where a server lives and how to run its shim.
type Config struct {
	Dir      string       // data folder, absolute; made when absent or empty
	RunDir   string       // folder for the socket's own folder "pg", absolute and short
	Log      *slog.Logger // gets what the server writes
	Command  []string     // runs the shim: the program and ChildCommand
	Settings []string     // further server settings ("shared_buffers=32MB"); they win over ours
}

// Server is a running Postgres server.
type Server struct {
	dir  string
	dsn  string
	pipe *os.File // closing it stops the server
	done chan struct{}
	err  error // set before done is closed
}

// Start starts a server on cfg.Dir and returns when it answers; recovery after
// a crash may take a while, which ctx bounds. ctx does not bound the server's
// life. Each error is one sentence that says what to do.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	socketDir := filepath.Join(cfg.RunDir, "pg")
	if err := cfg.check(socketDir); err != nil {
		return nil, err
	}
	account, err := findAccount()
	if err != nil {
		return nil, err
	}
	major, err := existingMajor(cfg.Dir)
	if err != nil {
		return nil, err
	}
	bin, err := findBinaries(binariesGlob, major)
	if err != nil {
		return nil, err
	}
	if err := account.prepare(cfg.Dir, socketDir); err != nil {
		return nil, err
	}
	if major == 0 {
		if err := initialise(ctx, cfg, account, bin); err != nil {
			return nil, err
		}
	}
	if err := waitForHolders(ctx, cfg.Dir, holderPatience); err != nil {
		return nil, err
	}
	if err := account.writeAccess(cfg.Dir); err != nil {
		return nil, err
	}

	s := &Server{dir: cfg.Dir, dsn: dsn(socketDir, database), done: make(chan struct{})}
	if err := s.run(cfg, account, filepath.Join(bin, "postgres"), serverArgs(cfg, socketDir)); err != nil {
		return nil, err
	}
	if err := s.await(ctx, dsn(socketDir, "postgres")); err != nil {
		s.Stop(context.WithoutCancel(ctx))
		return nil, err
	}
	return s, nil
}

func (cfg Config) check(socketDir string) error {
	if !filepath.IsAbs(cfg.Dir) || !filepath.IsAbs(cfg.RunDir) {
		return fmt.Errorf("the Postgres data folder %q and run folder %q must be absolute paths", cfg.Dir, cfg.RunDir)
	}
	if len(cfg.Command) == 0 {
		return errors.New("embedded Postgres: no command to run the shim")
	}
	if path := filepath.Join(socketDir, socketFile); len(path) > maxSocketPath {
		return fmt.Errorf("the socket path %s has %d bytes and the limit is %d; choose a data folder with a shorter path", path, len(path), maxSocketPath)
	}
	return nil
}

func dsn(socketDir, database string) string {
	query := url.Values{"host": {socketDir}, "port": {"5432"}, "sslmode": {"disable"}}
	return (&url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + database, RawQuery: query.Encode()}).String()
}

func serverArgs(cfg Config, socketDir string) []string {
	args := []string{"-D", cfg.Dir}
	for _, setting := range append([]string{
		"listen_addresses=",
		"port=5432",
		`unix_socket_directories="` + strings.ReplaceAll(socketDir, `"`, `""`) + `"`,
		"unix_socket_permissions=0700",
		"fsync=on",
		"full_page_writes=on",
		"synchronous_commit=on",
		"max_connections=200",
		"timezone=UTC",
		"log_timezone=UTC",
		"logging_collector=off",
		"log_destination=stderr",
		"log_line_prefix=",
		"log_checkpoints=off",
		"lc_messages=C",
	}, cfg.Settings...) {
		args = append(args, "-c", setting)
	}
	return args
}

// run starts the shim with the server under it, and what follows both.
func (s *Server) run(cfg Config, account account, program string, args []string) error {
	shim, pipe, stderr, err := startShim(cfg.Command, account, program, args)
	if err != nil {
		return fmt.Errorf("start the Postgres shim %s: %w", cfg.Command[0], err)
	}
	s.pipe = pipe
	output := &output{log: cfg.Log}
	read := make(chan struct{})
	go func() {
		defer close(read)
		output.follow(stderr)
	}()
	go func() {
		waitErr := shim.Wait()
		pipe.Close()
		select {
		case <-read:
		case <-time.After(stderrPatience):
		}
		stderr.Close()
		s.err = output.explain("the Postgres server", cfg.Dir, waitErr)
		close(s.done)
	}()
	return nil
}

// await polls the server until it answers and has our database.
func (s *Server) await(ctx context.Context, dsn string) error {
	for {
		conn, err := pgx.Connect(ctx, dsn)
		if err == nil {
			defer conn.Close(context.WithoutCancel(ctx))
			return createDatabase(ctx, conn)
		}
		if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && refusal.Code != startingUp {
			return fmt.Errorf("the Postgres server on %s refuses this program: %w", s.dir, err)
		}
		select {
		case <-s.done:
			if s.err != nil {
				return s.err
			}
			return fmt.Errorf("the Postgres server on %s ended at once", s.dir)
		case <-ctx.Done():
			return fmt.Errorf("wait for the Postgres server on %s: %w: %w", s.dir, ctx.Err(), err)
		case <-time.After(pollInterval):
		}
	}
}

const databaseExistsSQL = `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`

func createDatabase(ctx context.Context, conn *pgx.Conn) error {
	var exists bool
	if err := conn.QueryRow(ctx, databaseExistsSQL, database).Scan(&exists); err != nil {
		return fmt.Errorf("look for database %s: %w", database, err)
	}
	if exists {
		return nil
	}
	if _, err := conn.Exec(ctx, `CREATE DATABASE `+database); err != nil {
		return fmt.Errorf("create database %s: %w", database, err)
	}
	return nil
}

// DSN is the address of the server's database, good for any user whom the
// server admits: the one of this program, and the server's own.
func (s *Server) DSN() string { return s.dsn }

// Done is closed when the server has ended, whoever ended it.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is why the server ended: nil while it runs and after a Stop that went well.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Stop ends the server, open connections included, and returns when it has
// written everything and is gone. When ctx ends first the server goes on
// stopping. Stopping twice is harmless.
func (s *Server) Stop(ctx context.Context) error {
	s.pipe.Close()
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return fmt.Errorf("stop the Postgres server on %s: %w", s.dir, ctx.Err())
	}
}

// startShim starts program under the shim. The shim ends it when the returned
// pipe is closed, and ends when it has.
func startShim(command []string, account account, program string, args []string) (shim *exec.Cmd, pipe, stderr *os.File, err error) {
	hold, pipe, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	defer hold.Close()
	stderr, errEnd, err := os.Pipe()
	if err != nil {
		pipe.Close()
		return nil, nil, nil, err
	}
	defer errEnd.Close()
	rest := append([]string{account.String(), program}, args...)
	shim = exec.Command(command[0], append(command[1:len(command):len(command)], rest...)...)
	shim.Dir = "/"
	shim.Stderr = errEnd
	shim.ExtraFiles = []*os.File{hold}                     // fd 3
	shim.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C at the terminal is for the program alone
	if err := shim.Start(); err != nil {
		pipe.Close()
		stderr.Close()
		return nil, nil, nil, err
	}
	return shim, pipe, stderr, nil
}
