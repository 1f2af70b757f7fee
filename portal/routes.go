package portal

import (
	"net/http"

	"github.com/gorilla/mux"
)

// access is what a route wants of its caller.
type access int

const (
	forAnyone   access = iota
	forSession         // a session; without one, the sign-in page
	forTenant          // an API token or a session
	forOperator        // the operator's token
)

// route is one method of one path.
type route struct {
	method, path string
	access       access
	handle       handler
}

const apiPrefix = "/api/v1"

// routes are all of them. OpenAPI describes those under apiPrefix.
func routes() []route {
	return []route{
		{"GET", "/healthz", forAnyone, (*server).health},
		{"GET", "/static/{file}", forAnyone, (*server).serveStatic},

		{"GET", "/login", forAnyone, (*server).loginPage},
		{"POST", "/login", forAnyone, (*server).login},
		{"POST", "/logout", forAnyone, (*server).logout},
		{"GET", "/", forSession, (*server).home},
		{"GET", "/instances", forSession, (*server).instancesPage},
		{"POST", "/instances", forSession, (*server).createFromForm},
		{"GET", "/instances/{id}", forSession, (*server).instancePage},
		{"GET", "/instances/{id}/events", forSession, (*server).instanceEvents},
		{"POST", "/instances/{id}/start", forSession, (*server).startFromForm},
		{"POST", "/instances/{id}/stop", forSession, (*server).stopFromForm},
		{"POST", "/instances/{id}/resize", forSession, (*server).resizeFromForm},
		{"POST", "/instances/{id}/delete", forSession, (*server).deleteFromForm},
		{"GET", "/invoices", forSession, (*server).invoicesPage},
		{"GET", "/invoices/{number}", forSession, (*server).invoicePage},

		{"GET", "/api/openapi.json", forAnyone, (*server).openAPI},
		{"GET", apiPrefix + "/instances", forTenant, (*server).listInstances},
		{"POST", apiPrefix + "/instances", forTenant, (*server).createInstance},
		{"GET", apiPrefix + "/instances/{id}", forTenant, (*server).getInstance},
		{"DELETE", apiPrefix + "/instances/{id}", forTenant, (*server).deleteInstance},
		{"POST", apiPrefix + "/instances/{id}/start", forTenant, (*server).startInstance},
		{"POST", apiPrefix + "/instances/{id}/stop", forTenant, (*server).stopInstance},
		{"POST", apiPrefix + "/instances/{id}/resize", forTenant, (*server).resizeInstance},
		{"GET", apiPrefix + "/instances/{id}/readings", forTenant, (*server).listReadings},
		{"GET", apiPrefix + "/flavors", forTenant, (*server).listFlavors},
		{"GET", apiPrefix + "/preview", forTenant, (*server).getPreview},
		{"GET", apiPrefix + "/usage", forTenant, (*server).listUsage},
		{"GET", apiPrefix + "/accrued", forTenant, (*server).getAccrued},
		{"GET", apiPrefix + "/invoices", forTenant, (*server).listInvoices},
		{"GET", apiPrefix + "/invoices/{number}", forTenant, (*server).getInvoice},

		{"GET", apiPrefix + "/operator/plans", forOperator, (*server).listPlans},
		{"POST", apiPrefix + "/operator/plans", forOperator, (*server).publishPlan},
		{"GET", apiPrefix + "/operator/plans/{plan}", forOperator, (*server).getPlan},
		{"POST", apiPrefix + "/operator/backtest", forOperator, (*server).createBacktest},
		{"GET", apiPrefix + "/operator/tenants", forOperator, (*server).listTenants},
		{"POST", apiPrefix + "/operator/tenants", forOperator, (*server).createTenant},
		{"POST", apiPrefix + "/operator/tenants/{id}/credit", forOperator, (*server).grantCredit},
		{"POST", apiPrefix + "/operator/tenants/{id}/tokens", forOperator, (*server).createToken},
		{"POST", apiPrefix + "/operator/tenants/{id}/closings", forOperator, (*server).createClosing},
		{"GET", apiPrefix + "/operator/tenants/{id}/preview", forOperator, (*server).getTenantPreview},
		{"GET", apiPrefix + "/operator/tenants/{id}/invoices", forOperator, (*server).listTenantInvoices},
		{"GET", apiPrefix + "/operator/invoices/{number}", forOperator, (*server).findInvoice},
		{"GET", apiPrefix + "/operator/hosts", forOperator, (*server).listHosts},
		{"POST", apiPrefix + "/operator/hosts/tokens", forOperator, (*server).createJoinToken},
		{"DELETE", apiPrefix + "/operator/hosts/{id}", forOperator, (*server).removeHost},
		{"POST", apiPrefix + "/operator/instances/{id}/start", forOperator, (*server).startHeld},
		{"POST", apiPrefix + "/operator/instances/{id}/stop", forOperator, (*server).holdInstance},
		{"POST", apiPrefix + "/operator/instances/{id}/move", forOperator, (*server).moveInstance},
		{"GET", apiPrefix + "/operator/quarantine", forOperator, (*server).listQuarantine},
		{"GET", apiPrefix + "/operator/quarantine/count", forOperator, (*server).countQuarantine},
		{"POST", apiPrefix + "/operator/quarantine/accept", forOperator, (*server).acceptSelected},
		{"POST", apiPrefix + "/operator/quarantine/reject", forOperator, (*server).rejectSelected},
		{"POST", apiPrefix + "/operator/quarantine/{id}/accept", forOperator, (*server).acceptQuarantined},
		{"POST", apiPrefix + "/operator/quarantine/{id}/reject", forOperator, (*server).rejectQuarantined},
		{"POST", apiPrefix + "/operator/epochs/{id}/void", forOperator, (*server).voidEpoch},
		{"GET", apiPrefix + "/operator/leaks", forOperator, (*server).listLeaks},
	}
}

// router serves all routes; forms of other sites are refused.
func (s *server) router() http.Handler {
	m := mux.NewRouter()
	for _, rt := range routes() {
		methods := []string{rt.method}
		if rt.method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
		m.Path(rt.path).Methods(methods...).HandlerFunc(s.serve(rt))
	}
	m.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, errNoPage) })
	m.MethodNotAllowedHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE"} {
			try := r.Clone(r.Context())
			try.Method = method
			if match := (mux.RouteMatch{}); m.Match(try, &match) && match.MatchErr == nil {
				w.Header().Add("Allow", method)
			}
		}
		s.fail(w, r, errMethod)
	})
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, errCrossOrigin) }))
	return harden(guard.Handler(m))
}
