package ingest

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/usance/usance/metering/wire"
)

// How long a host is asked to wait, in seconds.
const (
	retryBusySeconds  = 1  // too much waits already
	retryStoreSeconds = 5  // a store failed
	retryFullSeconds  = 60 // an operator has to decide, or time to pass
)

// errTooLarge is a body of more than wire.MaxBodyBytes.
var errTooLarge = fmt.Errorf("a body of more than %d bytes", wire.MaxBodyBytes)

// Refusal is why a request was not answered with 200.
type Refusal string

// The refusals. A host sends what was refused for the last three again.
const (
	RefusedMalformed  Refusal = "malformed"       // 400: it is no batch
	RefusedTooLarge   Refusal = "too-large"       // 413
	RefusedUnknown    Refusal = "unknown-host"    // 401
	RefusedRemoved    Refusal = "removed-host"    // 403
	RefusedQuarantine Refusal = "quarantine-full" // 429: ErrQuarantineFull
	RefusedBusy       Refusal = "busy"            // 503: ErrBusy
	RefusedStore      Refusal = "store"           // 503: a store failed
)

// refusals are the answers to what can go wrong, by the error that is wrapped; the
// last one stands for any other. Only of a malformed body the error itself is told.
var refusals = []struct {
	err          error
	why          Refusal
	status       int
	retrySeconds int // 0: sending it again is of no use before somebody acts
}{
	{wire.ErrMalformed, RefusedMalformed, http.StatusBadRequest, 0},
	{errTooLarge, RefusedTooLarge, http.StatusRequestEntityTooLarge, 0},
	{ErrUnknownHost, RefusedUnknown, http.StatusUnauthorized, 0},
	{ErrRemovedHost, RefusedRemoved, http.StatusForbidden, 0},
	{ErrQuarantineFull, RefusedQuarantine, http.StatusTooManyRequests, retryFullSeconds},
	{ErrBusy, RefusedBusy, http.StatusServiceUnavailable, retryBusySeconds},
	{errors.New("the readings could not be stored"), RefusedStore, http.StatusServiceUnavailable, retryStoreSeconds},
}

// Refusals are all of them.
func Refusals() []Refusal {
	all := make([]Refusal, len(refusals))
	for i, r := range refusals {
		all[i] = r.why
	}
	return all
}

// refuse answers an error with its status, and logs it: as an error of ours where
// the host can do nothing about it.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	n := 0
	for n < len(refusals)-1 && !errors.Is(err, refusals[n].err) {
		n++
	}
	refusal, level := refusals[n], slog.LevelWarn
	if refusal.why == RefusedStore {
		level = slog.LevelError
	}
	h.cfg.Log.Log(r.Context(), level, "readings are refused", "why", refusal.why, "remote", r.RemoteAddr, "err", err)
	h.counts.refused(refusal.why)
	if refusal.retrySeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(refusal.retrySeconds))
	}
	text := refusal.err
	if refusal.why == RefusedMalformed {
		text = err
	}
	http.Error(w, text.Error(), refusal.status)
}
