// Package presets holds price plans with the rules of known clouds, and
// standard, which is ours.
//
// It owns those files and nothing else. Their prices are examples of the
// published ones; what they promise is the rule. Where sources disagree or are
// silent, the choice stands in a comment at its place.
//
// Invariants:
//   - Every preset parses without a warning and has worked cases beside it.
package presets

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/planfile"
)

//go:embed *.yaml
var files embed.FS

// Names are all presets, by name.
func Names() []string {
	entries, err := fs.Glob(files, "*.yaml")
	if err != nil {
		panic(err) // the pattern is constant
	}
	for i := range entries {
		entries[i] = strings.TrimSuffix(entries[i], ".yaml")
	}
	return entries
}

// Source is the text of a preset. The error wraps fs.ErrNotExist.
func Source(name string) ([]byte, error) {
	source, err := files.ReadFile(name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("preset %s: %w", name, err)
	}
	return source, nil
}

// Plan is a preset, parsed. The error wraps fs.ErrNotExist.
func Plan(name string) (*rating.Plan, error) {
	source, err := Source(name)
	if err != nil {
		return nil, err
	}
	plan, _, err := planfile.Parse(name+".yaml", source)
	return plan, err
}
