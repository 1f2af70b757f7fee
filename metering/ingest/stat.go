package ingest

import (
	"maps"
	"sync"
	"time"
)

// Stat is what a handler did since it was made.
type Stat struct {
	Batches     int64             // answered with 200
	Refused     map[Refusal]int64 // requests that were not
	Accepted    int64             // readings, held ones included once they were taken
	Held        int64             // readings of the future that were put by
	Quarantined map[Reason]int64  // other readings that were not accepted
	Waiting     int               // rows that wait to be inserted, now
	Inserts     Inserts
}

// Inserts are the inserts of accepted rows.
type Inserts struct {
	Done   int64         // inserts that returned
	Errors int64         // those of them that failed: their batches are sent again
	Rows   int64         // that are durable; those of a repeated batch count again
	Time   time.Duration // Σ over Done
}

// Stat is what the handler did so far. It may be called at any time.
func (h *Handler) Stat() Stat {
	h.counts.mu.Lock()
	s := h.counts.stat
	s.Refused, s.Quarantined = maps.Clone(s.Refused), maps.Clone(s.Quarantined)
	h.counts.mu.Unlock()
	h.rows.mu.Lock()
	defer h.rows.mu.Unlock()
	s.Waiting, s.Inserts = h.rows.waiting, h.rows.done
	return s
}

// counts are the handler's own part of a Stat.
type counts struct {
	mu   sync.Mutex
	stat Stat
}

func (c *counts) batch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stat.Batches++
}

func (c *counts) refused(why Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stat.Refused == nil {
		c.stat.Refused = make(map[Refusal]int64)
	}
	c.stat.Refused[why]++
}

func (c *counts) taken(r Response, refused []Quarantined) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stat.Accepted += int64(r.Accepted)
	c.stat.Held += int64(r.Held)
	if c.stat.Quarantined == nil && len(refused) > 0 {
		c.stat.Quarantined = make(map[Reason]int64)
	}
	for i := range refused {
		if refused[i].Reason != ReasonFuture {
			c.stat.Quarantined[refused[i].Reason]++
		}
	}
}

func (n *Inserts) add(rows int, took time.Duration, err error) {
	n.Done++
	n.Time += took
	if err != nil {
		n.Errors++
		return
	}
	n.Rows += int64(rows)
}
