package sql

import (
	"context"
	"fmt"
	"strings"
)

const createClickHouseMigrationsSQL = `CREATE TABLE IF NOT EXISTS schema_migrations (
    name String,
    checksum String,
    applied_at DateTime64(3) DEFAULT now64(3)
) ENGINE = MergeTree ORDER BY name`

// AppliedClickHouseSQL reads what MigrateClickHouse has recorded.
const AppliedClickHouseSQL = `SELECT name, checksum FROM schema_migrations`

// MigrateClickHouse brings a ClickHouse database up to this program's schema
// and returns the names of what it applied. exec runs one statement in that
// database; applied runs AppliedClickHouseSQL there and returns checksums by
// name. Where engines differ (a cluster's), exec rewrites the statement.
//
// ClickHouse has neither transactions nor locks, so a crash, or a second program
// at the same time, repeats statements: each must be harmless to repeat (IF NOT
// EXISTS), and what is recorded twice counts once. In a file a statement ends
// with a semicolon at the end of a line, and lines that begin with -- are comments.
func MigrateClickHouse(
	ctx context.Context,
	exec func(ctx context.Context, statement string) error,
	applied func(ctx context.Context) (map[string]string, error),
) ([]string, error) {
	all, err := load(clickhouseFiles, "clickhouse")
	if err != nil {
		return nil, err
	}
	return migrateClickHouse(ctx, all, exec, applied)
}

func migrateClickHouse(
	ctx context.Context,
	all []migration,
	exec func(ctx context.Context, statement string) error,
	applied func(ctx context.Context) (map[string]string, error),
) (names []string, err error) {
	if err := exec(ctx, createClickHouseMigrationsSQL); err != nil {
		return nil, fmt.Errorf("migrate ClickHouse: table schema_migrations: %w", err)
	}
	have, err := applied(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate ClickHouse: read schema_migrations: %w", err)
	}
	missing, err := pending(all, have)
	if err != nil {
		return nil, err
	}
	for _, m := range missing {
		// Name and checksum need no quoting: letters, digits and underscores.
		record := fmt.Sprintf("INSERT INTO schema_migrations (name, checksum) VALUES ('%s', '%s')", m.name, m.checksum)
		for _, s := range append(statements(m.text), record) {
			if err := exec(ctx, s); err != nil {
				return names, fmt.Errorf("ClickHouse migration %s: %w", m.name, err)
			}
		}
		names = append(names, m.name)
	}
	return names, nil
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
