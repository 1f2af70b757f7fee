package wire

import (
	"fmt"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/klauspost/compress/zstd"

	"github.com/usance/usance/metering"
)

// revision is the revision of ClickHouse's protocol whose Native blocks we
// write: before block info and custom serialization, as in files.
const revision = 0

// encoders compresses; EncodeAll may be called from several goroutines. Its
// first use makes channels, which must not happen within the bubble of a test.
var encoders = func() *zstd.Encoder {
	e := must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(2)))
	e.EncodeAll([]byte{Version}, nil)
	return e
}()

// scratch is the memory of one Encode.
type scratch struct {
	buf     proto.Buffer
	index   map[metering.EpochID]uint32
	ids     proto.ColFixedStr
	names   proto.ColFixedStr
	leases  proto.ColUInt64
	starts  proto.ColUInt32
	opened  proto.ColInt64
	epoch   proto.ColUInt32
	at      proto.ColInt64
	opening [metering.RegisterCount]proto.ColUInt64
	values  [metering.RegisterCount]proto.ColUInt64
}

var scratches = sync.Pool{New: func() any {
	return &scratch{
		index: make(map[metering.EpochID]uint32),
		ids:   proto.ColFixedStr{Size: epochIDLength},
		names: proto.ColFixedStr{Size: instanceIDLength},
	}
}}

// Encode appends the body of b to dst. The error names what does not fit: a
// reading without the record of its epoch, an epoch that is there twice, an id
// of another form, a register above an int64, or more than the limits.
func Encode(dst []byte, b *metering.Batch) ([]byte, error) {
	if len(b.Epochs) > MaxEpochs || len(b.Readings) > MaxReadings {
		return dst, fmt.Errorf("encode a batch: %d epochs and %d readings; at most %d and %d fit",
			len(b.Epochs), len(b.Readings), MaxEpochs, MaxReadings)
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	s.buf.Reset()
	s.buf.PutUVarInt(Version)
	if err := s.epochs(b.Epochs); err != nil {
		return dst, fmt.Errorf("encode a batch: %w", err)
	}
	if err := s.readings(b.Readings); err != nil {
		return dst, fmt.Errorf("encode a batch: %w", err)
	}
	return encoders.EncodeAll(s.buf.Buf, dst), nil
}

func (s *scratch) epochs(epochs []metering.Epoch) error {
	clear(s.index)
	s.ids.Reset()
	s.names.Reset()
	s.leases, s.starts, s.opened = s.leases[:0], s.starts[:0], s.opened[:0]
	for i := range epochs {
		e := &epochs[i]
		if err := checkEpoch(e); err != nil {
			return err
		}
		if _, twice := s.index[e.ID]; twice {
			return fmt.Errorf("epoch %s is there twice", e.ID)
		}
		s.index[e.ID] = uint32(i)
		s.ids.Buf = append(s.ids.Buf, e.ID...)
		s.names.Buf = append(s.names.Buf, e.Instance...)
		s.leases = append(s.leases, uint64(e.Lease))
		s.starts = append(s.starts, uint32(e.Start))
		s.opened = append(s.opened, e.Opened.UnixMilli())
	}
	columns := append(make([]proto.InputColumn, 0, 5+metering.RegisterCount),
		proto.InputColumn{Name: columnID, Data: &s.ids},
		proto.InputColumn{Name: columnInstance, Data: &s.names},
		proto.InputColumn{Name: columnLease, Data: &s.leases},
		proto.InputColumn{Name: columnStart, Data: &s.starts},
		proto.InputColumn{Name: columnOpenedMS, Data: &s.opened})
	for reg := range s.opening {
		column := s.opening[reg][:0]
		for i := range epochs {
			column = append(column, epochs[i].Opening[reg])
		}
		s.opening[reg] = column
		columns = append(columns, proto.InputColumn{Name: metering.Register(reg).String(), Data: &s.opening[reg]})
	}
	return proto.Block{Columns: len(columns), Rows: len(epochs)}.EncodeRawBlock(&s.buf, revision, columns)
}

func (s *scratch) readings(readings []metering.Reading) error {
	s.epoch, s.at = s.epoch[:0], s.at[:0]
	for reg := range s.values {
		s.values[reg] = s.values[reg][:0]
	}
	for i := range readings {
		r := &readings[i]
		epoch, ok := s.index[r.Epoch]
		if !ok {
			return fmt.Errorf("a reading of epoch %q comes without the epoch's record", r.Epoch)
		}
		if err := metering.CheckRegisters(r.Registers); err != nil {
			return fmt.Errorf("epoch %s: %w", r.Epoch, err)
		}
		if err := checkTime(r.At.UnixMilli()); err != nil {
			return fmt.Errorf("epoch %s: %w", r.Epoch, err)
		}
		s.epoch = append(s.epoch, epoch)
		s.at = append(s.at, r.At.UnixMilli())
		for reg := range s.values {
			s.values[reg] = append(s.values[reg], r.Registers[reg])
		}
	}
	columns := append(make([]proto.InputColumn, 0, 2+metering.RegisterCount),
		proto.InputColumn{Name: columnEpoch, Data: &s.epoch},
		proto.InputColumn{Name: columnAtMS, Data: &s.at})
	for reg := range s.values {
		columns = append(columns, proto.InputColumn{Name: metering.Register(reg).String(), Data: &s.values[reg]})
	}
	return proto.Block{Columns: len(columns), Rows: len(readings)}.EncodeRawBlock(&s.buf, revision, columns)
}

// checkEpoch reports what of an epoch's record has not the form that is sent.
func checkEpoch(e *metering.Epoch) error {
	if !isEpochID(e.ID) {
		return fmt.Errorf("%q is not an epoch id of %d hex digits", e.ID, epochIDLength)
	}
	if err := metering.CheckID(metering.PrefixInstance, string(e.Instance)); err != nil {
		return fmt.Errorf("epoch %s: %w", e.ID, err)
	}
	if e.Lease == 0 || e.Start == 0 {
		return fmt.Errorf("epoch %s: lease %d, start %d: both count from 1", e.ID, e.Lease, e.Start)
	}
	if err := metering.CheckRegisters(e.Opening); err != nil {
		return fmt.Errorf("epoch %s: opening reading: %w", e.ID, err)
	}
	if err := checkTime(e.Opened.UnixMilli()); err != nil {
		return fmt.Errorf("epoch %s: opened: %w", e.ID, err)
	}
	return nil
}

func checkTime(ms int64) error {
	if ms < 0 || ms > MaxTimeMS {
		return fmt.Errorf("%d ms is not a time between 1970 and 2248", ms)
	}
	return nil
}

func isEpochID(id metering.EpochID) bool {
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(id) == epochIDLength
}

func timeOf(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// must is for what cannot fail with constant arguments.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
