package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
)

// operation is one subcommand that calls the API of a running control plane.
type operation struct {
	name, args, summary string
	arity               int  // how many arguments must follow
	optional            bool // they may all be left out
	do                  func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error
	flags               func(f *flag.FlagSet)
	reach               func(f *flag.FlagSet) func() (*apiClient, error) // nil: as the other operations do
}

// operate runs the operation that args name, with a client that reach makes of the flags.
func (p program) operate(ctx context.Context, command string, args []string, operations []operation, reach func(f *flag.FlagSet) func() (*apiClient, error)) int {
	for _, o := range operations {
		if len(args) == 0 || o.name != args[0] {
			continue
		}
		f := p.flags(command+" "+o.name, strings.TrimSpace(command+" "+o.name+" [flags] "+o.args))
		if o.reach != nil {
			reach = o.reach
		}
		client := reach(f)
		if o.flags != nil {
			o.flags(f)
		}
		if code, ok := p.parse(f, args[1:]); !ok {
			return code
		}
		if f.NArg() != o.arity && (f.NArg() != 0 || !o.optional) {
			f.Usage()
			return exitUsage
		}
		c, err := client()
		if err == nil {
			err = o.do(ctx, p, c, f)
		}
		if err != nil {
			return p.fail(command+" "+o.name, err)
		}
		return exitOK
	}
	fmt.Fprintf(p.stderr, "Usage: usance %s SUBCOMMAND [flags]\n", command)
	for _, o := range operations {
		fmt.Fprintf(p.stderr, "  %-34s %s\n", strings.TrimSpace(o.name+" "+o.args), o.summary)
	}
	return exitUsage
}

// asOperator reaches the control plane with the operator's token.
func asOperator(f *flag.FlagSet) func() (*apiClient, error) {
	var o operatorFlags
	f.StringVar(&o.data, "data", defaultData, "data `folder`, for the operator's token")
	f.StringVar(&o.server, "server", "http://"+defaultListen, "`URL` of the control plane")
	f.StringVar(&o.token, "token", "", "operator's `token` instead of the data folder's")
	return func() (*apiClient, error) { return o.client() } // o as it is once the flags are parsed
}

// asTenant reaches the control plane with a tenant's API token.
func asTenant(f *flag.FlagSet) func() (*apiClient, error) {
	server := f.String("server", "http://"+defaultListen, "`URL` of the control plane")
	token := f.String("token", "", "API `token` of the tenant")
	return func() (*apiClient, error) {
		if *token == "" {
			return nil, errors.New("an API token is needed: --token, or USANCE_TOKEN")
		}
		return newAPIClient(*server, *token), nil
	}
}

// table prints rows with aligned columns; the first is the heading.
func table(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// pages calls f with every item of a list, page after page.
func pages[T any](ctx context.Context, c *apiClient, path string, f func(T)) error {
	mark := "?"
	if strings.HasSuffix(path, "?") {
		mark = ""
	} else if strings.Contains(path, "?") {
		mark = "&"
	}
	for after := ""; ; {
		var page portal.List[T]
		if err := c.call(ctx, "GET", path+mark+"after="+url.QueryEscape(after), nil, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			f(item)
		}
		if page.Next == "" {
			return nil
		}
		after = page.Next
	}
}

func hostCommand(ctx context.Context, p program, args []string) int {
	return p.operate(ctx, "host", args, []operation{
		{name: "token", summary: "make a join token, good once within 15 minutes", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			var t portal.TokenJSON
			if err := c.call(ctx, "POST", "/operator/hosts/tokens", nil, &t); err != nil {
				return err
			}
			fmt.Fprintln(p.stdout, t.Token)
			return nil
		}},
		{name: "list", summary: "list the hosts", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			rows := [][]string{{"HOST", "NAME", "STATE", "VCPUS", "USED", "MEMORY", "STORAGE", "WAITING", "SINCE", "THINNED", "REFUSED", "ASIDE"}}
			err := pages(ctx, c, "/operator/hosts", func(h portal.HostJSON) {
				row := []string{string(h.ID), h.Name, h.State, fmt.Sprint(h.VCPUs), fmt.Sprint(h.VCPUsUsed), fmt.Sprintf("%d MiB", h.MemoryMiB), cmp.Or(h.Storage, "-")}
				rows = append(rows, append(row, spoolColumns(h.Spool)...))
			})
			if err != nil {
				return err
			}
			return table(p.stdout, rows)
		}},
		{name: "remove", args: "HOST", arity: 1, summary: "take a host's certificate back; refused while it has instances", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			return c.call(ctx, "DELETE", "/operator/hosts/"+url.PathEscape(f.Arg(0)), nil, nil)
		}},
	}, asOperator)
}

// spoolColumns are what waits on a host and what the wait has cost; "?" where it
// never said.
func spoolColumns(s *portal.SpoolJSON) []string {
	if s == nil {
		return []string{"?", "?", "?", "?", "?"}
	}
	since := "-"
	if s.Oldest != nil {
		since = s.Oldest.Format(time.RFC3339)
	}
	if s.Limit == 0 {
		return []string{fmt.Sprint(s.Readings), since, "?", "?", "?"} // an agent of the first version
	}
	return []string{fmt.Sprint(s.Readings), since, fmt.Sprint(s.Thinned), fmt.Sprint(s.Refused), fmt.Sprint(s.Aside)}
}

func tenantCommand(ctx context.Context, p program, args []string) int {
	var n portal.CreateTenant
	var g portal.GrantCredit
	path := func(f *flag.FlagSet) string { return "/operator/tenants/" + url.PathEscape(f.Arg(0)) }
	return p.operate(ctx, "tenant", args, []operation{
		{name: "create", summary: "create a tenant with its first user", flags: func(f *flag.FlagSet) {
			f.StringVar(&n.Name, "name", "", "`name` on invoices")
			f.StringVar(&n.Email, "email", "", "`address` of the first user")
			f.StringVar(&n.Password, "password", "", "`password` of the first user")
			f.StringVar(&n.Plan, "plan", "", "price `plan`")
			f.StringVar(&n.Currency, "currency", "EUR", "`currency` of the invoices")
			f.StringVar(&n.Zone, "zone", "UTC", "billing `zone`, such as Europe/Berlin: where months begin")
		}, do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			var t portal.TenantJSON
			if err := c.call(ctx, "POST", "/operator/tenants", n, &t); err != nil {
				return err
			}
			fmt.Fprintln(p.stdout, t.ID)
			return nil
		}},
		{name: "list", summary: "list the tenants", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			rows := [][]string{{"TENANT", "NAME", "E-MAIL", "PLAN", "CURRENCY", "ZONE"}}
			err := pages(ctx, c, "/operator/tenants", func(t portal.TenantJSON) {
				rows = append(rows, []string{string(t.ID), t.Name, t.Email, t.Plan, t.Currency, t.Zone})
			})
			if err != nil {
				return err
			}
			return table(p.stdout, rows)
		}},
		{name: "credit", args: "TENANT", arity: 1, summary: "grant promotional credit", flags: func(f *flag.FlagSet) {
			f.StringVar(&g.Amount, "amount", "", "`amount`, such as 25.00, in the tenant's currency")
			f.StringVar(&g.Key, "key", "", "`key`: the same key grants once")
		}, do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			if g.Key == "" {
				g.Key = metering.NewID("grant_")
			}
			return c.call(ctx, "POST", path(f)+"/credit", g, nil)
		}},
		{name: "token", args: "TENANT", arity: 1, summary: "make an API token of the tenant", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			var t portal.TokenJSON
			if err := c.call(ctx, "POST", path(f)+"/tokens", nil, &t); err != nil {
				return err
			}
			fmt.Fprintln(p.stdout, t.Token)
			return nil
		}},
	}, asOperator)
}

func invoiceCommand(ctx context.Context, p program, args []string) int {
	path := func(f *flag.FlagSet) string { return "/operator/tenants/" + url.PathEscape(f.Arg(0)) }
	return p.operate(ctx, "invoice", args, []operation{
		{name: "close", args: "TENANT", arity: 1, summary: "cut the tenant's open period now and print the invoice", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			var closing portal.ClosingJSON
			if err := c.call(ctx, "POST", path(f)+"/closings", nil, &closing); err != nil {
				return err
			}
			if closing.Invoice == nil {
				fmt.Fprintln(p.stdout, "nothing to bill; what was metered is noted as closed")
			} else {
				printInvoice(p.stdout, *closing.Invoice)
			}
			for _, t := range closing.Thin {
				fmt.Fprintf(p.stdout, "LOOK: %s %s bills a percentile of %d slots of which only %d were measured\n", t.Rate, t.Resource, t.Slots, t.Measured)
			}
			return printUnrated(p.stdout, closing.Unrated)
		}},
		{name: "list", args: "TENANT", arity: 1, summary: "list the tenant's invoices", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			rows := [][]string{{"INVOICE", "ISSUED", "UNTIL", "GROSS", "DUE", ""}}
			err := pages(ctx, c, path(f)+"/invoices", func(i portal.InvoiceJSON) {
				rows = append(rows, []string{i.Number, i.Issued.Format("2006-01-02"), i.End.Format("2006-01-02 15:04"), i.Gross, i.Due, i.Currency})
			})
			if err != nil {
				return err
			}
			return table(p.stdout, rows)
		}},
		{name: "show", args: "NUMBER", arity: 1, summary: "print an invoice", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			var i portal.InvoiceJSON
			if err := c.call(ctx, "GET", "/operator/invoices/"+url.PathEscape(f.Arg(0)), nil, &i); err != nil {
				return err
			}
			printInvoice(p.stdout, i)
			return nil
		}},
	}, asOperator)
}

// printInvoice prints each line with quantity, price, exact and rounded amount.
func printInvoice(out io.Writer, i portal.InvoiceJSON) {
	fmt.Fprintf(out, "Invoice %s of %s UTC, tenant %s\nPeriod %s to %s UTC\n\n", i.Number, i.Issued.Format("2006-01-02 15:04:05"), i.Tenant,
		i.Start.Format("2006-01-02 15:04:05"), i.End.Format("2006-01-02 15:04:05"))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "rate\tquantity\tunit\tprice\texact\tbilled before\tamount\t\n")
	for _, l := range i.Lines {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", l.Rate, l.Quantity, l.Unit, l.Price, l.Exact, l.Billed, l.Amount)
	}
	w.Flush()
	fmt.Fprintf(out, "\nNet %s, tax %s, total %s %s; credit applied %s, due %s %s\n", i.Net, i.Tax, i.Gross, i.Currency, i.Credit, i.Due, i.Currency)
}

// printUnrated warns of what a closing billed nothing for.
func printUnrated(out io.Writer, unrated []portal.UnratedJSON) error {
	if len(unrated) == 0 {
		return nil
	}
	fmt.Fprint(out, "\nUNRATED, and so free, because no rate of the plan fits; a price of 0 says that this is meant:\n")
	rows := [][]string{{"RESOURCE", "FLAVOR", "METER", "QUANTITY", "UNIT"}}
	for _, u := range unrated {
		rows = append(rows, []string{string(u.Resource), u.Flavor, string(u.Meter), u.Quantity, u.Unit})
	}
	return table(out, rows)
}

func instanceCommand(ctx context.Context, p program, args []string) int {
	var n portal.CreateInstance
	var sshKey string
	path := func(f *flag.FlagSet) string { return "/instances/" + url.PathEscape(f.Arg(0)) }
	post := func(verb string) func(context.Context, program, *apiClient, *flag.FlagSet) error {
		return func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			return c.call(ctx, "POST", path(f)+"/"+verb, nil, nil)
		}
	}
	return p.operate(ctx, "instance", args, []operation{
		{name: "list", summary: "list the VMs", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			rows := [][]string{{"INSTANCE", "NAME", "FLAVOR", "STATE", "ADDRESS", "ACCRUED"}}
			err := pages(ctx, c, "/instances", func(i portal.InstanceJSON) {
				accrued := "?"
				if i.Accrued != nil {
					accrued = i.Accrued.Amount + " " + i.Accrued.Currency
				}
				rows = append(rows, []string{string(i.ID), i.Name, i.Flavor, i.State, i.Address, accrued})
			})
			if err != nil {
				return err
			}
			return table(p.stdout, rows)
		}},
		{name: "create", summary: "create a VM and start it", flags: func(f *flag.FlagSet) {
			f.StringVar(&n.Name, "name", "", "host `name`")
			f.StringVar(&n.Flavor, "flavor", "small", "`flavor`")
			f.StringVar(&n.Image, "image", "tiny", "`image`")
			f.StringVar(&sshKey, "ssh-key", "", "public `key` let in by ssh")
		}, do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			if sshKey != "" {
				n.SSHKeys = []string{sshKey}
			}
			var i portal.InstanceJSON
			if err := c.call(ctx, "POST", "/instances", n, &i, "Idempotency-Key", metering.NewID("cli_")); err != nil {
				return err
			}
			fmt.Fprintln(p.stdout, i.ID)
			return nil
		}},
		{name: "show", args: "INSTANCE", arity: 1, summary: "print a VM with its registers", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			var i portal.InstanceJSON
			if err := c.call(ctx, "GET", path(f), nil, &i); err != nil {
				return err
			}
			rows := [][]string{{"id", string(i.ID)}, {"name", i.Name}, {"flavor", i.Flavor}, {"state", i.State}, {"desired", i.Desired + " (" + i.Reason + ")"}, {"address", i.Address}}
			if i.UnreadSince != nil {
				rows = append(rows, []string{"registers", "cannot be read since " + i.UnreadSince.Format(time.RFC3339)})
			}
			for _, r := range metering.RegisterNames() {
				if v, known := i.Registers[r]; known {
					rows = append(rows, []string{r, v})
				}
			}
			return table(p.stdout, rows)
		}},
		{name: "start", args: "INSTANCE", arity: 1, summary: "switch a VM on", do: post("start")},
		{name: "stop", args: "INSTANCE", arity: 1, summary: "switch a VM off", do: post("stop")},
		{name: "resize", args: "INSTANCE FLAVOR", arity: 2, summary: "give a VM another flavor", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			return c.call(ctx, "POST", path(f)+"/resize", portal.ResizeInstance{Flavor: f.Arg(1)}, nil)
		}},
		{name: "move", args: "INSTANCE HOST", arity: 2, summary: "as the operator: move a stopped VM to a host of the same storage", reach: asOperator,
			do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
				return c.call(ctx, "POST", "/operator"+path(f)+"/move", portal.MoveInstance{Host: metering.HostID(f.Arg(1))}, nil)
			}},
		{name: "delete", args: "INSTANCE", arity: 1, summary: "delete a VM with its disk", do: func(ctx context.Context, p program, c *apiClient, f *flag.FlagSet) error {
			return c.call(ctx, "DELETE", path(f), nil, nil)
		}},
	}, asTenant)
}
