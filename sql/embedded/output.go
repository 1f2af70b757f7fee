package embedded

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// keptLines is how many fatal lines are remembered; older ones are dropped.
const keptLines = 3

// fatal are the marks of lines that may tell why a program of Postgres ended.
var fatal = []string{"FATAL: ", "PANIC: ", "initdb: error: ", "shim: "}

// output is what a program of Postgres wrote to its standard error.
type output struct {
	log *slog.Logger

	mu   sync.Mutex
	last []string // fatal lines, oldest first
}

// follow logs lines until the end. Errors of statements and of connections are
// the client's to report, so only warnings are loud here.
func (o *output) follow(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		o.keep(line)
		if _, warning, ok := strings.Cut(line, "WARNING: "); ok {
			o.log.Warn("postgres", "message", strings.TrimSpace(warning))
		} else {
			o.log.Debug("postgres", "message", line)
		}
	}
	io.Copy(io.Discard, r) // after a line too long to scan
}

func (o *output) keep(line string) {
	for _, mark := range fatal {
		_, rest, ok := strings.Cut(line, mark)
		if !ok {
			continue
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.last = append(o.last, strings.TrimSpace(rest))
		if len(o.last) > keptLines {
			o.last = o.last[1:]
		}
		return
	}
}

// explain turns the end of what worked on dir into one sentence; nil if it went well.
func (o *output) explain(what, dir string, err error) error {
	if err == nil {
		return nil
	}
	o.mu.Lock()
	said := strings.Join(o.last, "; ")
	o.mu.Unlock()
	switch {
	case strings.Contains(said, "No space left on device"):
		return fmt.Errorf("the disk of %s is full: free some space there, then start again (%s)", dir, said)
	case said == "":
		return fmt.Errorf("%s on %s ended: %w", what, dir, err)
	}
	return fmt.Errorf("%s on %s ended: %w: %s", what, dir, err, said)
}
