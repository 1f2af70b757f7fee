package sql

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRenderForCluster(t *testing.T) {
	c := Cluster{Name: "main", Database: "db"}
	for _, test := range []struct {
		name, statement string
		want            []string // nil: refused
	}{
		{"a table of tenants",
			"CREATE TABLE IF NOT EXISTS x\n(\n    tenant   String CODEC(ZSTD(1)),\n    v UInt64\n)\nENGINE = ReplacingMergeTree\nORDER BY tenant",
			[]string{
				"CREATE TABLE IF NOT EXISTS `db`.x_local ON CLUSTER 'main'\n(\n    tenant   String CODEC(ZSTD(1)),\n    v UInt64\n)\n" +
					"ENGINE = ReplicatedReplacingMergeTree('/clickhouse/main/db/x_local/{shard}', '{replica}')\nORDER BY tenant",
				"CREATE TABLE IF NOT EXISTS `db`.x ON CLUSTER 'main' AS `db`.x_local\n" +
					"ENGINE = Distributed('main', 'db', 'x_local', cityHash64(tenant))",
			}},
		{"a table without tenants", "CREATE TABLE IF NOT EXISTS x (\n    a String\n) ENGINE = MergeTree ORDER BY a",
			[]string{"CREATE TABLE IF NOT EXISTS `db`.x ON CLUSTER 'main' (\n    a String\n) " +
				"ENGINE = ReplicatedMergeTree('/clickhouse/main/db/x/all', '{shard}-{replica}') ORDER BY a"}},
		{"a view", "CREATE MATERIALIZED VIEW IF NOT EXISTS v TO x AS\nSELECT a,\n    b\nFROM y",
			[]string{"CREATE MATERIALIZED VIEW IF NOT EXISTS `db`.v ON CLUSTER 'main' TO `db`.x_local AS\nSELECT a,\n    b\nFROM `db`.y_local"}},
		{"a view of two tables", "CREATE MATERIALIZED VIEW IF NOT EXISTS v TO x AS SELECT a FROM y UNION ALL SELECT a FROM z", nil},
		{"a view with a join", "CREATE MATERIALIZED VIEW IF NOT EXISTS v TO x AS SELECT a FROM y JOIN z USING a", nil},
		{"a view with its own table", "CREATE MATERIALIZED VIEW IF NOT EXISTS v ENGINE = MergeTree AS SELECT a FROM y", nil},
		{"an engine with arguments", "CREATE TABLE IF NOT EXISTS x (tenant String) ENGINE = ReplacingMergeTree(v) ORDER BY tenant", nil},
		{"another engine", "CREATE TABLE IF NOT EXISTS x (tenant String) ENGINE = Log", nil},
		{"not repeatable", "CREATE TABLE x (tenant String) ENGINE = MergeTree ORDER BY tenant", nil},
		{"another statement", "DROP TABLE x", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := c.render(test.statement)
			if (err != nil) != (test.want == nil) {
				t.Errorf("err = %v", err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestOneServerRunsWhatIsWritten(t *testing.T) {
	got, err := Cluster{}.render("DROP TABLE x")
	if err != nil || !cmp.Equal(got, []string{"DROP TABLE x"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestMigrateCluster(t *testing.T) {
	all := []migration{{name: "0001_a", checksum: "aa", text: "CREATE TABLE IF NOT EXISTS x (\n tenant String\n) ENGINE = MergeTree ORDER BY tenant;\n"}}
	db := &clickHouse{recorded: map[string]string{}}
	migrate := func(c Cluster) ([]string, error) {
		return migrateClickHouse(t.Context(), all, ClickHouse{Cluster: c, Exec: db.exec, Query: db.query})
	}
	main := Cluster{Name: "main", Database: "db"}
	if done, err := migrate(main); err != nil || len(done) != 1 {
		t.Fatalf("did %v, %v", done, err)
	}
	firsts := make([]string, len(db.ran))
	for i, s := range db.ran {
		firsts[i] = firstLine(s)
	}
	want := []string{
		"CREATE DATABASE IF NOT EXISTS `db` ON CLUSTER 'main' ENGINE = Atomic",
		"CREATE TABLE IF NOT EXISTS `db`.schema_migrations ON CLUSTER 'main' (",
		"CREATE TABLE IF NOT EXISTS `db`.x_local ON CLUSTER 'main' (",
		"CREATE TABLE IF NOT EXISTS `db`.x ON CLUSTER 'main' AS `db`.x_local",
		"INSERT INTO schema_migrations (name, checksum) VALUES ('0001_a', 'aa')",
	}
	if diff := cmp.Diff(want, firsts); diff != "" {
		t.Errorf("statements, -want +got:\n%s", diff)
	}
	db.ran = nil
	if done, err := migrate(main); err != nil || len(done) > 0 || len(db.ran) > 0 {
		t.Errorf("again: did %v by %q, %v, want nothing", done, db.ran, err)
	}
	if _, err := migrate(Cluster{}); err == nil || !strings.Contains(err.Error(), "made for a cluster") {
		t.Errorf("without the cluster: err = %v", err)
	}
	db.engine = "MergeTree"
	if _, err := migrate(main); err == nil || !strings.Contains(err.Error(), "made for one server") {
		t.Errorf("one server's database as a cluster: err = %v", err)
	}
	for _, bad := range []Cluster{{"a'b", "db"}, {"main", "d`b"}, {"main", ""}} {
		db.ran = nil
		if _, err := migrate(bad); err == nil || len(db.ran) > 0 {
			t.Errorf("%+v: ran %q, %v, want an error", bad, db.ran, err)
		}
	}
}

func TestNothingRunsOfAMigrationThatCannotBeRendered(t *testing.T) {
	all := []migration{{name: "0001_a", checksum: "aa", text: "CREATE TABLE IF NOT EXISTS x (\n tenant String\n) ENGINE = MergeTree ORDER BY tenant;\nDROP TABLE y;\n"}}
	db := &clickHouse{recorded: map[string]string{}}
	_, err := migrateClickHouse(t.Context(), all, ClickHouse{Cluster: Cluster{Name: "main", Database: "db"}, Exec: db.exec, Query: db.query})
	if err == nil || !strings.Contains(err.Error(), "0001_a") || !strings.Contains(err.Error(), "DROP TABLE y") {
		t.Errorf("err = %v, want one that names migration and statement", err)
	}
	if ran := strings.Join(db.ran, "\n"); strings.Contains(ran, "x_local") || strings.Contains(ran, "INSERT") {
		t.Errorf("ran %s", ran)
	}
}
