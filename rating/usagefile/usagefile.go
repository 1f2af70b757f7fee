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
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
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

// Error names the place and the reason; what is quoted of a long line is cut.
func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, cut(e.Err.Error())) }

// maxReason bounds the text of a reason in bytes; of a longer one, the middle is
// left out.
const maxReason = 400

func cut(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason/2], "") + " … " + strings.ToValidUTF8(s[len(s)-maxReason/2:], "")
}

// Unwrap is the reason.
func (e *Error) Unwrap() error { return e.Err }

// Read reads all usage; name stands in errors. What is wrong with a line is an
// *Error; others are of the reader.
func Read(name string, r io.Reader) ([]Entry, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var entries []Entry
	starts := make(map[start]before)
	var text []byte
	for line := 1; ; line++ {
		var err error
		text, err = readLine(in, text[:0])
		if errors.Is(err, errLong) {
			return nil, &Error{name, line, err}
		} else if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if len(text) > 0 {
			usage, stated, wrong := parse(text)
			if wrong == nil && stated {
				wrong = agree(starts, &usage, line)
			}
			if wrong != nil {
				return nil, &Error{name, line, wrong}
			}
			entries = append(entries, Entry{line, usage})
		}
		if err != nil {
			return entries, nil
		}
	}
}

var errLong = fmt.Errorf("a line of more than %d bytes", maxLine)

// readLine appends the next line without the blanks around it to text. An empty
// one may be of any length, a longer one than maxLine is errLong. The last line
// comes with io.EOF.
func readLine(in *bufio.Reader, text []byte) ([]byte, error) {
	for {
		chunk, err := in.ReadSlice('\n')
		if len(text) == 0 {
			chunk = bytes.TrimLeft(chunk, " \t\r\n")
		}
		text = append(text, chunk...)
		switch {
		case len(text) > maxLine:
			return nil, errLong
		case !errors.Is(err, bufio.ErrBufferFull):
			return bytes.TrimSpace(text), err
		}
	}
}

// start is what "before" is of.
type start struct {
	resource metering.ResourceID
	meter    metering.Meter
	id       string
}

type before struct {
	quantity metering.Quantity
	line     int
}

// agree refuses a second "before" of one start that is not the first.
func agree(starts map[start]before, u *metering.Usage, line int) error {
	key := start{u.Resource, u.Meter, u.Start}
	first, ok := starts[key]
	if !ok {
		starts[key] = before{u.Before, line}
	} else if first.quantity != u.Before {
		return fmt.Errorf("before: %s, where line %d says %s of the same start; earlier periods billed one of them", u.Before, first.line, first.quantity)
	}
	return nil
}

// parse reads one line; stated reports whether it says what was billed before.
func parse(text []byte) (u metering.Usage, stated bool, err error) {
	if !utf8.Valid(text) {
		return u, false, errors.New("not UTF-8 text")
	}
	err = object(text, "a usage", []string{"resource", "meter", "start", "end", "quantity"}, map[string]func(json.RawMessage) error{
		"resource": func(raw json.RawMessage) error { return named(raw, (*string)(&u.Resource)) },
		"meter":    func(raw json.RawMessage) error { return meter(raw, &u.Meter) },
		"start":    func(raw json.RawMessage) error { return instant(raw, &u.Window.Start) },
		"end":      func(raw json.RawMessage) error { return instant(raw, &u.Window.End) },
		"quantity": func(raw json.RawMessage) error { return quantity(raw, &u.Quantity) },
		"before":   func(raw json.RawMessage) error { stated = true; return quantity(raw, &u.Before) },
		"start_id": func(raw json.RawMessage) error { return str(raw, &u.Start) },
		"labels":   func(raw json.RawMessage) error { return labels(raw, &u.Labels) },
	})
	if err == nil {
		err = u.Window.Check()
	}
	return u, stated, err
}

func labels(raw json.RawMessage, l *metering.Labels) error {
	return object(raw, "labels", nil, map[string]func(json.RawMessage) error{
		"flavor":     func(raw json.RawMessage) error { return str(raw, &l.Flavor) },
		"image":      func(raw json.RawMessage) error { return str(raw, &l.Image) },
		"region":     func(raw json.RawMessage) error { return str(raw, &l.Region) },
		"host_class": func(raw json.RawMessage) error { return str(raw, &l.HostClass) },
		"created":    func(raw json.RawMessage) error { return created(raw, &l.Created) },
	})
}

// created is an instant, of any offset, as labels have it: in UTC, to the second.
func created(raw json.RawMessage, to *string) error {
	var at time.Time
	if err := instant(raw, &at); err != nil {
		return err
	}
	if y := at.Year(); y < 0 || y > 9999 {
		return fmt.Errorf("%s lies outside the years 0 to 9999 of UTC", raw)
	}
	*to = at.Truncate(time.Second).Format(time.RFC3339)
	return nil
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
	if !paired(raw) {
		return fmt.Errorf("%s has half of a surrogate pair, which is no character", raw)
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return err
	}
	if strings.ContainsFunc(*to, unicode.IsControl) {
		return fmt.Errorf("%s has a control character; names are of printable ones", raw)
	}
	return nil
}

// paired reports whether every escaped surrogate of a JSON string stands beside
// its other half. Reading the string would put U+FFFD in its place.
func paired(raw []byte) bool {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		i++
		first, ok := escaped(raw[i:])
		if !ok || !utf16.IsSurrogate(first) {
			continue
		}
		i += len("uD800")
		if raw[i] != '\\' {
			return false
		}
		second, ok := escaped(raw[i+1:])
		if !ok || utf16.DecodeRune(first, second) == unicode.ReplacementChar {
			return false
		}
		i += len("uDC00")
	}
	return true
}

// escaped is the code unit of "uXXXX" at the beginning of raw.
func escaped(raw []byte) (rune, bool) {
	if len(raw) < 5 || raw[0] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(raw[1:5]), 16, 16)
	return rune(unit), err == nil
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
