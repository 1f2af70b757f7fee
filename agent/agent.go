package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usance/usance/agent/hoststat"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/spool"
)

const (
	statusEvery = 10 * time.Second       // between reports when nothing changes
	statusPause = 200 * time.Millisecond // at least between two reports, so that changes at once are told at once
	pollWait    = 30 * time.Second       // of one long poll for the desired state
)

// Config is what an agent needs.
type Config struct {
	Server  string // https URL of the control plane's side for hosts
	Token   string // join token, "<sha256 of the CA>.<secret>"; needed until the host has joined
	DataDir string // the agent keeps its state in DataDir/agent and images in DataDir/images
	Name    string // the host's name, shown to operators
	// Capacity is what the host offers; a field that is 0 is detected.
	Capacity hostapi.Capacity
	// Storage names what the instances' disks lie on, the same on all hosts that
	// share it under the same path; "": this host's own, so none can move.
	Storage    string
	Hypervisor Hypervisor
	Clock      Clock         // nil: the machine's
	Interval   time.Duration // between rounds; 0: 10 s
	SpoolBytes int64         // bound of the spool on disk; 0: spool.DefaultMaxBytes
	Log        *slog.Logger
}

// Agent is the program of one host.
type Agent struct {
	cfg        Config
	spool      *spool.Spool
	client     *hostapi.Client
	recorder   *recorder
	sender     *sender
	reconciler *reconciler
	opened     atomic.Bool   // the fields above are set
	changed    chan struct{} // a status is to be sent soon
	fetch      sync.Mutex    // one image download at a time
}

// New checks cfg. It touches neither disk nor network.
func New(cfg Config) (*Agent, error) {
	switch {
	case cfg.Hypervisor == nil:
		return nil, errors.New("agent: no hypervisor")
	case cfg.Log == nil:
		return nil, errors.New("agent: no logger")
	case cfg.Server == "":
		return nil, errors.New("agent: no server; its URL is like https://usance.example:8443")
	case !filepath.IsAbs(cfg.DataDir):
		return nil, fmt.Errorf("agent: data folder %q is not an absolute path", cfg.DataDir)
	case cfg.Interval < 0:
		return nil, fmt.Errorf("agent: interval %s is negative", cfg.Interval)
	case cfg.SpoolBytes < 0:
		return nil, fmt.Errorf("agent: %d bytes for the spool", cfg.SpoolBytes)
	}
	if cfg.Interval == 0 {
		cfg.Interval = roundInterval
	}
	if cfg.Clock == nil {
		clock, err := HostClock()
		if err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
		cfg.Clock = clock
	}
	return &Agent{cfg: cfg, changed: make(chan struct{}, 1)}, nil
}

// Run joins the control plane if the host has not yet, then meters and
// reconciles until ctx ends. When it returns, what was measured is in the spool,
// and a last attempt of at most 2 s was made to send it; guests run on. The
// error is nil when ctx ended it.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var loops sync.WaitGroup
	for _, loop := range []func(context.Context){
		a.recorder.run, a.recorder.watch, a.reconciler.run, a.sender.run,
		a.pollDesired, a.reportStatus, a.remember,
		func(ctx context.Context) { a.renew(ctx, a.client) },
	} {
		loops.Go(func() { loop(ctx) })
	}
	loops.Wait()
	a.sender.finish()
	return a.spool.Close()
}

// open makes everything that the loops need.
func (a *Agent) open(ctx context.Context) error {
	if err := os.MkdirAll(a.cfg.DataDir, 0o755); err != nil { // QEMU reads images and disks below
		return fmt.Errorf("data folder: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(a.cfg.DataDir, "agent"), 0o700); err != nil {
		return fmt.Errorf("agent's folder: %w", err)
	}
	sp, err := spool.Open(a.file("spool"), spool.Config{MaxBytes: a.cfg.SpoolBytes, Log: a.cfg.Log})
	if err != nil {
		return err
	}
	if err := a.connect(ctx); err != nil {
		return errors.Join(err, sp.Close())
	}
	a.spool = sp
	m := newMeter(a.cfg.Clock().Boot, a.cfg.Log)
	j := &journal{path: a.file("meter.json"), spool: sp}
	if err := j.load(m, a.cfg.Log); err != nil {
		return errors.Join(err, sp.Close())
	}
	a.recorder = newRecorder(a.cfg, m, j, func() { a.reconciler.look() })
	a.reconciler = newReconciler(a.cfg, a.recorder.fullReading, a.image, a.report)
	readings := &ingest.Client{URL: a.cfg.Server, HTTP: a.client.HTTP()}
	a.sender = newSender(sp, readings, a.cfg.Log, a.report)
	a.opened.Store(true)
	return nil
}

// connect completes the capacity and the identity of the host.
func (a *Agent) connect(ctx context.Context) error {
	found, err := hoststat.Capacity(ctx, a.cfg.DataDir)
	if err != nil {
		return err
	}
	c := &a.cfg.Capacity
	c.VCPUs = or(c.VCPUs, found.VCPUs)
	c.MemoryMiB = or(c.MemoryMiB, found.MemoryMiB)
	c.DiskMiB = or(c.DiskMiB, found.DiskMiB)

	id, err := a.join(ctx)
	if err != nil {
		return err
	}
	a.client, err = hostapi.NewClient(a.cfg.Server, id)
	if err != nil {
		return err
	}
	a.cfg.Log.Info("agent", "host", id.Host, "server", a.cfg.Server, "vcpus", c.VCPUs, "memory_mib", c.MemoryMiB, "disk_mib", c.DiskMiB)
	return nil
}

// or is v, or other when v is 0.
func or[T int | int64](v, other T) T {
	if v == 0 {
		return other
	}
	return v
}

// image makes the image's files exist here.
func (a *Agent) image(ctx context.Context, img hostapi.Image) (ImageFiles, error) {
	if len(img.Files) == 0 {
		return ImageFiles{CommandLine: img.CommandLine}, nil
	}
	a.fetch.Lock()
	defer a.fetch.Unlock()
	paths, err := a.client.Image(ctx, img, filepath.Join(a.cfg.DataDir, "images"))
	if err != nil {
		return ImageFiles{}, err
	}
	return ImageFiles{
		Kernel: paths["kernel"], Initrd: paths["initrd"], Disk: paths["disk"], CommandLine: img.CommandLine,
	}, nil
}

// pollDesired keeps up with what the control plane wants.
func (a *Agent) pollDesired(ctx context.Context) {
	var revision, fullReading uint64
	for failures := 0; ctx.Err() == nil; {
		d, err := a.client.Desired(ctx, revision, pollWait)
		if err != nil {
			if ctx.Err() == nil {
				a.cfg.Log.Warn("the control plane cannot be asked what is wanted", "err", err)
			}
			sleep(ctx, refusable(err, backoff(failures, minBackoff, maxBackoff)))
			failures++
			continue
		}
		failures = 0
		revision = d.Revision
		a.reconciler.want(d)
		if d.FullReading > fullReading && a.takeFullReading(ctx, d.FullReading) {
			fullReading = d.FullReading
		} else if d.FullReading > fullReading {
			revision = 0 // ask again at once, and try again
		}
	}
}

// takeFullReading takes the full reading of that number, which is reported once
// the control plane has it.
func (a *Agent) takeFullReading(ctx context.Context, number uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, fullReadingTimeout)
	defer cancel()
	if err := a.recorder.fullReading(ctx); err != nil {
		a.cfg.Log.Warn("a full reading was asked for and could not be taken", "number", number, "err", err)
		sleep(ctx, minBackoff)
		return false
	}
	a.sender.fullReading(number)
	return true
}

// refusable is a longer pause when the control plane refuses this host.
func refusable(err error, pause time.Duration) time.Duration {
	if errors.Is(err, hostapi.ErrUnauthorized) || errors.Is(err, hostapi.ErrRemoved) {
		return refusedPause
	}
	return pause
}

// report makes a status be sent soon.
func (a *Agent) report() { poke(a.changed) }

// reportStatus tells the control plane how the host is, after every change and
// at least every statusEvery.
func (a *Agent) reportStatus(ctx context.Context) {
	pause := statusEvery
	for ctx.Err() == nil {
		timer := time.NewTimer(pause)
		select {
		case <-a.changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		pause = statusEvery
		if err := a.client.Status(ctx, a.status(ctx)); err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("the control plane cannot be told how this host is", "err", err)
			sleep(ctx, refusable(err, time.Second))
			a.report()
		}
		sleep(ctx, statusPause)
	}
}

func (a *Agent) status(ctx context.Context) hostapi.Status {
	revision, observed, err := a.reconciler.state()
	waiting := a.spool.Stat()
	s := hostapi.Status{
		Sent:        a.cfg.Clock().Wall,
		Revision:    revision,
		FullReading: a.sender.sent.Load(),
		Capacity:    a.cfg.Capacity,
		Version:     hostapi.Version,
		Storage:     a.cfg.Storage,
		Host:        hoststat.Read(ctx, a.cfg.DataDir),
		Spool: hostapi.SpoolStat{Bytes: waiting.Bytes, Limit: waiting.Limit, Readings: waiting.Readings, Oldest: waiting.Oldest,
			Thinned: waiting.Thinned, Refused: waiting.Refused, Aside: waiting.Aside},
		Instances: observed,
	}
	if err != nil {
		s.Host.HypervisorError = err.Error()
	}
	return s
}

// remember gives the meter the control plane's memory when it has none of its
// own. What an agent before this one left in the spool goes first, so that it is
// remembered too; what this one adds does not hold the question up.
func (a *Agent) remember(ctx context.Context) {
	if !a.recorder.meter.lost {
		return
	}
	for a.spool.Inherited() > 0 && ctx.Err() == nil {
		sleep(ctx, minBackoff)
	}
	for failures := 0; ctx.Err() == nil; failures++ {
		known, err := a.client.Epochs(ctx)
		if err == nil {
			select {
			case a.recorder.known <- known:
			case <-ctx.Done():
			}
			return
		}
		if ctx.Err() == nil {
			a.cfg.Log.Warn("the control plane cannot be asked for known epochs", "err", err)
		}
		sleep(ctx, backoff(failures, minBackoff, maxBackoff))
	}
}
