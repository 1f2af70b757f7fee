// Usance-agent is the program on each host: it meters the host's virtual machines
// and makes them what the control plane wants.
//
// It owns flags, environment and wiring; the work is done in package agent. It
// never ends a guest because it ends itself.
//
// It is the only program of the house that links C (libvirt).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/agent/virt"
	"github.com/usance/usance/cmd/metrics"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.As(err, new(usageError)):
		fmt.Fprintln(os.Stderr, "usance-agent:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "usance-agent:", err)
		os.Exit(1)
	}
}

// usageError is an error in flags or environment.
type usageError struct{ error }

// config is what flags and environment say.
type config struct {
	agent    agent.Config
	libvirt  string
	virtType string
	network  string
	private  []string
	metrics  string // address; "": none
	pipe     int    // file descriptor whose EOF ends the agent; 0: none
}

// run is the whole program; it returns nil when ctx ended it.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	cfg, err := parse(args, getenv, stdout)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	cfg.agent.Log = log
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if cfg.pipe != 0 {
		endWith(cfg.pipe, cancel)
	}
	if err := os.MkdirAll(cfg.agent.DataDir, 0o755); err != nil { // QEMU's user passes through
		return fmt.Errorf("data folder: %w", err)
	}
	virtType, err := virt.ChooseVirtType(ctx, cfg.virtType, cfg.agent.DataDir, log)
	if err != nil {
		return fmt.Errorf("virt type: %w", err)
	}
	hypervisor, err := virt.New(virt.Config{
		URI: cfg.libvirt, DataDir: cfg.agent.DataDir, VirtType: virtType, Network: cfg.network, PrivateNetworks: cfg.private, Log: log,
	})
	if err != nil {
		return err
	}
	if err := hypervisor.CheckNetworks(ctx); err != nil {
		return fmt.Errorf("--private-networks: %w", err)
	}
	cfg.agent.Hypervisor = hypervisor
	a, err := agent.New(cfg.agent)
	if err != nil {
		return err
	}
	if cfg.metrics != "" {
		if err := metrics.Serve(ctx, cfg.metrics, metricsOf(a.Stat), log); err != nil {
			return err
		}
	}
	return a.Run(ctx)
}

// endWith calls end when the pipe's other side is gone: the program that started
// us ended, however it did.
func endWith(fd int, end func()) {
	syscall.CloseOnExec(fd)
	pipe := os.NewFile(uintptr(fd), "parent")
	go func() {
		io.Copy(io.Discard, pipe)
		end()
	}()
}

func parse(args []string, getenv func(string) string, stdout io.Writer) (config, error) {
	var cfg config
	f := flag.NewFlagSet("usance-agent", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&cfg.agent.Server, "server", "", "`URL` of the control plane's side for hosts, such as https://usance.example:8443")
	f.StringVar(&cfg.agent.Token, "token", "", "join `token`; only needed until the host has joined")
	f.StringVar(&cfg.agent.DataDir, "data", "/var/lib/usance", "data `folder`")
	f.StringVar(&cfg.agent.Name, "name", "", "the host's name for operators (default: this machine's)")
	f.StringVar(&cfg.libvirt, "libvirt", "qemu:///system", "libvirt `URI`, with ?socket=PATH where it is not the usual one")
	f.StringVar(&cfg.virtType, "virt-type", "auto", "kvm, qemu (emulated), or auto: a probe guest decides once")
	f.StringVar(&cfg.network, "network", "default", "libvirt `network` for public addresses")
	f.Func("private-networks", "`names`, separated by commas, of libvirt networks and bridges whose traffic is private;\n"+
		"that on isolated networks of libvirt's is without being named", func(names string) error {
		for name := range strings.SplitSeq(names, ",") {
			cfg.private = append(cfg.private, strings.TrimSpace(name))
		}
		return nil
	})
	f.Int64Var(&cfg.agent.SpoolBytes, "spool-bytes", 0, "`bytes` of disk for readings that wait to be sent (default 256 MiB)")
	f.IntVar(&cfg.agent.Capacity.VCPUs, "vcpus", 0, "vCPUs to offer (default: the host's CPUs)")
	f.Int64Var(&cfg.agent.Capacity.MemoryMiB, "memory-mib", 0, "memory to offer (default: the host's less a reserve)")
	f.Int64Var(&cfg.agent.Capacity.DiskMiB, "disk-mib", 0, "disk to offer (default: what is free under --data)")
	f.StringVar(&cfg.agent.Storage, "storage", "", "`name` of the storage that --data's folder instances lies on, if hosts share it:\n"+
		"between those of one name, with the same --data, stopped instances can move")
	f.StringVar(&cfg.metrics, "metrics", "", "`address` to serve Prometheus metrics on, such as 127.0.0.1:9464; whoever reaches it may read them (default: none)")
	f.IntVar(&cfg.pipe, "pipe-fd", 0, "end when the pipe under this file `descriptor` does (3 with USANCE_PIPE set)")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(stdout, "Usage: usance-agent --server URL --token TOKEN [flags]\n"+
			"A flag that is not given is taken from USANCE_ and its name, as in USANCE_SERVER.")
		f.SetOutput(stdout)
		f.PrintDefaults()
		return cfg, err
	} else if err != nil {
		return cfg, usageError{err}
	}
	if f.NArg() > 0 {
		return cfg, usageError{fmt.Errorf("unexpected argument %q", f.Arg(0))}
	}
	if err := fromEnvironment(f, getenv); err != nil {
		return cfg, usageError{err}
	}
	return cfg, cfg.complete(getenv)
}

// fromEnvironment sets the flags that were not given from USANCE_ variables.
func fromEnvironment(f *flag.FlagSet, getenv func(string) string) error {
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	var errs []error
	f.VisitAll(func(fl *flag.Flag) {
		name := "USANCE_" + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		if v := getenv(name); v != "" && !given[fl.Name] {
			if err := f.Set(fl.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("%s=%q: %w", name, v, err))
			}
		}
	})
	return errors.Join(errs...)
}

// complete checks the configuration and fills in what the machine knows.
func (c *config) complete(getenv func(string) string) error {
	if !strings.HasPrefix(c.agent.Server, "https://") {
		return usageError{fmt.Errorf("--server %q: want a URL like https://usance.example:8443", c.agent.Server)}
	}
	if n := c.agent.Capacity; n.VCPUs < 0 || n.MemoryMiB < 0 || n.DiskMiB < 0 {
		return usageError{errors.New("--vcpus, --memory-mib and --disk-mib: want positive numbers")}
	}
	if c.pipe == 0 && getenv("USANCE_PIPE") != "" {
		c.pipe = 3
	}
	var err error
	if c.agent.DataDir, err = filepath.Abs(c.agent.DataDir); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if c.agent.Name == "" {
		if c.agent.Name, err = os.Hostname(); err != nil {
			return fmt.Errorf("this machine's name: %w", err)
		}
	}
	return nil
}
