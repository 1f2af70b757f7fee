package agenttest

import (
	"fmt"
	"time"

	"github.com/usance/usance/agent"
)

// bootAge is how long the host has been up when it is made.
const bootAge = 1000 * time.Second

// clock is the clocks of a host.
type clock struct {
	start    time.Time // wall clock of the host when it was made
	base     time.Time // the program's clock then; zero when the clock is not live
	advanced time.Duration
	slept    time.Duration // part of what passed in which the host slept
	stepped  time.Duration // of the wall clock alone
	booted   time.Duration // elapsed time when the present boot was bootAge old
	salt     uint64
	boots    int
}

func newClock(start time.Time, live bool, salt uint64) clock {
	c := clock{start: start.UTC().Round(0), salt: salt}
	if live {
		c.base = time.Now()
	}
	return c
}

// elapsed is what passed since the host was made, sleep included.
func (c *clock) elapsed() time.Duration {
	if c.base.IsZero() {
		return c.advanced
	}
	return time.Since(c.base) + c.advanced
}

func (c *clock) now() agent.Instant {
	passed := c.elapsed()
	since := bootAge + passed - c.booted
	return agent.Instant{
		Wall: c.start.Add(passed + c.stepped),
		Mono: since - c.slept,
		Boot: fmt.Sprintf("%016x-%d", c.salt, c.boots),
	}
}

// ticks is the time since boot as the kernel tells the start of a process: in
// hundredths of a second, sleep included.
func (c *clock) ticks() uint64 {
	return uint64((bootAge + c.elapsed() - c.booted).Milliseconds() / 10)
}

// Now is the host's agent.Clock.
func (h *Host) Now() agent.Instant {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.clock.now()
}

// Advance lets time pass: domains run and consume.
func (h *Host) Advance(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock.advanced += d
}

// Sleep lets time pass while the host sleeps: no domain runs.
func (h *Host) Sleep(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock.advanced += d
	h.clock.slept += d
}

// StepWall moves the wall clock, by a negative step backwards.
func (h *Host) StepWall(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock.stepped += d
}
