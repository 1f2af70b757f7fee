package readingdb

import (
	"context"
	"errors"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/usance/usance/metering"
)

// Store is the readings in one ClickHouse database. All methods may run at the
// same time.
type Store struct {
	conn driver.Conn
}

// Total is the largest reading of one epoch so far.
type Total struct {
	Tenant    metering.TenantID
	Instance  metering.InstanceID
	Registers metering.Registers
	At        time.Time // of the latest reading
	Received  time.Time // when the last reading to arrive arrived
}

// Record is a reading as it is kept.
type Record struct {
	metering.Reading
	Received time.Time // the server's clock when it first came in
}

// Standing is where the meters of one instance stand.
type Standing struct {
	Registers metering.Registers // summed over its epochs
	At        time.Time          // of the latest reading; zero when there is none
	Epochs    []metering.Reading // per epoch the largest value of each register and the latest time, by that time
}

// Slot is the largest value of each register of one epoch within one slot.
type Slot struct {
	Epoch     metering.EpochID
	End       time.Time // the slot is (End − metering.SlotLength, End]
	At        time.Time // of the latest reading within it
	Registers metering.Registers
}

var errTODO = errors.New("readingdb: not built yet")

// ParseDSN reads a ClickHouse address such as
// clickhouse://user:password@host:9000/usance (native) or
// http://user:password@host:8123/usance.
func ParseDSN(dsn string) (*clickhouse.Options, error) { return nil, errTODO }

// Open connects to the database the options name ("usance" when they name
// none), creating it when it is missing. It works on an embedded server's
// options and on those of ParseDSN alike.
func Open(ctx context.Context, options *clickhouse.Options) (*Store, error) { return nil, errTODO }

// Close closes all connections.
func (s *Store) Close() error { return errTODO }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return errTODO }

// Migrate brings the tables up to date. It may be repeated.
func (s *Store) Migrate(ctx context.Context) error { return errTODO }

// Insert stores readings; they are on disk when it returns nil. After an error
// they may be stored or not: repeat it, which is always harmless.
func (s *Store) Insert(ctx context.Context, c *metering.Columns) error { return errTODO }

// At is R(e,t) of every epoch of a tenant at each instant: per register the
// largest value over all readings with time ≤ t, however old. The registers of
// an epoch stand in the order of the instants and are zero where it has no
// reading yet; an epoch without any reading by the last instant is absent. All
// of it is one consistent result.
func (s *Store) At(ctx context.Context, tenant metering.TenantID, instants []time.Time) (map[metering.EpochID][]metering.Registers, error) {
	return nil, errTODO
}

// Totals are the largest readings of all epochs of the given tenants; of all
// tenants when tenants is nil. It is one set-based query.
func (s *Store) Totals(ctx context.Context, tenants []metering.TenantID) (map[metering.EpochID]Total, error) {
	return nil, errTODO
}

// Largest are the largest readings of the given epochs, for a host that lost
// its state. Epochs without a reading are absent.
func (s *Store) Largest(ctx context.Context, epochs []metering.EpochID) (map[metering.EpochID]metering.Reading, error) {
	return nil, errTODO
}

// Readings are the last readings of an instance within (Start, End], at most
// limit of them, oldest first.
func (s *Store) Readings(ctx context.Context, tenant metering.TenantID, instance metering.InstanceID, window metering.Window, limit int) ([]Record, error) {
	return nil, errTODO
}

// Latest is where the meters of one instance stand; its At is zero when there
// is no reading.
func (s *Store) Latest(ctx context.Context, tenant metering.TenantID, instance metering.InstanceID) (Standing, error) {
	return Standing{}, errTODO
}

// Summary is where the meters of all instances of a tenant stand. Instances
// without a reading are absent.
func (s *Store) Summary(ctx context.Context, tenant metering.TenantID) (map[metering.InstanceID]Standing, error) {
	return nil, errTODO
}

// Slots are the slots of an instance that end within (Start, End], by end, then
// by epoch. A slot without a reading is absent.
func (s *Store) Slots(ctx context.Context, tenant metering.TenantID, instance metering.InstanceID, window metering.Window) ([]Slot, error) {
	return nil, errTODO
}
