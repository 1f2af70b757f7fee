package portal

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/metering/trust"
	"github.com/usance/usance/portal/identity"
	"github.com/usance/usance/rating/plandb"
	"github.com/usance/usance/rating/planfile"
)

// What only pages and API refuse.
var (
	errNoPage      = errors.New("there is nothing at this address")
	errMethod      = errors.New("this address does not take this method")
	errBadRequest  = errors.New("bad request")
	errCrossOrigin = errors.New("a form of another site cannot act here")
	errToken       = errors.New("no valid token: send Authorization: Bearer and a token")
	errThrottled   = errors.New("too many attempts to sign in; wait a minute and try again")
	errStreams     = errors.New("too many pages are open; close some and try again")
	errHostInUse   = errors.New("the host still has instances; delete them first, or add ?force=true to shut it out as it is")
)

// outcome is how an error is answered.
type outcome struct {
	status int
	code   string // for programs; never changes
}

// outcomes pairs what can be refused with its answer; the first that the error
// wraps counts. What belongs to another tenant is compute.ErrNotFound or
// invoicing.ErrNotFound, like what does not exist.
var outcomes = []struct {
	err error
	outcome
}{
	{errNoPage, outcome{http.StatusNotFound, "not_found"}},
	{errMethod, outcome{http.StatusMethodNotAllowed, "method_not_allowed"}},
	{errBadRequest, outcome{http.StatusBadRequest, "bad_request"}},
	{errCrossOrigin, outcome{http.StatusForbidden, "cross_origin"}},
	{errToken, outcome{http.StatusUnauthorized, "unauthorized"}},
	{errThrottled, outcome{http.StatusTooManyRequests, "too_many_requests"}},
	{errStreams, outcome{http.StatusTooManyRequests, "too_many_requests"}},
	{errHostInUse, outcome{http.StatusConflict, "host_in_use"}},
	{identity.ErrNoSession, outcome{http.StatusUnauthorized, "unauthorized"}},
	{identity.ErrCredentials, outcome{http.StatusUnauthorized, "wrong_credentials"}},
	{identity.ErrEmailTaken, outcome{http.StatusConflict, "email_taken"}},
	{identity.ErrInvalid, outcome{http.StatusUnprocessableEntity, "invalid"}},
	{compute.ErrInvalid, outcome{http.StatusUnprocessableEntity, "invalid"}},
	{compute.ErrNoFlavor, outcome{http.StatusUnprocessableEntity, "no_such_flavor"}},
	{compute.ErrNoImage, outcome{http.StatusUnprocessableEntity, "no_such_image"}},
	{compute.ErrImageTooLarge, outcome{http.StatusUnprocessableEntity, "image_too_large"}},
	{compute.ErrQuota, outcome{http.StatusConflict, "quota_exceeded"}},
	{compute.ErrDeleted, outcome{http.StatusConflict, "deleted"}},
	{compute.ErrMoving, outcome{http.StatusConflict, "moving"}},
	{compute.ErrHeld, outcome{http.StatusConflict, "held"}},
	{compute.ErrDiskShrinks, outcome{http.StatusConflict, "disk_shrinks"}},
	{compute.ErrStopFirst, outcome{http.StatusConflict, "stop_first"}},
	{compute.ErrNoSharedStorage, outcome{http.StatusConflict, "no_shared_storage"}},
	{compute.ErrOldAgent, outcome{http.StatusConflict, "agent_outdated"}},
	{compute.ErrNoCapacity, outcome{http.StatusServiceUnavailable, "no_capacity"}},
	{compute.ErrNotFound, outcome{http.StatusNotFound, "not_found"}},
	{invoicing.ErrNoCredit, outcome{http.StatusPaymentRequired, "no_credit"}},
	{invoicing.ErrAccruedStale, outcome{http.StatusServiceUnavailable, "accrued_stale"}},
	{invoicing.ErrCutOrder, outcome{http.StatusConflict, "cut_order"}},
	{invoicing.ErrMidPeriod, outcome{http.StatusUnprocessableEntity, "mid_period"}},
	{invoicing.ErrPeriodClosed, outcome{http.StatusConflict, "period_closed"}},
	{invoicing.ErrNoBacktest, outcome{http.StatusUnprocessableEntity, "no_backtest"}},
	{invoicing.ErrNotFound, outcome{http.StatusNotFound, "not_found"}},
	{invoicing.ErrNoAccount, outcome{http.StatusNotFound, "not_found"}},
	{invoicedb.ErrKeyReused, outcome{http.StatusConflict, "key_reused"}},
	{invoicedb.ErrConflict, outcome{http.StatusConflict, "conflict"}},
	{epochdb.ErrNotFound, outcome{http.StatusNotFound, "not_found"}},
	{epochdb.ErrDecided, outcome{http.StatusConflict, "decided"}},
	{epochdb.ErrVoided, outcome{http.StatusConflict, "voided"}},
	{ingest.ErrUnacceptable, outcome{http.StatusUnprocessableEntity, "unacceptable"}},
	{trust.ErrInvalid, outcome{http.StatusUnprocessableEntity, "invalid"}},
	{plandb.ErrNoDate, outcome{http.StatusUnprocessableEntity, "invalid_plan"}},
	{plandb.ErrSuccessor, outcome{http.StatusUnprocessableEntity, "invalid_plan"}},
	{plandb.ErrNotFound, outcome{http.StatusNotFound, "not_found"}},
}

// outcomeOf is how err is answered, and what is said of it: an error that
// nobody foresaw says nothing of itself.
func outcomeOf(err error) (outcome, string) {
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.outcome, err.Error()
		}
	}
	var plan *planfile.Error
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &plan):
		return outcome{http.StatusUnprocessableEntity, "invalid_plan"}, err.Error()
	case errors.As(err, &large):
		return outcome{http.StatusRequestEntityTooLarge, "too_large"}, "the request is longer than it may be"
	}
	return outcome{http.StatusInternalServerError, "internal"}, "something went wrong here; it was logged, and trying again may help"
}

// fail answers with err: a problem under /api/, an error page elsewhere. Who is
// not signed in is sent to the sign-in page.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	o, detail := outcomeOf(err)
	if o.code == "internal" {
		if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
			return // nobody is there to be answered
		}
		s.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if o.status == http.StatusTooManyRequests || o.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "60")
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		if o.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="usance"`)
		}
		body, err := json.Marshal(Problem{Type: "about:blank", Title: http.StatusText(o.status), Status: o.status, Code: o.code, Detail: detail})
		if err != nil {
			panic(err) // a struct of strings
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(o.status)
		w.Write(body)
		return
	}
	if errors.Is(err, identity.ErrNoSession) {
		s.toLogin(w, r)
		return
	}
	s.errorPage(w, r, o, detail)
}
