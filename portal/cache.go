package portal

import (
	"context"
	"sync"
	"time"
)

const (
	// cacheTime is how old an answer of the cache may be, so that many open pages
	// of a tenant cost as much as one.
	cacheTime = time.Second
	// cacheWork is how long making an answer may take.
	cacheWork = 30 * time.Second
	// maxCached is how many answers are kept; beyond it the old ones go.
	maxCached = 1000
)

// cache keeps answers for a moment. Those who ask while one is being made share
// it. Its methods may be called at the same time.
type cache[T any] struct {
	mu      sync.Mutex
	answers map[string]*answer[T]
}

type answer[T any] struct {
	done  chan struct{} // closed when the rest is set
	at    time.Time
	value T
	err   error
}

func newCache[T any]() *cache[T] { return &cache[T]{answers: map[string]*answer[T]{}} }

// get is what work makes of key, not older than cacheTime. Work goes on when the
// one who asked first leaves. Errors are not kept.
func (c *cache[T]) get(ctx context.Context, key string, work func(context.Context) (T, error)) (T, error) {
	c.mu.Lock()
	a := c.answers[key]
	if a == nil || a.old() {
		a = &answer[T]{done: make(chan struct{})}
		c.makeRoom()
		c.answers[key] = a
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cacheWork)
			defer cancel()
			a.value, a.err = work(ctx)
			a.at = time.Now()
			close(a.done)
		}()
	}
	c.mu.Unlock()
	select {
	case <-a.done:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// forget makes the next get ask anew.
func (c *cache[T]) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.answers, key)
}

func (a *answer[T]) old() bool {
	select {
	case <-a.done:
		return a.err != nil || time.Since(a.at) > cacheTime
	default:
		return false
	}
}

func (c *cache[T]) makeRoom() {
	if len(c.answers) < maxCached {
		return
	}
	for key, a := range c.answers {
		if a.old() {
			delete(c.answers, key)
		}
	}
}
