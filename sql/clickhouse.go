package sql

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

const createClickHouseMigrationsSQL = `CREATE TABLE IF NOT EXISTS schema_migrations (
    name String,
    checksum String,
    applied_at DateTime64(3) DEFAULT now64(3)
) ENGINE = MergeTree ORDER BY name`

const (
	appliedClickHouseSQL = `SELECT name, checksum FROM schema_migrations`
	// Nothing where there is no such table yet.
	migrationsEngineSQL = `SELECT name, engine FROM system.tables WHERE database = currentDatabase() AND name = 'schema_migrations'`
)

// ClickHouse is a ClickHouse database to be migrated.
type ClickHouse struct {
	Cluster Cluster
	// Exec runs one statement in the database.
	Exec func(ctx context.Context, statement string) error
	// Query runs one query in the database, whose rows are a key and a value.
	Query func(ctx context.Context, query string) (map[string]string, error)
}

// MigrateClickHouse brings a ClickHouse database, or one in a cluster, up to this
// program's schema and returns the names of what it applied. Where nothing is
// missing it only reads, on the one server it is connected to; else all of a
// cluster's nodes must be up. A database that was made for a cluster is refused
// without one, and the other way round.
//
// ClickHouse has neither transactions nor locks, so a crash, or a second program
// at the same time, repeats statements: each must be harmless to repeat (IF NOT
// EXISTS), and what is recorded twice counts once. A node that joined a cluster
// later has recorded nothing: connected to it, everything is repeated and the
// node gets its tables. In a file a statement ends with a semicolon at the end of
// a line, and lines that begin with -- are comments.
func MigrateClickHouse(ctx context.Context, db ClickHouse) ([]string, error) {
	all, err := load(clickhouseFiles, "clickhouse")
	if err != nil {
		return nil, err
	}
	return migrateClickHouse(ctx, all, db)
}

func migrateClickHouse(ctx context.Context, all []migration, db ClickHouse) (names []string, err error) {
	if err := db.Cluster.check(); err != nil {
		return nil, fmt.Errorf("migrate ClickHouse: %w", err)
	}
	have, err := db.applied(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate ClickHouse: %w", err)
	}
	missing, err := pending(all, have)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	first, err := db.Cluster.render(createClickHouseMigrationsSQL)
	if err != nil {
		return nil, err
	}
	for _, s := range append(db.Cluster.prepare(), first...) {
		if err := db.Exec(ctx, s); err != nil {
			return nil, fmt.Errorf("migrate ClickHouse: table schema_migrations: %w", err)
		}
	}
	for _, m := range missing {
		if err := db.apply(ctx, m); err != nil {
			return names, fmt.Errorf("ClickHouse migration %s: %w", m.name, err)
		}
		names = append(names, m.name)
	}
	return names, nil
}

// applied are the checksums of the migrations that the database has, by name.
func (db ClickHouse) applied(ctx context.Context) (map[string]string, error) {
	engines, err := db.Query(ctx, migrationsEngineSQL)
	if err != nil {
		return nil, fmt.Errorf("look for schema_migrations: %w", err)
	}
	engine, ok := engines["schema_migrations"]
	if !ok {
		return nil, nil
	}
	switch replicated := strings.HasPrefix(engine, "Replicated"); {
	case replicated && db.Cluster.Name == "":
		return nil, errors.New("the database was made for a cluster: give the cluster's name, or another database")
	case !replicated && db.Cluster.Name != "":
		return nil, fmt.Errorf("the database was made for one server, not for cluster %s: give no cluster, or another database", db.Cluster.Name)
	}
	applied, err := db.Query(ctx, appliedClickHouseSQL)
	if err != nil {
		return nil, fmt.Errorf("read schema_migrations: %w", err)
	}
	return applied, nil
}

// apply runs a migration and records it. What cannot be rendered is found
// before anything runs.
func (db ClickHouse) apply(ctx context.Context, m migration) error {
	var all []string
	for _, s := range statements(m.text) {
		rendered, err := db.Cluster.render(s)
		if err != nil {
			return err
		}
		all = append(all, rendered...)
	}
	// Name and checksum need no quoting: letters, digits and underscores.
	all = append(all, fmt.Sprintf("INSERT INTO schema_migrations (name, checksum) VALUES ('%s', '%s')", m.name, m.checksum))
	for _, s := range all {
		if err := db.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// statements splits a file into statements, each without its final semicolon
// and without comment lines.
func statements(text string) []string {
	var all []string
	var b strings.Builder
	flush := func() {
		if s := strings.TrimSpace(b.String()); s != "" {
			all = append(all, s)
		}
		b.Reset()
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		if strings.HasPrefix(strings.TrimSpace(line), "--") {
			continue
		}
		body, end := strings.CutSuffix(line, ";")
		b.WriteString(body + "\n")
		if end {
			flush()
		}
	}
	flush()
	return all
}
