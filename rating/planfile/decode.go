package planfile

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// Error is one thing that is wrong with a plan, and where.
type Error struct {
	File         string
	Line, Column int
	Text         string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// decoder walks a document and collects what is wrong with it.
type decoder struct {
	file     string
	errors   []*Error
	warnings []Warning
	classes  []classUse // checked when all of the calendar is read
}

func (d *decoder) errorf(at *yaml.Node, format string, args ...any) {
	d.errors = append(d.errors, &Error{d.file, at.Line, at.Column, cut(fmt.Sprintf(format, args...))})
}

// maxText bounds what is said of one mistake in bytes; the middle of a longer
// text, which is what it quotes of the plan, is left out.
const maxText = 1000

func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText/2], "") + " … " + strings.ToValidUTF8(s[len(s)-maxText/2:], "")
}

func (d *decoder) warnf(at *yaml.Node, format string, args ...any) {
	d.warnings = append(d.warnings, Warning(fmt.Sprintf("%s:%d:%d: %s", d.file, at.Line, at.Column, cut(fmt.Sprintf(format, args...)))))
}

// err is all errors, by place.
func (d *decoder) err() error {
	slices.SortStableFunc(d.errors, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	var all []error
	for _, e := range d.errors {
		all = append(all, e)
	}
	return errors.Join(all...)
}

var yamlLine = regexp.MustCompile(`line (\d+): (.*)`)

// root is the mapping that a plan is; nil after an error.
func (d *decoder) root(src []byte) *yaml.Node {
	start := &yaml.Node{Line: 1, Column: 1}
	switch {
	case len(src) > maxSource:
		d.errorf(start, "a plan of %d bytes; at most %d are read", len(src), maxSource)
		return nil
	case !utf8.Valid(src):
		d.errorf(start, "not UTF-8 text")
		return nil
	}
	dec := yaml.NewDecoder(strings.NewReader(string(src)))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.errorf(start, "the file is empty; a plan begins with plan: and a name")
		return nil
	case err != nil:
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			start.Line, _ = strconv.Atoi(m[1])
			text = m[2]
		}
		d.errorf(start, "not YAML: %s", text)
		return nil
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		if more.Line == 0 {
			more.Line, more.Column = doc.Line, 1
		}
		d.errorf(&more, "a second document; a file holds one plan")
		return nil
	}
	d.plain(doc.Content[0])
	return doc.Content[0]
}

// plain refuses anchors and tags: what would be ignored of them stands in the file.
func (d *decoder) plain(n *yaml.Node) {
	if n.Anchor != "" {
		d.errorf(n, "anchors such as &%s are not read; leave it away", n.Anchor)
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.errorf(n, "tags such as %s are not read; leave it away", n.Tag)
	}
	for _, inner := range n.Content {
		d.plain(inner)
	}
}

// fields says what to do with the value of each key. A key of nil is known
// and read elsewhere.
type fields map[string]func(*yaml.Node)

// mapping reads a mapping with known keys.
func (d *decoder) mapping(n *yaml.Node, what string, known fields, required ...string) {
	seen := make(map[string]bool)
	d.each(n, what, func(key, value *yaml.Node) {
		read, ok := known[key.Value]
		if !ok {
			names := make([]string, 0, len(known))
			for name := range known {
				names = append(names, name)
			}
			slices.Sort(names)
			d.errorf(key, "%s has no key %q; its keys are %s", what, key.Value, quoted(names))
			return
		}
		seen[key.Value] = true
		if read != nil {
			read(value)
		}
	})
	for _, name := range required {
		if !seen[name] && n.Kind == yaml.MappingNode {
			d.errorf(n, "%s has no %s, which it needs", what, name)
		}
	}
}

// each calls f for every key of a mapping, which none may repeat.
func (d *decoder) each(n *yaml.Node, what string, f func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n, "%s must be keys with values", what)
		return
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			d.errorf(key, "a key must be plain text")
			continue
		}
		if line, ok := seen[key.Value]; ok {
			d.errorf(key, "a second %q, which line %d has already", key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		f(key, value)
	}
}

// child is the value of a key, nil where it is not there.
func child(n *yaml.Node, name string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// scalar is the text of a single value as it stands in the file.
func (d *decoder) scalar(n *yaml.Node) (string, bool) {
	switch {
	case n.Kind == yaml.AliasNode:
		d.errorf(n, "aliases are not read; write the value out")
	case n.Kind != yaml.ScalarNode:
		d.errorf(n, "a single value must stand here")
	case n.Tag == "!!null":
		d.errorf(n, "a value is missing")
	default:
		return n.Value, true
	}
	return "", false
}

// list is one value or a list of values.
func (d *decoder) list(n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		return []*yaml.Node{n}
	}
	if len(n.Content) == 0 {
		d.errorf(n, "an empty list fits nothing; leave the key away to fit everything")
	}
	return n.Content
}

// choice is one of a few words.
func (d *decoder) choice(n *yaml.Node, words ...string) int {
	s, ok := d.scalar(n)
	if i := slices.Index(words, s); i >= 0 || !ok {
		return max(i, 0)
	}
	d.errorf(n, "%q is not known here; %s are", s, quoted(words))
	return 0
}

func (d *decoder) boolean(n *yaml.Node) bool {
	return d.choice(n, "false", "true") == 1
}

// count is a whole number.
func (d *decoder) count(n *yaml.Node, low, high uint64) uint64 {
	s, ok := d.scalar(n)
	if !ok {
		return 0
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v < low || v > high {
		d.errorf(n, "%q is not a whole number from %d to %d", s, low, high)
	}
	return v
}
