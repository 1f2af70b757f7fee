package portal

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/rating/money"
)

// metered is an instance with where its meters stand.
type metered struct {
	compute.Instance
	readingdb.Standing
	Unread  time.Time     // since when the readings cannot be asked: Standing says nothing then; zero while they can
	Accrued *money.Amount // nil when it could not be computed
}

func instanceID(r *http.Request) metering.InstanceID {
	return metering.InstanceID(mux.Vars(r)["id"])
}

// instance is one instance of the tenant, metered. The error wraps compute.ErrNotFound.
func (s *server) instance(ctx context.Context, tenant metering.TenantID, id metering.InstanceID) (metered, error) {
	in, err := s.Compute.Get(ctx, tenant, id)
	if err != nil {
		return metered{}, err
	}
	standing, unread, err := figures(ctx, s, s.standing, string(tenant)+"/"+string(id), func(ctx context.Context) (readingdb.Standing, error) {
		latest, err := s.Readings.Latest(ctx, tenant, id)
		if err != nil {
			return latest, err
		}
		voided, err := s.Epochs.Voided(ctx, tenant)
		return counted(latest, voided), err
	})
	if err != nil {
		return metered{}, err
	}
	accrued := s.accruedOf(ctx, tenant)
	return metered{in, standing, unread, shareOf(accrued, id)}, nil
}

// instances are the tenant's instances that follow after, metered; next is the
// instance that the following page comes after, "" on the last.
func (s *server) instances(ctx context.Context, tenant metering.TenantID, after metering.InstanceID, limit int) (list []metered, next metering.InstanceID, err error) {
	found, err := s.Compute.List(ctx, tenant, after, limit)
	if err != nil {
		return nil, "", err
	}
	standings, unread, err := figures(ctx, s, s.standings, string(tenant), func(ctx context.Context) (map[metering.InstanceID]readingdb.Standing, error) {
		all, err := s.Readings.Summary(ctx, tenant)
		if err != nil {
			return nil, err
		}
		voided, err := s.Epochs.Voided(ctx, tenant)
		for id := range all {
			all[id] = counted(all[id], voided)
		}
		return all, err
	})
	if err != nil {
		return nil, "", err
	}
	accrued := s.accruedOf(ctx, tenant)
	list = make([]metered, len(found))
	for i, in := range found {
		list[i] = metered{in, standings[in.ID], unread, shareOf(accrued, in.ID)}
	}
	if len(found) == limit {
		next = found[limit-1].ID
	}
	return list, next, nil
}

// accruedNow is what the tenant owes, at most cacheTime old.
func (s *server) accruedNow(ctx context.Context, tenant metering.TenantID) (invoicing.Accrued, error) {
	return s.accrued.get(ctx, string(tenant), func(ctx context.Context) (invoicing.Accrued, error) {
		return s.Accrued(ctx, tenant)
	})
}

// accruedOf is accruedNow for what is shown beside other things: nil, logged,
// when it could not be computed.
func (s *server) accruedOf(ctx context.Context, tenant metering.TenantID) *invoicing.Accrued {
	a, err := s.accruedNow(ctx, tenant)
	if err != nil {
		if ctx.Err() == nil {
			s.Log.Error("accrued cost not computed", "tenant", tenant, "err", err)
		}
		return nil
	}
	return &a
}

// shareOf is an instance's part of what is accrued; nil when that is not known.
func shareOf(a *invoicing.Accrued, id metering.InstanceID) *money.Amount {
	if a == nil {
		return nil
	}
	share := money.Amount{Currency: a.Currency}
	for _, part := range a.ByResource {
		if part.Resource == metering.ResourceID(id) {
			share.Minor += part.Amount.Minor
		}
	}
	return &share
}

func registersJSON(r metering.Registers) map[string]string {
	all := make(map[string]string, len(r))
	for i, name := range metering.RegisterNames() {
		all[name] = strconv.FormatUint(r[i], 10)
	}
	return all
}

func moneyJSON(a money.Amount) Money { return Money{a.String(), string(a.Currency)} }

func (m metered) json() InstanceJSON {
	j := InstanceJSON{ID: m.ID, Name: m.Name, Flavor: m.Flavor, Image: m.Image, Host: m.Host, Desired: string(m.Desired), Reason: m.Reason,
		State: string(m.State), Since: m.Since, Resizing: m.Resizing(), MovesTo: m.MovesTo, Address: m.Address, Error: m.Error, Created: m.Created}
	if m.Unread.IsZero() {
		j.Registers = registersJSON(m.Registers)
	} else {
		j.UnreadSince = &m.Unread
	}
	if !m.At.IsZero() {
		j.ReadAt = &m.At
	}
	if m.Accrued != nil {
		a := moneyJSON(*m.Accrued)
		j.Accrued = &a
	}
	return j
}

func (s *server) listInstances(w http.ResponseWriter, r *http.Request, who caller) error {
	limit, err := limitOf(r)
	if err != nil {
		return err
	}
	found, next, err := s.instances(r.Context(), who.tenant, metering.InstanceID(r.URL.Query().Get("after")), limit)
	if err != nil {
		return err
	}
	list := List[InstanceJSON]{Items: make([]InstanceJSON, len(found)), Next: string(next)}
	for i, m := range found {
		list.Items[i] = m.json()
	}
	return reply(w, http.StatusOK, list)
}

func (s *server) getInstance(w http.ResponseWriter, r *http.Request, who caller) error {
	m, err := s.instance(r.Context(), who.tenant, instanceID(r))
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, m.json())
}

func (s *server) createInstance(w http.ResponseWriter, r *http.Request, who caller) error {
	var n CreateInstance
	if err := decode(r, &n); err != nil {
		return err
	}
	in, err := s.Compute.Create(r.Context(), computedb.CreateRequest{Tenant: who.tenant, Name: n.Name, Flavor: n.Flavor, Image: n.Image,
		UserData: n.UserData, SSHKeys: n.SSHKeys, Key: r.Header.Get("Idempotency-Key")})
	if err != nil {
		return err
	}
	w.Header().Set("Location", apiPrefix+"/instances/"+string(in.ID))
	return s.replyInstance(w, r, http.StatusCreated, in.ID, who)
}

// replyInstance answers with the instance as it is now.
func (s *server) replyInstance(w http.ResponseWriter, r *http.Request, status int, id metering.InstanceID, who caller) error {
	m, err := s.instance(r.Context(), who.tenant, id)
	if err != nil {
		return err
	}
	return reply(w, status, m.json())
}

// order has an instance be as the tenant wants it.
func (s *server) order(r *http.Request, who caller, power compute.Power) error {
	_, err := s.Compute.SetPower(r.Context(), who.tenant, instanceID(r), power, compute.ReasonTenant)
	return err
}

func (s *server) startInstance(w http.ResponseWriter, r *http.Request, who caller) error {
	if err := s.order(r, who, compute.PowerRunning); err != nil {
		return err
	}
	return s.replyInstance(w, r, http.StatusAccepted, instanceID(r), who)
}

func (s *server) stopInstance(w http.ResponseWriter, r *http.Request, who caller) error {
	if err := s.order(r, who, compute.PowerStopped); err != nil {
		return err
	}
	return s.replyInstance(w, r, http.StatusAccepted, instanceID(r), who)
}

func (s *server) deleteInstance(w http.ResponseWriter, r *http.Request, who caller) error {
	if err := s.order(r, who, compute.PowerDeleted); err != nil {
		return err
	}
	return s.replyInstance(w, r, http.StatusAccepted, instanceID(r), who)
}

func (s *server) resizeInstance(w http.ResponseWriter, r *http.Request, who caller) error {
	if _, err := s.Compute.Get(r.Context(), who.tenant, instanceID(r)); err != nil {
		return err // before the body: what is another's is missing, whatever is asked of it
	}
	var n ResizeInstance
	if err := decode(r, &n); err != nil {
		return err
	}
	if _, err := s.Compute.Resize(r.Context(), who.tenant, instanceID(r), n.Flavor); err != nil {
		return err
	}
	return s.replyInstance(w, r, http.StatusAccepted, instanceID(r), who)
}

// listReadings answers with the readings of a window, newest first. ?after= is
// the time that the page before ended with.
func (s *server) listReadings(w http.ResponseWriter, r *http.Request, who caller) error {
	limit, err := limitOf(r)
	if err != nil {
		return err
	}
	window, err := windowOf(r, time.Now())
	if err != nil {
		return err
	}
	in, err := s.Compute.Get(r.Context(), who.tenant, instanceID(r))
	if err != nil {
		return err
	}
	list := List[ReadingJSON]{Items: []ReadingJSON{}}
	if text := r.URL.Query().Get("after"); text != "" {
		after, err := timeOf("after", text)
		if err != nil {
			return err
		}
		if after = after.Add(-time.Millisecond); after.Before(window.End) {
			window.End = after
		}
		if window.Check() != nil {
			return reply(w, http.StatusOK, list)
		}
	}
	found, err := s.Readings.Readings(r.Context(), who.tenant, in.ID, window, limit+1)
	if err != nil {
		return err
	}
	found, list.Next = lastReadings(found, limit)
	for i := len(found) - 1; i >= 0; i-- {
		list.Items = append(list.Items, ReadingJSON{found[i].Epoch, found[i].At, found[i].Received, registersJSON(found[i].Registers)})
	}
	return reply(w, http.StatusOK, list)
}

// lastReadings are the last limit of some readings, oldest first; next is the
// time of the oldest when there are more. Readings of one instant stay together:
// those that would be torn apart wait for the next page.
func lastReadings(all []readingdb.Record, limit int) (last []readingdb.Record, next string) {
	if len(all) <= limit {
		return all, ""
	}
	left := len(all) - limit // how many are left out
	for left < len(all)-1 && all[left].At.Equal(all[left-1].At) {
		left++
	}
	return all[left:], all[left].At.Format(time.RFC3339Nano)
}

func (s *server) listFlavors(w http.ResponseWriter, r *http.Request, who caller) error {
	flavors, err := s.Flavors(r.Context(), who.tenant)
	if err != nil {
		return fmt.Errorf("flavors of %s: %w", who.tenant, err)
	}
	list, err := pageOf(r, flavors, func(f FlavorJSON) string { return f.Name })
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, list)
}
