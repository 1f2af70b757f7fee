package invoicing

import (
	"errors"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// What callers branch on.
var (
	ErrNotFound  = errors.New("no such invoice")
	ErrNoAccount = errors.New("tenant has no account")
	// ErrCutOrder: a cut is not after the tenant's last one.
	ErrCutOrder = errors.New("cut is not after the last cut")
	// ErrNoCredit: what the tenant has left does not carry what it asks for.
	ErrNoCredit = errors.New("not enough credit")
	// ErrAccruedStale: what the tenant owes is not known well enough to promise more.
	ErrAccruedStale = errors.New("accrued cost is not up to date")
)

// Credit is what a tenant may still spend. Available = Prepaid + Promotional +
// Limit − Unpaid − Accrued; it may be negative.
type Credit struct {
	Prepaid     money.Amount `json:"prepaid"`
	Promotional money.Amount `json:"promotional"`
	Limit       money.Amount `json:"limit"`
	Unpaid      money.Amount `json:"unpaid"`  // of issued invoices
	Accrued     money.Amount `json:"accrued"` // at most this much, from the accrued cache, grown by its burn since
	Available   money.Amount `json:"available"`
	AsOf        time.Time    `json:"as_of"` // when the accrued cost was computed
}

// Accrued is what is measured and not yet on an issued invoice: the open
// period, ended periods not yet issued, and late usage.
type Accrued struct {
	AsOf       time.Time        `json:"as_of"`
	Currency   money.Currency   `json:"currency"`
	Total      money.Amount     `json:"total"`
	Lines      []LineItem       `json:"lines"`
	ByResource []ResourceAmount `json:"by_resource"` // by resource; sums to Total
}

// ResourceAmount is what one resource has accrued. Resource is "" for what
// belongs to no single resource.
type ResourceAmount struct {
	Resource metering.ResourceID `json:"resource"`
	Amount   money.Amount        `json:"amount"`
}

// Running is an instance that costs money by the hour.
type Running struct {
	Tenant   metering.TenantID
	Instance metering.InstanceID
	Labels   metering.Labels
	// VCPUs and MemoryMiB are what its running time is multiplied with for the
	// meters instance.vcpu and instance.memory.
	VCPUs     int
	MemoryMiB int64
}
