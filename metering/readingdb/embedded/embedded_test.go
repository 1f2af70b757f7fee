package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildCommand {
		os.Exit(ChildMain(os.Args[2:]))
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

var _ = run
