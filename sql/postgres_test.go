package sql_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/sql"
	"github.com/usance/usance/sql/sqltest"
)

// empty is a pool on a database without any table.
func empty(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := sqltest.Postgres(t)
	execute(t, pool, `DROP SCHEMA public CASCADE`)
	execute(t, pool, `CREATE SCHEMA public`)
	return pool
}

func execute(t *testing.T, pool *pgxpool.Pool, statement string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func TestMigratePostgresTwice(t *testing.T) {
	pool := empty(t)
	first, err := sql.MigratePostgres(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"river_001", "0003_metering"} {
		if !strings.Contains(strings.Join(first, " ")+" ", want+" ") {
			t.Errorf("applied %v, want %s among them", first, want)
		}
	}
	execute(t, pool, `SELECT FROM epochs, allocations, river_job`)
	if again, err := sql.MigratePostgres(t.Context(), pool); err != nil || len(again) > 0 {
		t.Errorf("again: %v, %v, want nothing to do", again, err)
	}
}

func TestMigratePostgresFromManyReplicas(t *testing.T) {
	pool := empty(t)
	var wg sync.WaitGroup
	applied := make([][]string, 4)
	for i := range applied {
		wg.Go(func() {
			var err error
			if applied[i], err = sql.MigratePostgres(t.Context(), pool); err != nil {
				t.Errorf("replica %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	worked := 0
	for _, names := range applied {
		if len(names) > 0 {
			worked++
		}
	}
	if worked != 1 {
		t.Errorf("%d replicas applied migrations, want 1: %v", worked, applied)
	}
}

func TestMigratePostgresRefuses(t *testing.T) {
	for _, test := range []struct {
		name, change string
		is           error
		want         string
	}{
		{"an edited migration", `UPDATE schema_migrations SET checksum = 'x' WHERE name = '0003_metering'`, sql.ErrEditedMigration, "0003_metering"},
		{"a newer schema", `INSERT INTO schema_migrations VALUES ('9999_future', 'x')`, sql.ErrNewerSchema, "9999_future"},
		{"a newer job queue", `INSERT INTO river_migration (line, version) VALUES ('main', 99)`, sql.ErrNewerSchema, "job queue"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pool := sqltest.Postgres(t)
			execute(t, pool, test.change)
			_, err := sql.MigratePostgres(t.Context(), pool)
			if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("err = %v, want %v with %q", err, test.is, test.want)
			}
		})
	}
}

func TestFailedMigrationLeavesNothingOfItself(t *testing.T) {
	pool := empty(t)
	execute(t, pool, `CREATE TABLE allocations (in_the_way int)`) // the last table of 0003_metering
	_, err := sql.MigratePostgres(t.Context(), pool)
	if err == nil || !strings.Contains(err.Error(), "migration 0003_metering") {
		t.Fatalf("err = %v, want one that names 0003_metering", err)
	}
	var epochs *string
	if err := pool.QueryRow(t.Context(), `SELECT to_regclass('epochs')::text`).Scan(&epochs); err != nil || epochs != nil {
		t.Errorf("epochs = %v, %v, want no such table", epochs, err)
	}
	execute(t, pool, `DROP TABLE allocations`)
	if _, err := sql.MigratePostgres(t.Context(), pool); err != nil {
		t.Errorf("after the repair: %v", err)
	}
}
