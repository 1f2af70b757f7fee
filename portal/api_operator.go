package portal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gorilla/mux"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal/identity"
	"github.com/usance/usance/rating/plandb"
	"github.com/usance/usance/rating/planfile"
)

// published is a plan's version with the day it takes effect, in the plan's zone.
func (s *server) published(ctx context.Context, v plandb.Version) (PublishedPlan, error) {
	plan, err := s.Plans.Load(ctx, v.Plan, v.Version)
	if err != nil {
		return PublishedPlan{}, err
	}
	_, inForce, err := s.Plans.InForce(ctx, v.Plan, time.Now())
	if err != nil && !errors.Is(err, plandb.ErrNotFound) {
		return PublishedPlan{}, err
	}
	return PublishedPlan{Plan: v.Plan, Version: v.Version, Effective: v.Effective.In(plan.Zone).Format(time.DateOnly),
		MidPeriod: v.MidPeriod, InForce: inForce == v.Version}, nil
}

func (s *server) listPlans(w http.ResponseWriter, r *http.Request, _ caller) error {
	versions, err := s.Plans.List(r.Context())
	if err != nil {
		return err
	}
	page, err := pageOf(r, versions, func(v plandb.Version) string { return fmt.Sprintf("%s@%d", v.Plan, v.Version) })
	if err != nil {
		return err
	}
	list := List[PublishedPlan]{Items: make([]PublishedPlan, len(page.Items)), Next: page.Next}
	for i, v := range page.Items {
		if list.Items[i], err = s.published(r.Context(), v); err != nil {
			return err
		}
	}
	return reply(w, http.StatusOK, list)
}

func (s *server) publishPlan(w http.ResponseWriter, r *http.Request, _ caller) error {
	const name = "plan.yaml" // what errors call it
	source, err := io.ReadAll(r.Body)
	if err != nil {
		return bodyError(err)
	}
	_, warnings, err := planfile.Parse(name, source)
	if err != nil {
		return err
	}
	v, err := s.Bills.Publish(r.Context(), name, source, time.Now())
	if err != nil {
		return err
	}
	p, err := s.published(r.Context(), v)
	if err != nil {
		return err
	}
	for _, warning := range warnings {
		p.Warnings = append(p.Warnings, string(warning))
	}
	return reply(w, http.StatusCreated, p)
}

func (s *server) getPlan(w http.ResponseWriter, r *http.Request, _ caller) error {
	v, err := s.Plans.Show(r.Context(), mux.Vars(r)["plan"], 0)
	if err != nil {
		return err
	}
	p, err := s.published(r.Context(), v)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, PlanSource{p, string(v.Source)})
}

func tenantID(r *http.Request) metering.TenantID { return metering.TenantID(mux.Vars(r)["id"]) }

func (s *server) listTenants(w http.ResponseWriter, r *http.Request, _ caller) error {
	limit, err := limitOf(r)
	if err != nil {
		return err
	}
	limit = min(limit, identity.PageLimit)
	after := metering.TenantID(r.URL.Query().Get("after"))
	found, err := s.Identity.Tenants(r.Context(), r.URL.Query().Get("email"), after, limit)
	if err != nil {
		return err
	}
	list := List[TenantJSON]{Items: make([]TenantJSON, len(found))}
	for i, t := range found {
		account, err := s.Invoices.Standing(r.Context(), t.ID)
		if err != nil {
			return err
		}
		list.Items[i] = TenantJSON{t.ID, t.Name, t.Email, account.Plan, string(account.Currency), account.Zone.String()}
	}
	if len(found) == limit {
		list.Next = string(found[limit-1].ID)
	}
	return reply(w, http.StatusOK, list)
}

func (s *server) createTenant(w http.ResponseWriter, r *http.Request, _ caller) error {
	var n CreateTenant
	if err := decode(r, &n); err != nil {
		return err
	}
	t, err := s.CreateTenant(r.Context(), n)
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, t)
}

func (s *server) grantCredit(w http.ResponseWriter, r *http.Request, _ caller) error {
	var g GrantCredit
	if err := decode(r, &g); err != nil {
		return err
	}
	if err := s.GrantCredit(r.Context(), tenantID(r), g); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) createToken(w http.ResponseWriter, r *http.Request, _ caller) error {
	if _, err := s.Invoices.Standing(r.Context(), tenantID(r)); err != nil {
		return err
	}
	token, err := s.Identity.MintToken(r.Context(), tenantID(r), "made by the operator", time.Now())
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, TokenJSON{Token: token})
}

// createClosing may take several seconds: the tenant's hosts are asked for a
// full reading first.
func (s *server) createClosing(w http.ResponseWriter, r *http.Request, _ caller) error {
	if _, err := s.Invoices.Standing(r.Context(), tenantID(r)); err != nil {
		return err
	}
	at, made, err := s.Cut(r.Context(), tenantID(r))
	if err != nil {
		return err
	}
	s.accrued.forget(string(tenantID(r)))
	closing := ClosingJSON{Cut: at.UTC(), Unrated: unratedJSON(made.Unrated), Thin: []ThinJSON{}}
	for _, t := range made.Thin {
		closing.Thin = append(closing.Thin, ThinJSON{t.Period.Start, t.Rate, t.Resource, t.Measured, t.Slots})
	}
	if made.Invoice != nil {
		j := invoiceJSON(made.Invoice)
		closing.Invoice = &j
	}
	return reply(w, http.StatusCreated, closing)
}

func (s *server) listTenantInvoices(w http.ResponseWriter, r *http.Request, _ caller) error {
	if _, err := s.Invoices.Standing(r.Context(), tenantID(r)); err != nil {
		return err
	}
	return s.replyInvoices(w, r, tenantID(r))
}

func (s *server) findInvoice(w http.ResponseWriter, r *http.Request, _ caller) error {
	i, err := s.Invoices.Find(r.Context(), mux.Vars(r)["number"])
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, invoiceJSON(i))
}

func (s *server) listHosts(w http.ResponseWriter, r *http.Request, _ caller) error {
	hosts, err := s.Compute.Hosts(r.Context())
	if err != nil {
		return err
	}
	page, err := pageOf(r, hosts, func(h compute.Host) string { return string(h.ID) })
	if err != nil {
		return err
	}
	reports, err := s.Compute.Reports(r.Context())
	if err != nil {
		return err
	}
	list := List[HostJSON]{Items: make([]HostJSON, len(page.Items)), Next: page.Next}
	for i, h := range page.Items {
		list.Items[i] = HostJSON{ID: h.ID, Name: h.Name, State: h.State(time.Now()), Seen: &h.Seen, VCPUs: h.Offers.VCPUs,
			MemoryMiB: h.Offers.MemoryMiB, DiskMiB: h.Offers.DiskMiB, VCPUsUsed: h.Granted.VCPUs, Storage: h.Storage}
		if report, ok := reports[h.ID]; ok {
			list.Items[i].Spool, list.Items[i].HypervisorError = spoolJSON(report.Spool), report.Host.HypervisorError
		}
	}
	return reply(w, http.StatusOK, list)
}

func spoolJSON(s hostapi.SpoolStat) *SpoolJSON {
	j := SpoolJSON{Bytes: s.Bytes, Limit: s.Limit, Readings: s.Readings, Thinned: s.Thinned, Refused: s.Refused, Aside: s.Aside}
	if !s.Oldest.IsZero() {
		j.Oldest = &s.Oldest
	}
	return &j
}

func (s *server) createJoinToken(w http.ResponseWriter, r *http.Request, _ caller) error {
	token, err := s.JoinToken(r.Context())
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, token)
}

// removeHost shuts a host out. One that still has instances is shut out only
// with ?force=true, as when it was stolen: they stay on it, out of reach.
func (s *server) removeHost(w http.ResponseWriter, r *http.Request, _ caller) error {
	id := metering.HostID(mux.Vars(r)["id"])
	if r.URL.Query().Get("force") != "true" {
		hosts, err := s.Compute.Hosts(r.Context())
		if err != nil {
			return err
		}
		for _, h := range hosts {
			if h.ID == id && h.Granted != (compute.Capacity{}) {
				return errHostInUse
			}
		}
	}
	if err := s.Compute.RemoveHost(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// moveInstance orders a stopped instance to another host that shares its storage.
func (s *server) moveInstance(w http.ResponseWriter, r *http.Request, _ caller) error {
	var n MoveInstance
	if err := decode(r, &n); err != nil {
		return err
	}
	in, err := s.Compute.Move(r.Context(), instanceID(r), n.Host)
	if err != nil {
		return err
	}
	return reply(w, http.StatusAccepted, MoveJSON{in.ID, in.Tenant, in.Host, in.MovesTo})
}

// holdInstance stops an instance so that its tenant cannot start it, and
// startHeld starts one, whoever stopped it.
func (s *server) holdInstance(w http.ResponseWriter, r *http.Request, _ caller) error {
	return s.orderAsOperator(w, r, compute.PowerStopped)
}

func (s *server) startHeld(w http.ResponseWriter, r *http.Request, _ caller) error {
	return s.orderAsOperator(w, r, compute.PowerRunning)
}

func (s *server) orderAsOperator(w http.ResponseWriter, r *http.Request, power compute.Power) error {
	tenant, err := s.Compute.Owner(r.Context(), instanceID(r))
	if err != nil {
		return err
	}
	if _, err := s.Compute.SetPower(r.Context(), tenant, instanceID(r), power, compute.ReasonOperator); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
