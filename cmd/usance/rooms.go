package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/portal"
	"github.com/usance/usance/rating"
)

// What rooms that must not know each other need of each other: functions that
// newPlane and serve pass from one to the other.

// ingestAuth says who sent a batch, in the words of ingest.
func ingestAuth(auth *hostapi.Authenticator) func(r *http.Request) (metering.HostID, error) {
	return func(r *http.Request) (metering.HostID, error) {
		host, err := auth.Authenticate(r)
		switch {
		case errors.Is(err, hostapi.ErrUnauthorized):
			return "", fmt.Errorf("%w: %w", ingest.ErrUnknownHost, err)
		case errors.Is(err, hostapi.ErrRemoved):
			return "", fmt.Errorf("%w: %w", ingest.ErrRemovedHost, err)
		}
		return host, err
	}
}

// leases are leases as ingest wants them: with the labels they give to epochs.
func (p *plane) leases(ctx context.Context, keys []ingest.LeaseKey) (map[ingest.LeaseKey]ingest.Lease, error) {
	asked := make([]compute.LeaseKey, len(keys))
	for i, k := range keys {
		asked[i] = compute.LeaseKey(k)
	}
	found, err := p.compute.Leases(ctx, asked)
	if err != nil {
		return nil, err
	}
	all := make(map[ingest.LeaseKey]ingest.Lease, len(found))
	for k, l := range found {
		all[ingest.LeaseKey(k)] = ingest.Lease{Tenant: l.Tenant, Host: l.Host, Granted: l.Granted, Ended: l.Ended,
			Labels: metering.Labels{Flavor: l.Flavor, Image: l.Image, Created: metering.CreatedAt(l.Created)}, MaxBytesPerSecond: maxBytesPerSecond}
	}
	return all, nil
}

// knownEpochs are the host's epochs with their largest readings, for an agent without state.
func (p *plane) knownEpochs(ctx context.Context, host metering.HostID) ([]hostapi.KnownEpoch, error) {
	records, err := p.epochs.OfHost(ctx, host, knownEpochs)
	if err != nil {
		return nil, err
	}
	largest, err := p.trust.Largest(ctx, records)
	if err != nil {
		return nil, err
	}
	known := make([]hostapi.KnownEpoch, len(records))
	for i, r := range records {
		known[i].Epoch = r.Epoch
		if reading, ok := largest[r.ID]; ok {
			known[i].Largest = &reading
		}
	}
	return known, nil
}

func (p *plane) flavor(ctx context.Context, tenant metering.TenantID, name string) (compute.Flavor, error) {
	plan, err := p.bills.Plan(ctx, tenant, time.Now())
	if err != nil {
		return compute.Flavor{}, err
	}
	for _, f := range plan.Flavors {
		if f.Name == name {
			return compute.Flavor{Name: f.Name, VCPUs: f.VCPUs, MemoryMiB: int64(f.MemoryMiB), DiskMiB: int64(f.DiskMiB)}, nil
		}
	}
	return compute.Flavor{}, fmt.Errorf("plan %s sells no flavor %q: %w", plan.Name, name, compute.ErrNoFlavor)
}

func (p *plane) flavors(ctx context.Context, tenant metering.TenantID) ([]portal.FlavorJSON, error) {
	now := time.Now()
	plan, err := p.bills.Plan(ctx, tenant, now)
	if err != nil {
		return nil, err
	}
	list := make([]portal.FlavorJSON, len(plan.Flavors))
	for i, f := range plan.Flavors {
		v, err := p.bills.Preview(ctx, tenant, now, rating.Planned{Labels: metering.Labels{Flavor: f.Name}, Running: rating.Always})
		if err != nil {
			return nil, err
		}
		list[i] = portal.NewFlavorJSON(f, v)
	}
	return list, nil
}

// hourly is what an hour of an instance of the flavor costs the tenant, in minor units.
func (p *plane) hourly(ctx context.Context, tenant metering.TenantID, flavor string) (int64, string, error) {
	account, err := p.books.Standing(ctx, tenant)
	if err != nil {
		return 0, "", err
	}
	burn, err := p.bills.Burn(ctx, tenant, time.Now(), metering.Labels{Flavor: flavor})
	if err != nil {
		return 0, "", err
	}
	hour, err := burn.Over(time.Hour, account.Currency)
	return hour.Minor, string(account.Currency), err
}

// unrated are the leaks of usage that no rate fits; what it would cost cannot be said.
func (p *plane) unrated(ctx context.Context) ([]compute.Leak, error) {
	found, err := p.books.Unrated(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]compute.Leak, len(found))
	for i, u := range found {
		of := string(u.Meter)
		if u.Flavor != "" {
			of += "/" + u.Flavor
		}
		unit, _ := u.Meter.BaseUnit()
		all[i] = compute.Leak{Kind: compute.LeakUnrated, Subject: string(u.Tenant) + "/" + of, Tenant: u.Tenant, Since: u.Cut,
			Detail: fmt.Sprintf("plan %s has no rate for %s %s of %s, used by %d resources", u.Plan, u.Quantity, unit, of, u.Resources)}
	}
	return all, nil
}

// credit is admission's question to the books; see startPlane on its connections.
func (p *plane) credit(ctx context.Context, tx pgx.Tx, tenant metering.TenantID, flavor string, _ map[string]int) error {
	more, err := p.bills.Burn(ctx, tenant, time.Now(), metering.Labels{Flavor: flavor})
	if err != nil {
		return err
	}
	return p.books.CreditCheck(ctx, tx, tenant, time.Now(), more, creditAhead)
}

func (p *plane) running(ctx context.Context) ([]billrun.Running, error) {
	wanted, err := p.compute.WantedRunning(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]billrun.Running, len(wanted))
	for i, w := range wanted {
		all[i] = billrun.Running{Tenant: w.Tenant, Labels: metering.Labels{Flavor: w.Flavor, Image: w.Image, Created: metering.CreatedAt(w.Created)}}
	}
	return all, nil
}

// cut asks the tenant's hosts for a full reading and closes the period up to now.
func (p *plane) cut(ctx context.Context, tenant metering.TenantID) (time.Time, billrun.Cut, error) {
	wait, err := p.compute.RequestFullReading(ctx, tenant)
	if err != nil {
		return time.Time{}, billrun.Cut{}, err
	}
	if err := wait(ctx); err != nil { // what is missing is late usage on the next invoice
		p.log.Warn("closing without a full reading of every host", "tenant", tenant, "err", err)
	}
	at := time.Now().UTC().Truncate(time.Millisecond)
	made, err := p.bills.Cut(ctx, tenant, at)
	return at, made, err
}

// joinToken makes the token of one host.
func (p *plane) joinToken(ctx context.Context) (string, error) {
	secret, err := p.compute.MintToken(ctx)
	if err != nil {
		return "", err
	}
	return p.ca.Token(secret), nil
}

func (p *plane) mintToken(ctx context.Context) (portal.TokenJSON, error) {
	token, err := p.joinToken(ctx)
	expires := time.Now().UTC().Add(computedb.TokenLife).Truncate(time.Second)
	return portal.TokenJSON{Token: token, Expires: &expires}, err
}

// imageNames are the images that are there, by name.
func (p *plane) imageNames() ([]string, error) {
	var names []string
	for _, root := range p.images.Roots {
		found, err := filepath.Glob(filepath.Join(root, "*", "image.json"))
		if err != nil {
			return nil, fmt.Errorf("images: %w", err)
		}
		for _, f := range found {
			names = append(names, filepath.Base(filepath.Dir(f)))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
