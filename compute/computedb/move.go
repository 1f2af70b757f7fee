package computedb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// Move orders that a stopped instance, of whatever tenant, go to another host
// that shares its storage. It has its place there at once. Its present host is
// told to let it go, and when that has said so, it gets its lease on the other
// (see Observe): so it is never on two. Until then it cannot be started or
// resized; a move to the host where it is takes the order back. The error wraps
// what compute.Instance.Move refuses, compute.ErrNotFound (an instance or a
// host), ErrNoSharedStorage, ErrNoCapacity or ErrOldAgent.
func (s *Store) Move(ctx context.Context, id metering.InstanceID, to metering.HostID) (compute.Instance, error) {
	next, err := s.move(ctx, id, to)
	if err != nil {
		return compute.Instance{}, fmt.Errorf("move instance %s to host %s: %w", id, to, err)
	}
	return next, nil
}

func (s *Store) move(ctx context.Context, id metering.InstanceID, to metering.HostID) (next compute.Instance, err error) {
	tenant, err := s.Owner(ctx, id)
	if err != nil {
		return next, err
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := lockQuota(ctx, tx, tenant); err != nil {
			return err
		}
		in, err := lockInstance(ctx, tx, tenant, id, to)
		if err != nil {
			return err
		}
		var changed bool
		if next, changed, err = in.Move(to); err != nil || !changed {
			return err
		}
		if next.MovesTo != "" {
			if err := s.admitMove(ctx, tx, next); err != nil {
				return err
			}
		}
		if err := update(ctx, tx, next); err != nil {
			return err
		}
		return announce(ctx, tx, next.Host)
	})
	return next, err
}

// admitMove checks that the host to which the instance moves, both being locked,
// shares its storage and takes it.
func (s *Store) admitMove(ctx context.Context, tx pgx.Tx, next compute.Instance) error {
	flavor, err := flavorOf(ctx, tx, next.ID)
	if err != nil {
		return err
	}
	from, err := readHosts(ctx, tx, oneHostSQL, next.Host)
	if err != nil {
		return err
	}
	to, err := readHosts(ctx, tx, oneHostSQL, next.MovesTo)
	switch {
	case err != nil:
		return err
	case len(to) == 0:
		return fmt.Errorf("host: %w", compute.ErrNotFound)
	case from[0].Storage == "" || from[0].Storage != to[0].Storage:
		return fmt.Errorf("%w: %s has its disks on %q, %s on %q", compute.ErrNoSharedStorage,
			next.Host, from[0].Storage, next.MovesTo, to[0].Storage)
	case from[0].Version < orderSince:
		return compute.ErrOldAgent
	}
	return to[0].Takes(flavor, s.now())
}

// arrive grants the lease on the new host to an instance whose old one said that
// it has let it go, as was is. If another order came since, it does nothing; if
// the new host was removed since, the instance stays.
func (s *Store) arrive(ctx context.Context, was compute.Instance) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := lockQuota(ctx, tx, was.Tenant); err != nil {
			return err
		}
		in, err := lockInstance(ctx, tx, was.Tenant, was.ID, was.MovesTo)
		if err != nil || in.Generation != was.Generation {
			return err
		}
		to, err := readHosts(ctx, tx, oneHostSQL, in.MovesTo)
		if err != nil {
			return err
		}
		if to[0].Removed {
			next, _, err := in.Move(in.Host)
			if err != nil {
				return err
			}
			s.Log.Warn("the host that an instance moves to was removed: it stays", "instance", in.ID, "host", in.Host, "to", in.MovesTo)
			if err := update(ctx, tx, next); err != nil {
				return err
			}
			return announce(ctx, tx, in.Host)
		}
		return s.hand(ctx, tx, in, in.Arrived())
	})
	if err != nil && !errors.Is(err, compute.ErrNotFound) { // deleted since
		return fmt.Errorf("move instance %s to host %s: %w", was.ID, was.MovesTo, err)
	}
	return nil
}

// hand ends the instance's lease on one host and grants that on the other.
func (s *Store) hand(ctx context.Context, tx pgx.Tx, in, next compute.Instance) error {
	flavor, err := flavorOf(ctx, tx, in.ID)
	if err != nil {
		return err
	}
	now := s.now()
	if _, err := tx.Exec(ctx, endLeasesSQL, in.ID, in.Lease, now); err != nil {
		return err
	}
	if err := update(ctx, tx, next); err != nil {
		return err
	}
	s.Log.Info("instance moved", "instance", in.ID, "tenant", in.Tenant, "from", in.Host, "host", next.Host, "lease", next.Lease)
	if err := announce(ctx, tx, in.Host); err != nil {
		return err
	}
	return grant(ctx, tx, next, flavor, now)
}
