package agent

import (
	"sync"
	"time"

	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/spool"
)

// Stat is how an agent is doing. Counts and sums are since Run began.
type Stat struct {
	Spool    spool.Stat
	Recorder RecorderStat
	Sender   SenderStat
}

// RecorderStat is what became of passes over the hypervisor and of rounds.
type RecorderStat struct {
	Rounds      int64         // taken: in the spool
	RoundErrors int64         // that could not be kept: what they held is in the next one
	RoundTime   time.Duration // Σ over both: state file and spool, until both are on disk
	Passes      int64         // over the hypervisor
	PassErrors  int64         // those in which the hypervisor or some domain could not be read
	PassTime    time.Duration // Σ
	Domains     int           // read by the last pass
	Up          bool          // the last pass read something, or all there was
	Watching    bool          // events arrive
}

// SenderStat is what the control plane answered.
type SenderStat struct {
	Batches     int64     // it has
	Errors      int64     // attempts that failed; what they held is sent again
	Accepted    int64     // readings of the batches
	Quarantined int64     // readings that it does not believe
	Held        int64     // readings that lie in its future
	Last        time.Time // when it last took a batch; zero: not yet
}

// Stat is how the agent is doing now. It is false until Run has joined the
// control plane and opened what it keeps; it may be called at any time.
func (a *Agent) Stat() (Stat, bool) {
	if !a.opened.Load() {
		return Stat{}, false
	}
	return Stat{Spool: a.spool.Stat(), Recorder: a.recorder.stat.get(), Sender: a.sender.stat.get()}, true
}

// counts are counters that one goroutine changes and others read.
type counts[T any] struct {
	mu sync.Mutex
	v  T
}

func (c *counts[T]) change(f func(*T)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.v)
}

func (c *counts[T]) get() T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.v
}

func (c *RecorderStat) pass(s samples) {
	c.Passes++
	c.PassTime += s.took
	c.Domains = len(s.samples)
	c.Up = s.err == nil || len(s.samples) > 0
	if s.err != nil {
		c.PassErrors++
	}
}

func (c *RecorderStat) round(took time.Duration, err error) {
	c.RoundTime += took
	if err != nil {
		c.RoundErrors++
		return
	}
	c.Rounds++
}

func (c *SenderStat) answer(r ingest.Response, at time.Time, err error) {
	if err != nil {
		c.Errors++
		return
	}
	c.Batches++
	c.Accepted += int64(r.Accepted)
	c.Quarantined += int64(r.Quarantined)
	c.Held += int64(r.Held)
	c.Last = at
}
