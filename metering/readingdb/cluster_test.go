package readingdb_test

import (
	"context"
	"encoding/xml"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/sql"
)

// The embedded engine cannot be part of a cluster: there is no Keeper. What it
// can: parse what a cluster is given, and run Distributed tables over itself.

// migrateCluster gives exec what an empty cluster is given.
func migrateCluster(t *testing.T, database string, exec func(statement string) error) {
	t.Helper()
	_, err := sql.MigrateClickHouse(t.Context(), sql.ClickHouse{
		Cluster: sql.Cluster{Name: "main", Database: database},
		Exec:    func(_ context.Context, statement string) error { return exec(statement) },
		Query:   func(context.Context, string) (map[string]string, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
}

// connect opens a connection to a database that readingdb.Open made.
func connect(t *testing.T, options *clickhouse.Options) driver.Conn {
	t.Helper()
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func openEmpty(t *testing.T) (*readingdb.Store, *clickhouse.Options) {
	t.Helper()
	options := readingtest.Options(t)
	s, err := readingdb.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, options
}

func TestWhatAClusterIsGivenParses(t *testing.T) {
	_, options := openEmpty(t)
	conn := connect(t, options)
	if err := conn.Exec(t.Context(), "EXPLAIN AST CREATE TABLE x ON CLUSTER 'main' (a String) ENGINE = ReplicatedMergeTree('/a', '{replica}' ORDER BY a"); err == nil {
		t.Fatal("the engine takes a statement that does not parse")
	}
	parsed := map[string]int{}
	migrateCluster(t, options.Auth.Database, func(statement string) error {
		if strings.HasPrefix(statement, "INSERT") {
			return nil
		}
		if !strings.Contains(statement, " ON CLUSTER 'main'") {
			t.Errorf("runs on one node alone: %s", statement)
		}
		kind := regexp.MustCompile(`^CREATE \w+|Distributed|Replicated`)
		parsed[strings.Join(kind.FindAllString(statement, 2), " ")]++
		return conn.Exec(t.Context(), "EXPLAIN AST "+statement)
	})
	want := map[string]int{"CREATE DATABASE": 1, "CREATE TABLE Replicated": 4, "CREATE TABLE Distributed": 3, "CREATE MATERIALIZED": 2}
	if diff := cmp.Diff(want, parsed); diff != "" {
		t.Errorf("statements by kind, -want +got:\n%s", diff)
	}
}

var (
	onCluster   = " ON CLUSTER 'main'"
	replicated  = regexp.MustCompile(`Replicated(\w+)\([^)]*\)`)
	distributed = regexp.MustCompile(`(?s) AS \S+\s+ENGINE = Distributed\('main', (.*)\)$`)
)

// here makes of what a cluster is given what this engine can run: no replicas,
// and two shards that are both this engine, so that a query through a
// Distributed table sees each row twice.
func here(statement string) string {
	statement = strings.Replace(statement, onCluster, "", 1)
	statement = replicated.ReplaceAllString(statement, "$1")
	return distributed.ReplaceAllString(statement, " AS remote('127.0.0.1,localhost', $1)")
}

// TestStatementsOnDistributedTables compares every answer through Distributed
// tables with the one of plain tables.
func TestStatementsOnDistributedTables(t *testing.T) {
	one := readingtest.Store(t)
	many, options := openEmpty(t)
	conn := connect(t, options)
	migrateCluster(t, options.Auth.Database, func(statement string) error { return conn.Exec(t.Context(), here(statement)) })

	rows := []row{
		reading("e1", base, 10), reading("e1", base.Add(time.Minute), 11), reading("e1", base.Add(metering.SlotLength), 20),
		reading("e2", base.Add(3*time.Minute), 5),
		{"ten_2", "ins_9", "e9", base, base, values(99)}, {"ten_3", "ins_8", "e8", base, base, values(7)},
	}
	for _, s := range []*readingdb.Store{one, many} {
		insert(t, s, rows...)
		insert(t, s, rows[:2]...)
	}
	var seen, kept uint64
	if err := conn.QueryRow(t.Context(), "SELECT count() FROM readings").Scan(&seen); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT count() FROM readings_local FINAL").Scan(&kept); err != nil {
		t.Fatal(err)
	}
	if kept != uint64(len(rows)) || seen < 2*kept {
		t.Fatalf("%d rows are kept and %d seen: the table is not distributed over two shards", kept, seen)
	}

	window := metering.Window{Start: base.Add(-time.Hour), End: base.Add(time.Hour)}
	answers := func(s *readingdb.Store) []any {
		var all []any
		add := func(answer any, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, answer)
		}
		at, err := s.At(t.Context(), "ten_1", []time.Time{base, base.Add(2 * time.Minute), base.Add(time.Hour)})
		add(at, err)
		slots, err := s.Slots(t.Context(), "ten_1", "ins_1", window)
		add(slots, err)
		totals, err := s.Totals(t.Context(), nil)
		add(totals, err)
		totals, err = s.Totals(t.Context(), []metering.TenantID{"ten_1", "ten_3"})
		add(totals, err)
		largest, err := s.Largest(t.Context(), []metering.EpochID{"e2", "e9"})
		add(largest, err)
		latest, err := s.Latest(t.Context(), "ten_1", "ins_1")
		add(latest, err)
		summary, err := s.Summary(t.Context(), "ten_1")
		add(summary, err)
		readings, err := s.Readings(t.Context(), "ten_1", "ins_1", window, 3)
		add(readings, err)
		return all
	}
	if diff := cmp.Diff(answers(one), answers(many)); diff != "" {
		t.Errorf("-one server +distributed:\n%s", diff)
	}
}

// element is an XML element with what is in it.
type element struct {
	XMLName xml.Name
	Text    string    `xml:",chardata"`
	Inside  []element `xml:",any"`
}

func (e element) at(path ...string) []element {
	found := []element{e}
	for _, name := range path {
		var next []element
		for _, f := range found {
			for _, in := range f.Inside {
				if in.XMLName.Local == name {
					next = append(next, in)
				}
			}
		}
		found = next
	}
	return found
}

// TestExampleOfACluster reads deploy/clickhouse: the engine knows the settings
// in it, and all its parts speak of the same nodes.
func TestExampleOfACluster(t *testing.T) {
	var all element // the files' parts together, as a server joins them
	for _, name := range []string{"config.d/cluster.xml", "config.d/keeper.xml", "config.d/node.xml", "users.d/usance.xml"} {
		text, err := os.ReadFile(filepath.Join("../../deploy/clickhouse", name))
		if err != nil {
			t.Fatal(err)
		}
		var file element
		if err := xml.Unmarshal(text, &file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all.Inside = append(all.Inside, file.Inside...)
	}

	_, options := openEmpty(t)
	conn := connect(t, options)
	for table, settings := range map[string][]element{
		"settings": all.at("profiles", "usance"), "merge_tree_settings": all.at("merge_tree"),
	} {
		if len(settings) != 1 || len(settings[0].Inside) == 0 {
			t.Fatalf("%s: the example sets none", table)
		}
		for _, s := range settings[0].Inside {
			var known uint64
			if err := conn.QueryRow(t.Context(), "SELECT count() FROM system."+table+" WHERE name = $1", s.XMLName.Local).Scan(&known); err != nil || known != 1 {
				t.Errorf("system.%s: the engine does not know %s (%v)", table, s.XMLName.Local, err)
			}
		}
	}

	texts := func(path ...string) (texts []string) {
		for _, e := range all.at(path...) {
			texts = append(texts, strings.TrimSpace(e.Text))
		}
		return texts
	}
	nodes := []string{"ch1", "ch2", "ch3"}
	for _, path := range []string{"remote_servers usance shard replica host", "zookeeper node host", "keeper_server raft_configuration server hostname"} {
		if diff := cmp.Diff(nodes, texts(strings.Fields(path)...)); diff != "" {
			t.Errorf("%s, -want +got:\n%s", path, diff)
		}
	}
	for _, path := range []string{"macros shard", "macros replica", "keeper_server server_id", "interserver_http_host"} {
		if got := texts(strings.Fields(path)...); len(got) != 1 || got[0] == "" {
			t.Errorf("%s: %q, want one", path, got)
		}
	}
}
