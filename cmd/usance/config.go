package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
)

// config is every setting of `up` and `serve`.
type config struct {
	data, listen, listenHosts string
	hostNames                 string
	postgres, clickhouse      string // DSNs; "" means embedded
	cluster                   string // of ClickHouse servers; "" means one
	metrics, agentMetrics     string // addresses; "" means none
	libvirt, virtType         string
	noAgent, endGuests        bool
	trustProxy                bool
}

// config reads the settings; ok is false when the command ends here with code.
func (p program) config(name string, args []string) (cfg config, code int, ok bool) {
	f := p.flags(name, name+" [flags]")
	f.StringVar(&cfg.data, "data", defaultData, "data `folder`")
	f.StringVar(&cfg.postgres, "postgres", "", "`DSN` of a Postgres server, such as postgres://usance@db/usance; without one, a private server")
	f.StringVar(&cfg.clickhouse, "clickhouse", "", "`DSN` of a ClickHouse server, such as clickhouse://usance@ch:9000/usance; without one, a private engine")
	f.StringVar(&cfg.cluster, "clickhouse-cluster", "", "`name` of the cluster that the ClickHouse server belongs to; without one, it is a single server")
	if name != "migrate" {
		f.StringVar(&cfg.listen, "listen", defaultListen, "`address` of the portal and the API")
		f.StringVar(&cfg.listenHosts, "listen-hosts", defaultListenHosts, "`address` that hosts connect to, by TLS")
		f.StringVar(&cfg.hostNames, "host-names", "", "`names` and addresses, by comma, under which hosts reach this machine, beside localhost and its own name")
		f.StringVar(&cfg.metrics, "metrics", "", "`address` to serve Prometheus metrics on, such as 127.0.0.1:9463; whoever reaches it may read them (default: none)")
		f.BoolVar(&cfg.trustProxy, "trust-proxy", false, "the portal is reached through a proxy that ends TLS and sets X-Forwarded-For and X-Forwarded-Proto")
	}
	if name == "up" {
		f.StringVar(&cfg.libvirt, "libvirt", "qemu:///system", "`URI` of libvirt; where none answers, one of our own is started")
		f.StringVar(&cfg.virtType, "virt-type", "auto", "kvm, qemu (no hardware needed) or auto (a probe guest decides)")
		f.StringVar(&cfg.agentMetrics, "agent-metrics", "", "`address` of the local host agent's metrics, such as 127.0.0.1:9464 (default: none)")
		f.BoolVar(&cfg.noAgent, "no-agent", false, "run no local host agent")
		f.BoolVar(&cfg.endGuests, "end-guests", false, "on exit, pull the plug of guests on a libvirtd of our own; otherwise they and it outlive this program")
	}
	if code, ok = p.parse(f, args); !ok {
		return cfg, code, false
	}
	if f.NArg() > 0 {
		fmt.Fprintf(p.stderr, "usance %s: unexpected argument %q\n", name, f.Arg(0))
		return cfg, exitUsage, false
	}
	if cfg.cluster != "" && cfg.clickhouse == "" {
		fmt.Fprintf(p.stderr, "usance %s: --clickhouse-cluster needs --clickhouse, the DSN of one of its servers\n", name)
		return cfg, exitUsage, false
	}
	if !slices.Contains([]string{"", "auto", "kvm", "qemu"}, cfg.virtType) {
		fmt.Fprintf(p.stderr, "usance %s: --virt-type %q: kvm, qemu or auto is wanted\n", name, cfg.virtType)
		return cfg, exitUsage, false
	}
	return cfg, exitOK, true
}

// listen opens a TCP port; one that is in use is refused in one sentence.
func listen(flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, refuse("the port of %s is in use by another program; stop it, or give another address with --%s", address, flag)
	}
	if err != nil {
		return nil, refuse("--%s %s: %w", flag, address, err)
	}
	return l, nil
}

// localAddress is how this machine reaches a listening address of its own.
func localAddress(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// names are those under which hosts reach us, beside localhost.
func (cfg config) names() []string {
	var names []string
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	if host, _, err := net.SplitHostPort(cfg.listenHosts); err == nil && host != "" {
		names = append(names, host)
	}
	for name := range strings.SplitSeq(cfg.hostNames, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
