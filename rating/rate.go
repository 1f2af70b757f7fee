package rating

import "github.com/usance/usance/metering"

// Rate is what the usage of one tenant in one period costs. Period is the whole
// billing month, also while it is still open: it gives "month" its length. The
// order of usage, its splitting into windows and its merging do not matter.
// An error is a *UsageError that tells which usage cannot be rated.
func (p *Plan) Rate(period metering.Window, usage []metering.Usage) (*Result, error) {
	panic("not yet")
}

// Lines are the charges as one line per rate, price and step, in the plan's
// order. The error wraps money.ErrOverflow.
func (r *Result) Lines() ([]Line, error) { panic("not yet") }

// UsageError tells which usage cannot be rated, and why.
type UsageError struct {
	Index int // in the usage given
	Err   error
}

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap is the reason.
func (e *UsageError) Unwrap() error { return e.Err }
