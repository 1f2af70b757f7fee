package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/agenttest"
	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

// yard is a fake host under a reconciler, in a bubble of its own time.
type yard struct {
	host *agenttest.Host
	agent.Reconciler

	mu  sync.Mutex
	log []string // what was done, in order
}

func (y *yard) did(what string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.log = append(y.log, what)
}

func reconciling(t *testing.T, f func(t *testing.T, y *yard)) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{host: agenttest.NewLive(1)}
		y.Reconciler = agent.NewReconciler(y.host, y.host.Now, slog.New(slog.DiscardHandler), func(context.Context) error {
			y.did("full reading")
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		go y.host.Watch(ctx, func() {}, func(e agent.Event) {
			y.did(string(e.Kind))
			y.Look()
		})
		synctest.Wait()
		done := make(chan struct{})
		go func() { y.Run(ctx); close(done) }()
		f(t, y)
		cancel()
		<-done
	})
}

func order(id metering.InstanceID, generation uint64, p compute.Power, start metering.StartNo) hostapi.DesiredInstance {
	return hostapi.DesiredInstance{ID: id, Generation: generation, Lease: 1, Start: start, Power: p,
		Flavor: compute.Flavor{Name: "small", VCPUs: 1, MemoryMiB: 512}}
}

func (y *yard) expect(t *testing.T, want hostapi.ObservedInstance) {
	t.Helper()
	synctest.Wait()
	for _, got := range y.Observed() {
		if got.ID == want.ID {
			if got.State != want.State || got.Generation != want.Generation || got.GuestOff != want.GuestOff || got.Start != want.Start {
				t.Errorf("observed %+v, want %+v", got, want)
			}
			return
		}
	}
	t.Errorf("%s is not observed; want %+v", want.ID, want)
}

func TestReconcileFromCreationToDeletion(t *testing.T) {
	reconciling(t, func(t *testing.T, y *yard) {
		y.host.SetDelay(2 * time.Second)
		y.Want(order(vm, 1, compute.PowerRunning, 1))
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 1, State: compute.StateStarting, Start: 1})
		time.Sleep(3 * time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 1, State: compute.StateRunning, Start: 1})
		y.Want(order(vm, 2, compute.PowerStopped, 1))
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 2, State: compute.StateStopping, Start: 1})
		time.Sleep(3 * time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 2, State: compute.StateStopped, Start: 1})
		y.Want(order(vm, 3, compute.PowerRunning, 2))
		time.Sleep(3 * time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 3, State: compute.StateRunning, Start: 2})
		y.Want(order(vm, 4, compute.PowerDeleted, 2))
		time.Sleep(6 * time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 4, State: compute.StateDeleted, Start: 2})
		want := []string{"started", "full reading", "stopped", "started", "full reading", "stopped"}
		if !slices.Equal(y.log, want) {
			t.Errorf("done: %v, want %v", y.log, want)
		}
	})
}

func TestReconcileStopAndStartMissed(t *testing.T) {
	reconciling(t, func(t *testing.T, y *yard) {
		y.Want(order(vm, 1, compute.PowerRunning, 1))
		time.Sleep(time.Second)
		y.Want(order(vm, 3, compute.PowerRunning, 2)) // the order to stop was never seen
		time.Sleep(time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 3, State: compute.StateRunning, Start: 2})
		want := []string{"started", "full reading", "stopped", "started"}
		if !slices.Equal(y.log, want) {
			t.Errorf("done: %v, want %v", y.log, want)
		}
	})
}

func TestReconcileGuestOff(t *testing.T) {
	reconciling(t, func(t *testing.T, y *yard) {
		y.Want(order(vm, 1, compute.PowerRunning, 1))
		time.Sleep(time.Second)
		if err := y.host.GuestOff(vm); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 1, State: compute.StateStopped, GuestOff: true, Start: 1})
		y.Want(order(vm, 2, compute.PowerRunning, 2))
		time.Sleep(time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 2, State: compute.StateRunning, Start: 2})
	})
}

func TestReconcileRestartsACrashedDomainUnderTheSameStart(t *testing.T) {
	reconciling(t, func(t *testing.T, y *yard) {
		y.Want(order(vm, 1, compute.PowerRunning, 1))
		time.Sleep(time.Second)
		for _, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			if err := y.host.Crash(vm); err != nil {
				t.Fatal(err)
			}
			time.Sleep(pause - 100*time.Millisecond)
			y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 1, State: compute.StateFailed, Start: 1})
			time.Sleep(200 * time.Millisecond)
			y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 1, State: compute.StateRunning, Start: 1})
		}
		if n := len(y.host.Truths()); n != 4 {
			t.Errorf("%d epochs, want one for each life: 4", n)
		}
	})
}

// A domain that crashed and is then wanted off is off: what ended it no longer counts.
func TestReconcileStopsACrashedDomain(t *testing.T) {
	reconciling(t, func(t *testing.T, y *yard) {
		y.Want(order(vm, 1, compute.PowerRunning, 1))
		time.Sleep(time.Second)
		if err := y.host.Crash(vm); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		y.Want(order(vm, 2, compute.PowerStopped, 1))
		time.Sleep(time.Minute)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 2, State: compute.StateStopped, Start: 1})
	})
}

func TestReconcileLeavesAloneWhatIsNotListed(t *testing.T) {
	reconciling(t, func(t *testing.T, y *yard) {
		if err := y.host.Start(t.Context(), spec(vm, 1)); err != nil {
			t.Fatal(err)
		}
		y.Want()
		time.Sleep(time.Minute)
		y.expect(t, hostapi.ObservedInstance{ID: vm, State: compute.StateRunning, Start: 1})
	})
}

func TestReconcileTriesAgainAfterTheHypervisorWasAway(t *testing.T) {
	reconciling(t, func(t *testing.T, y *yard) {
		y.host.SetDown(true)
		y.Want(order(vm, 1, compute.PowerRunning, 1))
		time.Sleep(time.Minute)
		if seen := y.Observed(); len(seen) != 0 {
			t.Errorf("observed %+v while the hypervisor was away, want nothing", seen)
		}
		y.host.SetDown(false)
		time.Sleep(10 * time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 1, State: compute.StateRunning, Start: 1})
	})
}

func TestReconcileManyAtOnce(t *testing.T) {
	reconciling(t, func(t *testing.T, y *yard) {
		y.host.SetDelay(time.Second)
		var all []hostapi.DesiredInstance
		for i := range 12 {
			id := vm[:19] + metering.InstanceID([]byte{byte('a' + i/10), byte('0' + i%10)})
			all = append(all, order(id, 1, compute.PowerRunning, 1))
		}
		y.Want(all...)
		time.Sleep(3500 * time.Millisecond) // 12 starts of a second each, 4 at once
		for _, o := range all {
			y.expect(t, hostapi.ObservedInstance{ID: o.ID, Generation: 1, State: compute.StateRunning, Start: 1})
		}
	})
}

func TestReconcileResize(t *testing.T) {
	reconciling(t, func(t *testing.T, y *yard) {
		y.Want(order(vm, 1, compute.PowerRunning, 1))
		time.Sleep(time.Second)
		larger := order(vm, 2, compute.PowerRunning, 1)
		larger.Lease, larger.Flavor.VCPUs = 2, 4
		y.host.SetResizeError(errors.New("no vCPUs left"))
		y.Want(larger)
		for _, pause := range []time.Duration{0, 2 * time.Second, 4 * time.Second} { // it runs on, says why, and is tried again
			time.Sleep(pause)
			y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 1, State: compute.StateRunning, Start: 1})
			if o := y.Observed()[0]; o.Lease != 1 || o.Error != "no vCPUs left" {
				t.Errorf("after %s: %+v; want lease 1 and the error", pause, o)
			}
		}
		y.host.SetResizeError(nil)
		time.Sleep(8 * time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 2, State: compute.StateRunning, Start: 1})
		if o := y.Observed()[0]; o.Lease != 2 || o.Error != "" {
			t.Errorf("done: %+v; want lease 2 and no error", o)
		}
		truths := y.host.Truths()
		if len(truths) != 2 || truths[0].Epoch.Start != truths[1].Epoch.Start || truths[1].Epoch.Lease != 2 {
			t.Errorf("epochs %+v, want two of one start", truths)
		}
		want := []string{"started"}
		for range 4 { // attempts
			want = append(want, "full reading", "full reading")
		}
		if !slices.Equal(y.log, want) {
			t.Errorf("done: %v, want %v", y.log, want)
		}
	})
}

func TestReconcileRelease(t *testing.T) {
	reconciling(t, func(t *testing.T, y *yard) {
		y.Want(order(vm, 1, compute.PowerRunning, 1))
		time.Sleep(time.Second)
		y.Want(order(vm, 2, compute.PowerStopped, 1))
		time.Sleep(time.Second)
		y.Want(order(vm, 3, compute.PowerReleased, 1))
		time.Sleep(time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 3, State: compute.StateReleased, Start: 1})
		if list, err := y.host.Domains(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("after its release: %+v, %v", list, err)
		}
		y.Want(order(vm, 4, compute.PowerStopped, 1)) // taken back
		time.Sleep(time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 4, State: compute.StateStopped, Start: 1})
		y.Want(order(vm, 5, compute.PowerRunning, 2))
		time.Sleep(time.Second)
		y.expect(t, hostapi.ObservedInstance{ID: vm, Generation: 5, State: compute.StateRunning, Start: 2})
	})
}
