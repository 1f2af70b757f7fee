package billrun_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/plandb"
)

// publish publishes a plan with some texts replaced, and gives the version.
func (h *house) publish(now time.Time, source string, replace ...string) int {
	h.t.Helper()
	v, err := h.Publish(context.Background(), "plan.yaml", []byte(strings.NewReplacer(replace...).Replace(source)), now)
	h.check(err)
	return v.Version
}

// lines are the lines of an invoice as text.
func lines(i *invoicing.Invoice) (all []string) {
	for _, l := range i.Lines {
		all = append(all, fmt.Sprintf("%s %s × %s = %s", l.Key, l.Quantity.Text(), l.Price, l.Amount))
	}
	return all
}

// TestMidPeriod: a version published after an interim cut splits the period, and
// what comes late falls under the part that it lies in.
func TestMidPeriod(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	e := h.epoch(ten, "ins_1", 1, "small")
	h.read(ten, e, "2026-10-05 00:00", 120, 0)
	first := h.cut(ten, "2026-10-10 00:00")
	h.want("version", h.publish(at("2026-10-12 00:00"), standardPlan, "effective: 2026-01-01", "effective: 2026-10-15 mid-period", "0.75 per hour", "1.00 per hour"), 2)
	for when, price := range map[string]string{"2026-10-14 23:59": "0.75", "2026-10-15 00:00": "1.00", "2026-11-03 00:00": "1.00"} {
		plan, err := h.Plan(t.Context(), ten, at(when))
		h.check(err)
		h.want("price in force at "+when, plan.Rates[0].Steps[0].Text, price+" per hour")
	}
	burn, err := h.Burn(t.Context(), ten, at("2026-10-12 00:00"), metering.Labels{Flavor: "small"})
	h.check(err)
	h.want("an hour at most, from now on", burn, 1_000_000_000)
	v, err := h.Preview(t.Context(), ten, at("2026-10-12 00:00"), rating.Planned{Labels: metering.Labels{Flavor: "small"}, Running: rating.Always})
	h.check(err)
	h.want("an hour, and 336 hours at the old price with 409 at the new", v.Hour.Text()+" "+v.Month.String(), "0.75 661.00")
	h.read(ten, e, "2026-10-14 00:00", 240, 0)
	h.read(ten, e, "2026-10-15 00:00", 300, 0) // the last instant under the old price
	h.read(ten, e, "2026-10-20 00:00", 360, 0)
	h.check(h.RefreshAccrued(t.Context(), at("2026-10-20 00:00")))
	c, err := h.books.Credit(t.Context(), nil, ten, at("2026-10-20 00:00"))
	h.check(err)
	h.want("accrued: three hours at 0.75 and one at 1.00", c.Accrued, "3.25")
	second := h.cut(ten, "2026-10-21 00:00")
	want(t, "lines of an interim cut", lines(second),
		"small/0.75 per hour/1 3 × 0.75 per hour = 2.25",
		"small/1.00 per hour/1@2026-10-14T22:00:00Z 1 × 1.00 per hour = 1.00")
	h.read(ten, e, "2026-10-22 00:00", 420, 0)
	h.check(h.RefreshAccrued(t.Context(), at("2026-10-22 00:00")))
	if c, err = h.books.Credit(t.Context(), nil, ten, at("2026-10-22 00:00")); err != nil || c.Accrued.String() != "1.00" {
		t.Errorf("accrued after a cut in the second part: %s, %v", c.Accrued, err)
	}
	f := h.epoch(ten, "ins_2", 1, "small")
	h.read(ten, f, "2026-10-11 00:00", 60, 0) // late, in the first part
	last := h.cut(ten, "2026-11-01 00:00")
	want(t, "lines of the last cut", lines(last),
		"small/0.75 per hour/1 1 × 0.75 per hour = 0.75",
		"small/1.00 per hour/1@2026-10-14T22:00:00Z 1 × 1.00 per hour = 1.00")
	h.read(ten, e, "2026-11-02 00:00", 480, 0)
	h.want("November", h.cut(ten, "2026-12-01 00:00").Net, "1.00")
	h.want("what the first closing knew", h.count(`SELECT plan_known FROM closings WHERE seq = 1`), 1)
	h.want("what the later ones knew", h.count(`SELECT min(plan_known) FROM closings WHERE seq > 1`), 2)
	h.want("first", first.Net, "1.50")
	h.audit()
}

// TestPublishRefusesWhatCannotBe: a version within a period takes effect in the
// future, on a slot's end, and beyond what is invoiced; each refusal says why.
func TestPublishRefusesWhatCannotBe(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	h.read(ten, h.epoch(ten, "ins_1", 1, "small"), "2026-10-05 00:00", 120, 0)
	h.cut(ten, "2026-10-20 12:00")
	for _, tc := range []struct {
		now, what, by string
		err           error
		says          string
	}{
		{"2026-10-19 12:00", "effective: 2026-01-01", "effective: 2026-10-19 mid-period", invoicing.ErrMidPeriod, "2026-10-19 has begun, 2026-10-20 or later is possible"},
		{"2026-10-19 12:00", "effective: 2026-01-01", "effective: 2026-10-20 mid-period", invoicing.ErrPeriodClosed, "2026-10-21 or later is possible"},
		{"1890-01-01 12:00", "timezone: Europe/Berlin\neffective: 2026-01-01", "timezone: Europe/Paris\neffective: 1900-01-10 mid-period", invoicing.ErrMidPeriod, "begins in Europe/Paris at 1900-01-09T23:50:39Z, which is not the end of a slot of 5m0s"},
		{"2026-10-21 12:00", "currency: EUR\ntimezone: Europe/Berlin\neffective: 2026-01-01", "currency: USD\neffective: 2026-11-05 mid-period", plandb.ErrSuccessor, "it is in USD, version 1 in EUR"},
		{"2026-10-21 12:00", "plan: standard\n", "plan: other\ngrandfathered: {until: 2027-06-01}\n", plandb.ErrSuccessor, "there are no rates to keep"},
	} {
		_, err := h.Publish(t.Context(), "plan.yaml", []byte(strings.Replace(standardPlan, tc.what, tc.by, 1)), at(tc.now))
		if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.by, err)
		}
	}
	h.want("versions", h.count(`SELECT count(*) FROM plan_versions`), 2)
	h.publish(at("2026-10-20 13:00"), standardPlan, "effective: 2026-01-01", "effective: 2026-10-21 mid-period")
}

// TestPublishAndCutAtOnce: whoever comes first, no version that splits a period
// takes effect before a cut that does not know it.
func TestPublishAndCutAtOnce(t *testing.T) {
	h := newHouse(t)
	houses := []*house{h, houseOn(t, h.pool, h.readings)}
	var tenants []metering.TenantID
	const lastDay = 18
	for n := range 3 {
		ten := h.tenant(metering.TenantID(fmt.Sprintf("ten_%d", n)))
		h.read(ten, h.epoch(ten, "ins_1", 1, "small"), "2026-10-01 01:00", 60, 0)
		h.read(ten, h.epoch(ten, "ins_2", 1, "large"), "2026-10-31 01:00", 600, 0)
		tenants = append(tenants, ten)
	}
	var wg sync.WaitGroup
	published, refused := 0, 0
	wg.Go(func() {
		for day := 2; day <= lastDay; day++ {
			effective := fmt.Sprintf("2026-10-%02d", day)
			source := strings.NewReplacer("effective: 2026-01-01", "effective: "+effective+" mid-period", "0.75", fmt.Sprintf("0.%d", 10+day)).Replace(standardPlan)
			_, err := houses[1].Publish(context.Background(), "plan.yaml", []byte(source), at("2026-10-01 12:00"))
			switch {
			case err == nil:
				published++
			case errors.Is(err, invoicing.ErrPeriodClosed):
				refused++
			default:
				t.Error(err)
			}
		}
	})
	for n, ten := range tenants {
		wg.Go(func() {
			for day := 2; day <= lastDay; day++ {
				_, err := houses[n%2].Cut(context.Background(), ten, at(fmt.Sprintf("2026-10-%02d 12:00", day)))
				for errors.Is(err, invoicedb.ErrConflict) { // on a busy machine more were published than a cut waits for
					_, err = houses[n%2].Cut(context.Background(), ten, at(fmt.Sprintf("2026-10-%02d 12:00", day)))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d published, %d refused", published, refused)
	h.want("versions that take effect before a cut that does not know them", h.count(`
		SELECT count(*) FROM closings c JOIN plan_versions v ON v.plan = c.plan AND v.version > c.plan_known AND v.effective_at < c.cut`), 0)
	for _, ten := range tenants {
		h.cut(ten, "2026-11-01 00:00")
	}
	h.audit()
}

// TestPercentileIsBilled: of slots, whether readings are in memory or in
// ClickHouse, with cuts within slots and late usage; the invoice can be made again
// from the books.
func TestPercentileIsBilled(t *testing.T) {
	h := newHouse(t)
	store := readingtest.Store(t)
	real, err := billrun.New(billrun.Config{
		Books: h.books, Plans: plandb.New(h.pool), Epochs: h.epochs, Allocations: allocdb.New(h.pool), Readings: store,
		Running: func(context.Context) ([]billrun.Running, error) { return nil, nil }, Log: slog.New(slog.DiscardHandler),
	})
	h.check(err)
	h.publish(at("2026-01-01 00:00"), linePlan)
	one, two := h.tenantOn("ten_1", "line"), h.tenantOn("ten_2", "line")
	inMemory, inClickHouse := h.epoch(one, "ins_1", 1, "small"), h.epoch(two, "ins_1", 1, "small")
	var batch metering.Columns
	read := func(when time.Time, minutes, mib uint64) {
		h.read(one, inMemory, when.In(berlin).Format("2006-01-02 15:04"), minutes, mib)
		c := column(two, inClickHouse, when, minutes, mib)
		batch.Tenant, batch.Instance, batch.Epoch = append(batch.Tenant, c.Tenant...), append(batch.Instance, c.Instance...), append(batch.Epoch, c.Epoch...)
		batch.AtMS, batch.ReceivedMS = append(batch.AtMS, c.AtMS...), append(batch.ReceivedMS, c.ReceivedMS...)
		for r := range batch.Registers {
			batch.Registers[r] = append(batch.Registers[r], c.Registers[r]...)
		}
	}
	send := func() {
		t.Helper()
		h.check(store.Insert(t.Context(), &batch))
		batch = metering.Columns{}
	}
	// 40 % of the month at 225 MiB a slot (6.29 Mbit/s), then 10 % at 450 MiB with
	// every other slot missing, then nothing, of which some minutes come late.
	start, minutes, mib := at("2026-10-01 00:00"), uint64(0), uint64(0)
	const slots = 745 * 12
	for i := 1; i <= slots*6/10; i++ {
		minutes += 5
		switch {
		case i <= slots*4/10:
			mib += 225
		case i <= slots*5/10:
			mib += 450
		}
		if i > slots*4/10 && i <= slots*5/10 && i%2 == 0 {
			continue
		}
		read(start.Add(time.Duration(i)*metering.SlotLength), minutes, mib)
	}
	send()
	check := func(cut time.Time) {
		t.Helper()
		want, err := h.Accrued(t.Context(), one, cut)
		h.check(err)
		got, err := real.Accrued(t.Context(), two, cut)
		h.check(err)
		h.want("accrued at "+cut.String(), got.ByResource, want.ByResource)
	}
	check(at("2026-10-12 00:02"))
	both := func(cut string) *invoicing.Invoice {
		t.Helper()
		check(at(cut))
		want := h.cut(one, cut)
		made, err := real.Cut(t.Context(), two, at(cut))
		h.check(err)
		h.want("invoice at "+cut, lines(made.Invoice), lines(want))
		return made.Invoice
	}
	both("2026-10-12 00:02")
	both("2026-10-19 03:33")
	read(start.Add(slots*6/10*metering.SlotLength+4*time.Minute), minutes+4, mib+10<<10) // a burst of 10 GiB
	send()
	i := both("2026-11-01 00:00")
	// Ranked: 1 slot of the burst, 893 of 450 MiB, 3576 of 225 MiB, 894 measured and zero; 30 % of 8940 are dropped, the
	// next is of 225 MiB: 6.291456 Mbit/s.
	for _, l := range i.Lines {
		if l.Rate == "line" {
			h.want("the 70th percentile", fmt.Sprintf("%s %s", l.Quantity.Text(), l.Amount), "6.291456 188.74")
		}
	}
	// A day late that lifts the percentile to 450 MiB in none, but counts: nothing billed is lost.
	for k := range 288 {
		read(start.Add(time.Duration(slots*7/10+k)*metering.SlotLength), minutes+5+uint64(k)*5, mib+20<<10+uint64(k)*300)
	}
	read(at("2026-11-02 00:00"), minutes+5000, mib+200<<10)
	send()
	both("2026-12-01 00:00")
	h.want("slots of no closing reading", h.count(`
		SELECT count(*) FROM closing_slots k JOIN closing_readings c USING (tenant, source, seq, window_start)
		WHERE (SELECT coalesce(sum(g), 0) FROM unnest(k.growth) AS g) <> (c.level_to[14] - c.level_from[14]) * 1000`), 0)
	if n := h.count(`SELECT count(*) FROM closing_slots`); n < 6 || n > 12 {
		t.Errorf("%d arrays of slots, want a few for each closing", n)
	}
	h.audit()
	trial := billrun.Trial{Plan: parse(t, linePlan), Against: parse(t, strings.Replace(linePlan, "30.00 per Mbit/s", "10.00 per Mbit/s", 1)),
		Year: 2026, Month: time.October, Tenant: two}
	b, _, err := real.Backtest(t.Context(), trial, at("2026-12-02 00:00"), "", 10)
	h.check(err)
	h.want("backtest", fmt.Sprint(len(b.ByTenant), b.After.Minor-b.Before.Minor > 10_000), "1 true")
}

// TestThinPercentile: a percentile of few measured slots is told with the
// period's last cut.
func TestThinPercentile(t *testing.T) {
	h := newHouse(t)
	h.publish(at("2026-01-01 00:00"), linePlan)
	ten := h.tenantOn("ten_1", "line")
	h.read(ten, h.epoch(ten, "ins_1", 1, "small"), "2026-10-05 00:00", 60, 10<<10)
	for _, tc := range []struct {
		cut  string
		thin int
	}{{"2026-10-20 00:00", 0}, {"2026-11-01 00:00", 1}, {"2026-11-01 00:00", 0}} {
		made, err := h.Cut(t.Context(), ten, at(tc.cut))
		h.check(err)
		if len(made.Thin) != tc.thin || tc.thin > 0 && (made.Thin[0].Rate != "line" || made.Thin[0].Measured != 1) {
			t.Errorf("cut at %s: %+v", tc.cut, made.Thin)
		}
	}
}

// kept is standardPlan with other prices that resources created before it do not pay.
func kept(effective, price string) []string {
	return []string{"effective: 2026-01-01", "effective: " + effective + "\ngrandfathered: {until: 2026-12-31}", "0.75 per hour", price}
}

// TestGrandfathered: a resource keeps the price it was created under, in every
// room that prices it, until the plan's word ends.
func TestGrandfathered(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	h.publish(at("2026-10-02 00:00"), standardPlan, kept("2026-10-15 mid-period", "1.00 per hour")...)
	older, newer, unknown := h.created(ten, "ins_1", "2026-10-03 00:00"), h.created(ten, "ins_2", "2026-10-15 00:00"), h.epoch(ten, "ins_3", 1, "small")
	h.read(ten, older, "2026-10-14 00:00", 60, 0)
	for _, e := range []metering.EpochID{older, newer, unknown} {
		h.read(ten, e, "2026-10-20 00:00", 120, 0)
	}
	i := h.cut(ten, "2026-11-01 00:00")
	want(t, "October", lines(i),
		"small/0.75 per hour/1 1 × 0.75 per hour = 0.75",
		"small@2026-01-01/0.75 per hour/1@2026-10-14T22:00:00Z 1 × 0.75 per hour = 0.75",
		"small/1.00 per hour/1@2026-10-14T22:00:00Z 4 × 1.00 per hour = 4.00")
	h.running = []billrun.Running{
		{Tenant: ten, Labels: metering.Labels{Flavor: "small", Created: metering.CreatedAt(at("2026-10-03 00:00"))}},
		{Tenant: ten, Labels: metering.Labels{Flavor: "small"}},
	}
	h.check(h.RefreshAccrued(t.Context(), at("2026-11-02 00:00")))
	h.want("burn", h.count(`SELECT burn_nano FROM tenant_accrued`), 1_750_000_000)
	v, err := h.Preview(t.Context(), ten, at("2026-11-02 00:00"), rating.Planned{Labels: metering.Labels{Flavor: "small"}, Running: time.Hour})
	h.check(err)
	h.want("what a new one costs", v.Hour.Text(), "1")
	for _, e := range []metering.EpochID{older, newer} {
		h.read(ten, e, "2026-11-10 00:00", 180, 0)
	}
	h.want("November", h.cut(ten, "2026-12-01 00:00").Net, "1.75")
	h.read(ten, older, "2027-01-10 00:00", 240, 0)
	h.cut(ten, "2027-01-01 00:00")
	h.want("January, when the word has ended", h.cut(ten, "2027-02-01 00:00").Net, "1.00")
	h.audit()
}

// created registers an epoch of a small instance that was created at an instant.
func (h *house) created(tenant metering.TenantID, instance metering.InstanceID, when string) metering.EpochID {
	h.t.Helper()
	drawn++
	e := metering.EpochRecord{
		Epoch:  metering.Epoch{ID: metering.DeriveEpochID(instance, "boot", drawn, 1, 1), Instance: instance, Lease: 1, Start: 1, Opened: at(when)},
		Tenant: tenant, Host: "hst_1", Labels: metering.Labels{Flavor: "small", Image: "test", Created: metering.CreatedAt(at(when))},
	}
	e.Opening[metering.RunningMS] = 500
	h.check(h.epochs.Register(context.Background(), []metering.EpochRecord{e}))
	return e.ID
}

// TestPreviewIsInvoicedInParts: an instance that ran as planned is invoiced as
// foreseen when it was created, though the plan changes within the period and
// perhaps lets it keep its prices.
func TestPreviewIsInvoicedInParts(t *testing.T) {
	shared := newHouse(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		h := *shared
		h.t = rt
		plan := fmt.Sprintf("p%d", n)
		source := strings.Replace(startsPlan, "plan: starts", "plan: "+plan, 1)
		h.publish(at("2026-01-01 00:00"), source)
		for _, day := range rapid.SliceOfNDistinct(rapid.IntRange(2, 30), 0, 2, rapid.ID).Draw(rt, "changes") {
			replace := []string{"0.75 per hour", fmt.Sprintf("0.%d per hour, cap: %d.00 per month", rapid.IntRange(10, 99).Draw(rt, "price"), rapid.IntRange(5, 300).Draw(rt, "cap"))}
			effective := fmt.Sprintf("effective: 2026-10-%02d mid-period", day)
			if rapid.Bool().Draw(rt, "kept") {
				effective += "\ngrandfathered: {until: 2027-01-01}"
			}
			h.publish(at("2026-10-01 00:00"), source, append(replace, "effective: 2026-01-01", effective)...)
		}
		ten := h.tenantOn(metering.TenantID(fmt.Sprintf("ten_p%d", n)), plan)
		month := metering.Window{Start: at("2026-10-01 00:00"), End: at("2026-11-01 00:00")}
		on := time.Duration(rapid.IntRange(1, 745*60).Draw(rt, "minutes")) * time.Minute
		planned := rating.Planned{Labels: metering.Labels{Flavor: "small", Image: "test"}, Running: on}
		v, err := h.Preview(rt.Context(), ten, month.Start, planned)
		h.check(err)
		id := metering.ResourceID(fmt.Sprintf("ins_p%d", n))
		e := h.created(ten, metering.InstanceID(id), "2026-10-01 00:00")
		for ran := time.Duration(0); ran < on; {
			ran = min(on, ran+time.Duration(rapid.IntRange(1, 30*60).Draw(rt, "read after"))*time.Minute)
			// As the agent reads: also at every boundary on the way.
			h.read(ten, e, month.Start.Add(ran).In(berlin).Format("2006-01-02 15:04"), uint64(ran/time.Minute), 0)
		}
		for day := month.Start; day.Before(month.Start.Add(on)); day = day.In(berlin).AddDate(0, 0, 1).UTC() {
			h.read(ten, e, day.In(berlin).Format("2006-01-02 15:04"), uint64(day.Sub(month.Start)/time.Minute), 0)
		}
		if on < month.Length() {
			h.check(pgx.BeginFunc(rt.Context(), h.pool, func(tx pgx.Tx) error {
				return allocdb.Open(rt.Context(), tx, metering.Allocation{ID: metering.NewID(metering.PrefixAllocation), Tenant: ten, Resource: id,
					Meter: metering.InstanceStopped, Labels: metering.Labels{Flavor: "small", Image: "test", Created: metering.CreatedAt(month.Start)}, Amount: 1, Start: month.Start.Add(on)})
			}))
		}
		i := h.cut(ten, "2026-11-01 00:00")
		h.want("invoiced", i.Net, v.Month)
	})
}
