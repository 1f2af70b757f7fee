package portal

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/rating/money"
)

func leakJSON(l computedb.Leak) LeakJSON {
	j := LeakJSON{ID: strconv.FormatInt(l.ID, 10), Kind: string(l.Kind), Subject: l.Subject, Tenant: l.Tenant, Host: l.Host, Since: l.Since,
		Detail: l.Detail, Opened: l.Opened, Why: l.ClosedWhy}
	if l.Hourly != nil {
		hourly := moneyJSON(money.Amount{Minor: *l.Hourly, Currency: money.Currency(l.Currency)})
		j.Hourly = &hourly
	}
	if !l.Closed.IsZero() {
		j.Closed = &l.Closed
	}
	return j
}

// listLeaks answers with the open leaks, newest first; with ?state=all, with
// closed ones too.
func (s *server) listLeaks(w http.ResponseWriter, r *http.Request, _ caller) error {
	limit, err := limitOf(r)
	if err != nil {
		return err
	}
	state := r.URL.Query().Get("state")
	if state != "" && state != "open" && state != "all" {
		return fmt.Errorf("%w: state %q is not one of open, all", errBadRequest, state)
	}
	before := int64(0)
	if text := r.URL.Query().Get("after"); text != "" {
		if before, err = strconv.ParseInt(text, 10, 64); err != nil || before < 1 {
			return fmt.Errorf("%w: after %q is not the id of a leak", errBadRequest, text)
		}
	}
	found, err := s.Compute.Leaks(r.Context(), "", state == "all", before, limit+1)
	if err != nil {
		return err
	}
	list := List[LeakJSON]{Items: make([]LeakJSON, 0, len(found))}
	for _, l := range found[:min(limit, len(found))] {
		list.Items = append(list.Items, leakJSON(l))
	}
	if len(found) > limit {
		list.Next = list.Items[limit-1].ID
	}
	return reply(w, http.StatusOK, list)
}
