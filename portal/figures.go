package portal

import (
	"context"
	"sync"
	"time"
)

// figuresTime is how long a page waits for what meters stand at; then it is shown
// without.
const figuresTime = 5 * time.Second

// outage is since when the readings cannot be asked, as far as pages noticed.
type outage struct {
	mu    sync.Mutex
	since time.Time
}

// began notes that they cannot be asked, and returns since when.
func (o *outage) began(now time.Time) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		o.since = now.UTC()
	}
	return o.since
}

func (o *outage) ended() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.since = time.Time{}
}

// figures is what read makes of key. While the readings cannot be asked it is none,
// and unread says since when: the page is shown without. The error is that of a
// caller who left.
func figures[T any](ctx context.Context, s *server, c *cache[T], key string, read func(context.Context) (T, error)) (value T, unread time.Time, err error) {
	limited, cancel := context.WithTimeout(ctx, figuresTime)
	defer cancel()
	value, err = c.get(limited, key, read)
	switch {
	case err == nil:
		s.outage.ended()
		return value, time.Time{}, nil
	case ctx.Err() != nil:
		return value, time.Time{}, ctx.Err()
	}
	s.Log.Error("readings cannot be asked; pages are shown without", "err", err)
	var none T
	return none, s.outage.began(time.Now()), nil
}
