package billrun_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/plandb"
	"github.com/usance/usance/rating/planfile"
	"github.com/usance/usance/rating/presets"
)

func parse(t testing.TB, source string) *rating.Plan {
	t.Helper()
	plan, _, err := planfile.Parse("plan.yaml", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// rows are compared rows as text.
func rows(list []invoicing.Compared) (all []string) {
	for _, c := range list {
		all = append(all, c.Name+" "+c.Before.String()+" → "+c.After.String())
	}
	return all
}

func want(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// dearer has small at 1.00 by night and 0.50 by day, large as it was, 0.10 for
// each GiB sent, and forgets what is switched off.
var dearer = strings.NewReplacer(
	"rates:\n", "calendar: {night: {daily: '22:00-06:00'}}\nrates:\n  - {id: night, meter: instance.running, where: {flavor: small, time: night}, price: 1.00 per hour}\n",
	"0.75 per hour", "0.50 per hour", "  - {id: off, meter: instance.stopped, price: 0.01 per hour}\n", "",
	"{price: 0.05 per GiB}", "{price: 0.10 per GiB}").Replace(standardPlan)

// TestBacktest: the figures are known, whether readings are in memory or in
// ClickHouse, whatever was cut in between, for one page or many.
func TestBacktest(t *testing.T) {
	h := newHouse(t)
	store := readingtest.Store(t)
	real, err := billrun.New(billrun.Config{
		Books: h.books, Plans: plandb.New(h.pool), Epochs: h.epochs, Allocations: allocdb.New(h.pool), Readings: store,
		Running: func(context.Context) ([]billrun.Running, error) { return nil, nil }, Log: slog.New(slog.DiscardHandler),
	})
	h.check(err)
	one, two, other := h.tenant("ten_1"), h.tenant("ten_2"), h.tenantOn("ten_3", "starts")
	read := func(tenant metering.TenantID, e metering.EpochID, when string, minutes, mib uint64) {
		h.read(tenant, e, when, minutes, mib)
		h.check(store.Insert(t.Context(), column(tenant, e, at(when), minutes, mib)))
	}
	a, b, c := h.epoch(one, "ins_1", 1, "small"), h.epoch(two, "ins_2", 1, "large"), h.epoch(other, "ins_3", 1, "small")
	read(one, a, "2026-10-05 22:00", 120, 0)       // two hours by day,
	read(one, a, "2026-10-06 06:00", 600, 0)       // eight by night,
	read(one, a, "2026-10-06 08:00", 720, 120<<10) // two by day, and 120 GiB
	read(two, b, "2026-10-07 12:00", 60, 0)
	read(two, b, "2026-11-02 12:00", 180, 0)
	read(other, c, "2026-10-05 12:00", 60, 0)
	off := metering.Allocation{ID: metering.NewID(metering.PrefixAllocation), Tenant: two, Resource: "ins_2", Meter: metering.InstanceStopped,
		Labels: metering.Labels{Flavor: "large"}, Amount: 1, Start: at("2026-10-10 00:00"), End: at("2026-10-20 00:00")}
	h.check(pgx.BeginFunc(t.Context(), h.pool, func(tx pgx.Tx) error {
		open := off
		open.End = time.Time{}
		if err := allocdb.Open(t.Context(), tx, open); err != nil {
			return err
		}
		return allocdb.Close(t.Context(), tx, off.Resource, off.Meter, off.End)
	}))
	now := at("2026-11-10 00:00")
	trial := billrun.Trial{Plan: parse(t, dearer), Year: 2026, Month: time.October}
	check := func(name string, run *billrun.Run) {
		b, next, err := run.Backtest(t.Context(), trial, now, "", 10)
		h.check(err)
		h.want(name+": next", next, "")
		h.want(name+": before", b.Before, "19.65") // 12 × 0.75 + 120 × 0.05; 2.25 + 240 × 0.01
		h.want(name+": after", b.After, "24.25")   // 4 × 0.50 + 8 × 1.00 + 120 × 0.10; 2.25
		want(t, name+": tenants", rows(b.ByTenant), "ten_1 15.00 → 22.00", "ten_2 4.65 → 2.25")
		want(t, name+": flavors", rows(b.ByFlavor), " 6.00 → 12.00", "large 4.65 → 2.25", "small 9.00 → 10.00")
		want(t, name+": meters", rows(b.ByMeter), "instance.running 11.25 → 12.25", "instance.stopped 2.40 → 0.00", "network.public.tx 6.00 → 12.00")
		if len(b.Unrated) != 1 || b.Unrated[0] != (invoicing.Leak{Tenant: two, Plan: invoicing.LeakAfter, Meter: metering.InstanceStopped,
			Flavor: "large", Resources: 1, Quantity: metering.Thousandths(240 * 3_600_000)}) {
			t.Errorf("%s: unrated %+v", name, b.Unrated)
		}
	}
	check("in memory", h.Run)
	check("in ClickHouse", real)
	h.cut(one, "2026-10-06 02:00")
	h.check(h.Once(t.Context(), at("2026-11-01 01:00")))
	h.cut(two, "2026-11-10 00:00")
	check("after closings", real)
	h.want("invoiced of October", h.count(`SELECT sum(net) FROM invoices WHERE tenant IN ('ten_1', 'ten_2') AND period_start = $1`, at("2026-10-01 00:00")), 1965)

	t.Run("pages", func(t *testing.T) {
		var all []string
		next := metering.TenantID("")
		for range 3 {
			var b invoicing.Backtest
			b, next, err = real.Backtest(t.Context(), trial, now, next, 1)
			h.check(err)
			all = append(all, rows(b.ByTenant)...)
		}
		want(t, "tenants", all, "ten_1 15.00 → 22.00", "ten_2 4.65 → 2.25")
	})
	t.Run("all tenants", func(t *testing.T) {
		all := trial
		all.All = true
		b, _, err := real.Backtest(t.Context(), all, now, "", 10)
		h.check(err)
		want(t, "tenants", rows(b.ByTenant), "ten_1 15.00 → 22.00", "ten_2 4.65 → 2.25", "ten_3 0.75 → 0.50")
	})
	t.Run("the month so far, of a start that ran before", func(t *testing.T) {
		november := trial
		november.Month, november.Tenant = time.November, two
		b, _, err := real.Backtest(t.Context(), november, now, "", 10)
		h.check(err)
		want(t, "tenants", rows(b.ByTenant), "ten_2 4.50 → 4.50")
	})
	t.Run("under the rules of others", func(t *testing.T) {
		preset, err := presets.Plan("bundle-2009")
		h.check(err)
		b, _, err := real.Backtest(t.Context(), billrun.Trial{Plan: preset, Year: 2026, Month: time.October, Tenant: one}, now, "", 10)
		h.check(err)
		if len(b.ByTenant) != 1 || b.Before.String() != "15.00" {
			t.Errorf("got %+v", b)
		}
	})
	t.Run("another currency", func(t *testing.T) {
		foreign := trial
		foreign.Plan = parse(t, strings.Replace(dearer, "EUR", "USD", 1))
		b, _, err := real.Backtest(t.Context(), foreign, now, "", 10)
		h.check(err)
		if len(b.ByTenant) != 0 || len(b.Skipped) != 2 || !strings.Contains(b.Skipped[0].Reason, "billed in EUR") {
			t.Errorf("got %+v", b)
		}
		foreign.AtPar, foreign.Tenant = true, one
		b, _, err = real.Backtest(t.Context(), foreign, now, "", 10)
		h.check(err)
		want(t, "at par", rows(b.ByTenant), "ten_1 15.00 → 22.00")
	})
	t.Run("against another plan", func(t *testing.T) {
		against := trial
		against.Against = trial.Plan
		b, _, err := real.Backtest(t.Context(), against, now, "", 10)
		h.check(err)
		want(t, "tenants", rows(b.ByTenant), "ten_1 22.00 → 22.00", "ten_2 2.25 → 2.25")
	})
	t.Run("refused", func(t *testing.T) {
		late := trial
		late.Year = 2027
		if _, _, err := real.Backtest(t.Context(), late, now, "", 10); !errors.Is(err, invoicing.ErrNoBacktest) {
			t.Errorf("a month of the future: %v", err)
		}
		foreign := trial
		foreign.Tenant = "ten_9"
		if _, _, err := real.Backtest(t.Context(), foreign, now, "", 10); !errors.Is(err, invoicing.ErrNoAccount) {
			t.Errorf("no tenant: %v", err)
		}
		early := trial
		early.Month = time.September
		b, _, err := real.Backtest(t.Context(), early, now, "", 10)
		h.check(err)
		h.want("skipped", len(b.Skipped), 2)
	})
}

// TestPublishOnlyBeyondWhatIsInvoiced: no version takes effect before the last cut.
func TestPublishOnlyBeyondWhatIsInvoiced(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	h.read(ten, h.epoch(ten, "ins_1", 1, "small"), "2026-10-05 00:00", 600, 0)
	version := func(effective, price string) []byte {
		return []byte(strings.NewReplacer("2026-01-01", effective, "0.75 per hour", price).Replace(standardPlan))
	}
	publish := func(effective, price string) (int, error) {
		v, err := h.Publish(t.Context(), "plan.yaml", version(effective, price), at("2026-11-20 00:00"))
		return v.Version, err
	}
	if v, err := publish("2026-02-01", "0.76 per hour"); v != 2 || err != nil {
		t.Fatalf("before anything is invoiced: version %d, %v", v, err)
	}
	h.cut(ten, "2026-11-01 00:00")
	_, err := publish("2026-10-31", "0.80 per hour")
	if !errors.Is(err, invoicing.ErrPeriodClosed) || !strings.HasSuffix(err.Error(),
		"it would take effect on 2026-10-31, but ten_1 is invoiced under version 2 up to 2026-11-01 00:00; 2026-11-01 or later is possible") {
		t.Errorf("within a closed period: %v", err)
	}
	if v, err := publish("2026-11-01", "0.81 per hour"); v != 3 || err != nil {
		t.Errorf("from the closed period's end: version %d, %v", v, err)
	}
	h.read(ten, h.epoch(ten, "ins_1", 1, "small"), "2026-11-05 00:00", 600, 0)
	h.cut(ten, "2026-11-10 12:00")
	if _, err = publish("2026-11-10", "0.82 per hour"); !errors.Is(err, invoicing.ErrPeriodClosed) || !strings.HasSuffix(err.Error(), "2026-11-11 or later is possible") {
		t.Errorf("before an interim cut: %v", err)
	}
	if v, err := publish("2026-11-01", "0.81 per hour"); v != 3 || err != nil {
		t.Errorf("the newest version again: version %d, %v", v, err)
	}
	if _, err := h.Publish(t.Context(), "plan.yaml", []byte(strings.Replace(startsPlan, "0.05", "0.06", 1)), at("2026-11-20 00:00")); err != nil {
		t.Errorf("a plan under which nothing is invoiced: %v", err)
	}
	h.audit()
}

// TestPreviewIsInvoiced: an instance that ran as planned is invoiced as foreseen.
func TestPreviewIsInvoiced(t *testing.T) {
	h := newHouse(t)
	ten := h.tenantOn("ten_1", "starts")
	h.check(pgx.BeginFunc(t.Context(), h.pool, func(tx pgx.Tx) error {
		return allocdb.Open(t.Context(), tx, metering.Allocation{ID: metering.NewID(metering.PrefixAllocation), Tenant: ten, Resource: "ins_1",
			Meter: metering.InstanceStopped, Labels: metering.Labels{Flavor: "small", Image: "test"}, Amount: 1, Start: at("2026-10-11 10:00")})
	}))
	h.read(ten, h.epoch(ten, "ins_1", 1, "small"), "2026-10-11 10:00", 250*60, 0)
	v, err := h.Preview(t.Context(), ten, at("2026-10-11 10:00"), rating.Planned{Labels: metering.Labels{Flavor: "small", Image: "test"}, Running: 250 * time.Hour})
	h.check(err)
	h.want("foreseen", v.Month, "192.45") // 250 × 0.75 + 495 × 0.01: October has 745 hours in Berlin
	h.want("an hour", v.Hour.Text(), "0.75")
	h.want("stopped", v.Stopped, "7.45")
	h.want("unrated", len(v.Unrated), 2) // vCPUs and memory
	h.want("gross", v.Gross, v.Month)
	h.want("invoiced", h.cut(ten, "2026-11-01 00:00").Net, v.Month)
}

// TestUnratedIsTold: what no rate fits comes back from the cut, and is kept with it
// until a closing is made without.
func TestUnratedIsTold(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	h.read(ten, h.epoch(ten, "ins_1", 1, "small"), "2026-10-05 00:00", 60, 0)
	h.read(ten, h.epoch(ten, "ins_2", 1, "huge"), "2026-10-05 00:00", 120, 0)
	made, err := h.Cut(t.Context(), ten, at("2026-11-01 00:00"))
	h.check(err)
	if i := slices.IndexFunc(made.Unrated, func(u rating.Unrated) bool { return u.Meter == metering.InstanceRunning }); len(made.Unrated) != 1 || i != 0 ||
		made.Unrated[0].Resource != "ins_2" || made.Unrated[0].Labels.Flavor != "huge" || made.Unrated[0].Quantity.String() != "7200" {
		t.Errorf("unrated %+v", made.Unrated)
	}
	h.want("invoiced", made.Invoice.Net, "0.75")
	unrated, err := h.books.Unrated(t.Context())
	h.check(err)
	if want := (invoicedb.Unrated{Tenant: ten, Cut: at("2026-11-01 00:00"), Plan: "standard", Meter: metering.InstanceRunning, Flavor: "huge", Resources: 1,
		Quantity: "7200"}); len(unrated) != 1 || unrated[0] != want {
		t.Errorf("kept %+v, want %+v", unrated, want)
	}
	_, err = h.Cut(t.Context(), ten, at("2026-11-15 00:00"))
	h.check(err)
	if unrated, err = h.books.Unrated(t.Context()); err != nil || len(unrated) != 0 {
		t.Errorf("after a closing without: %+v, %v", unrated, err)
	}
}
