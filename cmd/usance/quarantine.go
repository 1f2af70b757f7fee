package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"time"

	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/portal"
)

func quarantineCommand(ctx context.Context, p program, args []string) int {
	var state string
	var yes bool
	d := portal.DecideSelected{DecideQuarantined: portal.DecideQuarantined{By: p.getenv("USER")}}
	which := func(f *flag.FlagSet) {
		f.StringVar(&d.By, "as", d.By, "`name` of who decides")
		f.StringVar(&d.Note, "note", "", "`text` that is kept with the decision")
		for name, value := range map[string]*string{"host": (*string)(&d.Host), "epoch": (*string)(&d.Epoch), "instance": (*string)(&d.Instance)} {
			f.StringVar(value, name, "", "instead of READING, all that wait of this `"+name+"`")
		}
		f.StringVar((*string)(&d.Reason), "reason", "", "instead of READING, all that wait for this `reason`, such as "+string(ingest.ReasonTime))
		f.BoolVar(&yes, "yes", false, "decide about all of them; without it they are only counted")
	}
	decide := func(verb string) func(context.Context, program, *apiClient, *flag.FlagSet) error {
		return func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			selected := d.Host != "" || d.Epoch != "" || d.Instance != "" || d.Reason != ""
			switch {
			case selected == (f.NArg() == 1):
				return fmt.Errorf("give the number of a reading, or which ones are meant by --host, --epoch, --instance, --reason")
			case selected:
				return decideSelected(ctx, p, c, verb, d, yes)
			}
			return c.call(ctx, "POST", "/operator/quarantine/"+url.PathEscape(f.Arg(0))+"/"+verb, d.DecideQuarantined, nil)
		}
	}
	return p.operate(ctx, "quarantine", args, []operation{
		{name: "list", summary: "list the readings that were not accepted", flags: func(f *flag.FlagSet) {
			f.StringVar(&state, "state", "open", "`state`: open, held, accepted, rejected or all")
		}, do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			rows := [][]string{{"READING", "STATE", "REASON", "HOST", "INSTANCE", "AT", "DETAIL", "DECIDED BY"}}
			err := pages(ctx, c, "/operator/quarantine?state="+url.QueryEscape(state), func(q portal.QuarantinedJSON) {
				rows = append(rows, []string{q.ID, q.State, q.Reason, string(q.Host), string(q.Instance), q.At.Format(time.RFC3339Nano), q.Detail, q.By})
			})
			if err != nil {
				return err
			}
			return table(p.stdout, rows)
		}},
		{name: "accept", args: "[READING]", arity: 1, optional: true, summary: "have a reading, or all selected ones, count after all", flags: which, do: decide("accept")},
		{name: "reject", args: "[READING]", arity: 1, optional: true, summary: "never bill a reading, or all selected ones", flags: which, do: decide("reject")},
	}, asOperator)
}

// decideSelected says how many open readings are selected and, once that is
// confirmed, decides about those that were counted, call by call. What an
// interruption leaves is decided by doing it again.
func decideSelected(ctx context.Context, p program, c *apiClient, verb string, d portal.DecideSelected, yes bool) error {
	query := url.Values{}
	for name, value := range map[string]string{"host": string(d.Host), "epoch": string(d.Epoch), "instance": string(d.Instance), "reason": string(d.Reason)} {
		if value != "" {
			query.Set(name, value)
		}
	}
	var s portal.SelectedJSON
	if err := c.call(ctx, "GET", "/operator/quarantine/count?"+query.Encode(), nil, &s); err != nil {
		return err
	}
	if s.Count == 0 {
		fmt.Fprintln(p.stdout, "no reading of these waits")
		return nil
	}
	fmt.Fprintf(p.stdout, "%d readings wait, the first since %s\n", s.Count, s.Since.Format(time.RFC3339))
	if !yes {
		fmt.Fprintf(p.stdout, "to %s all of them, repeat with --yes\n", verb)
		return nil
	}
	decided, left := 0, 0
	for d.Through = s.Through; ; {
		var done portal.DecidedJSON
		if err := c.call(ctx, "POST", "/operator/quarantine/"+verb, d, &done); err != nil {
			return fmt.Errorf("after %d readings: %w", decided, err)
		}
		decided, left = decided+done.Decided, left+len(done.Left)
		for _, l := range done.Left {
			fmt.Fprintf(p.stdout, "%s stays: %s\n", l.ID, l.Why)
		}
		if d.After = done.Next; d.After == "" {
			break
		}
	}
	fmt.Fprintf(p.stdout, "%sed %d readings; %d stay open\n", verb, decided, left)
	return nil
}
