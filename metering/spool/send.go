package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

// maxItemReadings bounds an item of several rounds: what is sent at once after a
// time without control plane. A single larger round is sent as it is.
const maxItemReadings = 10_000

// What was set aside is kept for an operator in a folder of its own, up to
// maxAsideFiles; beyond, the oldest is removed and a log line says so.
const (
	asideFolder   = "aside"
	maxAsideFiles = 256
)

// Item is something to send: the oldest rounds of the queue as one body in the
// form of metering/wire. It stays the oldest until it is acknowledged or set aside.
type Item struct {
	Body     []byte
	Readings int
	token    token
}

// token says which records an item stands for. It is stale, and does nothing,
// once its segment was rewritten.
type token struct {
	seq      uint64
	version  int
	from, to int // records
}

// Next is the oldest part of the queue: several rounds of one segment as one
// body. It returns the same or more until Ack or SetAside is called; ok is false
// when nothing waits. A record that has become unreadable is kept aside, logged
// and passed over.
func (s *Spool) Next() (item Item, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return Item{}, false, ErrClosed
	}
	for len(s.segments) > 0 {
		g := s.segments[0]
		item, err := s.item(g)
		if errors.Is(err, errDamaged) || errors.Is(err, wire.ErrMalformed) {
			if err = s.passOver(g, err); err == nil {
				continue
			}
		}
		if err != nil {
			return Item{}, false, fmt.Errorf("spool: read %s: %w", g.path, err)
		}
		return item, true, nil
	}
	return Item{}, false, nil
}

// item makes an item of the segment's first records.
func (s *Spool) item(g *segment) (Item, error) {
	first := g.acked
	body, err := g.body(first)
	if err != nil {
		return Item{}, err
	}
	item := Item{Body: body, Readings: g.records[first].readings,
		token: token{seq: g.seq, version: g.version, from: first, to: first + 1}}
	if s.alone.holds(item.token) || item.token.to == len(g.records) ||
		item.Readings+g.records[first+1].readings > maxItemReadings {
		return item, nil // as it was appended, without encoding it again
	}
	return g.merge(item)
}

// merge adds the records after the item's one as long as they fit.
func (g *segment) merge(item Item) (Item, error) {
	var m merger
	if err := m.add(item.Body); err != nil {
		return Item{}, err
	}
	for i := item.token.to; i < len(g.records); i++ {
		if len(m.batch.Readings)+g.records[i].readings > maxItemReadings {
			break
		}
		body, err := g.body(i)
		if err == nil {
			err = m.add(body)
		}
		if err != nil {
			break // its own turn comes, as the first
		}
		item.token.to = i + 1
	}
	body, err := wire.Encode(nil, &m.batch)
	if err != nil {
		return Item{}, err
	}
	item.Body, item.Readings = body, len(m.batch.Readings)
	return item, nil
}

// merger joins bodies to one batch.
type merger struct {
	batch metering.Batch
	known map[metering.EpochID]bool
	in    wire.Batch
}

var errTooMany = errors.New("too many epochs for one body")

func (m *merger) add(body []byte) error {
	if err := wire.Decode(&m.in, body); err != nil {
		return err
	}
	if len(m.batch.Epochs)+len(m.in.Epochs) > wire.MaxEpochs {
		return errTooMany
	}
	if m.known == nil {
		m.known = make(map[metering.EpochID]bool)
	}
	for _, e := range m.in.Epochs {
		if !m.known[e.ID] {
			m.known[e.ID] = true
			m.batch.Epochs = append(m.batch.Epochs, e)
		}
	}
	for i := range m.in.Len() {
		m.batch.Readings = append(m.batch.Readings, m.in.Reading(i))
	}
	return nil
}

// holds reports whether the record of o is one of t's.
func (t token) holds(o token) bool {
	return t.seq == o.seq && t.version == o.version && t.from <= o.from && o.to <= t.to
}

// Ack removes the item: the control plane has it. An item that thinning has
// overtaken is offered again, which is harmless.
func (s *Spool) Ack(item Item) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return ErrClosed
	}
	if err := s.done(item.token); err != nil {
		return fmt.Errorf("spool: acknowledge: %w", err)
	}
	return nil
}

// done takes a token's records off the queue.
func (s *Spool) done(t token) error {
	for _, g := range s.segments {
		if g.seq != t.seq || g.version != t.version || g.acked != t.from {
			continue
		}
		if g.acked = t.to; g.acked == len(g.records) {
			return s.remove(g)
		}
	}
	return nil
}

// SetAside removes an item that the control plane refused as malformed from the
// queue and keeps it, with the reason, in the folder "aside". An item of several
// rounds is first offered again round by round, so that only what is refused
// by itself is set aside.
func (s *Spool) SetAside(item Item, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return ErrClosed
	}
	if t := item.token; t.to-t.from > 1 {
		s.alone = t
		s.log.Warn("a body was refused; its rounds are sent one by one", "rounds", t.to-t.from, "err", reason)
		return nil
	}
	s.log.Error("a body was refused and is set aside", "readings", item.Readings, "err", reason)
	if err := s.keepAside(item.token.seq, int64(item.token.from), item.Body, reason); err != nil {
		return err
	}
	return s.done(item.token)
}

// passOver puts the segment's first record aside, which cannot be read.
func (s *Spool) passOver(g *segment, why error) error {
	s.log.Error("a record of the spool is damaged and is set aside",
		"segment", g.path, "readings", g.records[g.acked].readings, "err", why)
	rec := g.records[g.acked]
	raw := make([]byte, rec.length)
	f, err := os.Open(g.path)
	if err != nil {
		return err
	}
	defer f.Close()
	n, _ := f.ReadAt(raw, rec.offset) // as much as there is
	if err := s.keepAside(g.seq, int64(g.acked), raw[:n], why.Error()); err != nil {
		return err
	}
	return s.done(token{seq: g.seq, version: g.version, from: g.acked, to: g.acked + 1})
}

// keepAside writes what leaves the queue unsent to a file: a line with the time
// and the reason, then the bytes.
func (s *Spool) keepAside(seq uint64, place int64, bytes []byte, reason string) error {
	dir := filepath.Join(s.dir, asideFolder)
	name := filepath.Join(dir, fmt.Sprintf("%016d-%d", seq, place))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("set aside: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s %q\n%s", time.Now().UTC().Format(time.RFC3339), reason, bytes)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("set aside: %w", err)
	}
	s.stat.Aside++
	entries, err := os.ReadDir(dir) // by name: the oldest first
	if err != nil {
		return fmt.Errorf("set aside: %w", err)
	}
	if len(entries) > maxAsideFiles {
		s.log.Error("too much was set aside: the oldest is removed", "file", entries[0].Name())
		return os.Remove(filepath.Join(dir, entries[0].Name()))
	}
	return nil
}
