package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/spool"
)

const (
	sendTimeout = 60 * time.Second // of one batch; then it is sent again
	// minBackoff doubles with each failure up to maxBackoff, half of it by chance,
	// so that hosts do not come back all at once.
	minBackoff = 500 * time.Millisecond
	maxBackoff = 30 * time.Second
	// refusedPause is the time between attempts while the control plane says that
	// it does not know this host or has removed it: an operator has to act.
	refusedPause = time.Minute
	// lastSend bounds the attempt made when the agent ends.
	lastSend = 2 * time.Second
)

// sender moves readings from the spool to the control plane.
type sender struct {
	spool  *spool.Spool
	client *ingest.Client
	log    *slog.Logger
	// taken is the number of the last full reading that is in the spool, sent
	// that of the last one that the control plane has.
	taken, sent atomic.Uint64
	poke        chan struct{} // after taken rose
	delivered   func()        // called after sent rose; must not block
	stat        counts[SenderStat]
}

func newSender(sp *spool.Spool, client *ingest.Client, log *slog.Logger, delivered func()) *sender {
	return &sender{spool: sp, client: client, log: log, poke: make(chan struct{}, 1), delivered: delivered}
}

// fullReading notes that the full reading of that number is in the spool.
func (s *sender) fullReading(number uint64) {
	s.taken.Store(number)
	poke(s.poke)
}

// run sends until ctx ends, and then once more for a short while.
func (s *sender) run(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		sent, err := s.send(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			pause := s.pause(err, failures)
			failures++
			s.log.Warn("readings wait on this host", "err", err, "retry_in", pause)
			sleep(ctx, pause)
		case err == nil && sent:
			failures = 0
		case err == nil:
			select {
			case <-s.spool.Ready():
			case <-s.poke:
			case <-ctx.Done():
			}
		}
	}
}

// finish makes a last attempt to send what waits.
func (s *sender) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), lastSend)
	defer cancel()
	for {
		if sent, err := s.send(ctx); err != nil || !sent {
			return
		}
	}
}

// send sends the oldest part of the spool; sent is false when nothing waits.
func (s *sender) send(ctx context.Context) (sent bool, err error) {
	taken := s.taken.Load() // before looking: what it stands for is older than an empty spool
	item, ok, err := s.spool.Next()
	if err != nil {
		return false, err
	}
	if !ok {
		if s.sent.Swap(taken) != taken {
			s.delivered()
		}
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	answer, err := s.client.Send(ctx, item.Body)
	s.stat.change(func(c *SenderStat) { c.answer(answer, time.Now(), err) })
	if errors.Is(err, ingest.ErrMalformed) {
		s.log.Error("readings refused as malformed are set aside", "readings", item.Readings, "err", err)
		return true, s.spool.SetAside(item, err.Error())
	}
	if err != nil {
		return false, err
	}
	return true, s.spool.Ack(item)
}

// pause is how long to wait after an error that followed that many others.
func (s *sender) pause(err error, failures int) time.Duration {
	if errors.Is(err, ingest.ErrUnauthorized) || errors.Is(err, ingest.ErrRemoved) {
		return refusedPause
	}
	pause := backoff(failures, minBackoff, maxBackoff)
	pause = pause/2 + rand.N(pause/2)
	if again := (*ingest.RetryAfter)(nil); errors.As(err, &again) {
		pause = max(pause, again.After)
	}
	return pause
}

// backoff is first, doubled for each failure before, at most limit.
func backoff(failures int, first, limit time.Duration) time.Duration {
	for ; failures > 0 && first < limit; failures-- {
		first *= 2
	}
	return min(first, limit)
}

// poke wakes whoever receives from c, a channel with room for one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
