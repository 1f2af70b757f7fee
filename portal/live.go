package portal

import (
	"bytes"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

const (
	// liveEvery is how often an open page is brought up to date.
	liveEvery = time.Second
	// liveSilence is how long a stream says nothing before it shows that it is alive.
	liveSilence = 15 * time.Second
	// liveWrite is how long a browser may take to read an event; then it is cut off.
	liveWrite = 10 * time.Second
	// maxStreams and maxStreamsOf bound the open streams, of all and of one tenant;
	// more are errStreams, and their pages stay as they were.
	maxStreams   = 1000
	maxStreamsOf = 20
)

// streams counts the open streams. Its methods may be called at the same time.
type streams struct {
	mu    sync.Mutex
	total int
	of    map[metering.TenantID]int
}

func newStreams() *streams { return &streams{of: map[metering.TenantID]int{}} }

// open counts one more, until done; ok is false when there are too many.
func (s *streams) open(tenant metering.TenantID) (done func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= maxStreams || s.of[tenant] >= maxStreamsOf {
		return nil, false
	}
	s.total++
	s.of[tenant]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.total--
		if s.of[tenant]--; s.of[tenant] == 0 {
			delete(s.of, tenant)
		}
	}, true
}

// liveBlocks are the parts of the instance page that are sent anew when they change.
var liveBlocks = []string{"live", "actions", "registers"}

// instanceEvents sends the parts of the instance page that changed, as HTML made
// by the same template, each as an event named after its block. The session is
// checked again with each: who signed out sees no more.
func (s *server) instanceEvents(w http.ResponseWriter, r *http.Request, who caller) error {
	m, err := s.instance(r.Context(), who.tenant, instanceID(r))
	if err != nil {
		return err
	}
	if m.State == compute.StateDeleted {
		w.WriteHeader(http.StatusNoContent) // the browser asks no more
		return nil
	}
	done, ok := s.streams.open(who.tenant)
	if !ok {
		return errStreams
	}
	defer done()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy that collects would delay
	tick := time.NewTicker(liveEvery)
	defer tick.Stop()
	stream := liveStream{w: w, control: http.NewResponseController(w), sent: map[string][]byte{}}
	for {
		if err = s.sendLive(&stream, instancePage{frame: who.frame("instances", m.Name), metered: m}); err != nil || m.State == compute.StateDeleted {
			break
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-tick.C:
		}
		if who, err = s.authenticate(r, forSession); err != nil {
			break
		}
		if m, err = s.instance(r.Context(), who.tenant, instanceID(r)); err != nil {
			break
		}
	}
	if err != nil && r.Context().Err() == nil { // the answer has begun: the browser asks again by itself
		s.Log.Info("live page ended", "tenant", who.tenant, "instance", instanceID(r), "err", err)
	}
	return nil
}

// liveStream is a stream of events and what it said last.
type liveStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	sent    map[string][]byte // by block
	at      time.Time
}

func (s *server) sendLive(l *liveStream, p instancePage) error {
	var b bytes.Buffer
	for _, block := range liveBlocks {
		html, err := s.html("instance.html", block, p)
		if err != nil {
			return err
		}
		if bytes.Equal(html, l.sent[block]) {
			continue
		}
		l.sent[block] = html
		fmt.Fprintf(&b, "event: %s\n", block)
		for line := range bytes.Lines(html) {
			fmt.Fprintf(&b, "data: %s\n", bytes.TrimRight(line, "\r\n"))
		}
		b.WriteString("\n")
	}
	if b.Len() == 0 && time.Since(l.at) > liveSilence {
		b.WriteString(": still here\n\n")
	}
	if b.Len() == 0 {
		return nil
	}
	l.at = time.Now()
	if err := l.control.SetWriteDeadline(l.at.Add(liveWrite)); err != nil {
		return err
	}
	if _, err := l.w.Write(b.Bytes()); err != nil {
		return err
	}
	return l.control.Flush()
}
