package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/spool"
)

// journal makes what the meter measured durable: the state file, from which the
// next agent goes on, and the spool, from which readings are sent.
//
// A commit writes the state file first and appends to the spool second. Why that
// order loses nothing and lowers nothing, wherever a kill -9 or a loss of power
// falls:
//
//   - Before the state file's rename nothing has happened: the hypervisor's
//     counters are still there to be read, the time since the last commit is
//     bridged, and no reading of this commit is durable anywhere.
//   - Between the two, the state is ahead of the spool by this commit. The next
//     agent starts from the state and begins by appending the reading of every
//     epoch in it, so what the spool lacks it gets. An epoch that has ended is
//     kept in the state until a commit after its last reading was appended.
//   - After the append, those readings come twice, which is nothing: readings
//     join by taking the larger.
//
// So the state is never behind the spool, and registers that go on from it never
// fall below a durable reading. The other order would let them: an agent that
// starts from an older state than the spool's last reading recomputes the same
// growth from the hypervisor's counters, except where a device was replaced or
// memory was given back in between.
type journal struct {
	path  string // of the state file
	spool *spool.Spool
	whole bool // the state file says that nothing is lost
}

// state is the file's content.
type state struct {
	Version int       `json:"version"`
	Boot    string    `json:"boot"`
	Open    []*domain `json:"open"`
	Ended   []*domain `json:"ended"` // their last readings may not be in the spool
	// Lost says that in this boot a state was lost, or never was there, and the
	// control plane's memory has not taken its place yet: a process that is not
	// in Open may still be one that the control plane remembers.
	Lost bool `json:"lost,omitempty"`
}

const stateVersion = 1

// load gives the meter what the last agent left. Without a file, or with one that
// cannot be read (it is put aside), the meter has lost its memory.
func (j *journal) load(m *meter, log *slog.Logger) error {
	text, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		m.lost = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the meter's state: %w", err)
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil || s.Version != stateVersion {
		log.Error("the meter's state cannot be used; asking the control plane instead",
			"file", j.path, "version", s.Version, "err", err)
		m.lost = true
		return os.Rename(j.path, j.path+".bad")
	}
	m.ended = s.Ended
	m.lost = s.Lost && s.Boot == m.boot
	j.whole = !m.lost
	for _, d := range s.Open {
		if s.Boot != m.boot { // no process outlives its host's boot
			m.ended = append(m.ended, d)
			continue
		}
		d.unwatched = true
		m.domains[d.Epoch.Instance] = d
		m.take(d)
	}
	return nil
}

// commit makes the meter's state and the readings it has taken durable. On an
// error the readings of open epochs are forgotten, since later ones hold them;
// last readings of ended epochs stay for the next commit.
func (j *journal) commit(m *meter) error {
	ended := m.ended
	for _, d := range ended {
		m.take(d)
	}
	batch := m.batch
	m.batch = metering.Batch{}
	if len(batch.Readings) == 0 && (m.lost || j.whole) {
		return nil
	}
	if err := j.write(m); err != nil {
		return fmt.Errorf("keep the meter's state: %w", err)
	}
	j.whole = !m.lost
	if len(batch.Readings) == 0 {
		return nil
	}
	batch.Epochs = once(batch.Epochs)
	if err := j.spool.Append(&batch, len(ended) > 0); err != nil {
		return fmt.Errorf("spool %d readings: %w", len(batch.Readings), err)
	}
	m.ended = nil
	return nil
}

func (j *journal) write(m *meter) error {
	s := state{Version: stateVersion, Boot: m.boot, Ended: m.ended, Lost: m.lost}
	for _, d := range m.domains {
		s.Open = append(s.Open, d)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return replaceFile(j.path, text, 0o600)
}

// once leaves the first record of each epoch.
func once(epochs []metering.Epoch) []metering.Epoch {
	seen := make(map[metering.EpochID]bool, len(epochs))
	kept := epochs[:0]
	for _, e := range epochs {
		if !seen[e.ID] {
			seen[e.ID] = true
			kept = append(kept, e)
		}
	}
	return kept
}

// replaceFile writes a file so that, whenever the machine stops, the old content
// or the new one is there in full.
func replaceFile(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
