package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
)

//go:embed demo-plan.yaml
var demoPlan []byte

const (
	// demoPatience is how long the demo goes on without a control plane that answers.
	demoPatience = 60 * time.Second
	// demoWatch is how long the guest is watched before the period is cut.
	demoWatch = 60 * time.Second
	// demoBoot is how long a guest may take until it runs and was read.
	demoBoot = 4 * time.Minute
	// demoCredit is more than a day of a small instance.
	demoCredit = "200.00"

	demoEmail    = "demo@example.com"
	demoPassword = "usance-demo"
)

// demo shows the whole job once: a client of the API, and the keeper of the
// `usance up` it starts.
type demo struct {
	out    io.Writer
	tty    bool
	data   string
	server string
	keeper *keeper
	op     *apiClient // as the operator
	tenant *apiClient // as the tenant
	state  demoState
}

// demoState is what a second run continues with.
type demoState struct {
	Tenant   metering.TenantID   `json:"tenant"`
	Token    string              `json:"token"`
	Instance metering.InstanceID `json:"instance"`
}

func demoCommand(ctx context.Context, p program, args []string) int {
	f := p.flags("demo", "demo [flags]")
	data := f.String("data", "/var/lib/usance-demo", "data `folder` of the demo")
	listen := f.String("listen", "127.0.0.1:8080", "`address` of the portal")
	listenHosts := f.String("listen-hosts", "127.0.0.1:8443", "`address` for hosts")
	once := f.Bool("once", false, "end after the invoice")
	if code, ok := p.parse(f, args); !ok {
		return code
	}
	self, err := os.Executable()
	if err != nil {
		return p.fail("demo", err)
	}
	if err := os.MkdirAll(*data, 0o755); err != nil {
		return p.fail("demo", fmt.Errorf("data folder: %w", err))
	}
	k, err := startKeeper([]string{self, "up", "--data", *data, "--listen", *listen, "--listen-hosts", *listenHosts, "--end-guests"}, filepath.Join(*data, "up.log"))
	if err != nil {
		return p.fail("demo", err)
	}
	d := &demo{out: p.stdout, data: *data, server: "http://" + *listen, keeper: k}
	if file, ok := p.stdout.(*os.File); ok {
		d.tty = term.IsTerminal(int(file.Fd()))
	}
	err = d.run(ctx)
	if err == nil && !*once {
		fmt.Fprintln(d.out, "\nThe portal stays up. Ctrl-C ends everything.")
		select {
		case <-ctx.Done():
		case <-k.gaveUp:
			err = k.err
		}
	}
	d.end()
	if err != nil && ctx.Err() == nil {
		return p.fail("demo", err)
	}
	if err != nil { // interrupted before the invoice
		return exitError
	}
	return exitOK
}

// run does every step, each of which can be repeated; the error names the step.
func (d *demo) run(ctx context.Context) error {
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"control plane", d.waitUp},
		{"price plan", d.publishPlan},
		{"tenant", d.makeTenant},
		{"host", d.waitHost},
		{"instance", d.makeInstance},
		{"metering", d.watch},
		{"invoice", d.cut},
		{"comparison", d.explain},
	}
	for _, s := range steps {
		if err := s.do(ctx); err != nil {
			if ctx.Err() == nil {
				d.showLog()
			}
			return fmt.Errorf("step %q: %w", s.name, err)
		}
	}
	return nil
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, format+"\n", args...)
}

// persist repeats an idempotent call while the control plane is away, for
// demoPatience at most; what the API refuses is final.
func (d *demo) persist(ctx context.Context, call func() error) error {
	deadline := time.Now().Add(demoPatience)
	for {
		err := call()
		var refusal *apiError
		if err == nil || errors.As(err, &refusal) && refusal.Status != http.StatusServiceUnavailable && refusal.Status < 500 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer for %v: %w; the last word of usance up: %s", demoPatience, err, lastLine(d.keeper.logFile))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.keeper.gaveUp:
			return d.keeper.err
		case <-time.After(time.Second):
		}
	}
}

func (d *demo) waitUp(ctx context.Context) error {
	d.say("Starting Postgres, ClickHouse, the control plane and a host agent in %s …", d.data)
	if err := d.persist(ctx, func() error {
		op, err := operatorFlags{data: d.data, server: d.server}.client()
		if err != nil {
			return err
		}
		d.op = op
		return d.op.call(ctx, "GET", "/operator/hosts", nil, nil)
	}); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(d.data, "demo.json"))
	if err == nil {
		err = json.Unmarshal(b, &d.state)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("demo.json: %w", err)
	}
	return nil
}

func (d *demo) save() error {
	b, err := json.Marshal(d.state)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.data, "demo.json"), b, 0o600)
}

func (d *demo) publishPlan(ctx context.Context) error {
	var plan portal.PublishedPlan
	err := d.persist(ctx, func() error { return d.op.call(ctx, "POST", "/operator/plans", demoPlan, &plan) })
	if err == nil {
		d.say("Plan %s, version %d: small 6.00 EUR per hour, disk operations 0.10 per thousand, egress 1.00 per GiB.", plan.Plan, plan.Version)
	}
	return err
}

func (d *demo) makeTenant(ctx context.Context) error {
	if d.state.Tenant == "" {
		var t portal.TenantJSON
		err := d.persist(ctx, func() error {
			return d.op.call(ctx, "POST", "/operator/tenants", portal.CreateTenant{
				Name: "Demo", Email: demoEmail, Password: demoPassword, Plan: "demo", Currency: "EUR", Zone: "UTC"}, &t)
		})
		if refused(err, http.StatusConflict) { // made by a run that ended before it could note so
			var found portal.List[portal.TenantJSON]
			err = d.persist(ctx, func() error {
				return d.op.call(ctx, "GET", "/operator/tenants?email="+url.QueryEscape(demoEmail), nil, &found)
			})
			if err == nil && len(found.Items) == 1 {
				t = found.Items[0]
			}
		}
		if err != nil {
			return err
		}
		d.state.Tenant = t.ID
	}
	path := "/operator/tenants/" + string(d.state.Tenant)
	// One grant a day keeps a demo that is run often out of debt.
	grant := portal.GrantCredit{Amount: demoCredit, Key: "demo-" + time.Now().UTC().Format(time.DateOnly)}
	if err := d.persist(ctx, func() error { return d.op.call(ctx, "POST", path+"/credit", grant, nil) }); err != nil {
		return err
	}
	if d.state.Token == "" {
		var token portal.TokenJSON
		if err := d.persist(ctx, func() error { return d.op.call(ctx, "POST", path+"/tokens", nil, &token) }); err != nil {
			return err
		}
		d.state.Token = token.Token
	}
	d.tenant = newAPIClient(d.server, d.state.Token)
	d.say("Tenant %s with %s EUR of promotional credit.", d.state.Tenant, demoCredit)
	return d.save()
}

func (d *demo) waitHost(ctx context.Context) error {
	deadline := time.Now().Add(demoBoot)
	for {
		var hosts portal.List[portal.HostJSON]
		if err := d.persist(ctx, func() error { return d.op.call(ctx, "GET", "/operator/hosts", nil, &hosts) }); err != nil {
			return err
		}
		for _, h := range hosts.Items {
			if h.State == "up" {
				d.say("Host %s (%s): %d vCPUs, %d MiB; %s.", h.ID, h.Name, h.VCPUs, h.MemoryMiB, d.virtType())
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no host reported within %v", demoBoot)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// virtType says how guests run here, as the agent's probe guest found out.
func (d *demo) virtType() string {
	switch kind, _ := os.ReadFile(filepath.Join(d.data, "virt_type")); strings.TrimSpace(string(kind)) {
	case "kvm":
		return "a probe guest booted under KVM, so guests use it"
	case "qemu":
		return "no probe guest booted under KVM, so guests are emulated"
	}
	return "how guests run is set"
}

func (d *demo) instance(ctx context.Context) (portal.InstanceJSON, error) {
	var i portal.InstanceJSON
	err := d.persist(ctx, func() error {
		return d.tenant.call(ctx, "GET", "/instances/"+string(d.state.Instance), nil, &i)
	})
	return i, err
}

func (d *demo) makeInstance(ctx context.Context) error {
	if d.state.Instance == "" {
		var i portal.InstanceJSON
		err := d.persist(ctx, func() error {
			return d.tenant.call(ctx, "POST", "/instances", portal.CreateInstance{Name: "demo", Flavor: "small", Image: "tiny"}, &i,
				"Idempotency-Key", "demo")
		})
		if err != nil {
			return err
		}
		d.state.Instance = i.ID
		if err := d.save(); err != nil {
			return err
		}
	}
	err := d.persist(ctx, func() error {
		return d.tenant.call(ctx, "POST", "/instances/"+string(d.state.Instance)+"/start", nil, nil)
	})
	if err != nil {
		return err
	}
	d.say("Instance %s (small) was admitted: quota, credit and capacity suffice. Booting …", d.state.Instance)
	deadline := time.Now().Add(demoBoot)
	for {
		i, err := d.instance(ctx)
		if err != nil {
			return err
		}
		if i.State == "running" && i.ReadAt != nil {
			d.say("It runs on %s since %s.", i.Host, i.Since.Format(time.TimeOnly))
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("instance %s is %s and not running and read after %v; %s", i.ID, i.State, demoBoot, i.Error)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// watched are the registers that the demo shows.
var watched = []metering.Register{metering.RunningMS, metering.CPUNS, metering.MemoryUsedMiBMS, metering.DiskReadOps,
	metering.DiskWriteOps, metering.DiskWriteBytes, metering.NetPublicRxBytes, metering.NetPublicTxBytes}

// watch shows registers and what is accrued, in place on a terminal, until the
// time is up.
func (d *demo) watch(ctx context.Context) error {
	began, printed := time.Now(), false
	for {
		i, err := d.instance(ctx)
		if err != nil {
			return err
		}
		d.showInstance(i, &printed, time.Since(began) >= demoWatch)
		if time.Since(began) >= demoWatch {
			return nil
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
	}
}

func (d *demo) showInstance(i portal.InstanceJSON, printed *bool, last bool) {
	if !d.tty && !last {
		return
	}
	if *printed {
		fmt.Fprintf(d.out, "\x1b[%dA", len(watched)+2)
	}
	*printed = true
	at := "never"
	if i.ReadAt != nil {
		at = i.ReadAt.Format(time.TimeOnly)
	}
	lines := []string{fmt.Sprintf("%s, %s, last reading %s UTC", i.ID, i.State, at)}
	for _, r := range watched {
		lines = append(lines, fmt.Sprintf("  %-22s %20s", r, i.Registers[r.String()]))
	}
	accrued := "  accrued: not known"
	if i.Accrued != nil {
		accrued = fmt.Sprintf("  accrued %37s %s", i.Accrued.Amount, i.Accrued.Currency)
	}
	for _, line := range append(lines, accrued) {
		if d.tty {
			line += "\x1b[K"
		}
		d.say("%s", line)
	}
}

func (d *demo) cut(ctx context.Context) error {
	var closing portal.ClosingJSON
	err := d.persist(ctx, func() error {
		return d.op.call(ctx, "POST", "/operator/tenants/"+string(d.state.Tenant)+"/closings", nil, &closing)
	})
	if err != nil {
		return err
	}
	if closing.Invoice == nil {
		return errors.New("the cut made no invoice: nothing was metered")
	}
	d.say("")
	printInvoice(d.out, *closing.Invoice)
	billed := map[string]bool{}
	for _, l := range closing.Invoice.Lines {
		if l.Amount != "0.00" {
			billed[l.Rate] = true
		}
	}
	for _, rate := range []string{"small-running", "disk-operations", "egress"} {
		if !billed[rate] {
			return fmt.Errorf("the invoice has no line above 0.00 for %s", rate)
		}
	}
	return nil
}

// explain says where to look and how to compare.
func (d *demo) explain(context.Context) error {
	d.say("\nPortal     %s", d.server)
	d.say("Sign in    %s / %s", demoEmail, demoPassword)
	d.say("API token  %s", d.state.Token)
	d.say("           curl -H 'Authorization: Bearer %s' %s/api/v1/instances/%s", d.state.Token, d.server, d.state.Instance)
	uri, err := os.ReadFile(filepath.Join(d.data, libvirtURIFile))
	if err != nil {
		return fmt.Errorf("address of libvirt: %w", err)
	}
	d.say("Compare    virsh -c '%s' domstats %s", strings.TrimSpace(string(uri)), d.state.Instance)
	return nil
}

// end stops the instance, so that its last reading is taken, and then `usance up`.
func (d *demo) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	if d.tenant != nil && d.state.Instance != "" {
		path := "/instances/" + string(d.state.Instance)
		d.say("Stopping the instance …")
		if err := d.tenant.call(ctx, "POST", path+"/stop", nil, nil); err == nil {
			for ctx.Err() == nil {
				var i portal.InstanceJSON
				if err := d.tenant.call(ctx, "GET", path, nil, &i); err == nil && (i.State == "stopped" || i.State == "failed") {
					break
				}
				pause(ctx, 500*time.Millisecond)
			}
		}
	}
	d.keeper.stop()
}

// showLog prints the end of what `usance up` said, for the one who has to find out.
func (d *demo) showLog() {
	const last = 4 << 10
	b, err := os.ReadFile(d.keeper.logFile)
	if err != nil {
		return
	}
	if len(b) > last {
		b = b[len(b)-last:]
	}
	d.say("\nThe end of %s:\n%s", d.keeper.logFile, b)
}

// pause waits, or says why it could not.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
