package sql

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// migrationLock is the key of the advisory lock that one migrating program holds;
// others wait for it.
const migrationLock = 0x7573616e6365 // "usance"

const createMigrationsSQL = `
CREATE TABLE IF NOT EXISTS schema_migrations (
    name       text PRIMARY KEY,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)`

const appliedMigrationsSQL = `SELECT name, checksum FROM schema_migrations`

const recordMigrationSQL = `INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)`

// MigratePostgres brings the database of pool up to this program's schema,
// including the job queue's tables, and returns the names of what it applied.
// Programs that start at once wait for each other. Each migration is one
// transaction: after an error the database has all of those before it and
// nothing of the one that the error names.
func MigratePostgres(ctx context.Context, pool *pgxpool.Pool) (applied []string, err error) {
	all, err := load(postgresFiles, "postgres")
	if err != nil {
		return nil, err
	}
	return migratePostgres(ctx, pool, all)
}

func migratePostgres(ctx context.Context, pool *pgxpool.Pool, all []migration) (applied []string, err error) {
	// The lock needs a session of its own beside those that migrate: a pool of one would wait for itself.
	lock, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	defer lock.Close(context.WithoutCancel(ctx)) // ends the session and with it the lock
	if _, err := lock.Exec(ctx, `SELECT pg_advisory_lock($1)`, migrationLock); err != nil {
		return nil, fmt.Errorf("migrate: wait for another migrating program: %w", err)
	}

	if _, err := pool.Exec(ctx, createMigrationsSQL); err != nil {
		return nil, fmt.Errorf("migrate: table schema_migrations: %w", err)
	}
	have, err := appliedMigrations(ctx, pool)
	if err != nil {
		return nil, fmt.Errorf("migrate: read schema_migrations: %w", err)
	}
	missing, err := pending(all, have)
	if err != nil {
		return nil, err
	}
	river, err := migrateRiver(ctx, pool)
	if err != nil {
		return nil, err
	}
	applied = append(applied, river...)
	for _, m := range missing {
		if err := apply(ctx, pool, m); err != nil {
			return applied, fmt.Errorf("migration %s: %w", m.name, err)
		}
		applied = append(applied, m.name)
	}
	return applied, nil
}

func appliedMigrations(ctx context.Context, pool *pgxpool.Pool) (map[string]string, error) {
	rows, err := pool.Query(ctx, appliedMigrationsSQL)
	if err != nil {
		return nil, err
	}
	have := map[string]string{}
	var name, checksum string
	_, err = pgx.ForEachRow(rows, []any{&name, &checksum}, func() error {
		have[name] = checksum
		return nil
	})
	return have, err
}

func apply(ctx context.Context, pool *pgxpool.Pool, m migration) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// Without arguments the simple protocol runs all statements of the file.
		if _, err := tx.Conn().PgConn().Exec(ctx, m.text).ReadAll(); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, recordMigrationSQL, m.name, m.checksum)
		return err
	})
}

// migrateRiver brings the tables of the job queue up to the library in use. They
// have numbers of their own, and no table of ours refers to them.
func migrateRiver(ctx context.Context, pool *pgxpool.Pool) (applied []string, err error) {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("migrate the job queue: %w", err)
	}
	if _, err := migrator.ExistingVersions(ctx); err != nil { // fails on a version it does not know
		return nil, fmt.Errorf("%w: the job queue: %w", ErrNewerSchema, err)
	}
	done, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	if err != nil {
		return nil, fmt.Errorf("migrate the job queue: %w", err)
	}
	for _, v := range done.Versions {
		applied = append(applied, fmt.Sprintf("river_%03d", v.Version))
	}
	return applied, nil
}
