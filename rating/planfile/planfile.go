// Package planfile reads price plans written in YAML.
//
// It owns the notation of plans: units, prices, spans, calendars and their
// holidays, and what is refused. It never rates, and what it returns needs no
// second check.
//
// Invariants:
//   - Every error names file, line and column, and what would be right.
//   - Nothing in a file is ignored: an unknown key is an error.
//   - Numbers are read as decimals, never as floats.
package planfile

import (
	"github.com/usance/usance/rating"
)

// Warning is something in a plan that is allowed and probably wrong, with its
// place: "plan.yaml:7:3: no rate fits …".
type Warning string

// Parse reads a plan; name stands in errors and warnings. All errors found are
// reported together, one a line.
func Parse(name string, src []byte) (*rating.Plan, []Warning, error) {
	panic("not yet")
}
