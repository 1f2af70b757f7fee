package portal

import (
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/ingest"
)

// The JSON of /api/v1. Unsigned 64-bit numbers and money are strings, so that no
// client rounds them; times are RFC 3339 in UTC. Lists are {items, next}: next is
// the value of ?after= for the following page, absent on the last.

// List is one page of a list.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Money is an amount with its currency, such as {"12.34","EUR"}.
type Money struct {
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
}

// InstanceJSON is a VM as its tenant sees it.
type InstanceJSON struct {
	ID        metering.InstanceID `json:"id"`
	Name      string              `json:"name"`
	Flavor    string              `json:"flavor"`
	Image     string              `json:"image"`
	Host      metering.HostID     `json:"host"`
	Desired   string              `json:"desired"`
	Reason    string              `json:"reason"` // why it is desired so
	State     string              `json:"state"`
	Since     time.Time           `json:"since"`
	Resizing  bool                `json:"resizing"`           // it may still run as before the flavor was ordered, and is then billed so
	MovesTo   metering.HostID     `json:"moves_to,omitempty"` // where it is being moved
	Address   string              `json:"address,omitempty"`
	Error     string              `json:"error,omitempty"`
	Registers map[string]string   `json:"registers"` // summed over the instance's epochs; null when they cannot be read now
	ReadAt    *time.Time          `json:"read_at"`   // of the newest reading; null: none yet, or not known now
	// UnreadSince is since when the registers cannot be read; absent while they can.
	UnreadSince *time.Time `json:"unread_since,omitempty"`
	Accrued     *Money     `json:"accrued"` // not yet invoiced; null when it could not be computed
	Created     time.Time  `json:"created"`
}

// CreateInstance is the body of POST /api/v1/instances. An Idempotency-Key
// header makes a repeated request answer with the first one's instance.
type CreateInstance struct {
	Name     string   `json:"name"`
	Flavor   string   `json:"flavor"`
	Image    string   `json:"image"`
	SSHKeys  []string `json:"ssh_keys,omitempty"`
	UserData string   `json:"user_data,omitempty"`
}

// ResizeInstance is the body of POST /api/v1/instances/{id}/resize.
type ResizeInstance struct {
	Flavor string `json:"flavor"`
}

// ReadingJSON is one reading of one epoch.
type ReadingJSON struct {
	Epoch     metering.EpochID  `json:"epoch"`
	At        time.Time         `json:"at"`
	Received  time.Time         `json:"received"`
	Registers map[string]string `json:"registers"`
}

// UsageJSON is the quantity of one meter, of one resource or of all.
type UsageJSON struct {
	Resource metering.ResourceID `json:"resource,omitempty"` // absent: of all
	Meter    metering.Meter      `json:"meter"`
	Start    time.Time           `json:"start"`
	End      time.Time           `json:"end"`
	Quantity string              `json:"quantity"` // base units
	Unit     string              `json:"unit"`
}

// AccruedJSON is what a tenant owes so far and is not yet invoiced.
type AccruedJSON struct {
	Amount    string         `json:"amount"`
	Currency  string         `json:"currency"`
	AsOf      time.Time      `json:"as_of"`
	Credit    string         `json:"credit"` // what may still be spent
	Resources []AccruedShare `json:"resources"`
}

// AccruedShare is one resource's part.
type AccruedShare struct {
	Resource metering.ResourceID `json:"resource"`
	Amount   string              `json:"amount"`
}

// FlavorJSON is a size on offer. Hourly is what an hour of running adds, exact,
// Monthly and Stopped are bills without tax of a month of nothing but this: always
// running, and always switched off.
type FlavorJSON struct {
	Name      string `json:"name"`
	VCPUs     int    `json:"vcpus"`
	MemoryMiB int64  `json:"memory_mib"`
	DiskMiB   int64  `json:"disk_mib"`
	Hourly    *Money `json:"hourly,omitempty"`
	Monthly   *Money `json:"monthly,omitempty"`
	Stopped   *Money `json:"stopped,omitempty"`
}

// InvoiceJSON is an issued invoice.
type InvoiceJSON struct {
	Number   string            `json:"number"`
	Tenant   metering.TenantID `json:"tenant"`
	Issued   time.Time         `json:"issued"`
	Start    time.Time         `json:"period_start"`
	End      time.Time         `json:"period_end"` // the cut
	Currency string            `json:"currency"`
	Lines    []InvoiceLineJSON `json:"lines,omitempty"` // absent in lists
	Net      string            `json:"net"`
	Tax      string            `json:"tax"`
	Gross    string            `json:"gross"`
	Credit   string            `json:"credit_applied"`
	Due      string            `json:"due"`
}

// InvoiceLineJSON is one line item: quantity × price − allowance = exact, which
// is this invoice's part; billed_exact + exact, rounded once, less billed is the
// amount. Quantities and exact amounts have at most 12 decimals; further ones
// are rounded away here alone.
type InvoiceLineJSON struct {
	Description string    `json:"description"`
	Rate        string    `json:"rate"`
	Meter       string    `json:"meter"`
	Start       time.Time `json:"period_start"` // the period the usage lies in; an earlier one for late usage
	End         time.Time `json:"period_end"`
	Quantity    string    `json:"quantity"`
	Unit        string    `json:"unit"`
	Price       string    `json:"price"`        // per unit
	Allowance   string    `json:"allowance"`    // what a cap takes off
	Exact       string    `json:"exact"`        // before rounding
	BilledExact string    `json:"billed_exact"` // what earlier cuts of the period have of the line, before rounding
	Billed      string    `json:"billed"`       // the same, rounded
	Amount      string    `json:"amount"`
}

// Problem is an error as RFC 9457 has it, with a code for programs.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// The operator's part, under /api/v1/operator, with the operator's token.

// PublishedPlan answers POST /operator/plans, whose body is the plan's YAML. A
// plan equal to the newest version is not published again.
type PublishedPlan struct {
	Plan      string   `json:"plan"`
	Version   int      `json:"version"`
	Effective string   `json:"effective"`  // day
	MidPeriod bool     `json:"mid_period"` // running periods change on that day, and not only those that begin later
	InForce   bool     `json:"in_force"`   // the last to have taken effect; a period that began before may keep an earlier version
	Warnings  []string `json:"warnings,omitempty"`
}

// PlanSource answers GET /operator/plans/{plan}: the newest version.
type PlanSource struct {
	PublishedPlan
	Source string `json:"source"` // YAML
}

// CreateTenant is the body of POST /operator/tenants: a tenant with its owner.
type CreateTenant struct {
	Name     string `json:"name"`
	Email    string `json:"email"`
	Password string `json:"password"`
	Plan     string `json:"plan"`
	Currency string `json:"currency"`
	Zone     string `json:"zone"` // billing zone, such as Europe/Berlin
}

// TenantJSON is a tenant as the operator sees it; GET /operator/tenants?email= finds it.
type TenantJSON struct {
	ID       metering.TenantID `json:"id"`
	Name     string            `json:"name"`
	Email    string            `json:"email"`
	Plan     string            `json:"plan"`
	Currency string            `json:"currency"`
	Zone     string            `json:"zone"`
}

// GrantCredit is the body of POST /operator/tenants/{id}/credit: promotional
// credit. The key makes a repeated request grant once.
type GrantCredit struct {
	Amount  string     `json:"amount"`
	Key     string     `json:"key"`
	Expires *time.Time `json:"expires,omitempty"`
}

// TokenJSON answers POST /operator/tenants/{id}/tokens and POST /operator/hosts/tokens.
type TokenJSON struct {
	Token   string     `json:"token"`
	Expires *time.Time `json:"expires,omitempty"`
}

// ClosingJSON answers POST /operator/tenants/{id}/closings: a cut on demand.
type ClosingJSON struct {
	Cut     time.Time    `json:"cut"`
	Invoice *InvoiceJSON `json:"invoice"` // null: nothing to bill
	// Unrated is usage of the periods closed that no rate of their plans fits: a
	// leak. A repeated closing does not tell it again.
	Unrated []UnratedJSON `json:"unrated"`
	// Thin are percentiles of so few measured slots that an operator should look.
	Thin []ThinJSON `json:"thin"`
}

// ThinJSON is a percentile of less than 90 % of a period's slots.
type ThinJSON struct {
	Period   time.Time           `json:"period_start"`
	Rate     string              `json:"rate"`
	Resource metering.ResourceID `json:"resource"` // "" for one over the tenant
	Measured int                 `json:"measured"` // slots
	Slots    int                 `json:"slots"`
}

// UnratedJSON is usage of a resource that no rate fits.
type UnratedJSON struct {
	Resource metering.ResourceID `json:"resource"`
	Meter    metering.Meter      `json:"meter"`
	Flavor   string              `json:"flavor"`
	Quantity string              `json:"quantity"` // base units
	Unit     string              `json:"unit"`
	// Added is what minimum and granularity would have added, where a start ended
	// with no rate in force: nothing charges that either. Base units.
	Added string `json:"added,omitempty"`
}

// PreviewJSON answers GET /preview?flavor=&image=&hours=: what an instance costs
// that is created when the period begins, runs for that many hours and then stays
// switched off, if it is all that the tenant has. What it will read, write and
// send is in none of it.
type PreviewJSON struct {
	Flavor   string            `json:"flavor"`
	Image    string            `json:"image,omitempty"`
	Hours    *int              `json:"hours"` // null: it always runs
	Start    time.Time         `json:"period_start"`
	End      time.Time         `json:"period_end"`
	Currency string            `json:"currency"`
	Hourly   string            `json:"hourly"` // what an hour of running adds, exact
	Lines    []PreviewLineJSON `json:"lines"`
	Net      string            `json:"net"` // the bill of the period
	Tax      string            `json:"tax"`
	Gross    string            `json:"gross"`
	TaxRule  string            `json:"tax_rule"` // such as S:19.000
	Stopped  string            `json:"stopped"`  // the bill without tax if it never ran
	Unrated  []UnratedJSON     `json:"unrated"`  // what no rate fits
}

// PreviewLineJSON is a line of a bill: quantity × price − allowance, rounded once.
type PreviewLineJSON struct {
	Rate      string `json:"rate"`
	Quantity  string `json:"quantity"`
	Unit      string `json:"unit"`
	Price     string `json:"price"`
	Allowance string `json:"allowance"`
	Amount    string `json:"amount"`
}

// CreateBacktest is the body of POST /operator/backtest.
type CreateBacktest struct {
	Plan    string            `json:"plan"`              // YAML: the plan to be tried
	Against string            `json:"against,omitempty"` // YAML: instead of what each tenant is billed under
	Period  string            `json:"period"`            // a month, such as 2026-10, in each tenant's zone
	Tenant  metering.TenantID `json:"tenant,omitempty"`  // only this one
	All     bool              `json:"all,omitempty"`     // also tenants on plans of another name
	AtPar   bool              `json:"at_par,omitempty"`  // take prices as of the tenants' currency
}

// BacktestJSON answers it: what real usage costs under both plans, as invoices
// without tax. It is of one page of accounts; ?after=next goes on, and the sums
// of all pages are those of the whole.
type BacktestJSON struct {
	Plan     string             `json:"plan"`
	Period   string             `json:"period"`
	Currency string             `json:"currency"`
	Accounts int                `json:"accounts"` // how many there are on all pages, compared or not
	Before   string             `json:"before"`
	After    string             `json:"after"`
	ByFlavor []ComparedJSON     `json:"by_flavor"` // "" is what is pooled over a tenant
	ByMeter  []ComparedJSON     `json:"by_meter"`  // "" is minimum spend
	Tenants  []ComparedJSON     `json:"tenants"`
	Unrated  []UnratedTotalJSON `json:"unrated"`
	Skipped  []SkippedJSON      `json:"skipped"`
	Next     string             `json:"next,omitempty"`
}

// ComparedJSON is what a flavor, a meter or a tenant costs under both plans.
type ComparedJSON struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// UnratedTotalJSON is usage of a tenant's resources that no rate of a plan fits.
type UnratedTotalJSON struct {
	Tenant    metering.TenantID `json:"tenant"`
	Plan      string            `json:"plan"` // before or after
	Meter     metering.Meter    `json:"meter"`
	Flavor    string            `json:"flavor"`
	Resources int               `json:"resources"`
	Quantity  string            `json:"quantity"` // base units
	Unit      string            `json:"unit"`
}

// SkippedJSON is a tenant that could not be compared.
type SkippedJSON struct {
	Tenant metering.TenantID `json:"tenant"`
	Reason string            `json:"reason"`
}

// HostJSON is a host as the operator sees it.
type HostJSON struct {
	ID        metering.HostID `json:"id"`
	Name      string          `json:"name"`
	State     string          `json:"state"`
	Seen      *time.Time      `json:"seen"`
	VCPUs     int             `json:"vcpus"`
	MemoryMiB int64           `json:"memory_mib"`
	DiskMiB   int64           `json:"disk_mib"`
	VCPUsUsed int             `json:"vcpus_used"`
	Storage   string          `json:"storage,omitempty"` // shared with the hosts of the same one
	Spool     *SpoolJSON      `json:"spool"`             // as last reported; null when it never did
	// HypervisorError is why the host's agent cannot reach its hypervisor.
	HypervisorError string `json:"hypervisor_error,omitempty"`
}

// SpoolJSON is what waits on a host to be sent, and what the wait has cost since
// its agent started; of an agent of the first version, without Limit, the latter is
// not known.
type SpoolJSON struct {
	Bytes    int64      `json:"bytes"`
	Limit    int64      `json:"limit,omitempty"`
	Readings int64      `json:"readings"`
	Oldest   *time.Time `json:"oldest"`  // of them; null when none waits
	Thinned  int64      `json:"thinned"` // readings given up: usage of a slot stays, its course within the slot is lost
	Refused  int64      `json:"refused"` // rounds for which there was no room: what they showed is in the next that had it
	Aside    int64      `json:"aside"`   // bodies kept aside: damaged, or refused as malformed
}

// MoveInstance is the body of POST /operator/instances/{id}/move.
type MoveInstance struct {
	Host metering.HostID `json:"host"`
}

// MoveJSON answers it: where the instance is, and where it goes; it has gone when
// its host is the other one.
type MoveJSON struct {
	Instance metering.InstanceID `json:"instance"`
	Tenant   metering.TenantID   `json:"tenant"`
	Host     metering.HostID     `json:"host"`
	MovesTo  metering.HostID     `json:"moves_to,omitempty"`
}

// QuarantinedJSON is a reading that was not accepted.
type QuarantinedJSON struct {
	ID        string              `json:"id"`
	State     string              `json:"state"` // open, held, accepted, rejected
	Reason    string              `json:"reason"`
	Detail    string              `json:"detail"` // the figures
	Host      metering.HostID     `json:"host"`
	Tenant    metering.TenantID   `json:"tenant"` // "" when the lease is unknown
	Instance  metering.InstanceID `json:"instance"`
	Epoch     metering.EpochID    `json:"epoch"`
	Lease     string              `json:"lease"`
	At        time.Time           `json:"at"`
	Received  time.Time           `json:"received"`
	Registers map[string]string   `json:"registers"`
	AdmitAt   *time.Time          `json:"admit_at,omitempty"` // of a held one
	By        string              `json:"decided_by,omitempty"`
	DecidedAt *time.Time          `json:"decided_at,omitempty"`
	Note      string              `json:"note,omitempty"`
}

// DecideQuarantined is the body of POST /operator/quarantine/{id}/accept and
// reject, which may be absent.
type DecideQuarantined struct {
	By   string `json:"by,omitempty"` // who decides; "operator" unless said
	Note string `json:"note,omitempty"`
}

// DecideSelected is the body of POST /operator/quarantine/accept and …/reject: a
// decision about all open readings of a host, an epoch, an instance or for a
// reason, or of several of these together. A call decides at most 1000; the next one
// goes on after Next of the answer.
type DecideSelected struct {
	DecideQuarantined
	Host     metering.HostID     `json:"host,omitempty"`
	Epoch    metering.EpochID    `json:"epoch,omitempty"`
	Instance metering.InstanceID `json:"instance,omitempty"`
	Reason   ingest.Reason       `json:"reason,omitempty"`
	Through  string              `json:"through"` // what came in after this reading is not meant; GET /operator/quarantine/count tells it
	After    string              `json:"after,omitempty"`
}

// SelectedJSON answers GET /operator/quarantine/count.
type SelectedJSON struct {
	Count   int64      `json:"count"`
	Through string     `json:"through"` // the last reading that was counted; "" when there is none
	Since   *time.Time `json:"since"`   // when the first of them came in
}

// DecidedJSON answers a DecideSelected.
type DecidedJSON struct {
	Decided int        `json:"decided"` // readings, by this call
	Left    []LeftJSON `json:"left"`    // those of this call's that nobody can accept; they stay open
	Next    string     `json:"next,omitempty"`
}

// LeftJSON is a reading that cannot be accepted.
type LeftJSON struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

// VoidEpoch is the body of POST /operator/epochs/{id}/void.
type VoidEpoch struct {
	From   time.Time `json:"from"` // the last instant that still counts
	Reason string    `json:"reason"`
	By     string    `json:"by,omitempty"` // who decides; "operator" unless said
}

// VoidJSON answers POST /operator/epochs/{id}/void.
type VoidJSON struct {
	Epoch      metering.EpochID    `json:"epoch"`
	Tenant     metering.TenantID   `json:"tenant"`
	Instance   metering.InstanceID `json:"instance"`
	From       time.Time           `json:"from"`
	Counted    map[string]string   `json:"counted"` // the most the epoch counts for, opening reading included
	Next       metering.EpochID    `json:"next"`    // the epoch that continues it
	NextOpened time.Time           `json:"next_opened"`
}

// LeakJSON is a difference between what runs, what is wanted and what is billed.
type LeakJSON struct {
	ID      string            `json:"id"`
	Kind    string            `json:"kind"`
	Subject string            `json:"subject"` // what it is about: an instance, an epoch, a host and reason …
	Tenant  metering.TenantID `json:"tenant,omitempty"`
	Host    metering.HostID   `json:"host,omitempty"`
	Since   time.Time         `json:"since"`
	Detail  string            `json:"detail"`
	Hourly  *Money            `json:"hourly"` // estimated; null when it cannot be said
	Opened  time.Time         `json:"opened"`
	Closed  *time.Time        `json:"closed"`        // null while it is open
	Why     string            `json:"why,omitempty"` // it closed
}
