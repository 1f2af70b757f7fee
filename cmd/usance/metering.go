package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
)

// usageCommand prints what a tenant's resources used, down to the readings.
func usageCommand(ctx context.Context, p program, args []string) int {
	const name = "usage"
	f := p.flags(name, "usage [flags]")
	client := asTenant(f)
	by := f.String("by", "resource", "sum up by `resource`, meter, hour or day; hours and days are those of the billing zone")
	from := f.String("from", "", "start `time`, such as 2026-12-01T00:00:00Z; 24 hours before the end unless given")
	to := f.String("to", "", "end `time`; now unless given")
	instance := f.String("instance", "", "`id` of the one instance that is asked for")
	readings := f.Bool("readings", false, "print the readings of --instance instead, newest first")
	if code, ok := p.parse(f, args); !ok {
		return code
	}
	if f.NArg() != 0 || *readings && *instance == "" {
		f.Usage()
		return exitUsage
	}
	query := url.Values{}
	for key, value := range map[string]string{"from": *from, "to": *to} {
		if value != "" {
			query.Set(key, value)
		}
	}
	c, err := client()
	if err == nil && *readings {
		err = printReadings(ctx, p, c, "/instances/"+url.PathEscape(*instance)+"/readings?"+query.Encode())
	} else if err == nil {
		query.Set("by", *by)
		if *instance != "" {
			query.Set("resource", *instance)
		}
		err = printUsage(ctx, p, c, "/usage?"+query.Encode())
	}
	if err != nil {
		return p.fail(name, err)
	}
	return exitOK
}

func printUsage(ctx context.Context, p program, c *apiClient, path string) error {
	rows := [][]string{{"START", "END", "RESOURCE", "METER", "QUANTITY", "UNIT"}}
	err := pages(ctx, c, path, func(u portal.UsageJSON) {
		rows = append(rows, []string{u.Start.Format(time.RFC3339), u.End.Format(time.RFC3339), string(u.Resource), string(u.Meter), u.Quantity, u.Unit})
	})
	if err != nil {
		return err
	}
	return table(p.stdout, rows)
}

func printReadings(ctx context.Context, p program, c *apiClient, path string) error {
	rows := [][]string{append([]string{"AT", "RECEIVED", "EPOCH"}, metering.RegisterNames()...)}
	err := pages(ctx, c, path, func(r portal.ReadingJSON) {
		row := []string{r.At.Format(time.RFC3339Nano), r.Received.Format(time.RFC3339Nano), string(r.Epoch)}
		for _, name := range metering.RegisterNames() {
			row = append(row, r.Registers[name])
		}
		rows = append(rows, row)
	})
	if err != nil {
		return err
	}
	return table(p.stdout, rows)
}

func epochCommand(ctx context.Context, p program, args []string) int {
	v := portal.VoidEpoch{By: p.getenv("USER")}
	return p.operate(ctx, "epoch", args, []operation{
		{name: "void", args: "EPOCH", arity: 1, summary: "take back an epoch's readings from an instant on; there is no undo", flags: func(f *flag.FlagSet) {
			f.TextVar(&v.From, "from", time.Time{}, "last `time` that still counts, such as 2026-12-01T00:00:00Z")
			f.StringVar(&v.Reason, "reason", "", "`text` that is kept with it")
			f.StringVar(&v.By, "as", v.By, "`name` of who decides")
		}, do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			var done portal.VoidJSON
			if err := c.call(ctx, "POST", "/operator/epochs/"+url.PathEscape(f.Arg(0))+"/void", v, &done); err != nil {
				return err
			}
			fmt.Fprintf(p.stdout, "epoch %s of %s counts for no more than it did at %s; %s continues it from %s on\n",
				done.Epoch, done.Instance, done.From.Format(time.RFC3339Nano), done.Next, done.NextOpened.Format(time.RFC3339Nano))
			return nil
		}},
	}, asOperator)
}

func leakCommand(ctx context.Context, p program, args []string) int {
	var all bool
	return p.operate(ctx, "leak", args, []operation{
		{name: "list", summary: "list differences between what runs, what is wanted and what is billed", flags: func(f *flag.FlagSet) {
			f.BoolVar(&all, "all", false, "closed ones too")
		}, do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			state := "open"
			if all {
				state = "all"
			}
			rows := [][]string{{"LEAK", "SINCE", "CLOSED", "TENANT", "SUBJECT", "AN HOUR", "DETAIL"}}
			err := pages(ctx, c, "/operator/leaks?state="+state, func(l portal.LeakJSON) {
				hourly, closed := "?", ""
				if l.Hourly != nil {
					hourly = l.Hourly.Amount + " " + l.Hourly.Currency
				}
				if l.Closed != nil {
					closed = l.Closed.Format(time.RFC3339) + ": " + l.Why
				}
				rows = append(rows, []string{l.Kind, l.Since.Format(time.RFC3339), closed, string(l.Tenant), l.Subject, hourly, strings.TrimSpace(l.Detail)})
			})
			if err != nil {
				return err
			}
			return table(p.stdout, rows)
		}},
	}, asOperator)
}
