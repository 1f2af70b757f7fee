package readingdb_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/embedded"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == embedded.ChildCommand {
		os.Exit(embedded.ChildMain(os.Args[2:]))
	}
	flag.Set("rapid.checks", "25") // each takes several durable inserts; a flag given overrides it
	os.Exit(m.Run())
}

// TestKillDuringInserts kills the engine with -9 while batches go into the
// three tables, repeats each batch until it is acknowledged, as a host does, and
// finds every answer exact. The store outlives its server.
func TestKillDuringInserts(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the ClickHouse engine")
	}
	dir, err := os.MkdirTemp("", "usance") // short: a socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	start := func() *embedded.Server {
		server, err := embedded.Start(t.Context(), embedded.Config{
			Dir: filepath.Join(dir, "clickhouse"), Socket: filepath.Join(dir, "s"), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Stop(context.Background()) })
		return server
	}
	server := start()
	s, err := readingdb.Open(t.Context(), server.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Migrate(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	const epochs, kills = 50, 3
	n := uint64(0)
	for kill := range kills {
		pid, first := server.Pid(), n+1
		for killed := false; !killed; {
			n++
			var batch []row
			for e := range epochs {
				batch = append(batch, reading(metering.EpochID(fmt.Sprint("e", e)), base.Add(time.Duration(n)*time.Second), n))
			}
			for s.Insert(t.Context(), columns(batch...)) != nil {
				<-server.Done()
				server, killed = start(), true
			}
			if first == n {
				time.AfterFunc(time.Duration(70*kill+30)*time.Millisecond, func() { syscall.Kill(pid, syscall.SIGKILL) })
			}
		}
	}
	t.Logf("%d batches, %d kills", n, kills)
	totals, err := s.Totals(t.Context(), nil)
	if err != nil || len(totals) != epochs || totals["e0"].Registers != values(n) {
		t.Errorf("totals: %d epochs, %v, %v; want %v", len(totals), totals["e0"].Registers, err, values(n))
	}
	var instants []time.Time // every batch, on boundaries and inside slots
	for i := range n {
		instants = append(instants, base.Add(time.Duration(i+1)*time.Second))
	}
	at, err := s.At(t.Context(), "ten_1", instants)
	if err != nil || len(at) != epochs {
		t.Fatalf("At: %d epochs, %v", len(at), err)
	}
	for epoch, got := range at {
		for i := range got {
			if got[i] != values(uint64(i)+1) {
				t.Fatalf("%s after %d batches: %v; want %v", epoch, i+1, got[i], values(uint64(i)+1))
			}
		}
	}
}
