package portal

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/usance/usance/metering"
)

// listUsage answers with what the tenant's instances used in a window: for every
// meter that follows from registers, the growth from one end to the other.
func (s *server) listUsage(w http.ResponseWriter, r *http.Request, who caller) error {
	window, err := windowOf(r, time.Now())
	if err != nil {
		return err
	}
	all, err := s.usage(r.Context(), who.tenant, window)
	if err != nil {
		return err
	}
	list, err := pageOf(r, all, func(u UsageJSON) string { return string(u.Resource) + "/" + string(u.Meter) })
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, list)
}

// usage is sorted by resource and meter; what is zero is left out.
func (s *server) usage(ctx context.Context, tenant metering.TenantID, window metering.Window) ([]UsageJSON, error) {
	epochs, err := s.Epochs.OfTenant(ctx, tenant)
	if err != nil {
		return nil, err
	}
	levels, err := s.Readings.At(ctx, tenant, []time.Time{window.Start, window.End})
	if err != nil {
		return nil, err
	}
	type key struct {
		resource metering.ResourceID
		meter    metering.Meter
	}
	sums := map[key]metering.Quantity{}
	for _, e := range epochs {
		level := levels[e.ID]
		if level == nil {
			continue // no reading up to the window's end
		}
		start, end := e.Opening.Join(level[0]), e.Opening.Join(level[1])
		for _, m := range metering.RegisterMeters() {
			if q := m.Of(end).Sub(m.Of(start)); !q.IsZero() {
				k := key{e.Resource(), m}
				sums[k] = sums[k].Add(q)
			}
		}
	}
	all := make([]UsageJSON, 0, len(sums))
	for k, q := range sums {
		unit, _ := k.meter.BaseUnit()
		all = append(all, UsageJSON{Resource: k.resource, Meter: k.meter, Start: window.Start, End: window.End, Quantity: q.String(), Unit: unit})
	}
	slices.SortFunc(all, func(a, b UsageJSON) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Meter, b.Meter))
	})
	return all, nil
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
