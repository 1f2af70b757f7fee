package wire

import (
	"errors"

	"github.com/usance/usance/metering"
)

// Version is the version of the body, its first number.
//
//	1: an epochs block and a readings block with the 19 registers up to
//	   net_private_tx_packets
//
// A version that adds registers keeps decoding the previous one: there, the
// registers it did not have are 0, which joins to nothing.
const Version = 1

// Limits of one body. Encode and Decode refuse what exceeds them.
const (
	MaxReadings     = 20_000  // readings in a body
	MaxEpochs       = 10_000  // epoch records in a body
	MaxDecodedBytes = 6 << 20 // a body, decompressed: room for both of the above
	MaxBodyBytes    = 6 << 20 // a body as sent
	MaxTimeMS       = 1 << 43 // the latest time, in 2248; the earliest is 1970: every store holds what lies between
)

// ErrMalformed is wrapped by every error of Decode.
var ErrMalformed = errors.New("malformed batch")

// The columns beside the registers, which stand under their own names.
const (
	columnID       = "id"        // FixedString(32)
	columnInstance = "instance"  // FixedString(21)
	columnLease    = "lease"     // UInt64
	columnStart    = "start"     // UInt32
	columnOpenedMS = "opened_ms" // Int64, ms since 1970 UTC
	columnEpoch    = "epoch"     // UInt32: index of the epoch's record
	columnAtMS     = "at_ms"     // Int64, ms since 1970 UTC
)

const (
	epochIDLength    = 32
	instanceIDLength = len(metering.PrefixInstance) + 17
)

// Batch is a decoded body, column by column. Epoch, AtMS and each of Registers
// have one element for each reading.
type Batch struct {
	Epochs    []metering.Epoch
	Epoch     []uint32 // the reading's epoch: an index of Epochs
	AtMS      []int64  // the reading's time, ms since 1970 UTC
	Registers [metering.RegisterCount][]uint64
}

// Len is the number of readings.
func (b *Batch) Len() int { return len(b.AtMS) }

// Reading is reading i as a row.
func (b *Batch) Reading(i int) metering.Reading {
	r := metering.Reading{Epoch: b.Epochs[b.Epoch[i]].ID, At: timeOf(b.AtMS[i])}
	for reg := range b.Registers {
		r.Registers[reg] = b.Registers[reg][i]
	}
	return r
}

// Rows is the batch reading by reading. The epoch records are shared with b.
func (b *Batch) Rows() *metering.Batch {
	rows := &metering.Batch{Epochs: b.Epochs, Readings: make([]metering.Reading, b.Len())}
	for i := range rows.Readings {
		rows.Readings[i] = b.Reading(i)
	}
	return rows
}

// Keep drops all readings but those with the given numbers, which must rise.
func (b *Batch) Keep(rows []int) {
	b.Epoch, b.AtMS = keep(b.Epoch, rows), keep(b.AtMS, rows)
	for reg := range b.Registers {
		b.Registers[reg] = keep(b.Registers[reg], rows)
	}
}

func keep[T any](column []T, rows []int) []T {
	for to, from := range rows {
		column[to] = column[from]
	}
	return column[:len(rows)]
}
