package portal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/usance/usance/metering"
)

const (
	// maxBody bounds a request's body in bytes: a plan, or user data and keys of
	// an instance. More is answered with 413.
	maxBody = 1<<20 + 64<<10
	// pageSize and maxPageSize are how many items a page of a list has unless
	// ?limit= says otherwise, and at most; more is refused.
	pageSize    = 100
	maxPageSize = 1000
	// usageSpan is the window of usage and readings unless ?from= says otherwise.
	usageSpan = 24 * time.Hour
)

// decode reads a JSON body. An unknown field and anything after the value are
// refused; the error wraps errBadRequest and names the field.
func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return bodyError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the body goes on after its JSON value", errBadRequest)
	}
	return nil
}

// bodyError is what reading a body failed with; one that is too long stays what it is.
func bodyError(err error) error {
	if large := new(http.MaxBytesError); errors.As(err, &large) {
		return err
	}
	return fmt.Errorf("%w: the body: %v", errBadRequest, err)
}

// reply answers with JSON.
func reply(w http.ResponseWriter, status int, body any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode an answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(encoded, '\n'))
	return nil
}

// limitOf is ?limit=.
func limitOf(r *http.Request) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return pageSize, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPageSize {
		return 0, fmt.Errorf("%w: limit %q is not a number from 1 to %d", errBadRequest, text, maxPageSize)
	}
	return n, nil
}

// windowOf is ?from= and ?to=: up to now and usageSpan long unless they say otherwise.
func windowOf(r *http.Request, now time.Time) (w metering.Window, err error) {
	w.End = now.UTC().Truncate(time.Millisecond)
	if text := r.URL.Query().Get("to"); text != "" {
		if w.End, err = timeOf("to", text); err != nil {
			return w, err
		}
	}
	w.Start = w.End.Add(-usageSpan)
	if text := r.URL.Query().Get("from"); text != "" {
		if w.Start, err = timeOf("from", text); err != nil {
			return w, err
		}
	}
	if err := w.Check(); err != nil {
		return w, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	return w, nil
}

func timeOf(name, text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		return t, fmt.Errorf("%w: %s %q is not a time such as 2026-12-01T00:00:00Z, from 1970 to 2200", errBadRequest, name, text)
	}
	return t.UTC(), nil
}

// pageOf is the page of a whole list that follows the item whose key is ?after=.
// An item that does not exist is followed by none.
func pageOf[T any](r *http.Request, all []T, key func(T) string) (List[T], error) {
	limit, err := limitOf(r)
	if err != nil {
		return List[T]{}, err
	}
	if after := r.URL.Query().Get("after"); after != "" {
		i := 0
		for i < len(all) && key(all[i]) != after {
			i++
		}
		all = all[min(i+1, len(all)):]
	}
	list := List[T]{Items: all[:min(limit, len(all))]}
	if list.Items == nil {
		list.Items = []T{}
	}
	if len(all) > limit {
		list.Next = key(all[limit-1])
	}
	return list, nil
}
