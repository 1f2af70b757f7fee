package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/usance/usance/portal"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/planfile"
	"github.com/usance/usance/rating/presets"
)

func planCommand(ctx context.Context, p program, args []string) int {
	if len(args) > 0 {
		switch args[0] {
		case "check":
			return planCheck(p, args[1:])
		case "diff":
			return planDiff(ctx, p, args[1:])
		case "backtest":
			return planBacktest(ctx, p, args[1:])
		}
	}
	return p.operate(ctx, "plan", args, []operation{
		{name: "check", args: "[--strict] FILE", summary: "check a plan file, offline"},
		{name: "diff", args: "[OLD] NEW", summary: "what changes for customers, against OLD or what is published"},
		{name: "backtest", args: "--plan FILE --period MONTH", summary: "what real usage would have cost under a plan"},
		{name: "publish", args: "FILE", arity: 1, summary: "publish a plan file as the next version", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			source, err := os.ReadFile(f.Arg(0))
			if err != nil {
				return err
			}
			var plan portal.PublishedPlan
			if err := c.call(ctx, "POST", "/operator/plans", source, &plan); err != nil {
				return err
			}
			fmt.Fprintf(p.stdout, "%s version %d, effective %s\n", plan.Plan, plan.Version, effective(plan))
			return nil
		}},
		{name: "list", summary: "list plans and versions", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			rows := [][]string{{"PLAN", "VERSION", "EFFECTIVE", "IN FORCE"}}
			err := pages(ctx, c, "/operator/plans", func(v portal.PublishedPlan) {
				rows = append(rows, []string{v.Plan, fmt.Sprint(v.Version), effective(v), map[bool]string{true: "now"}[v.InForce]})
			})
			if err != nil {
				return err
			}
			return table(p.stdout, rows)
		}},
		{name: "show", args: "PLAN", arity: 1, summary: "print the newest version's source", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			v, err := newestPlan(ctx, c, f.Arg(0))
			fmt.Fprint(p.stdout, v.Source)
			return err
		}},
	}, asOperator)
}

// effective says when a version takes effect, as its plan does.
func effective(v portal.PublishedPlan) string {
	if v.MidPeriod {
		return v.Effective + " mid-period"
	}
	return v.Effective
}

// newestPlan is the newest published version of a plan.
func newestPlan(ctx context.Context, c *apiClient, name string) (v portal.PlanSource, err error) {
	err = c.call(ctx, "GET", "/operator/plans/"+url.PathEscape(name), nil, &v)
	return v, err
}

// planSource is the text of a plan file, or of a preset written as preset:NAME.
func planSource(name string) ([]byte, error) {
	if preset, ok := strings.CutPrefix(name, "preset:"); ok {
		source, err := presets.Source(preset)
		if err != nil {
			return nil, fmt.Errorf("%w; there are %s", err, strings.Join(presets.Names(), ", "))
		}
		return source, nil
	}
	return os.ReadFile(name)
}

// parsePlan reads a plan; its mistakes are printed.
func (p program) parsePlan(name string, source []byte) (*rating.Plan, []planfile.Warning, bool) {
	plan, warnings, err := planfile.Parse(name, source)
	for _, w := range warnings {
		fmt.Fprintln(p.stderr, "warning:", w)
	}
	if err != nil {
		fmt.Fprintln(p.stderr, err)
	}
	return plan, warnings, err == nil
}

// planCheck says what is wrong with a plan file before it is published.
func planCheck(p program, args []string) int {
	f := p.flags("plan check", "plan check [--strict] FILE")
	strict := f.Bool("strict", false, "take warnings for mistakes")
	if code, ok := p.parse(f, args); !ok {
		return code
	}
	if f.NArg() != 1 {
		f.Usage()
		return exitUsage
	}
	source, err := planSource(f.Arg(0))
	if err != nil {
		return p.fail("plan check", err)
	}
	plan, warnings, ok := p.parsePlan(f.Arg(0), source)
	if !ok || *strict && len(warnings) > 0 {
		return exitUsage
	}
	fmt.Fprintf(p.stdout, "%s: plan %s, %d rates, no mistakes\n", f.Arg(0), plan.Name, len(plan.Rates))
	return exitOK
}

// planDiff tells what changes for customers from one plan file to another, or
// from the newest published version of a plan to a file.
func planDiff(ctx context.Context, p program, args []string) int {
	const name = "plan diff"
	f := p.flags(name, name+" [flags] [OLD] NEW")
	client := asOperator(f)
	if code, ok := p.parse(f, args); !ok {
		return code
	}
	if f.NArg() != 1 && f.NArg() != 2 {
		f.Usage()
		return exitUsage
	}
	newName := f.Arg(f.NArg() - 1)
	source, err := planSource(newName)
	if err != nil {
		return p.fail(name, err)
	}
	newer, _, ok := p.parsePlan(newName, source)
	if !ok {
		return exitUsage
	}
	oldName := f.Arg(0)
	if f.NArg() == 2 {
		source, err = planSource(oldName)
	} else {
		source, oldName, err = publishedSource(ctx, client, newer.Name)
	}
	if err != nil {
		return p.fail(name, err)
	}
	older, _, ok := p.parsePlan(oldName, source)
	if !ok {
		return exitUsage
	}
	changes := rating.Diff(older, newer)
	for _, c := range changes {
		fmt.Fprintln(p.stdout, c)
	}
	if len(changes) == 0 {
		fmt.Fprintf(p.stdout, "nothing changes from %s to %s\n", oldName, newName)
	}
	return exitOK
}

// publishedSource is the newest published version of a plan, with its name for errors.
func publishedSource(ctx context.Context, client func() (*apiClient, error), plan string) (source []byte, name string, err error) {
	c, err := client()
	if err != nil {
		return nil, "", err
	}
	v, err := newestPlan(ctx, c, plan)
	return []byte(v.Source), fmt.Sprintf("%s version %d", v.Plan, v.Version), err
}
