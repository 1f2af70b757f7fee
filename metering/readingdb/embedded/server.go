package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// ChildCommand is the hidden first argument under which a program must call
// ChildMain with the arguments that follow it.
const ChildCommand = "clickhouse-child"

// Database is the database that Options name. It is of engine Atomic; the
// engine's own `default` shows the file system and is never used.
const Database = "usance"

const (
	// DefaultMemoryLimit is what the engine may use, in bytes. Beyond it a
	// statement fails with code 241; the engine and the other statements go on.
	DefaultMemoryLimit = 2 << 30
	// maxSocketPath is the longest path of a socket in bytes; Start refuses a
	// longer one (the system's own limit is a few bytes more).
	maxSocketPath = 100
	// startPatience is how long a child may take until it answers, its wait
	// for a folder's lock included; then Start kills it and fails.
	startPatience = lockPatience + 60*time.Second
)

// ErrNoLibrary is what Start's error wraps when libchdb.so is nowhere.
var ErrNoLibrary = errors.New("the embedded ClickHouse needs libchdb.so, which is not installed: " +
	"run deploy/deps.sh to install it, or name a ClickHouse server with --clickhouse DSN")

// Config says where the engine lives. Dir, Socket and Log are required.
type Config struct {
	Dir         string       // data folder, made when missing
	Socket      string       // path of the unix socket, at most 100 bytes; its folder must exist
	Library     string       // path of libchdb.so; "" looks it up as FindLibrary does
	Command     []string     // program and first arguments of the child; nil: this program and ChildCommand
	MemoryLimit int64        // bytes the engine may use; 0: DefaultMemoryLimit
	Log         *slog.Logger // the child's stderr, line by line
}

// Server is a running child. Its methods may run at the same time.
type Server struct {
	socket string
	cmd    *exec.Cmd
	pipe   *os.File // the child ends itself when this is closed
	done   chan struct{}

	mu       sync.Mutex
	stopping bool
	err      error
	lastLine string // on the child's stderr
}

// Start runs the child and returns when it answers. It fails within ctx and
// about 90 seconds: when the library is missing (ErrNoLibrary), when the data
// folder stays held by another process for 30 seconds (the error names it), or
// when the engine does not come up.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if len(cfg.Socket) > maxSocketPath {
		return nil, fmt.Errorf("socket path %q is longer than %d bytes", cfg.Socket, maxSocketPath)
	}
	library, err := FindLibrary(cfg.Library)
	if err != nil {
		return nil, err
	}
	command := cfg.Command
	if command == nil {
		program, err := os.Executable()
		if err != nil {
			return nil, err
		}
		command = []string{program, ChildCommand}
	}
	memory := cfg.MemoryLimit
	if memory == 0 {
		memory = DefaultMemoryLimit
	}
	s := &Server{socket: cfg.Socket, done: make(chan struct{})}
	s.cmd = exec.Command(command[0], append(command[1:len(command):len(command)],
		"--dir", cfg.Dir, "--socket", cfg.Socket, "--library", library, "--memory", strconv.FormatInt(memory, 10))...)
	if err := s.start(cfg.Log); err != nil {
		return nil, fmt.Errorf("start the ClickHouse child: %w", err)
	}
	if err := s.await(ctx); err != nil {
		s.cmd.Process.Kill()
		<-s.done
		return nil, fmt.Errorf("start the ClickHouse child on %s: %w", cfg.Dir, err)
	}
	return s, nil
}

// FindLibrary is the path of libchdb.so: the given one, or, when that is empty,
// the first that exists of $USANCE_LIBCHDB, the folder of this program,
// /usr/local/lib/usance and /usr/lib/usance. The error wraps ErrNoLibrary.
func FindLibrary(path string) (string, error) {
	if path == "" {
		path = os.Getenv("USANCE_LIBCHDB")
	}
	if path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%w (looked only where told: %w)", ErrNoLibrary, err)
		}
		return path, nil
	}
	folders := []string{"/usr/local/lib/usance", "/usr/lib/usance"}
	if program, err := os.Executable(); err == nil {
		folders = append([]string{filepath.Dir(program)}, folders...)
	}
	for _, folder := range folders {
		path := filepath.Join(folder, "libchdb.so")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w (looked in %q)", ErrNoLibrary, folders)
}

func (s *Server) start(log *slog.Logger) error {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	s.cmd.ExtraFiles = []*os.File{theirs}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for the parent
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		ours.Close()
		return err
	}
	if err := s.cmd.Start(); err != nil {
		ours.Close()
		return err
	}
	s.pipe = ours
	go s.wait(stderr, log)
	return nil
}

// wait passes the child's stderr on and reaps the child.
func (s *Server) wait(stderr io.Reader, log *slog.Logger) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		log.Warn("clickhouse child", "line", lines.Text())
		s.mu.Lock()
		s.lastLine = lines.Text()
		s.mu.Unlock()
	}
	io.Copy(io.Discard, stderr) // a line too long for the scanner
	err := s.cmd.Wait()
	s.pipe.Close()
	s.mu.Lock()
	if !s.stopping {
		s.err = fmt.Errorf("the ClickHouse child ended by itself: %s", s.cmd.ProcessState)
		if err != nil && s.lastLine != "" {
			s.err = fmt.Errorf("%w: %s", s.err, s.lastLine)
		}
	}
	s.mu.Unlock()
	close(s.done)
}

// await returns when the child answers.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		conn, err := net.Dial("unix", s.socket)
		if err == nil {
			// A child listens only when its engine is up. What answers could still be
			// an older child on its way out, with another engine.
			owner, err := peer(conn)
			conn.Close()
			if err == nil && owner == s.cmd.Process.Pid {
				return nil
			}
		}
		select {
		case <-s.done:
			return s.Err()
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// peer is the pid of the process that listens at the other end of a unix socket.
func peer(conn net.Conn) (pid int, err error) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// Options connect clickhouse-go to the child, this one or one that replaces it.
func (s *Server) Options() *clickhouse.Options { return Options(s.socket) }

// Options connect clickhouse-go to the child that listens on the socket, whoever
// started it. The database is Database.
func Options(socket string) *clickhouse.Options {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: maxSessions,
		DisableCompression:  true,
	}
	return &clickhouse.Options{
		Protocol:      clickhouse.HTTP,
		Addr:          []string{"embedded"}, // never resolved
		Auth:          clickhouse.Auth{Database: Database},
		TransportFunc: func(*http.Transport) (http.RoundTripper, error) { return transport, nil },
		MaxOpenConns:  2 * maxSessions,
		MaxIdleConns:  maxSessions,
	}
}

// Pid is the child's process id.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Done is closed when the child has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says why the child ended; nil while it runs and when Stop ended it.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Stop ends the child after its running statements (10 seconds at most) and
// waits for it. When ctx ends first the child is killed, which loses nothing
// that was acknowledged, and ctx's error is returned.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.pipe.Close()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.cmd.Process.Kill()
		<-s.done
		return fmt.Errorf("stop the ClickHouse child: %w", ctx.Err())
	}
}
