package agent

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Instant is one moment by the clocks of a host.
type Instant struct {
	Wall time.Time     // UTC; may be stepped, so it only names moments
	Mono time.Duration // CLOCK_MONOTONIC: never stepped, stands still while the host sleeps
	Boot string        // id of the host's boot; Mono means nothing in another
}

// Clock tells the present instant. It may be called by several goroutines.
type Clock func() Instant

// HostClock is the clock of this machine.
func HostClock() (Clock, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("the host's boot id: %w", err)
	}
	boot := strings.TrimSpace(string(id))
	return func() Instant {
		var mono unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
			panic(fmt.Sprintf("agent: the monotonic clock: %v", err)) // every Linux has it
		}
		return Instant{Wall: time.Now().UTC(), Mono: time.Duration(mono.Nano()), Boot: boot}
	}, nil
}

// at is the instant at which the wall clock that n was read from showed wall,
// by the monotonic clock. Readings of Go's clock carry their monotonic part and
// are exact whatever happened to the wall clock in between.
func (n Instant) at(wall time.Time) Instant {
	back := n.Wall.Sub(wall)
	n.Wall, n.Mono = wall.UTC(), n.Mono-back
	return n
}

// ms is the monotonic clock in whole milliseconds. All time registers are sums
// of differences of this number, so they telescope: a span measured in one step
// or in a thousand is the same number.
func (n Instant) ms() int64 { return n.Mono.Milliseconds() }
