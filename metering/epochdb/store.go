package epochdb

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/metering"
)

// Store keeps epochs and quarantined readings. All methods may run at the same time.
type Store struct{ pool *pgxpool.Pool }

// New is a store on a migrated database.
func New(pool *pgxpool.Pool) *Store { return &Store{pool} }

// column is registers as an array of Postgres, whose integers are signed: what
// is above 63 bits, as only a quarantined reading can be, wraps and comes back.
func column(r metering.Registers) []int64 {
	values := make([]int64, len(r))
	for i, v := range r {
		values[i] = int64(v)
	}
	return values
}

// registers is the reverse of column. An array written before a register was
// introduced is shorter: that register stood at 0.
func registers(values []int64) (r metering.Registers, err error) {
	if len(values) > len(r) {
		return r, fmt.Errorf("%d registers, and this program knows %d", len(values), len(r))
	}
	for i, v := range values {
		r[i] = uint64(v)
	}
	return r, nil
}
