package portal

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/trust"
	"github.com/usance/usance/portal/identity"
	"github.com/usance/usance/rating/plandb"
)

// Config is what pages and API call. Stores are used as they are; what takes
// several rooms comes as a function. All of it is required but TrustProxy.
type Config struct {
	Identity    *identity.Store
	Compute     *computedb.Store
	Readings    *readingdb.Store
	Epochs      *epochdb.Store
	Allocations *allocdb.Store
	Trust       *trust.Run
	Plans       *plandb.Store
	Invoices    *invoicedb.Store
	Bills       *billrun.Run
	// Accrued is what the tenant owes so far and is not yet invoiced.
	Accrued func(ctx context.Context, tenant metering.TenantID) (invoicing.Accrued, error)
	// Cut closes the tenant's period up to now, after a full reading of its hosts.
	Cut func(ctx context.Context, tenant metering.TenantID) (at time.Time, made billrun.Cut, err error)
	// Flavors are what the tenant's plan sells today, with their prices.
	Flavors func(ctx context.Context, tenant metering.TenantID) ([]FlavorJSON, error)
	// CreateTenant makes the tenant in every room.
	CreateTenant func(ctx context.Context, n CreateTenant) (TenantJSON, error)
	// GrantCredit gives promotional credit.
	GrantCredit func(ctx context.Context, tenant metering.TenantID, g GrantCredit) error
	// JoinToken makes a token for one host.
	JoinToken func(ctx context.Context) (TokenJSON, error)
	// Images are the names of the images on offer.
	Images func() ([]string, error)
	// OperatorToken opens /api/v1/operator.
	OperatorToken string
	// TrustProxy says that a proxy of ours stands before the portal: the client's
	// address is then the last of X-Forwarded-For, and X-Forwarded-Proto says
	// whether cookies are for HTTPS alone. Without it both headers are ignored.
	TrustProxy bool
	Log        *slog.Logger
}

// server is the portal at work.
type server struct {
	Config
	pages     pages
	static    static
	signIns   *throttle
	streams   *streams
	accrued   *cache[invoicing.Accrued]
	standings *cache[map[metering.InstanceID]readingdb.Standing]
	standing  *cache[readingdb.Standing]
	outage    outage
}

// New makes the handler of all pages and of the API. It panics when a template
// or a static file is broken or no operator token is given: that is a broken program.
func New(c Config) http.Handler {
	if c.OperatorToken == "" {
		panic("portal: no operator token")
	}
	s := &server{
		Config:    c,
		static:    loadStatic(),
		signIns:   newThrottle(),
		streams:   newStreams(),
		accrued:   newCache[invoicing.Accrued](),
		standings: newCache[map[metering.InstanceID]readingdb.Standing](),
		standing:  newCache[readingdb.Standing](),
	}
	s.pages = loadPages(s.static)
	return s.router()
}

// caller is who asks, as far as the route wants to know.
type caller struct {
	tenant metering.TenantID
	name   string // of the tenant; "" with an API token
	email  string // "" with an API token
}

// handler answers a request or says why it could not; then nothing was written.
type handler func(s *server, w http.ResponseWriter, r *http.Request, who caller) error

// serve authenticates the caller as the route wants, and renders what went wrong.
func (s *server) serve(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, err := s.authenticate(r, rt.access)
		if err == nil {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			err = rt.handle(s, w, r, who)
		}
		if err != nil {
			s.fail(w, r, err)
		}
	}
}

// harden sets what every answer carries: no script or style but our own, no
// frames, nothing kept by caches unless a handler says otherwise.
func harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "+
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// healthTime is how long the databases may take to answer a health check.
const healthTime = 3 * time.Second

// health answers 200 when both databases answer, else 503 naming those that do not.
func (s *server) health(w http.ResponseWriter, r *http.Request, _ caller) error {
	ctx, cancel := context.WithTimeout(r.Context(), healthTime)
	defer cancel()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	var down string
	for _, d := range []struct {
		name string
		ping func(context.Context) error
	}{{"Postgres", s.Identity.Ping}, {"ClickHouse", s.Readings.Ping}} {
		if err := d.ping(ctx); err != nil {
			s.Log.Error("database does not answer", "database", d.name, "err", err)
			down += d.name + " does not answer\n"
		}
	}
	if down != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, down)
		return nil
	}
	fmt.Fprintln(w, "ok")
	return nil
}
