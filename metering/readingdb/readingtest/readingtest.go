// Package readingtest gives tests a real, empty store of readings: one engine
// child per test binary, one database per call. It is not part of the product.
//
// A test binary that links it re-executes itself as the engine's child. The
// child ends with the test binary and removes the engine's folder.
package readingtest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/embedded"
)

// childCommand is followed by the folder to remove and the child's own arguments.
const childCommand = "readingtest-child"

func init() {
	if len(os.Args) > 2 && os.Args[1] == childCommand {
		code := embedded.ChildMain(os.Args[3:])
		os.RemoveAll(os.Args[2])
		os.Exit(code)
	}
}

// engine is the engine of this test binary, started by the first test that
// needs it.
var engine = sync.OnceValues(func() (*embedded.Server, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "usance") // short: a socket's path is limited
	if err != nil {
		return nil, err
	}
	return embedded.Start(context.Background(), embedded.Config{
		Dir:     filepath.Join(dir, "clickhouse"),
		Socket:  filepath.Join(dir, "socket"),
		Command: []string{program, childCommand, dir},
		Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
})

var databases atomic.Int64

// Store is a migrated, empty store in a database of its own. It fails the test
// when libchdb is missing and skips it under -short.
func Store(t testing.TB) *readingdb.Store {
	t.Helper()
	return open(t, Options(t))
}

// Breakable is Store with a function that executes a statement in its database,
// for what the store itself never does.
func Breakable(t testing.TB) (*readingdb.Store, func(statement string)) {
	t.Helper()
	options := Options(t)
	s := open(t, options)
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return s, func(statement string) {
		t.Helper()
		if err := conn.Exec(context.Background(), statement); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t testing.TB, options *clickhouse.Options) *readingdb.Store {
	t.Helper()
	s, err := readingdb.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Migrate(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	return s
}

// Options name a database of its own, which does not exist yet, on the engine
// of this test binary. It fails and skips as Store does.
func Options(t testing.TB) *clickhouse.Options {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the ClickHouse engine")
	}
	server, err := engine()
	if err != nil {
		t.Fatal(err)
	}
	options := server.Options()
	options.Auth.Database = fmt.Sprintf("test_%d", databases.Add(1))
	return options
}
