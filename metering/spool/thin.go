package spool

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

// thinnedReadings is the size of a record of a thinned segment: large, because
// columns of one kind compress well together.
const thinnedReadings = 5_000

// thin rewrites a segment so that it keeps, of the readings that wait, the
// first of each epoch and one for each of its slots. Segments are thinned by
// themselves: where a slot lies in two of them, two readings of it are kept,
// which changes nothing. A segment is thinned once.
func (s *Spool) thin(g *segment) error {
	if g.thinned {
		return nil
	}
	g.seal()
	t := thinning{epochs: make(map[metering.EpochID]*thinEpoch)}
	before, _ := g.waiting()
	for i := g.acked; i < len(g.records); i++ {
		body, err := g.body(i)
		if err == nil {
			err = t.add(body)
		}
		if errors.Is(err, errDamaged) || errors.Is(err, wire.ErrMalformed) {
			g.thinned = true // it is kept as it is; Next deals with the record
			return nil
		}
		if err != nil {
			return err
		}
	}
	n := &segment{seq: g.seq, path: g.path, thinned: true, version: g.version + 1}
	if err := s.rewrite(n, t.readings(), t.epochs); err != nil {
		return fmt.Errorf("rewrite %s: %w", g.path, err)
	}
	after, _ := n.waiting()
	s.stat.Thinned += before - after
	s.bytes += n.size - g.size
	s.log.Warn("the spool is full and was thinned: usage of a slot stays, its course within the slot is lost",
		"segment", g.path, "before", before, "after", after)
	*g = *n
	return nil
}

// thinning collects what of a segment is kept.
type thinning struct {
	epochs map[metering.EpochID]*thinEpoch
	in     wire.Batch
}

type thinEpoch struct {
	record metering.Epoch
	first  metering.Reading
	slots  map[int64]metering.Reading // by the slot's end, ms
}

func (t *thinning) add(body []byte) error {
	if err := wire.Decode(&t.in, body); err != nil {
		return err
	}
	for i := range t.in.Len() {
		r := t.in.Reading(i)
		e := t.epochs[r.Epoch]
		if e == nil {
			e = &thinEpoch{record: t.in.Epochs[t.in.Epoch[i]], first: r, slots: make(map[int64]metering.Reading)}
			t.epochs[r.Epoch] = e
		}
		if r.At.Before(e.first.At) {
			e.first = r
		}
		slot := metering.SlotOf(r.At).UnixMilli()
		if last, ok := e.slots[slot]; ok {
			r = lastOf(last, r)
		}
		e.slots[slot] = r
	}
	return nil
}

// lastOf is the later of two readings of a slot, joined with the other: after a
// stepped clock the later one need not be the larger.
func lastOf(a, b metering.Reading) metering.Reading {
	if b.At.After(a.At) {
		a.At = b.At
	}
	a.Registers = a.Registers.Join(b.Registers)
	return a
}

// readings are the kept ones in the order of their times.
func (t *thinning) readings() []metering.Reading {
	var kept []metering.Reading
	for _, e := range t.epochs {
		firstSlot := metering.SlotOf(e.first.At).UnixMilli()
		if e.slots[firstSlot] != e.first {
			kept = append(kept, e.first)
		}
		for _, r := range e.slots {
			kept = append(kept, r)
		}
	}
	slices.SortFunc(kept, func(a, b metering.Reading) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Epoch, b.Epoch))
	})
	return kept
}

// rewrite writes the readings to a new file in place of n's. The old one is there until
// the new one is durable, so for a moment both take room.
func (s *Spool) rewrite(n *segment, kept []metering.Reading, epochs map[metering.EpochID]*thinEpoch) error {
	file := []byte(magicThinned)
	n.size = int64(len(file))
	for chunk := range slices.Chunk(kept, thinnedReadings) {
		b := metering.Batch{Readings: chunk}
		seen := make(map[metering.EpochID]bool)
		oldest := chunk[0].At // in order
		for _, r := range chunk {
			if !seen[r.Epoch] {
				seen[r.Epoch] = true
				b.Epochs = append(b.Epochs, epochs[r.Epoch].record)
			}
		}
		body, err := wire.Encode(nil, &b)
		if err != nil {
			return err
		}
		before := len(file)
		file = appendRecord(file, body, len(chunk), oldest.UnixMilli())
		n.add(record{length: len(file) - before, readings: len(chunk), oldestMS: oldest.UnixMilli()})
	}
	return replaceFile(n.path, filepath.Join(s.dir, "thinning"), file)
}

// replaceFile puts a file in place of another by way of temporary. The content
// is durable before it takes the name; should a crash bring the old one back,
// nothing is lost.
func replaceFile(path, temporary string, content []byte) error {
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return os.Rename(temporary, path)
}
