package portal

import (
	"sync"
	"time"
)

// Limits of signing in; beyond them it is errThrottled. Each attempt costs about
// 50 ms of a core.
const (
	signInBurst   = 10              // attempts at once from one address
	signInEvery   = 6 * time.Second // then one more each
	signInBurstOf = 200             // attempts at once from all addresses
	signInEveryOf = 100 * time.Millisecond
	// maxAddresses bounds the addresses that are remembered; beyond it those that
	// are back at full burst are forgotten, then all.
	maxAddresses = 10_000
)

// bucket holds attempts: full at first, one less with each, filling up with time.
type bucket struct {
	left float64
	at   time.Time
}

func (b *bucket) fill(now time.Time, burst int, every time.Duration) {
	if b.at.IsZero() {
		b.left = float64(burst)
	} else if now.After(b.at) {
		b.left = min(float64(burst), b.left+float64(now.Sub(b.at))/float64(every))
	}
	b.at = now
}

// throttle bounds attempts per address and in total. Its methods may be called
// at the same time.
type throttle struct {
	mu        sync.Mutex
	total     bucket
	addresses map[string]*bucket
}

func newThrottle() *throttle { return &throttle{addresses: map[string]*bucket{}} }

// allow takes one attempt, or reports that there is none left.
func (t *throttle) allow(address string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.addresses[address]
	if b == nil {
		t.makeRoom(now)
		b = new(bucket)
		t.addresses[address] = b
	}
	b.fill(now, signInBurst, signInEvery)
	t.total.fill(now, signInBurstOf, signInEveryOf)
	if b.left < 1 || t.total.left < 1 {
		return false
	}
	b.left--
	t.total.left--
	return true
}

func (t *throttle) makeRoom(now time.Time) {
	if len(t.addresses) < maxAddresses {
		return
	}
	for address, b := range t.addresses {
		if b.fill(now, signInBurst, signInEvery); b.left == signInBurst {
			delete(t.addresses, address)
		}
	}
	if len(t.addresses) >= maxAddresses {
		clear(t.addresses) // the total still holds
	}
}
