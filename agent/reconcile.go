package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

const (
	// maxActions bounds how many domains are started, stopped or deleted at once;
	// further ones wait their turn.
	maxActions = 4
	// reconcileEvery is the time between two looks at the host when nothing
	// happens: what an event did not tell is found then.
	reconcileEvery = 5 * time.Second
	// stopGrace is how long a guest may take to shut down before its plug is pulled;
	// deleteGrace when it is to be deleted.
	stopGrace   = 30 * time.Second
	deleteGrace = 5 * time.Second
	// fullReadingTimeout bounds the reading before a stop or a resize. That then goes
	// ahead without: what the counters grew by since the last round is given away.
	fullReadingTimeout = 5 * time.Second
	// resizeTimeout bounds a resize, which a hung QEMU would hold up.
	resizeTimeout = time.Minute
	// actionTimeout bounds one action, downloads of images included; it is then
	// repeated after a pause.
	actionTimeout = 15 * time.Minute
)

// reconciler makes the host what the control plane wants. It is driven by levels,
// not by edges: each pass compares what is wanted with what is, whatever happened
// before. Per instance there is one action at a time.
type reconciler struct {
	hypervisor  Hypervisor
	image       func(ctx context.Context, img hostapi.Image) (ImageFiles, error)
	fullReading func(ctx context.Context) error
	clock       Clock
	log         *slog.Logger
	kick        chan struct{} // makes a pass happen soon
	reported    func()        // called after what is observed changed; must not block
	slots       chan struct{}

	mu       sync.Mutex
	desired  hostapi.Desired
	told     bool // desired was heard at least once
	records  map[metering.InstanceID]*record
	observed []hostapi.ObservedInstance
	ended    int   // actions that have ended
	err      error // why the last list of domains is not complete
}

func newReconciler(cfg Config, fullReading func(context.Context) error,
	image func(context.Context, hostapi.Image) (ImageFiles, error), reported func()) *reconciler {
	return &reconciler{
		hypervisor: cfg.Hypervisor, image: image, fullReading: fullReading, clock: cfg.Clock, log: cfg.Log,
		kick: make(chan struct{}, 1), reported: reported, slots: make(chan struct{}, maxActions),
		records: map[metering.InstanceID]*record{},
	}
}

// want takes over a new desired state.
func (r *reconciler) want(d hostapi.Desired) {
	r.mu.Lock()
	r.desired, r.told = d, true
	r.mu.Unlock()
	poke(r.kick)
}

// look makes a pass happen soon.
func (r *reconciler) look() { poke(r.kick) }

// state is what was last observed, the revision it answers, and why it is not
// complete.
func (r *reconciler) state() (revision uint64, observed []hostapi.ObservedInstance, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.desired.Revision, r.observed, r.err
}

// run makes passes until ctx ends and no action is under way.
func (r *reconciler) run(ctx context.Context) {
	var actions sync.WaitGroup
	defer actions.Wait()
	for ctx.Err() == nil {
		pause := r.pass(ctx, &actions)
		timer := time.NewTimer(pause)
		select {
		case <-r.kick:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// pass looks at the host once and begins what has to be done. It returns how long
// the next pass may take to come.
func (r *reconciler) pass(ctx context.Context, actions *sync.WaitGroup) time.Duration {
	r.mu.Lock()
	ended := r.ended
	r.mu.Unlock()
	list, err := r.hypervisor.Domains(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil {
		return reconcileEvery
	}
	if r.ended != ended {
		return 0 // the list may be older than what an action has done meanwhile
	}
	r.fail(err)
	domains := make(map[metering.InstanceID]*Domain, len(list))
	for i := range list {
		domains[list[i].ID] = &list[i]
	}
	pause := reconcileEvery
	now := time.Now()
	for _, want := range r.desired.Instances {
		rec := r.record(want.ID)
		if rec.doing != "" || r.unknown(domains[want.ID]) {
			continue
		}
		act := decide(want, domains[want.ID], rec, now)
		if wait := rec.retryAt.Sub(now); wait > 0 {
			pause = min(pause, wait)
		}
		if act != actNone {
			r.begin(ctx, actions, act, want, domains[want.ID], rec)
		}
	}
	r.forget(domains)
	r.observe(domains)
	return pause
}

// fail notes why some or all domains could not be looked at (nil: all could).
func (r *reconciler) fail(err error) {
	if err != nil && r.err == nil {
		r.log.Error("the hypervisor's domains cannot be listed", "err", err)
	}
	if (err == nil) != (r.err == nil) {
		r.reported()
	}
	r.err = err
}

// unknown reports whether a domain that was not listed may exist all the same:
// nothing is done to it, and nothing said of it.
func (r *reconciler) unknown(d *Domain) bool { return d == nil && r.err != nil }

func (r *reconciler) record(id metering.InstanceID) *record {
	rec := r.records[id]
	if rec == nil {
		rec = &record{}
		r.records[id] = rec
	}
	return rec
}

// begin does act beside the passes.
func (r *reconciler) begin(ctx context.Context, actions *sync.WaitGroup, act action,
	want hostapi.DesiredInstance, is *Domain, rec *record) {
	switch act {
	case actStart:
		rec.generation, rec.doing = want.Generation, compute.StateStarting
	case actResize: // not carried out before it is done; it runs all the while
		rec.doing = is.State
	default:
		rec.generation, rec.doing = want.Generation, compute.StateStopping
	}
	running := is != nil && active(is)
	actions.Go(func() {
		r.slots <- struct{}{}
		err := r.act(ctx, act, want, running)
		<-r.slots
		if err != nil && ctx.Err() == nil {
			r.log.Error("an instance could not be changed", "instance", want.ID, "action", act, "err", err)
		}
		r.mu.Lock()
		rec.done(act, err, time.Now())
		r.ended++
		r.mu.Unlock()
		r.look()
	})
}

// act does one action. Repeating it, whole or in part, is harmless.
func (r *reconciler) act(ctx context.Context, act action, want hostapi.DesiredInstance, running bool) error {
	ctx, cancel := context.WithTimeout(ctx, actionTimeout)
	defer cancel()
	r.log.Info("instance", "instance", want.ID, "action", act, "generation", want.Generation, "lease", want.Lease, "start", want.Start)
	switch act {
	case actStop:
		return r.stop(ctx, want.ID, stopGrace)
	case actDelete:
		if running {
			if err := r.stop(ctx, want.ID, deleteGrace); err != nil {
				return err
			}
		}
		return r.hypervisor.Delete(ctx, want.ID)
	case actRelease:
		if running {
			if err := r.stop(ctx, want.ID, stopGrace); err != nil {
				return err
			}
		}
		return r.hypervisor.Release(ctx, want.ID)
	case actResize:
		return r.resize(ctx, want)
	case actReplace:
		if err := r.stop(ctx, want.ID, stopGrace); err != nil {
			return err
		}
	}
	return r.start(ctx, want)
}

func (r *reconciler) start(ctx context.Context, want hostapi.DesiredInstance) error {
	files, err := r.image(ctx, want.Image)
	if err != nil {
		return err
	}
	return r.hypervisor.Start(ctx, spec(want, files))
}

func spec(want hostapi.DesiredInstance, files ImageFiles) Spec {
	return Spec{
		ID: want.ID, Lease: want.Lease, Start: want.Start, Name: want.Name, Flavor: want.Flavor,
		Image: files, MAC: want.MAC, UserData: want.UserData, SSHKeys: want.SSHKeys,
	}
}

// stop takes a full reading, then ends the domain.
func (r *reconciler) stop(ctx context.Context, id metering.InstanceID, grace time.Duration) error {
	r.read(ctx, id, actStop)
	return r.hypervisor.Stop(ctx, id, grace)
}

// resize takes a full reading before and after, so that the epoch under the new
// lease begins as near to the change as can be, also when it failed half-way.
func (r *reconciler) resize(ctx context.Context, want hostapi.DesiredInstance) error {
	ctx, cancel := context.WithTimeout(ctx, resizeTimeout)
	defer cancel()
	r.read(ctx, want.ID, actResize)
	err := r.hypervisor.Resize(ctx, spec(want, ImageFiles{}))
	r.read(ctx, want.ID, actResize)
	return err
}

// read takes a full reading for an action, which goes ahead without when it cannot
// be had in time.
func (r *reconciler) read(ctx context.Context, id metering.InstanceID, act action) {
	ctx, cancel := context.WithTimeout(ctx, fullReadingTimeout)
	defer cancel()
	if err := r.fullReading(ctx); err != nil {
		r.log.Warn("acting without a full reading", "instance", id, "action", act, "err", err)
	}
}

// forget drops the records of instances that are neither wanted nor here.
func (r *reconciler) forget(domains map[metering.InstanceID]*Domain) {
	wanted := make(map[metering.InstanceID]bool, len(r.desired.Instances))
	for _, want := range r.desired.Instances {
		wanted[want.ID] = true
	}
	for id, rec := range r.records {
		if !wanted[id] && domains[id] == nil && rec.doing == "" && r.err == nil {
			delete(r.records, id)
		}
	}
}

// observe puts together what the host has, and says so when it changed. Domains
// that the control plane does not list are shown to it and otherwise left alone.
func (r *reconciler) observe(domains map[metering.InstanceID]*Domain) {
	now := r.clock().Wall
	var all []hostapi.ObservedInstance
	listed := map[metering.InstanceID]bool{}
	for _, want := range r.desired.Instances {
		listed[want.ID] = true
		if !r.unknown(domains[want.ID]) {
			all = append(all, observe(want, domains[want.ID], r.record(want.ID), now))
		}
	}
	for id, d := range domains {
		if !listed[id] {
			all = append(all, observe(hostapi.DesiredInstance{ID: id}, d, r.record(id), now))
		}
	}
	slices.SortFunc(all, func(a, b hostapi.ObservedInstance) int { return cmp.Compare(a.ID, b.ID) })
	if !slices.Equal(all, r.observed) {
		r.observed = all
		r.reported()
	}
}

// observe is one instance as it is.
func observe(want hostapi.DesiredInstance, is *Domain, rec *record, now time.Time) hostapi.ObservedInstance {
	o := hostapi.ObservedInstance{
		ID: want.ID, Generation: rec.generation, Lease: want.Lease, Start: want.Start,
		State: compute.StatePending, Error: rec.err,
	}
	switch {
	case is != nil:
		o.Lease, o.Start, o.State, o.Address = is.Lease, is.Start, is.State, is.Address
		o.GuestOff = is.Reason == OffGuest && rec.doing == "" && !active(is)
		if want.Power == compute.PowerStopped && !active(is) {
			o.State = compute.StateStopped // also when it crashed before: nobody starts it again
		}
	case rec.deleted && want.Power == compute.PowerDeleted:
		o.State = compute.StateDeleted
	case want.Power == compute.PowerReleased:
		o.State = compute.StateReleased
	case want.Power == compute.PowerStopped:
		o.State = compute.StateStopped
	}
	if rec.doing != "" {
		o.State = rec.doing
	} else if rec.err != "" && !resizes(want, is) {
		o.State = compute.StateFailed
	} else if o.State == compute.StateFailed {
		o.Error = fmt.Sprintf("the virtual machine ended by itself %d times; it is started again", rec.crashes)
	}
	if rec.state != o.State {
		rec.state, rec.since = o.State, now
	}
	o.Since = rec.since
	return o
}
