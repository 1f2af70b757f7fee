package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

const (
	// roundInterval is the time between rounds. Rounds lie on whole multiples of
	// it by the wall clock, so every slot boundary is one.
	roundInterval = 10 * time.Second
	// sampleLead is how long before a round its counters are read, so that they
	// are there when the round is stamped. A sample that takes longer counts for
	// the next round; the time registers never wait for it.
	sampleLead = time.Second
	// eventLag is how long after its instant a round is taken, at most half an
	// interval: until then events of what was before it arrive. One that takes longer is too
	// late for its round: a reading cannot fall, so what was counted in a state that had ended
	// stays counted.
	eventLag = time.Second
	// sampleTimeout bounds a pass over the hypervisor: what did not answer by then
	// is read in the next.
	sampleTimeout = 10 * time.Second
	// eventAge is how old an event may be. One that says it is older was stamped
	// before the wall clock was stepped: it counts as of now.
	eventAge = time.Minute
	// wakeEvery bounds how late a step of the wall clock is noticed.
	wakeEvery = time.Second
	// eventBuffer is how many events wait; then the hypervisor's event loop does.
	eventBuffer = 1024
	// watchPause is the time between two attempts to hear the hypervisor's events.
	watchPause = time.Second
)

// recorder owns the meter. It decides when domains are sampled and when rounds
// are taken, and makes them durable. Everything that touches the meter happens
// in run, in one goroutine; sampling runs beside it, so a hung QEMU delays
// neither rounds nor events.
type recorder struct {
	hypervisor Hypervisor
	clock      Clock
	interval   time.Duration
	meter      *meter
	journal    *journal
	changed    func() // called when a domain changed; must not block
	log        *slog.Logger

	events   chan Event
	watching chan bool
	known    chan []hostapi.KnownEpoch
	demands  chan chan error
	samples  chan samples

	lastRound  time.Time // wall clock of the last round
	sampledFor time.Time // the round for which a sample was last begun
	sampling   bool      // a sample is being taken
	again      bool      // another one is to follow it
	list       bool      // the next one is to list all domains, too
	waiting    []chan error
	served     []chan error // demands that the sample being taken answers

	stat counts[RecorderStat]
}

// samples is what one pass over the hypervisor gave.
type samples struct {
	samples []Sample
	domains []Domain // when listed
	listed  bool
	err     error
	took    time.Duration
}

func newRecorder(cfg Config, m *meter, j *journal, changed func()) *recorder {
	return &recorder{
		hypervisor: cfg.Hypervisor, clock: cfg.Clock, interval: cfg.Interval,
		meter: m, journal: j, changed: changed, log: cfg.Log,
		events:   make(chan Event, eventBuffer),
		watching: make(chan bool),
		known:    make(chan []hostapi.KnownEpoch),
		demands:  make(chan chan error),
		samples:  make(chan samples, 1),
	}
}

// fullReading takes a round with fresh counters of all domains. It returns when
// that round is durable here.
func (r *recorder) fullReading(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case r.demands <- done:
	case <-ctx.Done():
		return fmt.Errorf("full reading: %w", ctx.Err())
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("full reading: %w", ctx.Err())
	}
}

// run records until ctx ends; then it takes a last round of what is known.
func (r *recorder) run(ctx context.Context) {
	r.lastRound = r.clock().Wall
	r.commit() // what the last agent left, once more
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select { // what has happened goes before what was seen: it is older
		case e := <-r.events:
			r.event(ctx, e)
			continue
		default:
		}
		select {
		case <-ctx.Done():
		case e := <-r.events:
			r.event(ctx, e)
		case live := <-r.watching:
			r.meter.watch(r.clock(), live)
			r.stat.change(func(c *RecorderStat) { c.Watching = live })
			r.begin(ctx)
		case known := <-r.known:
			r.remember(ctx, known)
		case done := <-r.demands:
			r.waiting = append(r.waiting, done)
			r.begin(ctx)
		case s := <-r.samples:
			r.take(ctx, s)
		case <-timer.C:
		}
		r.tick(ctx)
		timer.Reset(r.untilNext())
	}
	now := r.clock()
	r.roundsUpTo(now)
	r.meter.round(now, 2*r.interval)
	r.commit()
}

// watch hears the hypervisor's events until ctx ends.
func (r *recorder) watch(ctx context.Context) {
	for {
		err := r.hypervisor.Watch(ctx, func() { r.say(ctx, true) }, func(e Event) {
			select {
			case r.events <- e:
			case <-ctx.Done():
			}
		})
		if ctx.Err() != nil {
			return
		}
		r.log.Warn("the hypervisor's events broke off", "err", err)
		r.say(ctx, false)
		sleep(ctx, watchPause)
	}
}

func (r *recorder) say(ctx context.Context, live bool) {
	select {
	case r.watching <- live:
	case <-ctx.Done():
	}
}

// remember takes in what the control plane knows of this host's epochs, for a
// meter without memory.
func (r *recorder) remember(ctx context.Context, known []hostapi.KnownEpoch) {
	r.meter.known, r.meter.heard = known, true
	r.begin(ctx)
}

// event takes in one event, after the rounds that lie before it.
func (r *recorder) event(ctx context.Context, e Event) {
	at := r.instant(e.At)
	r.roundsUpTo(at)
	if r.meter.event(at, e) {
		r.meter.read(e.ID)
		r.commit()
	}
	if e.Kind == EventStarted {
		r.begin(ctx)
	}
	r.changed()
}

// instant is the moment at which the hypervisor's wall clock showed wall; never
// in the future, and now when it would lie too long ago to be true.
func (r *recorder) instant(wall time.Time) Instant {
	now := r.clock()
	at := now.at(wall)
	if at.Mono > now.Mono || now.Mono-at.Mono > eventAge {
		return now
	}
	return at
}

// begin starts a pass over the hypervisor, or notes that one more is to follow
// the one that is under way: that one may have read its counters already.
func (r *recorder) begin(ctx context.Context) {
	if r.sampling {
		r.again = true
		return
	}
	r.sampling, r.again = true, false
	r.served, r.waiting = r.waiting, nil
	list := r.list || r.meter.recalling()
	r.list = false
	go func() {
		ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
		defer cancel()
		var s samples
		began := time.Now()
		s.samples, s.err = r.hypervisor.Sample(ctx)
		s.took = time.Since(began)
		if list {
			var err error
			if s.domains, err = r.hypervisor.Domains(ctx); err == nil {
				s.listed = true
			}
		}
		r.samples <- s
	}()
}

// take takes in a pass over the hypervisor. What changed by it is made durable at
// once; the rest waits for its round. A domain that it does not show stands still:
// the event that it has ended may be on its way.
func (r *recorder) take(ctx context.Context, s samples) {
	r.sampling = false
	if s.err != nil {
		r.log.Warn("some domains could not be read", "read", len(s.samples), "err", s.err)
	}
	r.stat.change(func(c *RecorderStat) { c.pass(s) })
	r.list = r.meter.sampled(s.samples)
	at := r.clock()
	for _, sample := range s.samples {
		at = r.instant(sample.At)
		r.roundsUpTo(at)
		if r.meter.sample(at, sample) {
			r.meter.read(sample.ID)
		}
	}
	if s.listed && r.meter.listed(s.domains) {
		r.changed()
	}
	if s.err == nil && s.listed && r.meter.recall(s.domains) {
		r.log.Info("what ran before this agent is known again")
	}
	if len(r.served) > 0 {
		r.meter.round(at, 2*r.interval)
	}
	err := r.commit()
	for _, done := range r.served {
		done <- err
	}
	r.served = nil
	if r.again || len(r.waiting) > 0 {
		r.begin(ctx)
	}
}

// tick takes the rounds that are due and begins the next one's sample.
func (r *recorder) tick(ctx context.Context) {
	now := r.clock()
	if now.Wall.Before(r.lastRound.Add(-r.interval)) {
		r.log.Warn("the wall clock was set back", "by", r.lastRound.Sub(now.Wall))
		r.lastRound = now.Wall
	}
	r.roundsUpTo(now.at(now.Wall.Add(-r.lag())))
	if next := r.nextRound(now); now.Wall.Add(r.lead()).Before(next) || next.Equal(r.sampledFor) {
		return
	} else {
		r.sampledFor = next
	}
	if !r.sampling {
		r.begin(ctx)
	}
}

// roundsUpTo takes the last round that lies between the one before and the
// instant at, stamped exactly, and before it the last slot boundary. Rounds that
// nobody was there to take are not made up: what they would have shown is in the
// next one.
func (r *recorder) roundsUpTo(at Instant) {
	round := at.Wall.Truncate(r.interval)
	boundary := at.Wall.Truncate(metering.SlotLength)
	if boundary.After(r.lastRound) && boundary.Before(round) {
		r.round(at.at(boundary))
	}
	if round.After(r.lastRound) || boundary.After(r.lastRound) {
		r.round(at.at(later(round, boundary)))
	}
}

func (r *recorder) round(at Instant) {
	r.lastRound = at.Wall
	r.meter.round(at, 2*r.interval)
	began := time.Now()
	err := r.commit()
	r.stat.change(func(c *RecorderStat) { c.round(time.Since(began), err) })
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (r *recorder) nextRound(now Instant) time.Time {
	return now.Wall.Truncate(r.interval).Add(r.interval)
}

func (r *recorder) lead() time.Duration { return min(sampleLead, r.interval/4) }

func (r *recorder) lag() time.Duration { return min(eventLag, r.interval/2) }

// untilNext is how long nothing is due.
func (r *recorder) untilNext() time.Duration {
	now := r.clock()
	next := r.nextRound(now)
	due := next.Add(-r.lead())
	if next.Equal(r.sampledFor) {
		due = next.Add(r.lag())
	}
	if last := next.Add(-r.interval); last.After(r.lastRound) && last.Add(r.lag()).Before(due) {
		due = last.Add(r.lag())
	}
	return max(0, min(wakeEvery, due.Sub(now.Wall)))
}

// commit makes what the meter has taken durable. A failure is logged and
// returned: the round does not count as taken, and the next holds what it held.
func (r *recorder) commit() error {
	err := r.journal.commit(r.meter)
	if err != nil {
		r.log.Error("a round could not be kept", "err", err)
	}
	return err
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
