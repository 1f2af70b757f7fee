package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Limits of what the client reads and obeys.
const (
	maxResponseBytes = 4 << 10         // of an answer; the rest is not read
	maxRetryAfter    = 5 * time.Minute // a longer wait that is asked for is cut to this
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

// Unwrap is the reason.
func (e *RetryAfter) Unwrap() error { return e.Err }

// Client sends batches to one control plane.
type Client struct {
	// URL is the control plane's base, such as https://usance.example:8443.
	URL string
	// HTTP carries the host's certificate.
	HTTP *http.Client
}

// Send sends one body in the form of metering/wire. When it returns nil, all of
// it is durable or in quarantine. Otherwise the error wraps ErrMalformed,
// ErrUnauthorized or ErrRemoved, or is a *RetryAfter.
func (c *Client) Send(ctx context.Context, body []byte) (Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.URL, "/")+Path, bytes.NewReader(body))
	if err != nil {
		return Response{}, fmt.Errorf("send readings: %w", err)
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	answer, err := c.HTTP.Do(request)
	if err != nil {
		return Response{}, &RetryAfter{Err: fmt.Errorf("send readings: %w", err)}
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxResponseBytes))
	if err != nil {
		return Response{}, &RetryAfter{Err: fmt.Errorf("send readings: read the answer: %w", err)}
	}
	if answer.StatusCode != http.StatusOK {
		return Response{}, refusal(answer, strings.TrimSpace(string(text)))
	}
	var response Response
	if err := json.Unmarshal(text, &response); err != nil {
		return Response{}, &RetryAfter{Err: fmt.Errorf("send readings: the answer is not one of a control plane: %w", err)}
	}
	return response, nil
}

// refusal is the error of an answer other than 200.
func refusal(answer *http.Response, reason string) error {
	switch answer.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: %s", ErrMalformed, reason)
	case http.StatusUnauthorized:
		return fmt.Errorf("%w: %s", ErrUnauthorized, reason)
	case http.StatusForbidden:
		return fmt.Errorf("%w: %s", ErrRemoved, reason)
	}
	retry := &RetryAfter{Err: fmt.Errorf("send readings: %s: %s", answer.Status, reason)}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
		retry.After = min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	return retry
}
