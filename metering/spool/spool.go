package spool

import (
	"errors"
	"log/slog"
	"time"

	"github.com/usance/usance/metering"
)

var (
	// ErrFull is returned by Append when a round does not fit although the queue
	// has been thinned. The round does not count as taken.
	ErrFull = errors.New("the spool is full")
	// ErrInUse is wrapped by Open when another process has the folder open.
	ErrInUse = errors.New("the spool is in use by another process")
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("the spool is closed")
)

// Config bounds a spool. The zero value means the defaults.
type Config struct {
	// MaxBytes bounds the queue on disk; 0 means DefaultMaxBytes. When it is
	// reached the queue is thinned, then rounds are refused.
	MaxBytes int64
	// ReserveBytes is the part of MaxBytes kept for last readings of epochs;
	// 0 means a sixteenth of MaxBytes.
	ReserveBytes int64
	Log          *slog.Logger // nil: slog.Default()
}

// Item is something to send: the oldest rounds of the queue as one body in the
// form of metering/wire. It is valid until it is acknowledged or set aside.
type Item struct {
	Body     []byte
	Readings int
	token    token
}

// Stat is how much waits.
type Stat struct {
	Bytes    int64     // on disk, acknowledged rounds of unfinished segments included
	Readings int64     // not yet acknowledged
	Oldest   time.Time // the earliest time of a waiting reading; zero when nothing waits
	Thinned  int64     // readings given up by thinning since Open
	Refused  int64     // rounds refused with ErrFull since Open
	Aside    int64     // bodies set aside since Open
}

// Spool is an open queue. Its methods may be called from several goroutines;
// Append is meant for one and Next, Ack and SetAside for another.
type Spool struct{}

type token struct{}

// Open opens the queue in dir, making the folder if need be. What a crash left
// half written is cut off and logged; it had never counted as taken.
func Open(dir string, cfg Config) (*Spool, error) { return &Spool{}, nil }

// Append makes a round durable: when it returns nil, the round is on disk and
// has been synced. The batch must hold the record of every epoch its readings
// name. last says that the round holds the last reading of an epoch: it may use
// the reserved room. Any error means that the round does not count as taken;
// repeating it is harmless.
func (s *Spool) Append(b *metering.Batch, last bool) error { return nil }

// Next is the oldest part of the queue that is not acknowledged. It returns the
// same part until Ack or SetAside is called; ok is false when nothing waits.
func (s *Spool) Next() (item Item, ok bool, err error) { return Item{}, false, nil }

// Ack removes the item: the control plane has it.
func (s *Spool) Ack(item Item) error { return nil }

// SetAside removes an item that the control plane refused as malformed from the
// queue and keeps it, with the reason, in the folder "aside". An item of several
// rounds is first offered again round by round, so that only what is refused
// by itself is set aside.
func (s *Spool) SetAside(item Item, reason string) error { return nil }

// Wait returns a channel that receives a value after an Append. One receiver.
func (s *Spool) Wait() <-chan struct{} { return nil }

// Stat is how much waits now.
func (s *Spool) Stat() Stat { return Stat{} }

// Close releases the folder. What waits stays on disk.
func (s *Spool) Close() error { return nil }
