package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/planfile"
	"github.com/usance/usance/rating/usagefile"
)

// Exit codes of rate.
const (
	rateFailed   = 1 // a file cannot be read or written, a statement is not what it says
	rateBadInput = 2 // flags, plan or usage are wrong; nothing is printed
)

// firstYear and lastYear bound the period: Unix time, and dates whose year has
// four digits also at the period's end.
const firstYear, lastYear = 1970, 9998

// rateFlags are the flags of rate.
type rateFlags struct {
	plan, before, usage, period, format, verify string
	explain                                     bool
}

// badInput is an error about what rate was given to read.
type badInput struct{ error }

// rateCommand prints what a file of usage costs under a plan, offline: no
// database, no clock. It returns the exit code and prints to stdout only when
// all went well.
func rateCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var f rateFlags
	flags := flag.NewFlagSet("usance rate", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&f.plan, "plan", "", "price plan, YAML `file`")
	flags.StringVar(&f.before, "before", "", "the plan's version before, YAML `file`, whose rates it grandfathers")
	flags.StringVar(&f.usage, "usage", "", "usage, `file` of one JSON object a line; - is standard input")
	flags.StringVar(&f.period, "period", "", "billing `month` in the plan's time zone, such as 2026-11")
	flags.StringVar(&f.format, "format", "json", "json or table")
	flags.BoolVar(&f.explain, "explain", false, "show how each line came about")
	flags.StringVar(&f.verify, "verify", "", "instead of rating, compute a statement that --explain made again from its own steps, JSON `file`")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return rateBadInput
	}
	out, warnings, err := f.rate(ctx, flags.Args())
	stderr.Write(warnings)
	if err == nil {
		_, err = stdout.Write(out)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, err)
	if bad := (badInput{}); errors.As(err, &bad) {
		return rateBadInput
	}
	return rateFailed
}

// rate is rate, given up at once when ctx is done, whatever it reads or computes.
func (f rateFlags) rate(ctx context.Context, rest []string) (out, warnings []byte, err error) {
	type rated struct {
		out []byte
		err error
	}
	done := make(chan rated, 1)
	var warned bytes.Buffer
	go func() {
		out, err := rate(ctx, f, rest, &warned)
		done <- rated{out, err}
	}()
	select {
	case r := <-done:
		return r.out, warned.Bytes(), r.err
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("rate was stopped: %w", ctx.Err())
	}
}

// rate reads the files, rates and formats.
func rate(ctx context.Context, f rateFlags, rest []string, warnings io.Writer) ([]byte, error) {
	switch {
	case len(rest) > 0:
		return nil, badInput{fmt.Errorf("rate takes flags only, and not %q", rest[0])}
	case f.verify != "" && (f.plan != "" || f.before != "" || f.usage != "" || f.period != "" || f.explain):
		return nil, badInput{errors.New("--verify stands alone: a statement carries all that it needs")}
	case f.verify != "":
		return verifyStatement(f.verify)
	case f.plan == "" || f.usage == "" || f.period == "":
		return nil, badInput{errors.New("rate needs --plan, --usage and --period")}
	case f.format != "json" && f.format != "table":
		return nil, badInput{fmt.Errorf("--format %q is not known; json and table are", f.format)}
	}
	plan, err := readPlan(f.plan, warnings)
	if err != nil {
		return nil, err
	}
	month, err := time.ParseInLocation("2006-01", f.period, plan.Zone)
	if err != nil || month.Year() < firstYear || month.Year() > lastYear {
		return nil, badInput{fmt.Errorf("--period %.20q is not a month from %d-01 to %d-12; 2026-11 is", f.period, firstYear, lastYear)}
	}
	if f.before != "" {
		before, err := readPlan(f.before, warnings)
		if err != nil {
			return nil, err
		}
		if plan, err = plan.Grandfather(before, month); err != nil {
			return nil, badInput{fmt.Errorf("%s: %w", f.before, err)}
		}
	}
	entries, err := readUsage(f.usage)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	statement, err := rateEntries(plan, metering.Month(month, plan.Zone), f.usage, entries, f.explain)
	if err != nil {
		return nil, err
	}
	if f.format == "table" {
		return statementTable(statement)
	}
	return statementJSON(statement)
}

// verifyStatement says that a statement is equal to what its steps say, or where not.
func verifyStatement(path string) ([]byte, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the statement: %w", err)
	}
	var s rating.Statement
	dec := json.NewDecoder(bytes.NewReader(source))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return nil, badInput{fmt.Errorf("%s: not a statement: %w", path, err)}
	}
	differences, err := s.Verify()
	if err != nil {
		return nil, badInput{fmt.Errorf("%s: %w", path, err)}
	}
	if len(differences) > 0 {
		return nil, fmt.Errorf("%s: %s", path, strings.Join(differences, "\n"+path+": "))
	}
	return fmt.Appendf(nil, "%s: equal, %d lines, total %s %s\n%s\n", path, len(s.Lines), s.Total, s.Currency, rating.Inputs), nil
}

func readPlan(path string, warnings io.Writer) (*rating.Plan, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	plan, warned, err := planfile.Parse(path, source)
	if err != nil {
		return nil, badInput{err}
	}
	for _, w := range warned {
		fmt.Fprintf(warnings, "warning: %s\n", w)
	}
	return plan, nil
}

func readUsage(path string) ([]usagefile.Entry, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the usage: %w", err)
		}
		defer file.Close()
		in = file
	}
	entries, err := usagefile.Read(path, in)
	if bad := (*usagefile.Error)(nil); errors.As(err, &bad) {
		return nil, badInput{err}
	}
	return entries, err
}

// rateEntries rates usage and names the line of one that cannot be rated.
func rateEntries(plan *rating.Plan, period metering.Window, file string, entries []usagefile.Entry, explain bool) (*rating.Statement, error) {
	usage := make([]metering.Usage, len(entries))
	for i, e := range entries {
		usage[i] = e.Usage
	}
	result, err := plan.Rate(period, usage)
	if bad := (*rating.UsageError)(nil); errors.As(err, &bad) {
		return nil, badInput{&usagefile.Error{File: file, Line: entries[bad.Index].Line, Err: bad.Err}}
	}
	if err != nil {
		return nil, err
	}
	return result.Statement(explain), nil
}

func statementJSON(s *rating.Statement) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("write the statement: %w", err)
	}
	return out.Bytes(), nil
}

func statementTable(s *rating.Statement) ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Plan %s, %s to %s, amounts in %s\n\n", s.Plan, s.Period.Start.Format(time.RFC3339), s.Period.End.Format(time.RFC3339), s.Currency)
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RESOURCE\tRATE\tMETER\tQUANTITY\tUNIT\tAMOUNT")
	for _, l := range s.Lines {
		resource := string(l.Resource)
		if resource == "" {
			resource = "(all)"
		}
		if l.Like != "" {
			resource = "(" + l.Like + ")"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", resource, l.Rate, l.Meter, l.Quantity, l.Unit, l.Amount)
	}
	fmt.Fprintf(w, "total\t\t\t\t\t%s\n", s.Total)
	for _, u := range s.Unrated {
		fmt.Fprintf(w, "%s\tUNRATED\t%s\t%s\t%s\t\n", u.Resource, u.Meter, u.Quantity, u.Unit)
		if u.Added != "" {
			fmt.Fprintf(w, "%s\tUNRATED\tadded by minimum or granularity\t%s\t%s\t\n", u.Resource, u.Added, u.Unit)
		}
	}
	if err := w.Flush(); err != nil {
		return nil, fmt.Errorf("write the statement: %w", err)
	}
	for _, l := range s.Lines {
		for i, step := range l.Steps {
			if i == 0 {
				fmt.Fprintf(&out, "\n%s, %s: %s\n", l.Resource, l.Rate, l.Amount)
			}
			fmt.Fprintf(&out, "  %s\n", step.Text)
		}
	}
	return out.Bytes(), nil
}
