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

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// parentCommand starts a child on the folder that follows, says so, and waits to be killed.
const parentCommand = "parent-for-test"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildCommand {
		os.Exit(ChildMain(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == parentCommand {
		s, err := Start(context.Background(), config(os.Args[2]))
		fmt.Println(s != nil, err)
		select {} // until killed
	}
	code := m.Run()
	if shared.server != nil {
		shared.server.Stop(context.Background())
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// shared is the server of the tests that need no server of their own.
var shared struct {
	sync.Once
	dir    string
	server *Server
	err    error
}

func config(dir string) Config {
	return Config{Dir: filepath.Join(dir, "clickhouse"), Socket: filepath.Join(dir, "s"), Log: slog.New(slog.DiscardHandler)}
}

// folder is a short-named folder: a socket's path is limited.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "usance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the ClickHouse engine")
	}
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s
}

// connect opens a connection to a database of the test's own on the shared server.
func connect(t *testing.T) driver.Conn {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the ClickHouse engine")
	}
	shared.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "usance"); shared.err == nil {
			shared.server, shared.err = Start(context.Background(), config(shared.dir))
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return open(t, shared.server, strings.ToLower(t.Name()))
}

func open(t *testing.T, s *Server, database string) driver.Conn {
	t.Helper()
	options := s.Options()
	options.Auth.Database = ""
	admin, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.Exec(t.Context(), "CREATE DATABASE IF NOT EXISTS "+database+" ENGINE = Atomic"); err != nil {
		t.Fatal(err)
	}
	options = s.Options()
	options.Auth.Database = database
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func run(t *testing.T, conn driver.Conn, sql string) {
	t.Helper()
	if err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func errorNumber(err error) int32 {
	var e *clickhouse.Exception
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestTypesAndParametersRoundTrip(t *testing.T) {
	conn := connect(t)
	type row struct {
		Text  string
		Big   uint64
		At    time.Time
		List  []string
		Empty *string
	}
	want := row{"quote ' back \\ tab \t line \n nul \x00 ü", 1<<64 - 1, time.UnixMilli(1_795_000_000_123).UTC(), []string{"a'b", "", "c\td"}, nil}
	var got row
	err := conn.QueryRow(t.Context(), `SELECT {text:String}, {big:UInt64}, {at:DateTime64(3, 'UTC')}, {list:Array(String)}, {empty:Nullable(String)}`,
		clickhouse.Named("text", want.Text), clickhouse.Named("big", want.Big),
		clickhouse.DateNamed("at", want.At, clickhouse.MilliSeconds),
		clickhouse.Named("list", want.List), clickhouse.Named("empty", nil),
	).Scan(&got.Text, &got.Big, &got.At, &got.List, &got.Empty)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestOneStatementARequest(t *testing.T) {
	conn := connect(t)
	run(t, conn, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
	run(t, conn, "INSERT INTO kept VALUES (1)")
	const syntaxError = 62
	for _, sql := range []string{
		"SELECT 1; DROP TABLE kept",
		"SELECT 1; DROP TABLE kept; garbage",
		"DROP TABLE kept; SELECT 1",
		"DROP TABLE kept PARALLEL WITH SELECT 1",
		"INSERT INTO kept VALUES (2); DROP TABLE kept",
		"SELEC 1",
		"",
	} {
		if err := conn.Exec(t.Context(), sql); errorNumber(err) != syntaxError {
			t.Errorf("%q: %v; want code %d", sql, err, syntaxError)
		}
	}
	var n uint64
	if err := conn.QueryRow(t.Context(), "SELECT sum(n) FROM kept;").Scan(&n); err != nil || n != 1 {
		t.Errorf("afterwards the table holds %d, %v; want 1", n, err)
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	conn := connect(t)
	run(t, conn, "CREATE TABLE some (n UInt64) ENGINE = MergeTree ORDER BY n")
	const unknownTable, tooLong, throwIf, noSetting, badParameter = 60, 159, 395, 115, 457
	deep := func(query string, args ...any) error {
		rows, err := conn.Query(t.Context(), query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
		}
		return rows.Err()
	}
	batch := func() error {
		ctx := clickhouse.Context(t.Context(), clickhouse.WithColumnNamesAndTypes([]clickhouse.ColumnNameAndType{{Name: "n", Type: "UInt64"}}))
		b, err := conn.PrepareBatch(ctx, "INSERT INTO nowhere (n)")
		if err == nil {
			b.Append(uint64(1))
			err = b.Send()
		}
		return err
	}
	tests := []struct {
		name string
		err  error
		want int32
	}{
		{"select", deep("SELECT n FROM nowhere"), unknownTable},
		{"exec", conn.Exec(t.Context(), "DROP TABLE nowhere"), unknownTable},
		{"insert", batch(), unknownTable},
		{"setting", deep("SELECT 1 SETTINGS nonsense = 1"), noSetting},
		{"parameter", deep("SELECT {n:UInt64}", clickhouse.Named("n", "x")), badParameter},
		{"in the middle of a result", deep("SELECT throwIf(number = 3000000) FROM numbers(4000000) SETTINGS max_threads = 1"), throwIf},
		{"time limit", deep("SELECT sum(sipHash64(number)) FROM numbers(1e12) SETTINGS max_execution_time = 1"), tooLong},
	}
	for _, test := range tests {
		if got := errorNumber(test.err); got != test.want {
			t.Errorf("%s: code %d (%v); want %d", test.name, got, test.err, test.want)
		}
	}
	if err := conn.Ping(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestSettingsDoNotLeak sets a setting for one query and looks for it in the
// following ones, which use the same sessions.
func TestSettingsDoNotLeak(t *testing.T) {
	conn := connect(t)
	threads := func(ctx context.Context) (n string) {
		t.Helper()
		if err := conn.QueryRow(ctx, "SELECT getSetting('max_block_size')::String").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := threads(t.Context())
	with := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_block_size": 12345}))
	for range 3 {
		if got := threads(with); got != "12345" {
			t.Errorf("with the setting: %s", got)
		}
		if got := threads(t.Context()); got != before {
			t.Errorf("without the setting: %s; want %s", got, before)
		}
	}
	bad := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_block_size` = 1, `readonly": 1}))
	if err := conn.Exec(bad, "SELECT 1"); err == nil {
		t.Error("a setting's name was taken for SQL")
	}
}

// TestStreamsAndConcurrency reads a result of many blocks while others run.
func TestStreamsAndConcurrency(t *testing.T) {
	conn := connect(t)
	var all sync.WaitGroup
	for worker := range 2 * maxSessions {
		all.Go(func() {
			rows, err := conn.Query(t.Context(), "SELECT number + {w:UInt64} FROM numbers(300000)", clickhouse.Named("w", worker))
			if err != nil {
				t.Error(err)
				return
			}
			defer rows.Close()
			var count, sum uint64
			for rows.Next() {
				var n uint64
				if err := rows.Scan(&n); err != nil {
					t.Error(err)
					return
				}
				count, sum = count+1, sum+n
			}
			if want := uint64(300000*299999/2 + 300000*worker); rows.Err() != nil || count != 300000 || sum != want {
				t.Errorf("worker %d: %d rows, sum %d, %v; want sum %d", worker, count, sum, rows.Err(), want)
			}
		})
	}
	all.Wait()
	var none []struct{ N uint64 }
	if err := conn.Select(t.Context(), &none, "SELECT number AS N FROM numbers(0)"); err != nil || len(none) != 0 {
		t.Errorf("an empty result: %v, %v", none, err)
	}
}

func TestCancellationEndsTheStatement(t *testing.T) {
	conn := connect(t)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := conn.Exec(ctx, "SELECT sum(sipHash64(number)) FROM numbers(1e13)")
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v; want the deadline", err)
		}
	}
	// More statements at once than there are sessions would hang here, and later.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var running uint64
		err := conn.QueryRow(t.Context(), "SELECT count() FROM system.processes WHERE query LIKE '%numbers(1e13)%' AND query NOT LIKE '%processes%'").Scan(&running)
		if err != nil {
			t.Fatal(err)
		}
		if running == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d cancelled statements still run", running)
		}
	}
}

// TestAbandonedResults leaves long results half read, more often than there are sessions.
func TestAbandonedResults(t *testing.T) {
	conn := connect(t)
	for i := range 2 * maxSessions {
		ctx, cancel := context.WithCancel(t.Context())
		rows, err := conn.Query(ctx, "SELECT number FROM numbers(1000000000)")
		if err != nil {
			t.Fatal(err)
		}
		if !rows.Next() {
			t.Fatalf("result %d is empty: %v", i, rows.Err())
		}
		cancel()
		rows.Close()
	}
	var n uint64
	if err := conn.QueryRow(t.Context(), "SELECT count() FROM numbers(7)").Scan(&n); err != nil || n != 7 {
		t.Errorf("afterwards: %d, %v", n, err)
	}
}

func TestMemoryLimit(t *testing.T) {
	cfg := config(folder(t))
	cfg.MemoryLimit = 600 << 20
	conn := open(t, start(t, cfg), "d")
	const memoryLimitExceeded = 241
	err := conn.Exec(t.Context(), "SELECT length(groupArray(number)) FROM numbers(200000000)")
	if errorNumber(err) != memoryLimitExceeded {
		t.Errorf("got %v; want code %d", err, memoryLimitExceeded)
	}
	if err := conn.Ping(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestKillLosesNothingAcknowledged kills the child with -9 while it takes
// inserts, starts another on the same folder and counts, three times over.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	cfg := config(folder(t))
	s := start(t, cfg)
	run(t, open(t, s, "d"), "CREATE TABLE batches (n UInt64) ENGINE = MergeTree ORDER BY n SETTINGS fsync_after_insert = 1, fsync_part_directory = 1")
	const rowsABatch = 1000
	var acknowledged uint64
	for round := range 3 {
		conn := open(t, s, "d")
		for pid, first := s.Pid(), acknowledged; ; acknowledged++ {
			if acknowledged == first+1 {
				time.AfterFunc(time.Duration(70*round+30)*time.Millisecond, func() { syscall.Kill(pid, syscall.SIGKILL) })
			}
			if err := conn.Exec(t.Context(), fmt.Sprintf("INSERT INTO batches SELECT %d FROM numbers(%d)", acknowledged, rowsABatch)); err != nil {
				break
			}
		}
		<-s.Done()
		if s.Err() == nil || !strings.Contains(s.Err().Error(), "killed") {
			t.Errorf("round %d: the server says %v; want that the child was killed", round, s.Err())
		}
		s = start(t, cfg)
		var whole, broken uint64
		err := open(t, s, "d").QueryRow(t.Context(), fmt.Sprintf(`SELECT countIf(rows >= %d AND n < %d), countIf(rows %% %[1]d != 0)
			FROM (SELECT n, count() AS rows FROM batches GROUP BY n)`, rowsABatch, acknowledged)).Scan(&whole, &broken)
		if err != nil || whole != acknowledged || broken != 0 {
			t.Fatalf("round %d: %d of %d acknowledged batches are there, %d are not whole, %v", round, whole, acknowledged, broken, err)
		}
	}
}

func TestFolderInUse(t *testing.T) {
	cfg := config(folder(t))
	s := start(t, cfg)
	_, err := lockFolder(cfg.Dir, 100*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", s.Pid())) || !strings.Contains(err.Error(), cfg.Dir) {
		t.Errorf("got %v; want the folder and process %d named", err, s.Pid())
	}
	// A second child waits for the first one to leave.
	waiting := make(chan error, 1)
	go func() {
		second, err := Start(t.Context(), cfg)
		if err == nil {
			err = second.Stop(context.Background())
		}
		waiting <- err
	}()
	select {
	case err := <-waiting:
		t.Fatalf("a second child started beside the first: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := s.Stop(t.Context()); err != nil || s.Err() != nil {
		t.Errorf("stop: %v, %v", err, s.Err())
	}
	if err := <-waiting; err != nil {
		t.Errorf("the second child: %v", err)
	}
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	cfg := config(folder(t))
	cfg.Library = filepath.Join(cfg.Dir, "libchdb.so")
	_, err := Start(t.Context(), cfg)
	if !errors.Is(err, ErrNoLibrary) || !strings.Contains(err.Error(), "deploy/deps.sh") || !strings.Contains(err.Error(), "--clickhouse") {
		t.Errorf("no library: %v", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Library, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), cfg.Library) {
		t.Errorf("a broken library: %v; want it named", err)
	}
	cfg.Socket = "/" + strings.Repeat("s", maxSocketPath)
	if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), cfg.Socket) {
		t.Errorf("a long socket path: %v; want it named", err)
	}
}

func TestChildEndsWithItsParent(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the ClickHouse engine")
	}
	dir := folder(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(program, parentCommand, dir)
	said, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil || line != "true <nil>\n" {
		t.Errorf("the parent said %q, %v", line, err)
	}
	if f, err := lockFolder(config(dir).Dir, 0); err == nil {
		f.Close()
		t.Error("the child does not hold its folder")
	}
	parent.Process.Kill()
	parent.Wait()
	f, err := lockFolder(config(dir).Dir, lastRequests)
	if err != nil {
		t.Fatalf("the child outlives its parent: %v", err)
	}
	f.Close()
}
