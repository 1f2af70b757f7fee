package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// keeper runs `usance up` and starts it again when it dies.
type keeper struct {
	logFile string
	gaveUp  chan struct{} // closed when it will not come back; err says why
	err     error
	once    sync.Once
	quit    chan struct{}
	done    chan struct{}
}

// startKeeper runs the command, its output going to logFile.
func startKeeper(command []string, logFile string) (*keeper, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log of usance up: %w", err)
	}
	k := &keeper{logFile: logFile, gaveUp: make(chan struct{}), quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(k.done)
		defer out.Close()
		for {
			c, err := startChild(command, out)
			if err != nil {
				k.err = err
				close(k.gaveUp)
				return
			}
			select {
			case <-k.quit:
				ctx, cancel := context.WithTimeout(context.Background(), 3*upStopTime)
				defer cancel()
				k.err = c.Stop(ctx)
				return
			case <-c.done:
			}
			if c.exitCode() == exitRefused { // a sentence for the operator, which a restart would only repeat
				k.err = fmt.Errorf("usance up: %s", lastLine(logFile))
				close(k.gaveUp)
				return
			}
			time.Sleep(500 * time.Millisecond) // whoever misses it for demoPatience gives up, not we
		}
	}()
	return k, nil
}

// stop ends `usance up` and waits until it is gone.
func (k *keeper) stop() {
	k.once.Do(func() { close(k.quit) })
	<-k.done
}

func lastLine(file string) string {
	b, _ := os.ReadFile(file)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
