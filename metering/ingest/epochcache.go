package ingest

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/usance/usance/metering"
)

// maxCachedEpochs bounds a generation of the cache: at about 1 kB each, both
// generations take at most 400 MB. An epoch that falls out is asked for again; when
// more are in use than fit in one generation, all of them fall out all the time.
const maxCachedEpochs = 200_000

// cachedEpoch is a registered epoch and its lease as it was read at checked.
type cachedEpoch struct {
	record  metering.EpochRecord
	next    []metering.EpochRecord
	lease   Lease
	checked time.Time
}

// epochCache remembers the epochs used last, in two generations: when the young
// one is full it becomes the old one, and what is not used again goes with it.
// The zero value is empty.
type epochCache struct {
	mu         sync.Mutex
	young, old map[metering.EpochID]cachedEpoch
}

func (c *epochCache) get(id metering.EpochID) (cachedEpoch, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.young[id]; ok {
		return e, true
	}
	e, ok := c.old[id]
	if ok {
		c.add(e)
	}
	return e, ok
}

func (c *epochCache) put(e cachedEpoch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(e)
}

// forget drops an epoch, and those that it replaces. It looks at all of them.
func (c *epochCache) forget(id metering.EpochID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := func(_ metering.EpochID, e cachedEpoch) bool {
		return e.record.ID == id || slices.ContainsFunc(e.next, func(next metering.EpochRecord) bool { return next.ID == id })
	}
	maps.DeleteFunc(c.young, of)
	maps.DeleteFunc(c.old, of)
}

func (c *epochCache) add(e cachedEpoch) {
	if c.young == nil || len(c.young) >= maxCachedEpochs {
		c.young, c.old = make(map[metering.EpochID]cachedEpoch), c.young
	}
	c.young[e.record.ID] = e
}
