// Command usance is the control plane and the command line of Usance.
//
// It owns flags, configuration, the wiring of the rooms, the loops that run the
// runners, and the children: embedded Postgres, embedded ClickHouse, the local
// libvirtd and the local agent. It holds no rule of its own. Nothing imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	_ "time/tzdata" // billing zones, also where the machine has none
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1 // something failed
	exitUsage = 2 // bad flags, arguments or input
)

// program is what a command sees of the world; tests give their own.
type program struct {
	getenv         func(string) string
	stdout, stderr io.Writer
}

// command is one word of the command line.
type command struct {
	name    string
	summary string
	hidden  bool
	run     func(ctx context.Context, p program, args []string) int
}

func commands() []command {
	return []command{
		{name: "up", summary: "run everything on this machine", run: upCommand},
		{name: "demo", summary: "from nothing to an invoice for a real VM", run: demoCommand},
		{name: "serve", summary: "run the control plane alone, with Postgres and ClickHouse servers of your own", run: serveCommand},
		{name: "migrate", summary: "bring the schemas of both databases up to date", run: migrateCommand},
		{name: "host", summary: "token, list, remove: the hosts", run: hostCommand},
		{name: "plan", summary: "check, diff, backtest, publish, list, show: price plans", run: planCommand},
		{name: "rate", summary: "rate a usage file under a plan file, offline", run: func(ctx context.Context, p program, args []string) int {
			return rateCommand(ctx, args, p.stdout, p.stderr)
		}},
		{name: "tenant", summary: "create, list, credit, token: the tenants", run: tenantCommand},
		{name: "invoice", summary: "close, list, show: a tenant's invoices", run: invoiceCommand},
		{name: "instance", summary: "list, create, show, start, stop, delete: a tenant's VMs", run: instanceCommand},
		{name: "usage", summary: "what a tenant's resources used, down to the readings", run: usageCommand},
		{name: "quarantine", summary: "list, accept, reject: readings that were not accepted", run: quarantineCommand},
		{name: "epoch", summary: "void: take back readings of an epoch", run: epochCommand},
		{name: "leak", summary: "list: what runs, is wanted and is billed, where they differ", run: leakCommand},
		{name: "version", summary: "print the version", run: versionCommand},
		{name: postgresChild, hidden: true, run: postgresChildCommand},
		{name: clickhouseChild, hidden: true, run: clickhouseChildCommand},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := program{getenv: os.Getenv, stdout: os.Stdout, stderr: os.Stderr}
	code := run(ctx, p, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, p program, args []string) int {
	all := commands()
	if len(args) > 0 {
		if i := slices.IndexFunc(all, func(c command) bool { return c.name == args[0] }); i >= 0 {
			return all[i].run(ctx, p, args[1:])
		}
		if args[0] != "help" && args[0] != "-h" && args[0] != "--help" {
			fmt.Fprintf(p.stderr, "usance: there is no command %q; usance help lists them\n", args[0])
			return exitUsage
		}
	}
	fmt.Fprint(p.stdout, "Usance meters and bills virtual machines.\n\nUsage: usance COMMAND [flags]; usance COMMAND -h lists a command's flags.\n\n")
	for _, c := range all {
		if !c.hidden {
			fmt.Fprintf(p.stdout, "  %-10s %s\n", c.name, c.summary)
		}
	}
	return exitOK
}

// flags is a flag set that prints to stderr and does not end the program.
func (p program) flags(name, usage string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(p.stderr)
	f.Usage = func() {
		fmt.Fprintf(p.stderr, "Usage: usance %s\n", usage)
		f.PrintDefaults()
	}
	return f
}

// parse parses args into f; a flag that is not given falls back to the
// environment variable USANCE_ and its name in upper case. ok is false when the
// command ends here with code.
func (p program) parse(f *flag.FlagSet, args []string) (code int, ok bool) {
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitOK, false
	} else if err != nil {
		return exitUsage, false
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	var bad error
	f.VisitAll(func(fl *flag.Flag) {
		name := "USANCE_" + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		if v := p.getenv(name); v != "" && !given[fl.Name] && bad == nil {
			if err := f.Set(fl.Name, v); err != nil {
				bad = fmt.Errorf("%s=%q: %w", name, v, err)
			}
		}
	})
	if bad != nil {
		fmt.Fprintf(p.stderr, "usance %s: %v\n", f.Name(), bad)
		return exitUsage, false
	}
	return exitOK, true
}

// fail prints err as one line and returns the exit code for it.
func (p program) fail(name string, err error) int {
	fmt.Fprintf(p.stderr, "usance %s: %v\n", name, err)
	return exitError
}
