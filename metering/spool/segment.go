package spool

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"

	"github.com/usance/usance/metering/wire"
)

// A segment is a file: a magic of 8 bytes, the last of which says whether it
// was thinned, then records. All numbers are little-endian.
//
//	crc32c of what follows (4) · length of the body (4) · readings (4) · earliest time, ms (8) · body
const (
	magicRounds  = "USPOOL1r"
	magicThinned = "USPOOL1t"
	recordHeader = 20 // bytes before the body
	suffix       = ".seg"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is a record that is cut short or whose checksum does not fit.
var errDamaged = errors.New("damaged record")

// segment is one file of the queue. Records before acked are done with.
type segment struct {
	seq     uint64
	path    string
	file    *os.File // open for appending; nil once sealed
	thinned bool
	size    int64 // bytes of whole records, and the magic
	records []record
	acked   int
	version int // rises when the file is rewritten, so that tokens for the old one are stale
}

// record is where a record lies in its segment and what it holds.
type record struct {
	offset   int64
	length   int // with its header
	readings int
	oldestMS int64
}

// appendRecord appends the record of a body to dst.
func appendRecord(dst, body []byte, readings int, oldestMS int64) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(readings))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(oldestMS))
	dst = append(dst, body...)
	binary.LittleEndian.PutUint32(dst[start:], crc32.Checksum(dst[start+4:], castagnoli))
	return dst
}

// readRecord reads the next record and checks it. At the end it returns io.EOF;
// an error that wraps errDamaged means that the rest cannot be read.
func readRecord(r io.Reader) (rec record, body []byte, err error) {
	header := make([]byte, recordHeader)
	switch n, err := io.ReadFull(r, header); {
	case n == 0 && err == io.EOF:
		return record{}, nil, io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return record{}, nil, fmt.Errorf("%w: %d bytes of a header", errDamaged, n)
	case err != nil:
		return record{}, nil, err
	}
	length := binary.LittleEndian.Uint32(header[4:])
	if length > wire.MaxBodyBytes {
		return record{}, nil, fmt.Errorf("%w: a body of %d bytes", errDamaged, length)
	}
	whole := append(header, make([]byte, length)...)
	if _, err := io.ReadFull(r, whole[recordHeader:]); err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return record{}, nil, fmt.Errorf("%w: cut short", errDamaged)
	} else if err != nil {
		return record{}, nil, err
	}
	if crc32.Checksum(whole[4:], castagnoli) != binary.LittleEndian.Uint32(whole) {
		return record{}, nil, fmt.Errorf("%w: wrong checksum", errDamaged)
	}
	return record{
		length:   len(whole),
		readings: int(binary.LittleEndian.Uint32(whole[8:])),
		oldestMS: int64(binary.LittleEndian.Uint64(whole[12:])),
	}, whole[recordHeader:], nil
}

// scan fills in the segment from its file. cut is how many bytes at its end are
// no whole record, and why says what is wrong with them.
func (g *segment) scan() (cut int64, why error, err error) {
	f, err := os.Open(g.path)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, nil, err
	}
	r := bufio.NewReaderSize(f, 1<<20)
	magic := make([]byte, len(magicRounds))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != magicRounds && string(magic) != magicThinned {
		return info.Size(), fmt.Errorf("%w: not a segment", errDamaged), nil
	}
	g.thinned = string(magic) == magicThinned
	g.size = int64(len(magic))
	for {
		rec, _, err := readRecord(r)
		switch {
		case err == io.EOF:
			return 0, nil, nil
		case errors.Is(err, errDamaged):
			return info.Size() - g.size, err, nil
		case err != nil:
			return 0, nil, err
		}
		g.add(rec)
	}
}

// add notes a record that lies at the end of the file.
func (g *segment) add(rec record) {
	rec.offset = g.size
	g.records = append(g.records, rec)
	g.size += int64(rec.length)
}

// create makes the file of a new segment.
func (g *segment) create() (err error) {
	if g.file, err = os.OpenFile(g.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	if _, err = g.file.WriteString(magicRounds); err != nil {
		g.seal()
		return errors.Join(err, os.Remove(g.path))
	}
	g.size = int64(len(magicRounds))
	return nil
}

// append writes a whole record and syncs it. After an error nothing can be said
// of what the file holds beyond size: it is cut there and takes no more.
func (g *segment) append(whole []byte, rec record) error {
	_, err := g.file.WriteAt(whole, g.size)
	if err == nil {
		err = g.file.Sync()
	}
	if err != nil {
		err = errors.Join(err, g.file.Truncate(g.size))
		g.seal()
		return err
	}
	g.add(rec)
	return nil
}

// seal ends writing to the segment. What was synced is safe whatever Close says.
func (g *segment) seal() {
	if g.file != nil {
		g.file.Close()
		g.file = nil
	}
}

// body reads the body of record i.
func (g *segment) body(i int) ([]byte, error) {
	f, err := os.Open(g.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rec := g.records[i]
	_, body, err := readRecord(io.NewSectionReader(f, rec.offset, int64(rec.length)))
	if err == io.EOF {
		err = fmt.Errorf("%w: gone", errDamaged)
	}
	return body, err
}

// waiting is how many readings are not acknowledged, and the earliest of their times.
func (g *segment) waiting() (readings int64, oldestMS int64) {
	oldestMS = math.MaxInt64
	for _, rec := range g.records[g.acked:] {
		readings += int64(rec.readings)
		oldestMS = min(oldestMS, rec.oldestMS)
	}
	return readings, oldestMS
}
