package computedb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

// Limits of what a tenant may send along; beyond them an order is compute.ErrInvalid.
const (
	maxUserDataBytes = 64 << 10
	maxSSHKeys       = 32
	maxSSHKeyBytes   = 16 << 10
	maxKeyBytes      = 255
)

// CreateRequest asks for a new instance.
type CreateRequest struct {
	Tenant   metering.TenantID
	Name     string // host name of the guest
	Flavor   string
	Image    string
	UserData string   // cloud-init
	SSHKeys  []string // authorized_keys lines
	// Key makes a repeated request return the instance of the first; it is the
	// tenant's, "" for none. What else the repetition says is not looked at.
	Key string
}

func (r CreateRequest) check() error {
	if err := compute.CheckName(r.Name); err != nil {
		return err
	}
	switch {
	case len(r.UserData) > maxUserDataBytes:
		return fmt.Errorf("%w: %d bytes of user data, at most %d are", compute.ErrInvalid, len(r.UserData), maxUserDataBytes)
	case len(r.SSHKeys) > maxSSHKeys:
		return fmt.Errorf("%w: %d SSH keys, at most %d are", compute.ErrInvalid, len(r.SSHKeys), maxSSHKeys)
	case len(r.Key) > maxKeyBytes:
		return fmt.Errorf("%w: an idempotency key of %d bytes, at most %d are", compute.ErrInvalid, len(r.Key), maxKeyBytes)
	}
	for _, key := range r.SSHKeys {
		if len(key) > maxSSHKeyBytes {
			return fmt.Errorf("%w: an SSH key of %d bytes, at most %d are", compute.ErrInvalid, len(key), maxSSHKeyBytes)
		}
	}
	return nil
}

// Create admits a new instance and places it, wanted running, in one
// transaction. The error wraps compute.ErrInvalid, ErrNoFlavor, ErrNoImage,
// ErrImageTooLarge, ErrQuota (a *compute.QuotaError) or ErrNoCapacity (a *compute.Unplaced), or is
// what Credit said.
func (s *Store) Create(ctx context.Context, req CreateRequest) (compute.Instance, error) {
	in, err := s.create(ctx, req)
	if err != nil {
		return compute.Instance{}, fmt.Errorf("create instance %q of %s: %w", req.Name, req.Tenant, err)
	}
	return in, nil
}

func (s *Store) create(ctx context.Context, req CreateRequest) (in compute.Instance, err error) {
	if err := req.check(); err != nil {
		return in, err
	}
	flavor, err := s.Flavor(ctx, req.Tenant, req.Flavor)
	if err != nil {
		return in, err
	}
	if err := flavor.Check(); err != nil {
		return in, err
	}
	image, err := s.Image(req.Image)
	if err != nil {
		return in, err
	}
	if image.DiskMiB > flavor.DiskMiB {
		return in, fmt.Errorf("%w: the disk of image %s has %d MiB, that of flavor %s %d MiB; take a flavor with at least that of the image",
			compute.ErrImageTooLarge, image.Name, image.DiskMiB, flavor.Name, flavor.DiskMiB)
	}
	now := s.now()
	in = compute.Instance{
		ID: metering.InstanceID(metering.NewID(metering.PrefixInstance)), Tenant: req.Tenant, Name: req.Name,
		Flavor: flavor.Name, Image: image.Name,
		Desired: compute.PowerRunning, Reason: compute.ReasonTenant, Generation: 1, Start: 1, Lease: 1, Under: 1,
		State: compute.StatePending, Since: now, Created: now,
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		quota, err := lockQuota(ctx, tx, req.Tenant)
		if err != nil {
			return err
		}
		if first, err := requested(ctx, tx, req); err != nil || first != "" {
			in.ID = first
			return err
		}
		if err := s.admit(ctx, tx, quota, in, flavor); err != nil {
			return err
		}
		if in.Host, err = claim(ctx, tx, flavor, now); err != nil {
			return err
		}
		return insert(ctx, tx, in, flavor, image, req)
	})
	if err != nil || in.Host != "" {
		return in, err
	}
	return s.Get(ctx, req.Tenant, in.ID) // the first of a repeated request
}

// requested is the instance that an earlier request with the same key made; "": none.
func requested(ctx context.Context, tx pgx.Tx, req CreateRequest) (id metering.InstanceID, err error) {
	if req.Key == "" {
		return "", nil
	}
	err = tx.QueryRow(ctx, `SELECT id FROM instances WHERE tenant = $1 AND request = $2`, req.Tenant, req.Key).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return id, err
}

// admit checks quota and credit for the instance beside all others of its
// tenant, whose row in compute_quotas is locked.
func (s *Store) admit(ctx context.Context, tx pgx.Tx, quota compute.Quota, in compute.Instance, f compute.Flavor) error {
	others, err := held(ctx, tx, in.Tenant, in.ID)
	if err != nil {
		return err
	}
	if err := quota.Check(others.used, compute.Quota{Instances: 1, Capacity: f.Capacity()}); err != nil {
		return err
	}
	if s.Credit == nil {
		return nil
	}
	return s.Credit(ctx, tx, in.Tenant, f.Name, others.running)
}

// errFull says that the chosen host filled up before it was locked.
var errFull = errors.New("host filled up")

// claim chooses a host and locks its row; whoever inserts a lease there has to
// hold that lock. Hosts are looked at without locks and the chosen one again
// under its own, so that admissions to different hosts do not wait for each
// other; one that filled up meanwhile is let go (its lock ends with the
// savepoint) and the choice begins anew.
func claim(ctx context.Context, tx pgx.Tx, f compute.Flavor, now time.Time) (metering.HostID, error) {
	for {
		hosts, err := readHosts(ctx, tx, presentHostsSQL)
		if err != nil {
			return "", err
		}
		best, err := compute.Place(hosts, f, now)
		if err != nil {
			return "", err
		}
		err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, lockHostSQL, best.ID); err != nil {
				return err
			}
			now, err := readHosts(ctx, tx, oneHostSQL, best.ID)
			if err != nil {
				return err
			}
			if !f.Capacity().Fits(now[0].Free()) || now[0].Draining || now[0].Removed {
				return errFull
			}
			return nil
		})
		if !errors.Is(err, errFull) {
			return best.ID, err
		}
	}
}

const insertInstanceSQL = `
	INSERT INTO instances (id, tenant, name, flavor, vcpus, memory_mib, disk_mib, image, image_record,
		user_data, ssh_keys, request, desired, reason, generation, start, state, since, created_at)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, nullif($12, ''), $13, $14, $15, $16, $17, $18, $19)`

const insertLeaseSQL = `
	INSERT INTO leases (instance, no, host, tenant, flavor, image, vcpus, memory_mib, disk_mib, granted_at)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`

func insert(ctx context.Context, tx pgx.Tx, in compute.Instance, f compute.Flavor, image hostapi.Image, req CreateRequest) error {
	keys := req.SSHKeys
	if keys == nil {
		keys = []string{}
	}
	_, err := tx.Exec(ctx, insertInstanceSQL, in.ID, in.Tenant, in.Name, f.Name, f.VCPUs, f.MemoryMiB, f.DiskMiB,
		image.Name, image, req.UserData, keys, req.Key, in.Desired, in.Reason, in.Generation, in.Start,
		in.State, in.Since, in.Created)
	if err != nil {
		return err
	}
	return grant(ctx, tx, in, f, in.Created)
}

// grant inserts the instance's newest lease and announces it to its host.
func grant(ctx context.Context, tx pgx.Tx, in compute.Instance, f compute.Flavor, now time.Time) error {
	_, err := tx.Exec(ctx, insertLeaseSQL, in.ID, in.Lease, in.Host, in.Tenant, f.Name, in.Image,
		f.VCPUs, f.MemoryMiB, f.DiskMiB, now)
	if err != nil {
		return err
	}
	return announce(ctx, tx, in.Host)
}

// SetPower orders that an instance be running, stopped or deleted, for the given
// reason (compute.ReasonTenant and its like). What is wanted already changes
// nothing. Running is admitted like a new instance, but for capacity: it kept
// its place. The error wraps compute.ErrNotFound (missing, deleted or another
// tenant's), ErrDeleted, ErrMoving, ErrHeld, ErrQuota, or is what Credit said.
func (s *Store) SetPower(ctx context.Context, tenant metering.TenantID, id metering.InstanceID, power compute.Power, reason string) (compute.Instance, error) {
	var next compute.Instance
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		quota, err := lockQuota(ctx, tx, tenant)
		if err != nil {
			return err
		}
		in, err := lockInstance(ctx, tx, tenant, id)
		if err != nil {
			return err
		}
		var changed bool
		next, changed, err = in.Order(power, reason, s.now())
		if err != nil || !changed {
			return err
		}
		if power == compute.PowerRunning {
			flavor, err := flavorOf(ctx, tx, id)
			if err != nil {
				return err
			}
			if err := s.admit(ctx, tx, quota, in, flavor); err != nil {
				return err
			}
		}
		if err := update(ctx, tx, next); err != nil {
			return err
		}
		return announce(ctx, tx, in.Host)
	})
	if err != nil {
		return compute.Instance{}, fmt.Errorf("order instance %s %s: %w", id, power, err)
	}
	return next, nil
}

// lockInstance locks the instance's host, and others, by id, and reads the
// instance; its tenant is locked already. An instance whose deletion is confirmed
// is not found.
func lockInstance(ctx context.Context, tx pgx.Tx, tenant metering.TenantID, id metering.InstanceID, others ...metering.HostID) (compute.Instance, error) {
	in, err := get(ctx, tx, tenant, id)
	if err != nil {
		return in, err
	}
	hosts := append(others, in.Host)
	slices.Sort(hosts)
	for _, host := range hosts {
		if _, err := tx.Exec(ctx, lockHostSQL, host); err != nil {
			return in, err
		}
	}
	// A lease is granted under the tenant's lock, which is ours, and ends under
	// the host's: what is read now stays.
	if in, err = get(ctx, tx, tenant, id); err == nil && in.Host == "" {
		err = fmt.Errorf("%w: it was deleted", compute.ErrNotFound)
	}
	return in, err
}

func flavorOf(ctx context.Context, tx pgx.Tx, id metering.InstanceID) (f compute.Flavor, err error) {
	err = tx.QueryRow(ctx, `SELECT flavor, vcpus, memory_mib, disk_mib FROM instances WHERE id = $1`, id).
		Scan(&f.Name, &f.VCPUs, &f.MemoryMiB, &f.DiskMiB)
	return f, err
}

const updateSQL = `
	UPDATE instances SET desired = $2, reason = $3, generation = $4, start = $5, answered = $6,
		state = $7, since = $8, error = $9, address = $10, moves_to = nullif($11, '')
	WHERE id = $1`

// update writes what orders and observations change of an instance.
func update(ctx context.Context, tx pgx.Tx, in compute.Instance) error {
	_, err := tx.Exec(ctx, updateSQL, in.ID, in.Desired, in.Reason, in.Generation, in.Start, in.Answered,
		in.State, in.Since, in.Error, in.Address, in.MovesTo)
	return err
}
