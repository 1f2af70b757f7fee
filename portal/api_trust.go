package portal

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/trust"
)

// operatorName is who decided where the request does not say: there is one token.
const operatorName = "operator"

func quarantinedJSON(q epochdb.Quarantined) QuarantinedJSON {
	j := QuarantinedJSON{ID: strconv.FormatInt(q.ID, 10), State: string(q.State), Reason: string(q.Reason), Detail: q.Detail, Host: q.Host,
		Tenant: q.Tenant, Instance: q.Epoch.Instance, Epoch: q.Epoch.ID, Lease: strconv.FormatUint(uint64(q.Epoch.Lease), 10),
		At: q.Reading.At, Received: q.Received, Registers: registersJSON(q.Reading.Registers), By: q.Decision.By, Note: q.Decision.Note}
	if !q.AdmitAt.IsZero() {
		j.AdmitAt = &q.AdmitAt
	}
	if !q.Decision.At.IsZero() {
		j.DecidedAt = &q.Decision.At
	}
	return j
}

// listQuarantine answers with quarantined readings in the order of arrival: open
// ones, or those in ?state=, "all" for any.
func (s *server) listQuarantine(w http.ResponseWriter, r *http.Request, _ caller) error {
	limit, err := limitOf(r)
	if err != nil {
		return err
	}
	state := epochdb.Open
	switch text := r.URL.Query().Get("state"); text {
	case "":
	case "all":
		state = ""
	case string(epochdb.Open), string(epochdb.Held), string(epochdb.Accepted), string(epochdb.Rejected):
		state = epochdb.State(text)
	default:
		return fmt.Errorf("%w: state %q is not one of open, held, accepted, rejected, all", errBadRequest, text)
	}
	after, err := readingNumber("after", r.URL.Query().Get("after"))
	if err != nil {
		return err
	}
	found, err := s.Epochs.Quarantined(r.Context(), state, after, limit+1)
	if err != nil {
		return err
	}
	list := List[QuarantinedJSON]{Items: make([]QuarantinedJSON, 0, min(limit, len(found)))}
	for _, q := range found[:min(limit, len(found))] {
		list.Items = append(list.Items, quarantinedJSON(q))
	}
	if len(found) > limit {
		list.Next = list.Items[limit-1].ID
	}
	return reply(w, http.StatusOK, list)
}

// readingNumber is the number of a quarantined reading, 0 for "".
func readingNumber(name, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%w: %s %q is not the id of a reading", errBadRequest, name, text)
	}
	return n, nil
}

// countQuarantine answers with how many open readings ?host=, ?epoch=, ?instance=
// and ?reason= select.
func (s *server) countQuarantine(w http.ResponseWriter, r *http.Request, _ caller) error {
	q := r.URL.Query()
	sel := epochdb.Selection{Host: metering.HostID(q.Get("host")), Epoch: metering.EpochID(q.Get("epoch")),
		Instance: metering.InstanceID(q.Get("instance")), Reason: ingest.Reason(q.Get("reason"))}
	if err := sel.Check(); err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	c, err := s.Epochs.CountSelected(r.Context(), sel)
	if err != nil {
		return err
	}
	j := SelectedJSON{Count: c.Count}
	if c.Count > 0 {
		j.Through, j.Since = strconv.FormatInt(c.Through, 10), &c.Since
	}
	return reply(w, http.StatusOK, j)
}

func (s *server) acceptSelected(w http.ResponseWriter, r *http.Request, _ caller) error {
	return s.decideSelected(w, r, s.Trust.AcceptAll)
}

func (s *server) rejectSelected(w http.ResponseWriter, r *http.Request, _ caller) error {
	return s.decideSelected(w, r, s.Trust.RejectAll)
}

func (s *server) decideSelected(w http.ResponseWriter, r *http.Request,
	decide func(context.Context, epochdb.Selection, int64, epochdb.Decision) (trust.Bulk, error)) error {
	var d DecideSelected
	if err := decode(r, &d); err != nil {
		return err
	}
	if d.Through == "" {
		return fmt.Errorf("%w: through is needed: the last reading that is meant", errBadRequest)
	}
	through, err := readingNumber("through", d.Through)
	if err != nil {
		return err
	}
	after, err := readingNumber("after", d.After)
	if err != nil {
		return err
	}
	sel := epochdb.Selection{Host: d.Host, Epoch: d.Epoch, Instance: d.Instance, Reason: d.Reason, Through: through}
	b, err := decide(r.Context(), sel, after, d.decision())
	if err != nil {
		return err
	}
	j := DecidedJSON{Decided: b.Decided, Left: make([]LeftJSON, len(b.Left))}
	for i, l := range b.Left {
		j.Left[i] = LeftJSON{strconv.FormatInt(l.Reading, 10), l.Why.Error()}
	}
	if b.Next > 0 {
		j.Next = strconv.FormatInt(b.Next, 10)
	}
	return reply(w, http.StatusOK, j)
}

// decision is who decides, and the note, from a body that may be absent.
func decision(r *http.Request) (epochdb.Decision, error) {
	var d DecideQuarantined
	if r.ContentLength != 0 {
		if err := decode(r, &d); err != nil {
			return epochdb.Decision{}, err
		}
	}
	return d.decision(), nil
}

func (d DecideQuarantined) decision() epochdb.Decision {
	if d.By == "" {
		d.By = operatorName
	}
	return epochdb.Decision{By: d.By, Note: d.Note, At: time.Now().UTC()}
}

// quarantinedID is {id}; what is no number is the id of none.
func quarantinedID(r *http.Request) int64 {
	id, err := strconv.ParseInt(mux.Vars(r)["id"], 10, 64)
	if err != nil {
		return 0
	}
	return id
}

func (s *server) acceptQuarantined(w http.ResponseWriter, r *http.Request, _ caller) error {
	d, err := decision(r)
	if err != nil {
		return err
	}
	q, err := s.Trust.Accept(r.Context(), quarantinedID(r), d)
	if err != nil {
		return err
	}
	s.forget(q.Tenant)
	return reply(w, http.StatusOK, quarantinedJSON(q))
}

func (s *server) rejectQuarantined(w http.ResponseWriter, r *http.Request, _ caller) error {
	d, err := decision(r)
	if err != nil {
		return err
	}
	q, err := s.Trust.Reject(r.Context(), quarantinedID(r), d)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, quarantinedJSON(q))
}

func (s *server) voidEpoch(w http.ResponseWriter, r *http.Request, _ caller) error {
	var v VoidEpoch
	if err := decode(r, &v); err != nil {
		return err
	}
	if v.From.IsZero() {
		return fmt.Errorf("%w: from is needed: the last instant that still counts", errBadRequest)
	}
	if v.By == "" {
		v.By = operatorName
	}
	e, err := s.Trust.Void(r.Context(), metering.EpochID(mux.Vars(r)["id"]), v.From, epochdb.Decision{By: v.By, Note: v.Reason, At: time.Now().UTC()})
	if err != nil {
		return err
	}
	s.forget(e.Tenant)
	return reply(w, http.StatusOK, VoidJSON{Epoch: e.ID, Tenant: e.Tenant, Instance: e.Instance, From: e.Void.From, Counted: registersJSON(e.Void.Cap),
		Next: e.Void.Next, NextOpened: e.Void.NextOpened})
}

// forget drops what is cached of a tenant's cost.
func (s *server) forget(tenant metering.TenantID) { s.accrued.forget(string(tenant)) }

// counted is a standing of an instance without what was voided, and without
// what replacing epochs opened at.
func counted(standing readingdb.Standing, voided []metering.EpochRecord) readingdb.Standing {
	for _, e := range voided {
		for _, r := range standing.Epochs {
			switch r.Epoch {
			case e.ID:
				standing.Registers = standing.Registers.Sub(r.Registers.Sub(e.Counted(r.Registers)))
			case e.Void.Next:
				standing.Registers = standing.Registers.Sub(e.Void.NextOpening)
			}
		}
	}
	return standing
}
