package portal

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/portal/identity"
	"github.com/usance/usance/rating/plandb"
)

// Config is what pages and API call. Stores are used as they are; what takes
// several rooms comes as a function.
type Config struct {
	Identity *identity.Store
	Compute  *computedb.Store
	Readings *readingdb.Store
	Plans    *plandb.Store
	Invoices *invoicedb.Store
	// Accrued is what the tenant owes so far and is not yet invoiced.
	Accrued func(ctx context.Context, tenant metering.TenantID) (invoicing.Accrued, error)
	// Cut closes the tenant's period up to now, after a full reading of its
	// hosts; the invoice is nil when there was nothing to bill.
	Cut func(ctx context.Context, tenant metering.TenantID) (at time.Time, invoice *invoicing.Invoice, err error)
	// Flavors are what the tenant's plan sells today, with the price of an hour
	// of running where the plan has one.
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
	Log           *slog.Logger
}

// New makes the handler of all pages and of the API. It panics when a template
// is broken: that is a broken program.
func New(c Config) http.Handler { return http.NotFoundHandler() }

var _ = compute.PowerRunning // until the routes stand
