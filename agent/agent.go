package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/usance/usance/compute/hostapi"
)

// Config is what an agent needs.
type Config struct {
	Server  string // https URL of the control plane's side for hosts
	Token   string // join token, "<sha256 of the CA>.<secret>"; needed until the host has joined
	DataDir string // the agent keeps its state in DataDir/agent and images in DataDir/images
	Name    string // the host's name, shown to operators
	// Capacity is what the host offers; a field that is 0 is detected.
	Capacity   hostapi.Capacity
	Hypervisor Hypervisor
	Clock      Clock         // nil: the machine's
	Interval   time.Duration // between rounds; 0: 10 s
	Log        *slog.Logger
}

// Agent is the program of one host.
type Agent struct {
	cfg Config
}

// New checks cfg. It touches neither disk nor network.
func New(cfg Config) (*Agent, error) {
	return nil, errors.New("not yet")
}

// Run joins the control plane if the host has not yet, then meters and
// reconciles until ctx ends. When it returns, what was measured is in the spool,
// and a last attempt of at most 2 s was made to send it; guests run on. The
// error is nil when ctx ended it.
func (a *Agent) Run(ctx context.Context) error { return ctx.Err() }
