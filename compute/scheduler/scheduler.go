// Package scheduler sees to instances whose host cannot say how they are.
//
// It owns when a host counts as unreachable. It never decides what is wanted,
// moves or starts anything, and holds no rule of states: compute does.
//
// Invariants:
//   - An instance whose host was not heard from is unknown, never running.
//   - Doing it twice, or in two processes at once, equals doing it once.
package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
)

// Run is the task.
type Run struct {
	Store *computedb.Store
	Log   *slog.Logger
}

// Once shows the instances of every host not heard from for compute.HostSilence
// as unknown, and confirms deletions that wait for removed hosts. Each is a
// bounded number of statements; a host's next report undoes the first.
func (r *Run) Once(ctx context.Context, now time.Time) error {
	began := time.Now()
	unknown, err := r.Store.MarkUnknown(ctx, now.Add(-compute.HostSilence))
	err = errors.Join(err, r.Store.ReleaseRemoved(ctx))
	if unknown > 0 {
		r.Log.Warn("hosts are silent", "instances_now_unknown", unknown, "took", time.Since(began))
	}
	return err
}
