package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/klauspost/compress/zstd"

	"github.com/usance/usance/metering"
)

// maxNameBytes bounds the name and the type of a column.
const maxNameBytes = 64

// decoders decompresses; DecodeAll may be called from several goroutines. More
// than MaxDecodedBytes, over all frames, ends it before the memory is there.
var decoders = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(0),
	zstd.WithDecoderMaxMemory(MaxDecodedBytes), zstd.WithDecoderMaxWindow(8<<20)))

// source reads one decompressed body. left, in bytes, is known at any time, so
// that no column is allocated for which there are no bytes.
type source struct {
	body   []byte // decompressed
	bytes  bytes.Reader
	left   int
	reader *proto.Reader
	ids    proto.ColFixedStr
	names  proto.ColFixedStr
	leases proto.ColUInt64
	starts proto.ColUInt32
	opened proto.ColInt64
	values [metering.RegisterCount]proto.ColUInt64
}

var sources = sync.Pool{New: func() any {
	s := &source{
		ids:   proto.ColFixedStr{Size: epochIDLength},
		names: proto.ColFixedStr{Size: instanceIDLength},
	}
	s.reader = proto.NewReader(&s.bytes)
	return s
}}

// Decode reads a body into b, reusing its memory. An error wraps ErrMalformed
// and says what is wrong; b then holds nothing of use.
func Decode(b *Batch, body []byte) error {
	if len(body) > MaxBodyBytes {
		return fmt.Errorf("%w: a body of %d bytes; at most %d are taken", ErrMalformed, len(body), MaxBodyBytes)
	}
	s := sources.Get().(*source)
	if err := s.decode(b, body); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err) // s may hold bytes of this body: not kept
	}
	sources.Put(s)
	return nil
}

func (s *source) decode(b *Batch, body []byte) error {
	var err error
	if s.body, err = decoders.DecodeAll(body, s.body[:0]); err != nil {
		if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
			return fmt.Errorf("decompress: more than %d bytes", MaxDecodedBytes)
		}
		return fmt.Errorf("decompress: %w", err)
	}
	s.bytes.Reset(s.body)
	s.left = len(s.body)

	version, err := s.varint()
	if err != nil {
		return fmt.Errorf("version: %w", err)
	}
	if version != Version {
		return fmt.Errorf("version %d; %d is understood", version, Version)
	}
	if err := s.epochs(b); err != nil {
		return fmt.Errorf("epochs: %w", err)
	}
	if err := s.readings(b); err != nil {
		return fmt.Errorf("readings: %w", err)
	}
	if s.left != 0 {
		return fmt.Errorf("%d bytes after the readings", s.left)
	}
	return nil
}

// column is where a column of a block goes.
type column struct {
	name     string
	data     proto.ColResult
	rowBytes int
	seen     bool
}

func (s *source) epochs(b *Batch) error {
	columns := append(make([]column, 0, 5+metering.RegisterCount),
		column{name: columnID, data: &s.ids, rowBytes: epochIDLength},
		column{name: columnInstance, data: &s.names, rowBytes: instanceIDLength},
		column{name: columnLease, data: &s.leases, rowBytes: 8},
		column{name: columnStart, data: &s.starts, rowBytes: 4},
		column{name: columnOpenedMS, data: &s.opened, rowBytes: 8})
	for reg := range s.values {
		columns = append(columns, column{name: metering.Register(reg).String(), data: &s.values[reg], rowBytes: 8})
	}
	rows, err := s.block(columns, MaxEpochs)
	if err != nil {
		return err
	}
	b.Epochs = make([]metering.Epoch, rows) // not reused: records outlive the batch
	seen := make(map[metering.EpochID]struct{}, rows)
	for i := range b.Epochs {
		e := &b.Epochs[i]
		e.ID = metering.EpochID(s.ids.Row(i))
		e.Instance = metering.InstanceID(s.names.Row(i))
		e.Lease, e.Start = metering.LeaseNo(s.leases[i]), metering.StartNo(s.starts[i])
		e.Opened = timeOf(s.opened[i])
		for reg := range s.values {
			e.Opening[reg] = s.values[reg][i]
		}
		if err := checkEpoch(e); err != nil {
			return err
		}
		if _, twice := seen[e.ID]; twice {
			return fmt.Errorf("epoch %s is there twice", e.ID)
		}
		seen[e.ID] = struct{}{}
	}
	return nil
}

func (s *source) readings(b *Batch) error {
	columns := append(make([]column, 0, 2+metering.RegisterCount),
		column{name: columnEpoch, data: (*proto.ColUInt32)(&b.Epoch), rowBytes: 4},
		column{name: columnAtMS, data: (*proto.ColInt64)(&b.AtMS), rowBytes: 8})
	for reg := range b.Registers {
		columns = append(columns, column{name: metering.Register(reg).String(),
			data: (*proto.ColUInt64)(&b.Registers[reg]), rowBytes: 8})
	}
	if _, err := s.block(columns, MaxReadings); err != nil {
		return err
	}
	for i, epoch := range b.Epoch {
		if int(epoch) >= len(b.Epochs) {
			return fmt.Errorf("row %d: epoch %d of %d", i, epoch, len(b.Epochs))
		}
		if err := checkTime(b.AtMS[i]); err != nil {
			return fmt.Errorf("row %d: %w", i, err)
		}
	}
	for reg := range b.Registers {
		if v, above := aboveInt64(b.Registers[reg]); above {
			return fmt.Errorf("register %s: %d is above %d", metering.Register(reg), v, int64(math.MaxInt64))
		}
	}
	return nil
}

// aboveInt64 looks for a value that does not fit in an int64: once over the
// column without a branch, and again only if there is one.
func aboveInt64(column []uint64) (value uint64, found bool) {
	var or uint64
	for _, v := range column {
		or |= v
	}
	if or <= math.MaxInt64 {
		return 0, false
	}
	for _, v := range column {
		if v > math.MaxInt64 {
			return v, true
		}
	}
	panic("wire: the largest bit of a column is in none of its values")
}

// block reads a Native block into columns, which it may have in any order.
func (s *source) block(columns []column, maxRows uint64) (rows int, err error) {
	n, err := s.varint()
	if err != nil {
		return 0, fmt.Errorf("number of columns: %w", err)
	}
	if n > uint64(len(columns)) {
		return 0, fmt.Errorf("%d columns instead of %d", n, len(columns))
	}
	r, err := s.varint()
	if err != nil {
		return 0, fmt.Errorf("number of rows: %w", err)
	}
	if r > maxRows {
		return 0, fmt.Errorf("%d rows; at most %d are taken", r, maxRows)
	}
	rows = int(r)
	for range n {
		if err := s.column(columns, rows); err != nil {
			return 0, err
		}
	}
	for i := range columns {
		if !columns[i].seen {
			return 0, fmt.Errorf("column %q is missing", columns[i].name)
		}
	}
	return rows, nil
}

func (s *source) column(columns []column, rows int) error {
	name, err := s.string()
	if err != nil {
		return fmt.Errorf("name of a column: %w", err)
	}
	kind, err := s.string()
	if err != nil {
		return fmt.Errorf("column %q: type: %w", name, err)
	}
	c := find(columns, name)
	switch {
	case c == nil:
		return fmt.Errorf("column %q is unknown", name)
	case c.seen:
		return fmt.Errorf("column %q is there twice", name)
	case kind != string(c.data.Type()):
		return fmt.Errorf("column %q: type %q instead of %s", name, kind, c.data.Type())
	case s.left < rows*c.rowBytes:
		return fmt.Errorf("column %q: %d rows of %d bytes in the last %d bytes", name, rows, c.rowBytes, s.left)
	}
	c.seen = true
	c.data.Reset()
	s.left -= rows * c.rowBytes
	if err := c.data.DecodeColumn(s.reader, rows); err != nil {
		return fmt.Errorf("column %q: %w", name, err)
	}
	return nil
}

func find(columns []column, name string) *column {
	for i := range columns {
		if columns[i].name == name {
			return &columns[i]
		}
	}
	return nil
}

// varint reads a number of at most 63 bits.
func (s *source) varint() (uint64, error) {
	var v uint64
	for shift := 0; shift < 63; shift += 7 {
		c, err := s.byte()
		if err != nil {
			return 0, err
		}
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, nil
		}
	}
	return 0, errors.New("a number of more than 63 bits")
}

func (s *source) byte() (byte, error) {
	if s.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	s.left--
	return s.reader.ReadByte()
}

// string reads a name: proto's own reader would allocate whatever length it is told.
func (s *source) string() (string, error) {
	n, err := s.varint()
	if err != nil {
		return "", err
	}
	if n > maxNameBytes {
		return "", fmt.Errorf("%d bytes; at most %d are taken", n, maxNameBytes)
	}
	if uint64(s.left) < n {
		return "", io.ErrUnexpectedEOF
	}
	s.left -= int(n)
	var buf [maxNameBytes]byte
	if err := s.reader.ReadFull(buf[:n]); err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
