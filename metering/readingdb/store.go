package readingdb

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/readingdb/embedded"
	"github.com/usance/usance/sql"
)

// Limits. What goes beyond one fails; nothing is cut short in silence.
const (
	// queryTime is how long a query may take; then it is cancelled and ctx's
	// deadline is the error.
	queryTime = 60 * time.Second
	// insertTime is the same for an insert, which waits for the disk.
	insertTime = 60 * time.Second
	// maxRows is the most rows a query may return; more is the engine's error
	// 396. A row is an epoch, an epoch at one instant, a slot or a reading.
	maxRows = 4_000_000
	// maxInsertRows is the most readings of one Insert, about 50 MB; more are refused.
	maxInsertRows = 200_000
)

// unknownDatabase is ClickHouse's error code for a database that does not exist.
const unknownDatabase = 81

// Store is the readings in one ClickHouse database, on one server or in a cluster. Its methods may run at the
// same time.
type Store struct {
	conn     driver.Conn
	database string
}

// ParseDSN reads the address of a ClickHouse server, such as
// clickhouse://user:password@host:9000/usance (its native protocol) or
// http://user:password@host:8123/usance. Its errors do not repeat the address,
// which holds a password.
func ParseDSN(dsn string) (*clickhouse.Options, error) {
	switch scheme, _, _ := strings.Cut(dsn, "://"); scheme {
	case "clickhouse", "http", "https":
	default:
		return nil, errors.New("ClickHouse address: it must begin with clickhouse://, http:// or https://")
	}
	options, err := clickhouse.ParseDSN(dsn)
	if withAddress := new(url.Error); errors.As(err, &withAddress) {
		err = withAddress.Err
	}
	if err != nil {
		return nil, fmt.Errorf("ClickHouse address (clickhouse://user:password@host:9000/database is one): %w", err)
	}
	return options, nil
}

// Open connects to the database that the options name, embedded.Database when
// they name none, and creates it when it is missing. It takes an embedded
// server's options and those of ParseDSN alike.
func Open(ctx context.Context, options *clickhouse.Options) (*Store, error) {
	o := *options
	if o.Auth.Database == "" {
		o.Auth.Database = embedded.Database
	}
	conn, err := clickhouse.Open(&o)
	if err != nil {
		return nil, fmt.Errorf("ClickHouse at %s: %w", strings.Join(o.Addr, ", "), err)
	}
	err = conn.Ping(ctx)
	if missing := new(clickhouse.Exception); errors.As(err, &missing) && missing.Code == unknownDatabase {
		if err = createDatabase(ctx, o); err == nil {
			err = conn.Ping(ctx)
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ClickHouse at %s, database %s: %w", strings.Join(o.Addr, ", "), o.Auth.Database, err)
	}
	return &Store{conn, o.Auth.Database}, nil
}

func createDatabase(ctx context.Context, o clickhouse.Options) error {
	name := o.Auth.Database
	o.Auth.Database = ""
	conn, err := clickhouse.Open(&o)
	if err != nil {
		return err
	}
	defer conn.Close()
	// A name cannot be a parameter here. Atomic: an embedded engine's default would show the file system.
	return conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS `"+strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(name)+"` ENGINE = Atomic")
}

// Close closes the connections.
func (s *Store) Close() error { return s.conn.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.conn.Ping(ctx) }

// Migrate brings the tables up to date, in the given cluster ("": on this one
// server). It may be repeated, and may run in two programs at once; with nothing
// to do it only reads.
func (s *Store) Migrate(ctx context.Context, cluster string) error {
	_, err := sql.MigrateClickHouse(ctx, sql.ClickHouse{
		Cluster: sql.Cluster{Name: cluster, Database: s.database},
		Exec:    func(ctx context.Context, statement string) error { return s.conn.Exec(ctx, statement) },
		Query: func(ctx context.Context, query string) (map[string]string, error) {
			found := map[string]string{}
			err := s.rows(ctx, query, nil, func(r driver.Rows) error {
				var key, value string
				err := r.Scan(&key, &value)
				found[key] = value
				return err
			})
			return found, err
		},
	})
	return err
}

// rows runs a query within the limits and calls scan for each row.
func (s *Store) rows(ctx context.Context, query string, args []any, scan func(driver.Rows) error) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"max_result_rows": maxRows, "result_overflow_mode": "throw",
	}))
	rows, err := s.conn.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// In SQL, the registers in their order, and the maximum of each.
var (
	registers = strings.Join(metering.RegisterNames(), ", ")
	maxima    = "max(" + strings.Join(metering.RegisterNames(), "), max(") + ")"
)

// scanner scans rows whose last columns are the registers; the same
// destinations serve every row.
type scanner struct {
	registers metering.Registers
	dest      []any
}

func newScanner(columns ...any) *scanner {
	s := &scanner{dest: columns}
	for i := range s.registers {
		s.dest = append(s.dest, &s.registers[i])
	}
	return s
}
