package portal

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/usance/usance/metering"
)

// maxBuckets is how many hours or days usage is split into; a longer window is refused.
const maxBuckets = 900

// grouping is what usage is summed up by.
type grouping string

const (
	byResource grouping = "resource" // and meter
	byMeter    grouping = "meter"
	byHour     grouping = "hour" // of the tenant's billing zone, and meter
	byDay      grouping = "day"  // of the tenant's billing zone, and meter
)

// usageQuery is what is asked for.
type usageQuery struct {
	window   metering.Window
	open     bool                // up to now, however late what came in is
	resource metering.ResourceID // "": all
	by       grouping
}

// listUsage answers with what the tenant's resources used in a window: the growth
// from one end to the other, of registers and of what is held, summed up by ?by=.
func (s *server) listUsage(w http.ResponseWriter, r *http.Request, who caller) error {
	window, err := windowOf(r, time.Now())
	if err != nil {
		return err
	}
	values := r.URL.Query()
	q := usageQuery{window, values.Get("to") == "", metering.ResourceID(values.Get("resource")), grouping(cmp.Or(values.Get("by"), string(byResource)))}
	all, err := s.usage(r.Context(), who.tenant, q)
	if err != nil {
		return err
	}
	list, err := pageOf(r, all, func(u UsageJSON) string {
		return u.Start.Format(time.RFC3339Nano) + "/" + string(u.Resource) + "/" + string(u.Meter)
	})
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, list)
}

// usage is sorted by start, resource and meter; what is zero is left out.
func (s *server) usage(ctx context.Context, tenant metering.TenantID, q usageQuery) ([]UsageJSON, error) {
	instants, err := s.instants(ctx, tenant, q)
	if err != nil {
		return nil, err
	}
	levels, err := s.levels(ctx, tenant, q, instants)
	if err != nil {
		return nil, err
	}
	// An epoch is on record before its first reading is.
	epochs, err := s.Epochs.OfTenant(ctx, tenant)
	if err != nil {
		return nil, err
	}
	allocations, err := s.Allocations.OfTenant(ctx, tenant, q.window)
	if err != nil {
		return nil, err
	}
	type key struct {
		resource metering.ResourceID
		meter    metering.Meter
		window   metering.Window
	}
	sums := map[key]metering.Quantity{}
	for u := range metering.Measure(instants, epochs, levels, allocations) {
		if q.resource != "" && u.Resource != q.resource {
			continue
		}
		k := key{u.Resource, u.Meter, u.Window}
		if q.by != byResource {
			k.resource = q.resource
		}
		sums[k] = sums[k].Add(u.Quantity)
	}
	all := make([]UsageJSON, 0, len(sums))
	for k, sum := range sums {
		unit, _ := k.meter.BaseUnit()
		all = append(all, UsageJSON{Resource: k.resource, Meter: k.meter, Start: k.window.Start, End: k.window.End, Quantity: sum.String(), Unit: unit})
	}
	slices.SortFunc(all, func(a, b UsageJSON) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Meter, b.Meter))
	})
	return all, nil
}

// instants are the ends of the windows that are asked for.
func (s *server) instants(ctx context.Context, tenant metering.TenantID, q usageQuery) ([]time.Time, error) {
	length := map[grouping]time.Duration{byHour: time.Hour, byDay: 24 * time.Hour}[q.by]
	switch {
	case q.by == byResource || q.by == byMeter:
		return []time.Time{q.window.Start, q.window.End}, nil
	case length == 0:
		return nil, fmt.Errorf("%w: by %q is not one of resource, meter, hour, day", errBadRequest, q.by)
	case q.window.Length() > maxBuckets*length:
		return nil, fmt.Errorf("%w: a window of more than %d of %s", errBadRequest, maxBuckets, q.by)
	}
	account, err := s.Invoices.Standing(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if q.by == byHour {
		return q.window.Hours(account.Zone), nil
	}
	return q.window.Days(account.Zone), nil
}

// levels are R(e,t) of the tenant's epochs at the instants. Where the last one
// is now, it needs no slots: that is where the epochs stand.
func (s *server) levels(ctx context.Context, tenant metering.TenantID, q usageQuery, instants []time.Time) (map[metering.EpochID][]metering.Registers, error) {
	last := len(instants) - 1
	if !q.open {
		return s.Readings.At(ctx, tenant, instants)
	}
	levels, err := s.Readings.At(ctx, tenant, instants[:last])
	if err != nil {
		return nil, err
	}
	// Asked after the earlier instants, so that it is not below them.
	totals, err := s.Readings.Totals(ctx, []metering.TenantID{tenant})
	for epoch, total := range totals {
		if levels[epoch] == nil {
			levels[epoch] = make([]metering.Registers, last)
		}
		levels[epoch] = append(levels[epoch], total.Registers)
	}
	return levels, err
}

func (s *server) getAccrued(w http.ResponseWriter, r *http.Request, who caller) error {
	a, err := s.accruedNow(r.Context(), who.tenant)
	if err != nil {
		return err
	}
	credit, err := s.Invoices.Credit(r.Context(), nil, who.tenant, time.Now())
	if err != nil {
		return err
	}
	total := a.Total
	total.Currency = a.Currency // of nothing, too
	j := AccruedJSON{Amount: total.String(), Currency: string(a.Currency), AsOf: a.AsOf, Credit: credit.Available.String(), Resources: []AccruedShare{}}
	for _, share := range a.ByResource {
		j.Resources = append(j.Resources, AccruedShare{share.Resource, share.Amount.String()})
	}
	return reply(w, http.StatusOK, j)
}
