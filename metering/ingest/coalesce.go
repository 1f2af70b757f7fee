package ingest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/usance/usance/metering"
)

// The rows of many hosts go into one insert: ClickHouse likes few large ones.
const (
	flushRows      = 10_000                 // from here on an insert does not wait for more
	flushDelay     = 500 * time.Millisecond // nor longer than this after its first row
	maxInserts     = 2                      // at once; meanwhile the next one grows
	maxInsertRows  = 50_000                 // to this; then one after it begins
	maxWaitingRows = 200_000                // not yet stored; beyond, ErrBusy
	insertTimeout  = time.Minute            // then all its requests fail and are sent again
)

// coalescer joins the rows of concurrent requests. The first request of a group
// waits for the others, inserts for all, and tells them; so there is nothing to
// start or to stop.
type coalescer struct {
	insert  func(ctx context.Context, rows *metering.Columns) error
	inserts chan struct{} // a place for each insert that may run

	mu      sync.Mutex
	open    *group // takes rows; nil: the next request begins one
	waiting int    // rows of all groups
	done    Inserts
}

// group is one insert.
type group struct {
	rows *metering.Columns
	full chan struct{} // closed when it has flushRows
	done chan struct{} // closed when err is set
	err  error
}

// columns is memory for rows.
var columns = sync.Pool{New: func() any { return new(metering.Columns) }}

// add puts n rows, which appendTo appends, in line to be inserted together with
// those of others; ErrBusy when too many wait. Then wait must be called: it returns
// when they are durable, could not be stored, or ctx ended (they may be stored then).
func (c *coalescer) add(ctx context.Context, n int, appendTo func(*metering.Columns)) (wait func() error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting+n > maxWaitingRows {
		return nil, fmt.Errorf("%w: %d rows", ErrBusy, maxWaitingRows)
	}
	c.waiting += n
	if c.open != nil && c.open.rows.Len()+n > maxInsertRows {
		c.open = nil
	}
	g, first := c.open, c.open == nil
	if first {
		g = &group{rows: columns.Get().(*metering.Columns), full: make(chan struct{}), done: make(chan struct{})}
		c.open = g
	}
	had := g.rows.Len()
	appendTo(g.rows)
	if had < flushRows && g.rows.Len() >= flushRows {
		close(g.full)
	}
	if first {
		return func() error {
			c.lead(context.WithoutCancel(ctx), g) // the others' rows do not depend on this request
			return g.err
		}, nil
	}
	return func() error {
		select {
		case <-g.done:
			return g.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}, nil
}

// lead waits until the group is full or old enough, and inserts it.
func (c *coalescer) lead(ctx context.Context, g *group) {
	timer := time.NewTimer(flushDelay)
	defer timer.Stop()
	select {
	case <-g.full:
	case <-timer.C:
	}
	c.inserts <- struct{}{}
	c.mu.Lock()
	if c.open == g {
		c.open = nil
	}
	c.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	n := g.rows.Len()
	began := time.Now()
	if g.err = c.insert(ctx, g.rows); g.err != nil {
		g.err = fmt.Errorf("insert %d readings: %w", n, g.err)
	}
	took := time.Since(began)
	<-c.inserts

	c.mu.Lock()
	c.waiting -= n
	c.done.add(n, took, g.err)
	c.mu.Unlock()
	g.rows.Reset()
	columns.Put(g.rows)
	close(g.done)
}
