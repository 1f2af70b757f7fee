package ingest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/usance/usance/metering"
)

// Path is where the handler is to be served.
const Path = "/v1/readings"

var (
	// ErrUnknownHost is returned by Config.Authenticate for a request without a
	// certificate of ours. It is answered with 401.
	ErrUnknownHost = errors.New("unknown host")
	// ErrRemovedHost is returned by Config.Authenticate for a host that was
	// removed. It is answered with 403.
	ErrRemovedHost = errors.New("removed host")
)

// Config is what the handler needs. The functions may be called from many
// goroutines at once, and must not keep their arguments. An error of any but
// Authenticate is answered with 503: the host sends the batch again.
type Config struct {
	// Authenticate says which host sent the request.
	Authenticate func(r *http.Request) (metering.HostID, error)
	// Known returns the records of those epochs that are registered.
	Known func(ctx context.Context, ids []metering.EpochID) (map[metering.EpochID]metering.EpochRecord, error)
	// Leases returns those of the leases that were ever granted, as they are now.
	Leases func(ctx context.Context, keys []LeaseKey) (map[LeaseKey]Lease, error)
	// Register makes new epoch records durable. One that is there already stays as it is.
	Register func(ctx context.Context, epochs []metering.EpochRecord) error
	// Insert makes rows durable. Rows may have been inserted before.
	Insert func(ctx context.Context, rows *metering.Columns) error
	// Quarantine keeps readings that are not accepted (now). They may have been
	// kept before: epoch, time and reason tell them apart.
	Quarantine func(ctx context.Context, readings []Quarantined) error
	Log        *slog.Logger // nil: slog.Default()
}

// LeaseKey names a lease.
type LeaseKey struct {
	Instance metering.InstanceID
	No       metering.LeaseNo
}

// Lease is what the control plane knows of a placement.
type Lease struct {
	Tenant  metering.TenantID
	Host    metering.HostID
	Labels  metering.Labels
	Granted time.Time // the server's clock
	Ended   time.Time // when it ended or a newer one was granted; zero while it is in force
	// MaxBytesPerSecond bounds the growth of each of the host's byte registers; 0: no bound.
	MaxBytesPerSecond uint64
}

// Reason is why a reading is not accepted.
type Reason string

// The reasons.
const (
	ReasonNoLease    Reason = "no-lease"   // the lease was not granted to this host
	ReasonForeign    Reason = "foreign"    // the epoch is registered for another lease or host
	ReasonEarly      Reason = "early"      // before the lease was granted
	ReasonSuperseded Reason = "superseded" // after the lease ended
	ReasonTime       Reason = "time"       // running + paused exceed the clock
	ReasonBytes      Reason = "bytes"      // more bytes than the host can move
	ReasonFuture     Reason = "future"     // held: not yet, see Quarantined.AdmitAt
)

// Quarantined is a reading that was not accepted.
type Quarantined struct {
	Host     metering.HostID
	Tenant   metering.TenantID // "" when the lease is unknown
	Epoch    metering.Epoch
	Reading  metering.Reading
	Received time.Time // the server's clock
	Reason   Reason
	Detail   string // the figures, for people
	// AdmitAt is set for a reading of the future alone: it is held, and is to be
	// given to Handler.Take again at that time, which accepts it then.
	AdmitAt time.Time
}

// Response is the answer to an accepted batch, as JSON.
type Response struct {
	Accepted    int       `json:"accepted"`    // readings, durable now
	Quarantined int       `json:"quarantined"` // readings kept for an operator
	Held        int       `json:"held"`        // readings of the future, admitted later
	ServerTime  time.Time `json:"server_time"`
}

// Handler takes batches. It is an http.Handler for POST Path.
type Handler struct{ cfg Config }

// New makes a handler. It does no I/O and starts nothing.
func New(cfg Config) (*Handler, error) { return &Handler{cfg}, nil }

// ServeHTTP answers 200 with a Response when all of the batch is durable; 400
// with the reason for a malformed body (413 for one too large), 401 and 403 for
// hosts that may not send, 503 with Retry-After when it should be sent again.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {}

// Take accepts a batch of the host as if it had been sent now: for held readings
// whose time has come and for those an operator admits.
func (h *Handler) Take(ctx context.Context, host metering.HostID, b *metering.Batch) (Response, error) {
	return Response{}, nil
}
