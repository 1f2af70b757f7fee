package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

// Path is where the handler is to be served.
const Path = "/v1/readings"

// What holds the memory of all requests within bounds. Beyond, 503 is answered.
const (
	maxRequests = 10_000 // at once, from authentication to the answer: nearly all of them wait for an insert
	maxBodies   = 256    // at once, until their rows are in line; the others wait
	maxDecoding = 4      // at once; the others wait
)

var (
	// ErrUnknownHost is returned by Config.Authenticate for a request without a
	// certificate of ours. It is answered with 401.
	ErrUnknownHost = errors.New("unknown host")
	// ErrRemovedHost is returned by Config.Authenticate for a host that was
	// removed. It is answered with 403.
	ErrRemovedHost = errors.New("removed host")
	// ErrBusy is wrapped by Take when too many rows wait to be inserted.
	ErrBusy = errors.New("too many readings wait to be stored")
	// ErrQuarantineFull is wrapped by Config.Quarantine for readings of a host that
	// has too many there already. It is answered with 429: the batch and what follows
	// it stay in the host's own spool, so that nothing is lost by the bound.
	ErrQuarantineFull = errors.New("too many readings of this host are in quarantine")
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
	// kept before: host, epoch, time and registers tell them apart. All or none are
	// kept; the error wraps ErrQuarantineFull when there is no room for them.
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
	// MaxBytesPerSecond bounds the growth of each of the byte registers by what
	// the host can move; 0: no bound.
	MaxBytesPerSecond uint64
}

// Reason is why a reading is not accepted.
type Reason string

// The reasons.
const (
	ReasonNoLease    Reason = "no-lease"   // the lease was not granted to this host
	ReasonForeign    Reason = "foreign"    // the epoch is registered for another host, instance, lease or start
	ReasonEarly      Reason = "early"      // before the lease was granted
	ReasonSuperseded Reason = "superseded" // after the lease ended
	ReasonTime       Reason = "time"       // running + paused exceed the clock
	ReasonBytes      Reason = "bytes"      // more bytes than the host can move
	ReasonFuture     Reason = "future"     // held: not yet, see Quarantined.AdmitAt
)

// Reasons are those for which an operator has to decide: all but ReasonFuture.
func Reasons() []Reason {
	return []Reason{ReasonNoLease, ReasonForeign, ReasonEarly, ReasonSuperseded, ReasonTime, ReasonBytes}
}

// Quarantined is a reading that was not accepted. Unless the reason is no-lease
// or foreign, its epoch is registered.
type Quarantined struct {
	Host     metering.HostID
	Tenant   metering.TenantID // "" when the lease is unknown
	Epoch    metering.Epoch    // as the host sent it
	Reading  metering.Reading
	Received time.Time // the server's clock
	Reason   Reason
	Detail   string // the figures, for people
	// AdmitAt is set for a reading of the future alone: it is held, and is to be
	// given to Handler.Take again at that time, which accepts it then. The store
	// holds it, not the host: a host whose clock was far ahead and was put right
	// would otherwise be stuck behind its own future for as long.
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
type Handler struct {
	cfg      Config
	requests chan struct{}
	bodies   chan struct{}
	decoding chan struct{}
	known    epochCache
	rows     coalescer
	counts   counts
}

// New makes a handler. It does no I/O and starts nothing.
func New(cfg Config) (*Handler, error) {
	if cfg.Authenticate == nil || cfg.Known == nil || cfg.Leases == nil ||
		cfg.Register == nil || cfg.Insert == nil || cfg.Quarantine == nil {
		return nil, errors.New("ingest: a function of the configuration is missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Handler{
		cfg:      cfg,
		requests: make(chan struct{}, maxRequests),
		bodies:   make(chan struct{}, maxBodies),
		decoding: make(chan struct{}, maxDecoding),
		rows:     coalescer{insert: cfg.Insert, inserts: make(chan struct{}, maxInserts)},
	}, nil
}

// ServeHTTP answers 200 with a Response when all of the batch is durable; 400
// with the reason for a malformed body (413 for one too large), 401 and 403 for
// hosts that may not send, 503 with Retry-After when it should be sent again.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "readings are posted", http.StatusMethodNotAllowed)
		return
	}
	response, err := h.serve(w, r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	h.counts.batch()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(response) // a host that went away sends again
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (Response, error) {
	host, err := h.cfg.Authenticate(r)
	if err != nil {
		return Response{}, err
	}
	select {
	case h.requests <- struct{}{}:
		defer func() { <-h.requests }()
	default:
		return Response{}, fmt.Errorf("%w: %d requests", ErrBusy, maxRequests)
	}
	response, wait, err := h.read(w, r, host)
	if err == nil {
		err = wait()
	}
	if err != nil {
		return Response{}, fmt.Errorf("readings of host %s: %w", host, err)
	}
	return response, nil
}

// read reads a body and takes what is in it, of which nothing is in memory when
// it has returned but the rows in line; see take.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, host metering.HostID) (Response, func() error, error) {
	select {
	case h.bodies <- struct{}{}:
		defer func() { <-h.bodies }()
	case <-r.Context().Done():
		return Response{}, nil, r.Context().Err()
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxBodyBytes))
	if errors.As(err, new(*http.MaxBytesError)) {
		err = errTooLarge
	}
	if err != nil {
		return Response{}, nil, fmt.Errorf("read the body: %w", err)
	}
	return h.decodeAndTake(r.Context(), host, body)
}

// batches is memory for decoded bodies.
var batches = sync.Pool{New: func() any { return new(wire.Batch) }}

func (h *Handler) decodeAndTake(ctx context.Context, host metering.HostID, body []byte) (Response, func() error, error) {
	b := batches.Get().(*wire.Batch)
	defer batches.Put(b)
	select {
	case h.decoding <- struct{}{}:
	case <-ctx.Done():
		return Response{}, nil, ctx.Err()
	}
	err := wire.Decode(b, body)
	<-h.decoding
	if err != nil {
		return Response{}, nil, err
	}
	return h.take(ctx, host, b, time.Now().UTC())
}
