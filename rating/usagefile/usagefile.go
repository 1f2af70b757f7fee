// Package usagefile reads usage written as one JSON object a line.
//
// It owns that notation and what is refused of it. It never rates.
//
// Invariants:
//   - Every error names file and line, and what would be right.
//   - Nothing in a file is ignored: an unknown or repeated key is an error.
//   - Quantities are decimal strings; a JSON number, which programs read as a
//     float, is refused.
package usagefile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/usance/usance/metering"
)

// maxLine bounds a line in bytes; a longer one is refused.
const maxLine = 1 << 20

// Entry is one usage and the line it stands on.
type Entry struct {
	Line  int
	Usage metering.Usage
}

// Error is what is wrong with a line.
type Error struct {
	File string
	Line int
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap is the reason.
func (e *Error) Unwrap() error { return e.Err }

// Read reads all usage; name stands in errors. What is wrong with a line is an
// *Error; others are of the reader.
func Read(name string, r io.Reader) ([]Entry, error) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 0, 64<<10), maxLine)
	var entries []Entry
	line := 0
	for scanner.Scan() {
		line++
		text := bytes.TrimSpace(scanner.Bytes())
		if len(text) == 0 {
			continue
		}
		usage, err := parse(text)
		if err != nil {
			return nil, &Error{name, line, err}
		}
		entries = append(entries, Entry{line, usage})
	}
	if err := scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, &Error{name, line + 1, fmt.Errorf("a line of more than %d bytes", maxLine)}
	} else if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return entries, nil
}

// parse reads one line.
func parse(text []byte) (metering.Usage, error) {
	var u metering.Usage
	if !utf8.Valid(text) {
		return u, errors.New("not UTF-8 text")
	}
	err := object(text, "a usage", []string{"resource", "meter", "start", "end", "quantity"}, map[string]func(json.RawMessage) error{
		"resource": func(raw json.RawMessage) error { return named(raw, (*string)(&u.Resource)) },
		"meter":    func(raw json.RawMessage) error { return meter(raw, &u.Meter) },
		"start":    func(raw json.RawMessage) error { return instant(raw, &u.Window.Start) },
		"end":      func(raw json.RawMessage) error { return instant(raw, &u.Window.End) },
		"quantity": func(raw json.RawMessage) error { return quantity(raw, &u.Quantity) },
		"before":   func(raw json.RawMessage) error { return quantity(raw, &u.Before) },
		"start_id": func(raw json.RawMessage) error { return str(raw, &u.Start) },
		"labels":   func(raw json.RawMessage) error { return labels(raw, &u.Labels) },
	})
	if err == nil {
		err = u.Window.Check()
	}
	return u, err
}

func labels(raw json.RawMessage, l *metering.Labels) error {
	return object(raw, "labels", nil, map[string]func(json.RawMessage) error{
		"flavor":     func(raw json.RawMessage) error { return str(raw, &l.Flavor) },
		"image":      func(raw json.RawMessage) error { return str(raw, &l.Image) },
		"region":     func(raw json.RawMessage) error { return str(raw, &l.Region) },
		"host_class": func(raw json.RawMessage) error { return str(raw, &l.HostClass) },
	})
}

// object reads a JSON object whose keys are known and stand there once.
func object(raw []byte, what string, required []string, known map[string]func(json.RawMessage) error) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%s must be a JSON object", what)
	}
	seen := make(map[string]bool, len(known))
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return fmt.Errorf("%s: not JSON: %w", what, err)
		}
		key, _ := t.(string)
		read, ok := known[key]
		if !ok {
			return fmt.Errorf("%s has no key %q", what, key)
		}
		if seen[key] {
			return fmt.Errorf("%s has %q twice", what, key)
		}
		seen[key] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return fmt.Errorf("%s: %s: not JSON: %w", what, key, err)
		}
		if err := read(value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("%s: not JSON: %w", what, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s is followed by more; one object stands on a line", what)
	}
	for _, key := range required {
		if !seen[key] {
			return fmt.Errorf("%s has no %q, which it needs", what, key)
		}
	}
	return nil
}

func str(raw json.RawMessage, to *string) error {
	if raw[0] != '"' {
		return fmt.Errorf("%s is not a string in quotes", raw)
	}
	return json.Unmarshal(raw, to)
}

func named(raw json.RawMessage, to *string) error {
	if err := str(raw, to); err != nil {
		return err
	}
	if *to == "" {
		return errors.New("it is empty")
	}
	return nil
}

func meter(raw json.RawMessage, to *metering.Meter) error {
	if err := str(raw, (*string)(to)); err != nil {
		return err
	}
	if _, ok := to.BaseUnit(); !ok {
		return fmt.Errorf("there is no meter %q", *to)
	}
	return nil
}

func instant(raw json.RawMessage, to *time.Time) error {
	var s string
	if err := str(raw, &s); err != nil {
		return err
	}
	if err := to.UnmarshalText([]byte(s)); err != nil {
		return fmt.Errorf("%q is not a time; 2026-11-01T00:00:00Z is", s)
	}
	*to = to.UTC()
	return nil
}

func quantity(raw json.RawMessage, to *metering.Quantity) error {
	var s string
	if err := str(raw, &s); err != nil {
		return err
	}
	q, err := metering.ParseQuantity(s)
	*to = q
	return err
}
