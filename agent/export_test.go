package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/spool"
	"github.com/usance/usance/metering/wire"
)

// Rig is a recorder that is driven step by step instead of by its loop, on a real
// spool and state file. Making a second one on the same folder after Kill is an
// agent that was killed and started again.
type Rig struct {
	r     *recorder
	spool *spool.Spool
}

// NewRig starts an agent's recorder on the folder.
func NewRig(hv Hypervisor, clock Clock, dir string, log *slog.Logger) (*Rig, error) {
	sp, err := spool.Open(filepath.Join(dir, "spool"), spool.Config{Log: log})
	if err != nil {
		return nil, err
	}
	m := newMeter(clock().Boot, log)
	j := &journal{path: filepath.Join(dir, "meter.json"), spool: sp}
	if err := j.load(m, log); err != nil {
		return nil, err
	}
	cfg := Config{Hypervisor: hv, Clock: clock, Interval: roundInterval, Log: log}
	r := newRecorder(cfg, m, j, func() {})
	r.lastRound = clock().Wall
	r.commit()
	return &Rig{r, sp}, nil
}

func (g *Rig) settle() {
	for g.r.sampling {
		g.r.take(context.Background(), <-g.r.samples)
	}
}

// Event delivers an event, and takes the sample that it causes.
func (g *Rig) Event(e Event) { g.r.event(context.Background(), e); g.settle() }

// Watch says that events arrive from now on, or no longer do.
func (g *Rig) Watch(live bool) {
	g.r.meter.watch(g.r.clock(), live)
	g.r.begin(context.Background())
	g.settle()
}

// Known answers the question for known epochs.
func (g *Rig) Known(k []hostapi.KnownEpoch) {
	g.r.remember(context.Background(), k)
	g.settle()
}

// Tick does what is due.
func (g *Rig) Tick() { g.r.tick(context.Background()); g.settle() }

// Full takes a full reading.
func (g *Rig) Full() error {
	done := make(chan error, 1)
	g.r.waiting = append(g.r.waiting, done)
	g.r.begin(context.Background())
	g.settle()
	return <-done
}

// TakeSamples takes in samples that were read earlier.
func (g *Rig) TakeSamples(s []Sample) {
	g.r.sampling = true
	g.r.take(context.Background(), samples{samples: s})
}

// Finish does what the end of the loop does.
func (g *Rig) Finish() error {
	now := g.r.clock()
	g.r.roundsUpTo(now)
	g.r.meter.round(now, 2*g.r.interval)
	g.r.commit()
	return g.spool.Close()
}

// Kill ends the agent as kill -9 does: the spool's lock is released, nothing else.
func (g *Rig) Kill() error { return g.spool.Close() }

// Drain gives every batch that waits in the spool to f, oldest first.
func (g *Rig) Drain(f func(*metering.Batch)) error {
	for {
		item, ok, err := g.spool.Next()
		if err != nil || !ok {
			return err
		}
		var b wire.Batch
		if err := wire.Decode(&b, item.Body); err != nil {
			return err
		}
		f(b.Rows())
		if err := g.spool.Ack(item); err != nil {
			return err
		}
	}
}

var errTest = errors.New("no")

// Reconciler is a reconciler alone.
type Reconciler struct{ r *reconciler }

// NewReconciler makes one whose full readings are calls of f.
func NewReconciler(hv Hypervisor, clock Clock, log *slog.Logger, f func(context.Context) error) Reconciler {
	none := func(context.Context, hostapi.Image) (ImageFiles, error) { return ImageFiles{}, nil }
	return Reconciler{newReconciler(Config{Hypervisor: hv, Clock: clock, Log: log}, f, none, func() {})}
}

func (r Reconciler) Run(ctx context.Context) { r.r.run(ctx) }

func (r Reconciler) Look() { r.r.look() }

func (r Reconciler) Want(all ...hostapi.DesiredInstance) {
	r.r.want(hostapi.Desired{Revision: 1, Instances: all})
}

func (r Reconciler) Observed() []hostapi.ObservedInstance {
	_, all, _ := r.r.state()
	return all
}
