package wire

import (
	"errors"

	"github.com/usance/usance/metering"
)

// Version is the version of the body, its first number.
//
//	1: an epochs block and a readings block with the 19 registers up to
//	   net_private_tx_packets
const Version = 1

// Limits of one body. Encode and Decode refuse what exceeds them.
const (
	MaxReadings     = 20_000  // readings in a body
	MaxEpochs       = 10_000  // epoch records in a body
	MaxDecodedBytes = 6 << 20 // a body, decompressed: room for both of the above
	MaxBodyBytes    = 6 << 20 // a body as sent
)

// ErrMalformed is wrapped by every error of Decode.
var ErrMalformed = errors.New("malformed batch")

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

// Encode appends the body of b to dst. Every reading must name an epoch of
// b.Epochs; the limits above hold.
func Encode(dst []byte, b *metering.Batch) ([]byte, error) { return nil, nil }

// Decode reads a body into b, reusing its memory. An error wraps ErrMalformed
// and says what is wrong; b then holds nothing of use.
func Decode(b *Batch, body []byte) error { return nil }

// Rows is the batch reading by reading.
func (b *Batch) Rows() *metering.Batch { return nil }
