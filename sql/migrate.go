// Package sql owns the schema of both databases and brings a database up to it.
//
// It embeds the numbered statements of postgres/ and clickhouse/ and applies
// those a database does not have yet. It never reads or writes a row of
// another room's tables, never goes back, and never edits data by itself.
//
// Invariants:
//   - Migrations are applied in the order of their numbers, each at most once
//     (ClickHouse: each at least once, so its statements are idempotent).
//   - A migration that a database has is never different from the one of the
//     same name here: an edited migration is refused.
//   - A database that has a migration unknown here is left alone.
package sql

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

//go:embed postgres/*.sql
var postgresFiles embed.FS

//go:embed clickhouse/*.sql
var clickhouseFiles embed.FS

var (
	// ErrNewerSchema says that a newer program has migrated the database.
	ErrNewerSchema = errors.New("the database was migrated by a newer version of usance")
	// ErrEditedMigration says that a released migration was changed afterwards.
	ErrEditedMigration = errors.New("migration was edited after it was applied")
)

// migration is one file of statements.
type migration struct {
	name     string // "0003_metering"
	checksum string // SHA-256 of the file, hex
	text     string
}

var migrationFile = regexp.MustCompile(`^[0-9]{4}_[a-z0-9_]+\.sql$`)

// load reads the migrations of a folder in the order of their numbers. Numbers
// may have gaps; two files with one number are an error.
func load(files fs.FS, dir string) ([]migration, error) {
	paths, err := fs.Glob(files, dir+"/*.sql")
	if err != nil {
		return nil, err
	}
	var all []migration
	for _, p := range paths { // sorted by name
		base := path.Base(p)
		if !migrationFile.MatchString(base) {
			return nil, fmt.Errorf("migration %s: the name is not of the form 0001_name.sql", p)
		}
		if n := len(all); n > 0 && all[n-1].name[:4] == base[:4] {
			return nil, fmt.Errorf("migrations %s and %s of %s have the same number", all[n-1].name, base, dir)
		}
		text, err := fs.ReadFile(files, p)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{strings.TrimSuffix(base, ".sql"), hex.EncodeToString(sum[:]), string(text)})
	}
	return all, nil
}

// pending are the migrations that the database, which has those in applied (name
// to checksum), still needs. The error wraps ErrNewerSchema or ErrEditedMigration
// and names the migration.
func pending(all []migration, applied map[string]string) ([]migration, error) {
	known := make(map[string]bool, len(all))
	var missing []migration
	for _, m := range all {
		known[m.name] = true
		switch sum, ok := applied[m.name]; {
		case !ok:
			missing = append(missing, m)
		case sum != m.checksum:
			return nil, fmt.Errorf("%w: %s (restore the file and put the change into a new migration)", ErrEditedMigration, m.name)
		}
	}
	for name := range applied {
		if !known[name] {
			return nil, fmt.Errorf("%w: it has migration %s, which this program does not know; start that version", ErrNewerSchema, name)
		}
	}
	return missing, nil
}
