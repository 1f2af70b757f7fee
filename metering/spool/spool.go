package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

// DefaultMaxBytes holds a week of 100 busy instances, the last two days of it in
// full and the rest thinned (BenchmarkWeek).
const DefaultMaxBytes = 256 << 20

// Shares of MaxBytes.
const (
	segmentShare = 16 // a segment takes no more records from a sixteenth on
	reserveShare = 16 // a sixteenth is kept for last readings of epochs
)

var (
	// ErrFull is wrapped by Append when a round does not fit although the queue
	// has been thinned. The round does not count as taken.
	ErrFull = errors.New("the spool is full")
	// ErrInUse is wrapped by Open when another process has the folder open.
	ErrInUse = errors.New("the spool is in use by another process")
	// ErrClosed is returned by every method that does something, after Close.
	ErrClosed = errors.New("the spool is closed")
)

// Config bounds a spool. The zero value means the defaults.
type Config struct {
	// MaxBytes bounds the queue on disk; 0 means DefaultMaxBytes. When it is
	// reached the queue is thinned, then rounds are refused. Bodies set aside do
	// not count.
	MaxBytes int64
	Log      *slog.Logger // nil: slog.Default()
}

// Stat is how much waits.
type Stat struct {
	Bytes    int64     // of the queue on disk, acknowledged rounds of unfinished segments included
	Limit    int64     // what Bytes never exceeds
	Readings int64     // not yet acknowledged
	Oldest   time.Time // the earliest time of a waiting reading; zero when nothing waits
	Thinned  int64     // readings given up by thinning since Open
	Refused  int64     // rounds refused since Open: with ErrFull, or since the disk is full
	Aside    int64     // bodies set aside since Open
}

// Spool is an open queue. Its methods may be called from several goroutines;
// Append is meant for one, and Next, Ack and SetAside for one other.
type Spool struct {
	dir          string
	maxBytes     int64
	segmentBytes int64
	log          *slog.Logger
	ready        chan struct{}

	mu       sync.Mutex
	lock     *os.File   // holds the flock; nil once closed
	segments []*segment // oldest first; a record of each waits
	nextSeq  uint64
	firstSeq uint64 // of what was appended since Open
	bytes    int64  // Σ size
	alone    token  // rounds of a refused item, to be offered one by one
	stat     Stat   // the counts since Open
}

// Open opens the queue in dir, making the folder if need be. What a crash left
// half written is cut off, logged and kept aside; it had never counted as taken.
// The error wraps ErrInUse when another process has it open.
func Open(dir string, cfg Config) (*Spool, error) {
	s := &Spool{dir: dir, maxBytes: cfg.MaxBytes, log: cfg.Log, ready: make(chan struct{}, 1), nextSeq: 1}
	if s.maxBytes == 0 {
		s.maxBytes = DefaultMaxBytes
	}
	s.segmentBytes = s.maxBytes / segmentShare
	if s.log == nil {
		s.log = slog.Default()
	}
	if err := s.open(); err != nil {
		if s.lock != nil {
			s.lock.Close()
		}
		return nil, fmt.Errorf("open the spool %s: %w", dir, err)
	}
	return s, nil
}

func (s *Spool) open() error {
	if err := os.MkdirAll(filepath.Join(s.dir, asideFolder), 0o700); err != nil {
		return err
	}
	var err error
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == syscall.EWOULDBLOCK {
		return ErrInUse
	} else if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	entries, err := os.ReadDir(s.dir) // sorted by name, and so by number
	if err != nil {
		return err
	}
	for _, e := range entries {
		seq, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), suffix), 10, 64)
		if !strings.HasSuffix(e.Name(), suffix) || err != nil {
			continue // lock, aside, and what an interrupted thinning left, which is overwritten
		}
		if err := s.load(seq); err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
		s.nextSeq = seq + 1
	}
	s.firstSeq = s.nextSeq
	if len(s.segments) > 0 {
		s.ready <- struct{}{}
	}
	return nil
}

// load takes up a segment that an earlier process wrote.
func (s *Spool) load(seq uint64) error {
	g := &segment{seq: seq, path: s.path(seq)}
	cut, why, err := g.scan()
	if err != nil {
		return err
	}
	if cut > 0 {
		s.log.Warn("the end of a spool segment is cut off", "segment", g.path, "bytes", cut, "err", why)
		if err = s.cut(g, cut, why); err != nil { // as on a full disk: it is no reason not to meter
			s.log.Error("the end of a spool segment cannot be kept aside and stays where it is", "segment", g.path, "err", err)
		}
	}
	if len(g.records) == 0 {
		if err != nil {
			return nil // the next Open tries again
		}
		return os.Remove(g.path)
	}
	s.segments = append(s.segments, g)
	s.bytes += g.size
	return nil
}

// cut keeps the last bytes of a segment aside and takes them off.
func (s *Spool) cut(g *segment, bytes int64, why error) error {
	whole, err := os.ReadFile(g.path)
	if err != nil {
		return err
	}
	if err := s.keepAside(g.seq, g.size, whole[int64(len(whole))-bytes:], why.Error()); err != nil {
		return err
	}
	return os.Truncate(g.path, g.size)
}

// Append makes a round durable: when it returns nil, the round is on disk and
// has been synced. The batch must hold the record of every epoch its readings
// name. last says that the round holds the last reading of an epoch: it may use
// the reserved room. Any error means that the round does not count as taken;
// repeating it is harmless. The error wraps ErrFull when there is no room.
func (s *Spool) Append(b *metering.Batch, last bool) error {
	if len(b.Readings) == 0 {
		return nil
	}
	body, err := wire.Encode(nil, b)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	oldestMS := int64(math.MaxInt64)
	for i := range b.Readings {
		oldestMS = min(oldestMS, b.Readings[i].At.UnixMilli())
	}
	whole := appendRecord(nil, body, len(b.Readings), oldestMS)
	rec := record{length: len(whole), readings: len(b.Readings), oldestMS: oldestMS}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return ErrClosed
	}
	if err := s.makeRoom(int64(len(whole)), last); err != nil {
		s.stat.Refused++
		return fmt.Errorf("spool a round of %d bytes: %w", len(whole), err)
	}
	g, err := s.active(int64(len(whole)))
	if err != nil {
		return fmt.Errorf("spool: new segment: %w", err)
	}
	if err := g.append(whole, rec); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			s.stat.Refused++
		}
		if len(g.records) == 0 {
			err = errors.Join(err, s.remove(g))
		}
		return fmt.Errorf("spool: write %s: %w", g.path, err)
	}
	s.bytes += int64(len(whole))
	select {
	case s.ready <- struct{}{}:
	default:
	}
	return nil
}

// active is the segment that takes a record of the given length: the newest, or
// a new one.
func (s *Spool) active(length int64) (*segment, error) {
	if n := len(s.segments); n > 0 {
		g := s.segments[n-1]
		if g.file != nil && g.size+length <= s.segmentBytes {
			return g, nil
		}
		g.seal()
	}
	g := &segment{seq: s.nextSeq, path: s.path(s.nextSeq)}
	s.nextSeq++
	if err := g.create(); err != nil {
		return nil, err
	}
	if err := syncDir(s.dir); err != nil {
		g.seal()
		return nil, errors.Join(err, os.Remove(g.path))
	}
	s.segments = append(s.segments, g)
	s.bytes += g.size
	return g, nil
}

// makeRoom sees to it that a record of the given length fits, by thinning the
// oldest segments if it must.
func (s *Spool) makeRoom(length int64, last bool) error {
	limit := s.maxBytes
	if !last {
		limit -= s.maxBytes / reserveShare
	}
	length += int64(len(magicRounds)) // it may need a new segment
	var thinErr error
	for _, g := range s.segments {
		if s.bytes+length <= limit {
			return nil
		}
		if thinErr = s.thin(g); thinErr != nil {
			break
		}
	}
	if s.bytes+length <= limit {
		return nil
	}
	if thinErr != nil {
		return fmt.Errorf("%w: %d of %d bytes are used, and thinning: %w", ErrFull, s.bytes, s.maxBytes, thinErr)
	}
	return fmt.Errorf("%w: %d of %d bytes are used", ErrFull, s.bytes, s.maxBytes)
}

// Ready returns a channel that receives a value when something was appended, and
// once after Open when something waits. It is for one receiver.
func (s *Spool) Ready() <-chan struct{} { return s.ready }

// Stat is how much waits now.
func (s *Spool) Stat() Stat {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stat
	st.Bytes, st.Limit = s.bytes, s.maxBytes
	oldestMS := int64(math.MaxInt64)
	for _, g := range s.segments {
		readings, oldest := g.waiting()
		st.Readings += readings
		oldestMS = min(oldestMS, oldest)
	}
	if st.Readings > 0 {
		st.Oldest = time.UnixMilli(oldestMS).UTC()
	}
	return st
}

// Inherited is how many of the readings that waited at Open still do.
func (s *Spool) Inherited() (readings int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segments {
		if g.seq < s.firstSeq {
			n, _ := g.waiting()
			readings += n
		}
	}
	return readings
}

// Close releases the folder. What waits stays on disk.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return ErrClosed
	}
	for _, g := range s.segments {
		g.seal()
	}
	err := s.lock.Close() // ends the flock
	s.lock = nil
	return err
}

func (s *Spool) path(seq uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%016d%s", seq, suffix))
}

// remove takes a segment that is done with off the disk. Should a crash bring
// the file back, its readings are sent once more, which is harmless.
func (s *Spool) remove(g *segment) error {
	g.seal()
	s.bytes -= g.size
	s.segments = slices.DeleteFunc(s.segments, func(o *segment) bool { return o == g })
	return os.Remove(g.path)
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
