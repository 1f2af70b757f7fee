package hostapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// maxRequestBytes bounds a request's JSON; a longer one is answered 413. A
// status of 10,000 instances has about 3 MB.
const maxRequestBytes = 8 << 20

// ErrBusy is returned by Config.Watch when too many long polls wait. The host is
// answered 503 and asks again.
var ErrBusy = errors.New("too many hosts wait at once")

// Config is what the handler needs. The functions may be called from many
// goroutines at once. An error that is not one of this package's is logged and
// answered 503: the host repeats its request.
type Config struct {
	Auth *Authenticator
	// Join spends the token's secret on a new host and returns its id; the same
	// secret with the same key (hex SHA-256) again returns the same host. Any
	// other use is ErrToken.
	Join func(ctx context.Context, secret, keyHash, name string, offers Capacity) (metering.HostID, error)
	// Desired is what should be on the host now.
	Desired func(ctx context.Context, host metering.HostID) (Desired, error)
	// Watch returns a channel that receives after each change of the host's
	// desired state from now on, until stop is called. ErrBusy when too many wait.
	Watch func(host metering.HostID) (changed <-chan struct{}, stop func(), err error)
	// Observe takes the host's report.
	Observe func(ctx context.Context, host metering.HostID, s Status) error
	// Epochs are the host's epochs that may still run, with their largest readings.
	Epochs func(ctx context.Context, host metering.HostID) ([]KnownEpoch, error)
	Images Images
	// Readings serves PathReadings, authenticating by itself.
	Readings http.Handler
	Log      *slog.Logger
}

type handler struct{ Config }

// Handler serves hosts. It wants to be served with CA.ServerConfig and a write
// timeout above MaxWait.
func Handler(c Config) http.Handler {
	h := handler{c}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+PathJoin, h.serve(h.join))
	mux.HandleFunc("POST "+PathRenew, h.serve(h.host(h.renew)))
	mux.HandleFunc("GET "+PathDesired, h.serve(h.host(h.desired)))
	mux.HandleFunc("POST "+PathStatus, h.serve(h.host(h.status)))
	mux.HandleFunc("GET "+PathEpochs, h.serve(h.host(h.epochs)))
	mux.HandleFunc("GET "+PathImages+"{name}/{file}", h.serve(h.host(h.image)))
	if c.Readings != nil {
		mux.Handle(PathReadings, c.Readings)
	}
	return mux
}

// httpError is a refusal with a status of its own.
type httpError struct {
	status int
	err    error
}

func (e *httpError) Error() string { return e.err.Error() }
func (e *httpError) Unwrap() error { return e.err }

func (h handler) serve(f func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(VersionHeader, strconv.Itoa(Version))
		err := checkVersion(r)
		if err == nil {
			err = f(w, r)
		}
		if err != nil && r.Context().Err() == nil {
			h.refuse(w, r, err)
		}
	}
}

// checkVersion accepts the present and the previous version of the protocol.
func checkVersion(r *http.Request) error {
	v, err := strconv.Atoi(r.Header.Get(VersionHeader))
	if err != nil || v < max(1, Version-1) || v > Version {
		return fmt.Errorf("%w: %q; this control plane speaks %d", ErrVersion, r.Header.Get(VersionHeader), Version)
	}
	return nil
}

func (h handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusServiceUnavailable
	var own *httpError
	switch {
	case errors.As(err, &own):
		status = own.status
	case errors.Is(err, ErrUnauthorized), errors.Is(err, ErrToken):
		status = http.StatusUnauthorized
	case errors.Is(err, ErrRemoved):
		status = http.StatusForbidden
	case errors.Is(err, ErrVersion):
		status = http.StatusUpgradeRequired
	case errors.Is(err, compute.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, compute.ErrInvalid):
		status = http.StatusBadRequest
	}
	said := err.Error()
	if status == http.StatusServiceUnavailable {
		said = "try again" // the reason is for the operator
	}
	h.Log.Warn("host refused", "path", r.URL.Path, "remote", r.RemoteAddr, "status", status, "err", err)
	http.Error(w, said, status)
}

// host wraps what only a present host may call.
func (h handler) host(f func(http.ResponseWriter, *http.Request, metering.HostID) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		host, err := h.Auth.Authenticate(r)
		if err != nil {
			return err
		}
		return f(w, r, host)
	}
}

func (h handler) join(w http.ResponseWriter, r *http.Request) error {
	var in JoinRequest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	csr, err := parseCSR(in.CSR)
	if err != nil {
		return &httpError{http.StatusBadRequest, err}
	}
	host, err := h.Join(r.Context(), in.Token, keyHash(csr), in.Name, in.Capacity)
	if err != nil {
		return fmt.Errorf("join of %q: %w", in.Name, err)
	}
	cert, err := h.Auth.CA.SignHost(in.CSR, host)
	if err != nil {
		return err
	}
	h.Log.Info("host joined", "host", host, "name", in.Name, "remote", r.RemoteAddr)
	return writeJSON(w, JoinResponse{Host: host, Certificate: cert, CA: h.Auth.CA.PEM()})
}

func (h handler) renew(w http.ResponseWriter, r *http.Request, host metering.HostID) error {
	var in RenewRequest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if _, err := parseCSR(in.CSR); err != nil {
		return &httpError{http.StatusBadRequest, err}
	}
	cert, err := h.Auth.CA.SignHost(in.CSR, host)
	if err != nil {
		return err
	}
	return writeJSON(w, RenewResponse{Certificate: cert})
}

// desired answers as soon as the revision is not the one the host has. It
// watches before it reads, so that no change falls between.
func (h handler) desired(w http.ResponseWriter, r *http.Request, host metering.HostID) error {
	query := r.URL.Query()
	var revision uint64
	var seconds float64
	var err error
	if s := query.Get("revision"); s != "" {
		revision, err = strconv.ParseUint(s, 10, 64)
	}
	if s := query.Get("wait"); s != "" && err == nil {
		seconds, err = strconv.ParseFloat(s, 64)
	}
	if err != nil || seconds < 0 {
		return &httpError{http.StatusBadRequest, fmt.Errorf("query %q: revision and wait are numbers", r.URL.RawQuery)}
	}
	changed, stop, err := h.Watch(host)
	if err != nil {
		return fmt.Errorf("watch host %s: %w", host, err)
	}
	defer stop()
	timeout := time.NewTimer(min(time.Duration(seconds*float64(time.Second)), MaxWait))
	defer timeout.Stop()
	for {
		d, err := h.Desired(r.Context(), host)
		if err != nil {
			return err
		}
		if d.Revision != revision {
			return writeJSON(w, d)
		}
		select {
		case <-changed:
		case <-timeout.C:
			return writeJSON(w, d)
		case <-r.Context().Done():
			return r.Context().Err()
		}
	}
}

func (h handler) status(w http.ResponseWriter, r *http.Request, host metering.HostID) error {
	var in Status
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if err := h.Observe(r.Context(), host, in); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h handler) epochs(w http.ResponseWriter, r *http.Request, host metering.HostID) error {
	epochs, err := h.Epochs(r.Context(), host)
	if err != nil {
		return err
	}
	return writeJSON(w, EpochsResponse{Epochs: epochs})
}

func (h handler) image(w http.ResponseWriter, r *http.Request, _ metering.HostID) error {
	f, err := h.Images.Open(r.PathValue("name"), r.PathValue("file"))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", st.ModTime(), f)
	return nil
}

func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBytes)).Decode(into)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &httpError{http.StatusRequestEntityTooLarge, err}
	case err != nil:
		return &httpError{http.StatusBadRequest, fmt.Errorf("request body: %w", err)}
	}
	return nil
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}
