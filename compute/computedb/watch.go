package computedb

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

// maxWatches bounds the watches at once; above it Watch is hostapi.ErrBusy.
const maxWatches = 10_000

// reconnectPause lies between two attempts to listen.
const reconnectPause = time.Second

// Watcher wakes those who wait for a change of a host's desired state, whichever
// process made it: one connection listens for all of them.
type Watcher struct {
	config *pgx.ConnConfig
	log    *slog.Logger

	mu      sync.Mutex
	watches map[metering.HostID]map[chan struct{}]struct{}
	count   int
}

// NewWatcher makes a watcher of the pool's database; Run makes it work.
func NewWatcher(pool *pgxpool.Pool, log *slog.Logger) *Watcher {
	return &Watcher{
		config:  pool.Config().ConnConfig,
		log:     log,
		watches: map[metering.HostID]map[chan struct{}]struct{}{},
	}
}

// Watch returns a channel that receives after each change of the host's desired
// state from now on; changes that nobody took from it yet are one. The watch
// lasts until stop. The error is hostapi.ErrBusy when too many watch.
func (w *Watcher) Watch(host metering.HostID) (changed <-chan struct{}, stop func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count >= maxWatches {
		return nil, nil, hostapi.ErrBusy
	}
	c := make(chan struct{}, 1)
	if w.watches[host] == nil {
		w.watches[host] = map[chan struct{}]struct{}{}
	}
	w.watches[host][c] = struct{}{}
	w.count++
	return c, sync.OnceFunc(func() { w.stop(host, c) }), nil
}

func (w *Watcher) stop(host metering.HostID, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.watches[host], c)
	if len(w.watches[host]) == 0 {
		delete(w.watches, host)
	}
	w.count--
}

func wake(watches map[chan struct{}]struct{}) {
	for c := range watches {
		select {
		case c <- struct{}{}:
		default: // it has not taken the last one yet
		}
	}
}

// Run listens until ctx ends and returns its error. A lost connection is made
// anew; then everyone is woken, since changes may have been missed.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		err := w.listen(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.log.Warn("listening for changes of hosts broke off", "err", err)
		select {
		case <-time.After(reconnectPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *Watcher) listen(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, w.config.Copy())
	if err != nil {
		return fmt.Errorf("connect to listen: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `LISTEN `+hostsChannel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	w.wakeAll()
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("await a notification: %w", err)
		}
		w.mu.Lock()
		wake(w.watches[metering.HostID(n.Payload)])
		w.mu.Unlock()
	}
}

func (w *Watcher) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, watches := range w.watches {
		wake(watches)
	}
}
