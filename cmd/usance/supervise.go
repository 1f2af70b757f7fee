package main

import (
	"context"
	"log/slog"
	"time"
)

const (
	// firstBackoff and maxBackoff bound the wait before a dead part is started again.
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 15 * time.Second
	// steadyTime is how long a part must live for its next death to count as the first.
	steadyTime = time.Minute
)

// part is something that runs beside us: a server we started as a child.
type part interface {
	Done() <-chan struct{} // closed when it ended
	Err() error            // why; valid when Done is closed
	Stop(ctx context.Context) error
}

// supervise starts a part again whenever it ends, with back-off, until ctx ends;
// then it stops it, within upStopTime, and returns. first is the already started part.
func supervise(ctx context.Context, log *slog.Logger, name string, first part, start func(context.Context) (part, error)) {
	p, began, backoff := first, time.Now(), firstBackoff
	for {
		select {
		case <-ctx.Done():
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), upStopTime)
			defer cancel()
			if err := p.Stop(stopCtx); err != nil {
				log.Error("part did not stop cleanly", "part", name, "err", err)
			}
			return
		case <-p.Done():
		}
		if time.Since(began) > steadyTime {
			backoff = firstBackoff
		}
		log.Warn("part ended; starting it again", "part", name, "err", p.Err(), "after", time.Since(began).Round(time.Millisecond), "wait", backoff)
		for {
			if pause(ctx, backoff) != nil {
				return
			}
			backoff = min(2*backoff, maxBackoff)
			again, err := start(ctx)
			if err == nil {
				p, began = again, time.Now()
				log.Info("part runs again", "part", name)
				break
			}
			if ctx.Err() != nil {
				return
			}
			log.Error("part does not start", "part", name, "err", err, "wait", backoff)
		}
	}
}

// repeat runs a task every period until ctx ends. A task looks at what is and at what should be, and is safe to run twice; its
// error is logged and the next run tries again.
func repeat(ctx context.Context, log *slog.Logger, name string, period time.Duration, once func(context.Context, time.Time) error) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		began := time.Now()
		if err := once(ctx, began.UTC()); err != nil && ctx.Err() == nil {
			log.Error("task", "task", name, "err", err, "took", time.Since(began).Round(time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
