package readingdb

import (
	"context"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/usance/usance/metering"
)

var insertSQL = `INSERT INTO readings (tenant, instance, epoch, at, received, ` + registers + `)`

// insertColumns spare a DESCRIBE TABLE before every insert.
var insertColumns = func() []clickhouse.ColumnNameAndType {
	columns := []clickhouse.ColumnNameAndType{
		{Name: "tenant", Type: "String"}, {Name: "instance", Type: "String"}, {Name: "epoch", Type: "String"},
		{Name: "at", Type: "DateTime64(3, 'UTC')"}, {Name: "received", Type: "DateTime64(3, 'UTC')"},
	}
	for _, name := range metering.RegisterNames() {
		columns = append(columns, clickhouse.ColumnNameAndType{Name: name, Type: "UInt64"})
	}
	return columns
}()

// insertSettings: async_insert would answer before the rows are on disk, and so
// would a Distributed table before its shards have them. A cluster drops an
// insert it has seen before without looking whether its views were fed;
// repeating is harmless here, so it must not.
var insertSettings = clickhouse.Settings{"async_insert": 0, "distributed_foreground_insert": 1, "insert_deduplicate": 0}

// Insert stores readings; they are on disk when it returns nil. After an error
// they may be stored or not: repeat it, which is always harmless. It takes at
// most 200,000 readings, in columns of one length.
func (s *Store) Insert(ctx context.Context, c *metering.Columns) error {
	columns := []any{c.Tenant, c.Instance, c.Epoch, c.AtMS, c.ReceivedMS}
	// The driver would send a batch of unequal columns as an empty one.
	equal := len(c.Tenant) == c.Len() && len(c.Instance) == c.Len() && len(c.Epoch) == c.Len() && len(c.ReceivedMS) == c.Len()
	for i := range c.Registers {
		columns = append(columns, c.Registers[i])
		equal = equal && len(c.Registers[i]) == c.Len()
	}
	switch {
	case !equal:
		return fmt.Errorf("insert %d readings: the columns differ in length", c.Len())
	case c.Len() > maxInsertRows:
		return fmt.Errorf("insert %d readings: more than %d at once", c.Len(), maxInsertRows)
	case c.Len() == 0:
		return nil
	}
	if err := s.insert(ctx, columns); err != nil {
		return fmt.Errorf("insert %d readings: %w", c.Len(), err)
	}
	return nil
}

func (s *Store) insert(ctx context.Context, columns []any) error {
	ctx, cancel := context.WithTimeout(ctx, insertTime)
	defer cancel()
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(insertSettings), clickhouse.WithColumnNamesAndTypes(insertColumns))
	batch, err := s.conn.PrepareBatch(ctx, insertSQL)
	if err != nil {
		return err
	}
	defer batch.Close()
	for i, column := range columns {
		if err := batch.Column(i).Append(column); err != nil {
			return err
		}
	}
	return batch.Send()
}
