package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// runCommand makes the test binary a program that starts a server on the
// folder that follows and waits to be killed.
const runCommand = "run-server"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == ChildCommand {
		os.Exit(ChildMain(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == runCommand {
		s, err := Start(context.Background(), config(os.Args[2]))
		fmt.Println(err == nil, err)
		<-s.Done()
		os.Exit(1)
	}
	code := m.Run()
	if made := filepath.Dir(madeDir); madeDir != "" {
		os.RemoveAll(made)
	}
	os.Exit(code)
}

func config(dir string) Config {
	program, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Config{
		Dir:      filepath.Join(dir, "data"),
		RunDir:   filepath.Join(dir, "run"),
		Log:      slog.New(slog.DiscardHandler),
		Command:  []string{program, ChildCommand},
		Settings: []string{"fsync=off", "shared_buffers=16MB"},
	}
}

// folder is an empty folder that system user postgres can reach, with a short
// path; t.TempDir is neither.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "usance-embedded-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// madeDir is a data folder that was initialised once and is copied, since
// initialising takes a second or more.
var (
	madeDir  string
	makeOnce sync.Once
)

// initialised is a folder with a data folder in it.
func initialised(t *testing.T) string {
	t.Helper()
	needServer(t)
	makeOnce.Do(func() {
		dir, err := os.MkdirTemp("", "usance-embedded-")
		if err != nil {
			t.Fatal(err)
		}
		os.Chmod(dir, 0o755)
		stop(t, start(t, dir))
		madeDir = config(dir).Dir
	})
	dir := folder(t)
	if out, err := exec.Command("cp", "-a", madeDir, dir).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
	return dir
}

func needServer(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Postgres servers, and -short has none")
	}
}

func start(t *testing.T, dir string) *Server {
	t.Helper()
	s, err := Start(t.Context(), config(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, conn *pgx.Conn, statement string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

func query[T any](t *testing.T, conn *pgx.Conn, query string) (v T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), query).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func wait(t *testing.T, s *Server) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the server's end was not noticed")
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func shimOf(t *testing.T, dir string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", postmasterPID(config(dir).Dir)))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "PPid:")
	var pid int
	if _, err := fmt.Sscan(rest, &pid); err != nil || pid <= 1 {
		t.Fatalf("parent %d of the server: %v", pid, err)
	}
	return pid
}

func TestStartMakesRunsAndKeeps(t *testing.T) {
	needServer(t)
	dir := folder(t)
	// What a start that was killed while it initialised leaves behind.
	if err := os.MkdirAll(filepath.Join(config(dir).Dir+".unfinished", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := config(dir)
	cfg.Settings = nil
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, s.DSN())
	for setting, want := range map[string]string{
		"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "data_checksums": "on",
		"listen_addresses": "", "TimeZone": "UTC", "server_encoding": "UTF8",
	} {
		if got := query[string](t, conn, `SHOW `+setting); got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
	exec1(t, conn, `CREATE TABLE kept AS SELECT 7 AS n`)
	if err := s.Err(); err != nil {
		t.Errorf("Err of a running server = %v", err)
	}
	stop(t, s)
	wait(t, s)
	stop(t, s)
	if _, err := os.Stat(cfg.Dir + ".unfinished"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half-made folder is still there: %v", err)
	}

	again := start(t, dir)
	if got := query[int](t, connect(t, again.DSN()), `SELECT n FROM kept`); got != 7 {
		t.Errorf("after a restart n = %d, want 7", got)
	}
}

func TestKilledServerRecovers(t *testing.T) {
	dir := initialised(t)
	s := start(t, dir)
	conn := connect(t, s.DSN())
	exec1(t, conn, `CREATE TABLE kept (n int)`)
	const rows = 100
	for i := range rows {
		exec1(t, conn, `INSERT INTO kept VALUES ($1)`, i)
	}
	kill(t, postmasterPID(config(dir).Dir))
	wait(t, s)
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("Err = %v, want it to say that the server was killed", err)
	}
	again := start(t, dir)
	if got := query[int](t, connect(t, again.DSN()), `SELECT count(*) FROM kept`); got != rows {
		t.Errorf("%d of %d acknowledged rows are left", got, rows)
	}
}

func TestKilledShimTakesTheServerWithIt(t *testing.T) {
	dir := initialised(t)
	s := start(t, dir)
	exec1(t, connect(t, s.DSN()), `CREATE TABLE kept (n int)`)
	kill(t, shimOf(t, dir))
	wait(t, s)
	if s.Err() == nil {
		t.Error("Err = nil after the shim was killed")
	}
	if left := holders(config(dir).Dir); len(left) > 0 {
		t.Errorf("processes %v outlived their shim", left)
	}
	again := start(t, dir)
	query[int](t, connect(t, again.DSN()), `SELECT count(*) FROM kept`)
}

func TestKilledProgramTakesTheServerWithIt(t *testing.T) {
	dir := initialised(t)
	program := exec.Command(os.Args[0], runCommand, dir)
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "true") {
		t.Fatalf("the program said %q, %v", line, err)
	}
	old := postmasterPID(config(dir).Dir)
	kill(t, program.Process.Pid)
	program.Wait()

	start(t, dir) // waits for the old server to stop
	if now := postmasterPID(config(dir).Dir); now == old {
		t.Errorf("the server is still process %d", old)
	}
}

func TestSecondServerNamesTheHolder(t *testing.T) {
	dir := initialised(t)
	start(t, dir)
	pid := postmasterPID(config(dir).Dir)
	err := waitForHolders(t.Context(), config(dir).Dir, 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", pid)) {
		t.Errorf("err = %v, want one that names process %d", err, pid)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	needServer(t)
	dir := folder(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, config(dir)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want %v", err, context.DeadlineExceeded)
	}
	if _, err := os.Stat(config(dir).Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a half-made data folder is in place: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	needServer(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	dir := folder(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=20m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	_, err := Start(t.Context(), config(dir))
	if err == nil || !strings.Contains(err.Error(), "the disk of "+config(dir).Dir+" is full") {
		t.Errorf("err = %v, want one that says the disk is full", err)
	}
}
