package sql

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestLoad(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for _, test := range []struct {
		name  string
		files fstest.MapFS
		want  []string
		err   string
	}{
		{"none", fstest.MapFS{}, nil, ""},
		{"order, gaps and other files", fstest.MapFS{
			"d/0010_c.sql": file("c"), "d/0002_b.sql": file("b"), "d/README.md": file("x"), "e/0001_x.sql": file("x"),
		}, []string{"0002_b", "0010_c"}, ""},
		{"one number twice", fstest.MapFS{"d/0002_a.sql": file("a"), "d/0002_b.sql": file("b")}, nil, "0002_a and 0002_b"},
		{"no number", fstest.MapFS{"d/a.sql": file("a")}, nil, "d/a.sql: the name is not"},
	} {
		t.Run(test.name, func(t *testing.T) {
			all, err := load(test.files, "d")
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("err = %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, names(all)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestEmbeddedMigrationsLoad(t *testing.T) {
	if all, err := load(postgresFiles, "postgres"); err != nil || len(all) == 0 {
		t.Errorf("postgres: %d migrations, %v", len(all), err)
	}
	if all, err := load(clickhouseFiles, "clickhouse"); err != nil || len(all) == 0 {
		t.Errorf("clickhouse: %d migrations, %v", len(all), err)
	}
}

func TestPending(t *testing.T) {
	all := []migration{{name: "0001_a", checksum: "A"}, {name: "0002_b", checksum: "B"}, {name: "0003_c", checksum: "C"}}
	for _, test := range []struct {
		name    string
		applied map[string]string
		want    []string
		is      error
		err     string
	}{
		{"new database", nil, []string{"0001_a", "0002_b", "0003_c"}, nil, ""},
		{"up to date", map[string]string{"0001_a": "A", "0002_b": "B", "0003_c": "C"}, nil, nil, ""},
		{"a gap was filled", map[string]string{"0001_a": "A", "0003_c": "C"}, []string{"0002_b"}, nil, ""},
		{"edited", map[string]string{"0001_a": "A", "0002_b": "x"}, nil, ErrEditedMigration, "0002_b"},
		{"newer", map[string]string{"0001_a": "A", "0004_d": "D"}, nil, ErrNewerSchema, "0004_d"},
	} {
		t.Run(test.name, func(t *testing.T) {
			missing, err := pending(all, test.applied)
			if !errors.Is(err, test.is) || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("err = %v, want %v with %q", err, test.is, test.err)
			}
			if diff := cmp.Diff(test.want, names(missing)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestStatements(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"empty", "\n-- nothing;\n", nil},
		{"one without an end", "SELECT 1\n", []string{"SELECT 1"}},
		{"two, comments dropped", "-- a;\nCREATE x (\n  a Int,  -- of a; kept\n  b Int\n);\n\nSELECT 2;\n",
			[]string{"CREATE x (\n  a Int,  -- of a; kept\n  b Int\n)", "SELECT 2"}},
		{"semicolon within a line", "SELECT ';' AS x;\r\nSELECT 3;", []string{"SELECT ';' AS x", "SELECT 3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, statements(test.text)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// clickHouse is a ClickHouse that runs nothing and remembers.
type clickHouse struct {
	ran      []string
	engine   string // of schema_migrations; "" where there is none
	recorded map[string]string
	failAt   string // the statement that fails
}

func (c *clickHouse) exec(_ context.Context, statement string) error {
	if statement == c.failAt {
		return errors.New("no")
	}
	c.ran = append(c.ran, statement)
	if strings.Contains(statement, "schema_migrations") && strings.HasPrefix(statement, "CREATE") {
		c.engine = regexp.MustCompile(`\w*MergeTree`).FindString(statement)
	}
	if rest, ok := strings.CutPrefix(statement, "INSERT INTO schema_migrations (name, checksum) VALUES ('"); ok {
		fields := strings.Split(strings.TrimSuffix(rest, "')"), "', '")
		c.recorded[fields[0]] = fields[1]
	}
	return nil
}

func (c *clickHouse) query(_ context.Context, query string) (map[string]string, error) {
	switch {
	case query == appliedClickHouseSQL:
		return c.recorded, nil
	case query == migrationsEngineSQL && c.engine != "":
		return map[string]string{"schema_migrations": c.engine}, nil
	}
	return nil, nil
}

func TestMigrateClickHouse(t *testing.T) {
	all := []migration{
		{name: "0001_a", checksum: "aa", text: "CREATE a;\nCREATE b;\n"},
		{name: "0002_b", checksum: "bb", text: "CREATE c;\n"},
	}
	db := &clickHouse{recorded: map[string]string{}, failAt: "CREATE b"}
	migrate := func() ([]string, error) {
		return migrateClickHouse(t.Context(), all, ClickHouse{Exec: db.exec, Query: db.query})
	}

	if done, err := migrate(); err == nil || !strings.Contains(err.Error(), "0001_a") || len(done) > 0 {
		t.Errorf("failing: did %v, err = %v, want one that names 0001_a", done, err)
	}
	db.failAt, db.ran = "", nil
	done, err := migrate()
	if err != nil || !slices.Equal(done, []string{"0001_a", "0002_b"}) {
		t.Errorf("after the repair: did %v, %v", done, err)
	}
	want := []string{
		createClickHouseMigrationsSQL,
		"CREATE a", "CREATE b", "INSERT INTO schema_migrations (name, checksum) VALUES ('0001_a', 'aa')",
		"CREATE c", "INSERT INTO schema_migrations (name, checksum) VALUES ('0002_b', 'bb')",
	}
	if diff := cmp.Diff(want, db.ran); diff != "" {
		t.Errorf("statements, -want +got:\n%s", diff)
	}
	db.ran = nil
	if done, err := migrate(); err != nil || len(done) > 0 || len(db.ran) > 0 {
		t.Errorf("again: did %v by %q, %v, want nothing", done, db.ran, err)
	}
}

func names(all []migration) (s []string) {
	for _, m := range all {
		s = append(s, m.name)
	}
	return s
}
