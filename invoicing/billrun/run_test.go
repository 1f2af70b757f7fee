package billrun_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/rating/money"
	"github.com/usance/usance/rating/plandb"
	"github.com/usance/usance/sql/sqltest"
)

const standardPlan = `
plan: standard
currency: EUR
timezone: Europe/Berlin
effective: 2026-01-01
flavors:
  small: {vcpus: 1, memory: 1 GiB, disk: 10 GiB}
  large: {vcpus: 4, memory: 8 GiB, disk: 80 GiB}
rates:
  - {id: small, meter: instance.running, where: {flavor: small}, price: 0.75 per hour}
  - {id: large, meter: instance.running, where: {flavor: large}, price: 2.25 per hour}
  - {id: off, meter: instance.stopped, price: 0.01 per hour}
  - id: egress
    meter: network.public.tx
    pool: tenant
    tiers: volume
    steps: [{up to: 100 GiB, price: 0.10 per GiB}, {price: 0.05 per GiB}]
`

// startsPlan also has a minimum per start, so its running time waits for the
// month's end.
var startsPlan = strings.NewReplacer("plan: standard", "plan: starts", "0.75 per hour}", "0.75 per hour, minimum: 10 min}").Replace(standardPlan)

// linePlan bills the 70th percentile of what is sent, and all of it.
var linePlan = strings.NewReplacer("plan: standard", "plan: line", "  - id: egress\n", `  - id: line
    component: line
    meter: network.public.tx
    pool: tenant
    percentile: 70
    price: 30.00 per Mbit/s
  - id: egress
`).Replace(standardPlan)

// readings are readings in memory.
type readings struct {
	mu  sync.Mutex
	all map[metering.EpochID][]metering.Reading
	of  map[metering.EpochID]metering.TenantID
	// most is how many instants were asked for at once.
	most int
}

func (r *readings) put(tenant metering.TenantID, reading metering.Reading) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[reading.Epoch] = append(r.all[reading.Epoch], reading)
	r.of[reading.Epoch] = tenant
}

func (r *readings) AtOf(_ context.Context, tenants []metering.TenantID, instants []time.Time, billed map[string]metering.Registers) (map[metering.EpochID][]metering.Registers, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.most = max(r.most, len(instants))
	levels := map[metering.EpochID][]metering.Registers{}
	for id, all := range r.all {
		if !slices.Contains(tenants, r.of[id]) {
			continue
		}
		at := make([]metering.Registers, len(instants))
		for _, reading := range all {
			for i, t := range instants {
				if !reading.At.After(t) {
					at[i] = at[i].Join(reading.Registers)
				}
			}
		}
		last := at[len(at)-1]
		for _, reading := range all {
			last = last.Join(reading.Registers)
		}
		if level, ok := billed[string(id)]; ok && level.Join(last) == level {
			continue
		}
		if at[len(at)-1] != (metering.Registers{}) {
			levels[id] = at
		}
	}
	return levels, nil
}

func (r *readings) InSlots(_ context.Context, tenant metering.TenantID, epochs []metering.EpochID, window metering.Window, some []metering.Register) (map[metering.EpochID][]metering.Reading, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[metering.EpochID][]metering.Reading{}
	for _, id := range epochs {
		if r.of[id] != tenant {
			continue
		}
		var slots []metering.Reading
		for _, reading := range r.all[id] {
			slot := metering.SlotOf(reading.At)
			if !slot.After(window.Start) || !slot.Before(window.End.Add(metering.SlotLength)) {
				continue
			}
			k, found := slices.BinarySearchFunc(slots, slot, func(r metering.Reading, at time.Time) int { return r.At.Compare(at) })
			if !found {
				slots = slices.Insert(slots, k, metering.Reading{Epoch: id, At: slot})
			}
			for _, register := range some {
				slots[k].Registers[register] = max(slots[k].Registers[register], reading.Registers[register])
			}
		}
		all[id] = slots
	}
	return all, nil
}

func (r *readings) Totals(_ context.Context, tenants []metering.TenantID) (map[metering.EpochID]readingdb.Total, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := map[metering.TenantID]bool{}
	for _, t := range tenants {
		wanted[t] = true
	}
	totals := map[metering.EpochID]readingdb.Total{}
	for id, all := range r.all {
		if tenants != nil && !wanted[r.of[id]] {
			continue
		}
		t := readingdb.Total{Tenant: r.of[id]}
		for _, reading := range all {
			t.Registers = t.Registers.Join(reading.Registers)
		}
		totals[id] = t
	}
	return totals, nil
}

// house is a control plane's billing on a database of its own.
type house struct {
	*billrun.Run
	t        rapid.TB
	pool     *pgxpool.Pool
	books    *invoicedb.Store
	epochs   *epochdb.Store
	readings *readings
	running  []billrun.Running
}

func newHouse(t testing.TB) *house {
	t.Helper()
	pool := sqltest.Postgres(t)
	return houseOn(t, pool, &readings{all: map[metering.EpochID][]metering.Reading{}, of: map[metering.EpochID]metering.TenantID{}})
}

// houseOn is another program on the same database.
func houseOn(t testing.TB, pool *pgxpool.Pool, readings *readings) *house {
	t.Helper()
	books, err := invoicedb.New(pool)
	if err != nil {
		t.Fatal(err)
	}
	plans := plandb.New(pool)
	for _, source := range []string{standardPlan, startsPlan} {
		if _, err := plans.Publish(t.Context(), "plan.yaml", []byte(source), at("2026-01-01 00:00"), nil); err != nil {
			t.Fatal(err)
		}
	}
	h := &house{t: t, pool: pool, books: books, epochs: epochdb.New(pool), readings: readings}
	h.Run, err = billrun.New(billrun.Config{
		Books: books, Plans: plans, Epochs: h.epochs, Allocations: allocdb.New(pool), Readings: readings,
		Running: func(context.Context) ([]billrun.Running, error) { return h.running, nil },
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

var berlin = func() *time.Location {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		panic(err)
	}
	return zone
}()

// at is an instant in Berlin.
func at(s string) time.Time {
	t, err := time.ParseInLocation("2006-01-02 15:04", s, berlin)
	if err != nil {
		panic(err)
	}
	return t.UTC()
}

func (h *house) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) tenant(id metering.TenantID) metering.TenantID {
	h.t.Helper()
	return h.tenantOn(id, "standard")
}

func (h *house) tenantOn(id metering.TenantID, plan string) metering.TenantID {
	h.t.Helper()
	h.check(h.books.CreateAccount(context.Background(), invoicing.Account{
		Tenant: id, Currency: "EUR", Plan: plan, Zone: berlin, Created: at("2026-10-01 00:00"),
	}))
	return id
}

var drawn int

// epoch registers an epoch of a start.
func (h *house) epoch(tenant metering.TenantID, instance metering.InstanceID, start metering.StartNo, flavor string) metering.EpochID {
	h.t.Helper()
	drawn++
	id := metering.DeriveEpochID(instance, "boot", drawn, 1, 1)
	e := metering.EpochRecord{
		Epoch:  metering.Epoch{ID: id, Instance: instance, Lease: 1, Start: start, Opened: at("2026-10-01 00:00")},
		Tenant: tenant, Host: "hst_1", Labels: metering.Labels{Flavor: flavor, Image: "test"},
	}
	e.Opening[metering.RunningMS] = 500 // what the hypervisor's counters stood at
	h.check(h.epochs.Register(context.Background(), []metering.EpochRecord{e}))
	return id
}

// read puts a reading: minutes run and MiB sent since the epoch's opening.
func (h *house) read(tenant metering.TenantID, epoch metering.EpochID, when string, minutes, mib uint64) {
	r := metering.Reading{Epoch: epoch, At: at(when)}
	r.Registers[metering.RunningMS] = 500 + minutes*60_000
	r.Registers[metering.NetPublicTxBytes] = mib << 20
	h.readings.put(tenant, r)
}

func (h *house) cut(tenant metering.TenantID, when string) *invoicing.Invoice {
	h.t.Helper()
	made, err := h.Cut(context.Background(), tenant, at(when))
	h.check(err)
	return made.Invoice
}

func (h *house) want(what string, got, want any) {
	h.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		h.t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func (h *house) count(query string, args ...any) (n int) {
	h.t.Helper()
	h.check(h.pool.QueryRow(context.Background(), query, args...).Scan(&n))
	return n
}

// audit checks what must hold of all books at any time, and that the tenant's
// invoices follow from them; of all tenants when none is named.
func (h *house) audit(tenants ...metering.TenantID) {
	h.t.Helper()
	ctx := context.Background()
	h.want("entries that do not balance", h.count(`
		SELECT count(*) FROM (SELECT entry FROM postings GROUP BY entry, currency HAVING sum(amount) <> 0) AS unbalanced`), 0)
	h.want("gaps or duplicates in numbers", h.count(`SELECT coalesce(max(ordinal), 0) - count(DISTINCT ordinal) FROM invoices`), 0)
	h.want("receivables beyond what invoices leave due", h.count(`
		SELECT coalesce((SELECT sum(amount) FROM postings WHERE account LIKE 'receivable:%'), 0)
		     - coalesce((SELECT sum(gross - promotional - prepaid) FROM invoices), 0)`), 0)
	h.want("credit used beyond what invoices say", h.count(`
		SELECT coalesce((SELECT sum(u.amount) FROM promo_uses u JOIN entries e ON e.id = u.entry AND e.kind <> 'expiry'), 0)
		     - coalesce((SELECT sum(promotional) FROM invoices), 0)`), 0)
	h.want("promotional credit on the books beyond what is left of grants", h.count(`
		SELECT coalesce((SELECT -sum(amount) FROM postings WHERE account LIKE 'promo:%'), 0) - coalesce((SELECT sum(amount) FROM promo_grants), 0)
		     + coalesce((SELECT sum(amount) FROM promo_uses), 0)`), 0)
	h.want("jobs", h.count(`SELECT count(*) FROM river_job WHERE kind = 'invoice_issued'`), h.count(`SELECT count(*) FROM invoices`))
	rows, err := h.pool.Query(ctx, `SELECT number FROM invoices WHERE $1::text[] IS NULL OR tenant = ANY ($1) ORDER BY ordinal`, tenants)
	h.check(err)
	numbers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	h.check(err)
	for _, n := range numbers {
		v, err := h.Verify(ctx, n)
		h.check(err)
		for _, d := range v.Differences {
			h.t.Errorf("%s: %s", n, d)
		}
	}
}

func TestMonthEnd(t *testing.T) {
	h := newHouse(t)
	ten := h.tenantOn("ten_1", "starts")
	// One start of two flavors, one short start, one other instance.
	a := h.epoch(ten, "ins_1", 1, "small")
	h.read(ten, a, "2026-10-05 00:00", 600, 10<<10)
	b := h.epoch(ten, "ins_1", 1, "large")
	h.read(ten, b, "2026-10-06 00:00", 60, 0)
	c := h.epoch(ten, "ins_1", 2, "small")
	h.read(ten, c, "2026-10-07 00:00", 3, 0)
	d := h.epoch(ten, "ins_2", 1, "small")
	h.read(ten, d, "2026-10-31 23:00", 120, 100<<10)
	h.read(ten, d, "2026-11-01 00:00", 180, 100<<10)
	h.read(ten, d, "2026-11-01 01:00", 240, 100<<10)
	h.check(h.Once(t.Context(), at("2026-11-01 00:00")))
	page, next, err := h.books.Invoices(t.Context(), ten, 0)
	h.check(err)
	if len(page) != 1 || next != 0 {
		t.Fatalf("got %d invoices, next %d", len(page), next)
	}
	i, err := h.books.Invoice(t.Context(), ten, page[0].Number)
	h.check(err)
	// small: 600 + 10 (minimum) + 180 minutes = 790 min; large: 60 min; egress: 110 GiB in the second step.
	h.want("lines", len(i.Lines), 3)
	h.want("small", i.Lines[0].Amount, "9.88") // 9.875
	h.want("by instance", i.Lines[0].Shares, "[{ins_1 7.63} {ins_2 2.25}]")
	h.want("large", i.Lines[1].Amount, "2.25")
	h.want("egress", i.Lines[2].Amount, "5.50")
	h.want("gross", i.Gross, "17.63")
	h.want("number", i.Number, "INV-000001")
	if _, err := h.books.Invoice(t.Context(), "ten_2", i.Number); !errors.Is(err, invoicing.ErrNotFound) {
		t.Errorf("another tenant's invoice: got %v", err)
	}
	h.check(h.Once(t.Context(), at("2026-11-02 00:00")))
	h.want("closings after a second run", h.count(`SELECT count(*) FROM closings`), 1)
	h.audit()
}

func TestStoppedInstancesAreOdometersToo(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	ctx := t.Context()
	all := metering.Allocation{ID: metering.NewID(metering.PrefixAllocation), Tenant: ten, Resource: "ins_1", Meter: metering.InstanceStopped,
		Labels: metering.Labels{Flavor: "small"}, Amount: 1, Start: at("2026-10-10 00:00")}
	h.check(pgx.BeginFunc(ctx, h.pool, func(tx pgx.Tx) error { return allocdb.Open(ctx, tx, all) }))
	h.want("240 hours", h.cut(ten, "2026-10-20 00:00").Net, "2.40")
	// It ended before the cut, as is known only now: nothing is given back, nothing more is billed.
	h.check(pgx.BeginFunc(ctx, h.pool, func(tx pgx.Tx) error {
		return allocdb.Close(ctx, tx, all.Resource, all.Meter, at("2026-10-19 00:00"))
	}))
	if i := h.cut(ten, "2026-11-01 00:00"); i != nil {
		t.Errorf("a closed allocation costs %s more", i.Net)
	}
	h.audit()
}

func TestPeriodsThatEndedAreClosedFirst(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	e := h.epoch(ten, "ins_1", 1, "small")
	h.read(ten, e, "2026-10-20 00:00", 600, 0)
	h.read(ten, e, "2026-12-20 00:00", 1200, 0)
	i := h.cut(ten, "2026-12-24 12:00")
	h.want("December", i.Net, "7.50")
	h.want("its number", i.Number, "INV-000002") // November had nothing and took none
	h.want("closings", h.count(`SELECT count(*) FROM closings`), 3)
	same := h.cut(ten, "2026-12-24 12:00")
	h.want("the cut repeated", same.Number, i.Number)
	if _, err := h.Cut(t.Context(), ten, at("2026-12-23 00:00")); !errors.Is(err, invoicing.ErrCutOrder) {
		t.Errorf("an earlier cut: got %v", err)
	}
	if _, err := h.Cut(t.Context(), "ten_2", at("2026-12-23 00:00")); !errors.Is(err, invoicing.ErrNoAccount) {
		t.Errorf("no account: got %v", err)
	}
	h.audit()
}

func TestLateUsage(t *testing.T) {
	h := newHouse(t)
	ten := h.tenantOn("ten_1", "starts")
	e := h.epoch(ten, "ins_1", 1, "small")
	h.read(ten, e, "2026-10-20 00:00", 4, 0)
	h.want("October, the minimum", h.cut(ten, "2026-11-01 00:00").Net, "0.13")
	h.read(ten, e, "2026-10-31 00:00", 70, 0) // late
	h.read(ten, e, "2026-11-02 00:00", 130, 0)
	i := h.cut(ten, "2026-12-01 00:00")
	h.want("lines", len(i.Lines), 2)
	h.want("October's period", i.Lines[0].Period.Start, at("2026-10-01 00:00"))
	h.want("70 minutes less the minimum", i.Lines[0].Amount, "0.75") // 0.875 rounds to 0.88
	h.want("billed before", i.Lines[0].Billed, "0.13")
	h.want("November's hour", i.Lines[1].Amount, "0.75")
	h.audit()
}

// TestLateUsageOfOldNights: what is asked of the readings does not grow with an
// account's nights and days, and late usage is still told apart by them.
func TestLateUsageOfOldNights(t *testing.T) {
	h := newHouse(t)
	_, err := plandb.New(h.pool).Publish(t.Context(), "nights.yaml", []byte(`
plan: nights
currency: EUR
timezone: Europe/Berlin
effective: 2026-01-01
calendar: {night: {daily: "22:00-06:00"}}
rates:
  - {id: day, meter: instance.running, price: 3.00 per hour}
  - {id: night, meter: instance.running, where: {time: night}, price: 1.00 per hour}
`), at("2026-01-01 00:00"), nil)
	h.check(err)
	ten := h.tenantOn("ten_1", "nights")
	e := h.epoch(ten, "ins_1", 1, "small")
	h.read(ten, e, "2026-10-20 12:00", 60, 0)
	h.want("an hour of a day", h.cut(ten, "2026-11-01 00:00").Net, "3.00")
	for when := at("2027-01-01 00:00"); !when.After(at("2029-01-01 00:00")); when = when.In(berlin).AddDate(0, 1, 0) {
		if _, err := h.Cut(t.Context(), ten, when); err != nil {
			t.Fatal(err)
		}
	}
	h.read(ten, e, "2026-10-20 23:00", 120, 0) // late
	h.read(ten, e, "2029-01-02 12:00", 180, 0)
	i := h.cut(ten, "2029-02-01 00:00")
	h.want("an hour of an old night and one of a day", i.Net, "4.00")
	h.want("the old one's rate", i.Lines[0].Rate, "night")
	if months, nights := 28, 2*31+1; h.readings.most > months+2*nights {
		t.Errorf("%d instants were asked for at once, want two months by nights and %d by their ends", h.readings.most, months)
	}
	h.audit()
}

func TestWhatWouldBeGivenBackWaits(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	e := h.epoch(ten, "ins_1", 1, "small")
	h.read(ten, e, "2026-10-20 00:00", 0, 100<<10)
	h.want("October, 100 GiB at 0.10", h.cut(ten, "2026-11-01 00:00").Net, "10.00")
	h.read(ten, e, "2026-10-31 00:00", 0, 100<<10+1) // late, and all of it falls to 0.05
	if i := h.cut(ten, "2026-12-01 00:00"); i != nil {
		t.Errorf("got an invoice of %s, want none while 5.00 would be given back", i.Net)
	}
	h.read(ten, e, "2026-12-10 00:00", 600, 100<<10+1)
	now := at("2026-12-20 00:00")
	h.check(h.RefreshAccrued(t.Context(), now))
	c, err := h.books.Credit(t.Context(), nil, ten, now)
	h.check(err)
	h.want("accrued", c.Accrued, "2.50")
	h.want("December less October", h.cut(ten, "2027-01-01 00:00").Net, "2.50")
	h.read(ten, e, "2027-01-10 00:00", 1200, 100<<10+1)
	h.want("January, all settled", h.cut(ten, "2027-02-01 00:00").Net, "7.50")
	h.audit()
}

func TestConcurrentClosings(t *testing.T) {
	h := newHouse(t)
	houses := []*house{h, houseOn(t, h.pool, h.readings)}
	var tenants []metering.TenantID
	for n := range 5 {
		ten := h.tenant(metering.TenantID(fmt.Sprintf("ten_%d", n)))
		h.read(ten, h.epoch(ten, "ins_1", 1, "small"), "2026-10-05 00:00", 600, 0)
		tenants = append(tenants, ten)
	}
	var wg sync.WaitGroup
	numbers := make([]string, 4*len(tenants))
	for n := range numbers {
		wg.Go(func() {
			made, err := houses[n%2].Cut(t.Context(), tenants[n/4], at("2026-10-10 00:00"))
			if err != nil {
				t.Error(err)
				return
			}
			numbers[n] = made.Invoice.Number
		})
	}
	for _, other := range houses {
		wg.Go(func() {
			if err := other.Once(t.Context(), at("2026-10-10 00:00")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for n := range numbers {
		h.want(fmt.Sprintf("invoice of %s", tenants[n/4]), numbers[n], numbers[n/4*4])
	}
	h.want("invoices", h.count(`SELECT count(*) FROM invoices`), len(tenants))
	h.audit()
}

func TestOneCloserAtATime(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	h.read(ten, h.epoch(ten, "ins_1", 1, "small"), "2026-10-05 00:00", 600, 0)
	unlock, ok, err := h.books.TryLock(t.Context())
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	h.check(h.Once(t.Context(), at("2026-11-01 00:00")))
	h.want("closings while another program runs", h.count(`SELECT count(*) FROM closings`), 0)
	unlock()
	h.check(h.Once(t.Context(), at("2026-11-01 00:00")))
	h.want("closings after it", h.count(`SELECT count(*) FROM closings`), 1)
}

func TestCreditPays(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	ctx := t.Context()
	eur := func(minor int64) money.Amount { return money.Amount{Minor: minor, Currency: "EUR"} }
	now := at("2026-10-01 00:00")
	h.check(h.books.GrantPromo(ctx, ten, eur(500), invoicedb.Forever, "late", now))
	h.check(h.books.GrantPromo(ctx, ten, eur(200), at("2026-10-31 00:00"), "soon", now))
	h.check(h.books.GrantPromo(ctx, ten, eur(900), at("2026-10-02 00:00"), "gone", now))
	h.check(h.books.GrantPromo(ctx, ten, eur(200), at("2026-10-31 00:00"), "soon", now)) // told twice
	h.check(h.books.TopUp(ctx, ten, eur(100), "bank", now))
	if err := h.books.TopUp(ctx, ten, eur(101), "bank", now); !errors.Is(err, invoicedb.ErrKeyReused) {
		t.Errorf("a key with another amount: got %v", err)
	}
	e := h.epoch(ten, "ins_1", 1, "small")
	h.read(ten, e, "2026-10-05 00:00", 240, 0)
	i := h.cut(ten, "2026-10-10 00:00")
	h.want("expired by the cut", h.count(`SELECT sum(amount) FROM postings WHERE account = 'promo:ten_1' AND amount = 900`), 900)
	h.want("first invoice", []any{i.Gross, i.Promotional, i.Prepaid, i.Due()}, "[3.00 3.00 0.00 0.00]")
	c, err := h.books.Credit(ctx, nil, ten, at("2026-10-10 00:00"))
	h.check(err)
	h.want("what is left", []any{c.Promotional, c.Prepaid, c.Unpaid, c.Accrued, c.Available}, "[4.00 1.00 0.00 0.00 5.00]")
	h.read(ten, e, "2026-10-12 00:00", 240+600, 0)
	i = h.cut(ten, "2026-10-20 00:00")
	h.want("second invoice", []any{i.Gross, i.Promotional, i.Prepaid, i.Due()}, "[7.50 4.00 1.00 2.50]")
	c, err = h.books.Credit(ctx, nil, ten, at("2026-10-20 00:00"))
	h.check(err)
	h.want("expiries", h.count(`SELECT count(*) FROM entries WHERE kind = 'expiry'`), 1) // the others are used up, or good for ever
	h.want("what is owed", []any{c.Promotional, c.Prepaid, c.Unpaid, c.Available}, "[0.00 0.00 2.50 -2.50]")
	h.audit()
}

func TestAccrued(t *testing.T) {
	h := newHouse(t)
	ten, other := h.tenant("ten_1"), h.tenant("ten_2")
	h.read(other, h.epoch(other, "ins_9", 1, "large"), "2026-10-05 00:00", 60, 0)
	a, b := h.epoch(ten, "ins_1", 1, "small"), h.epoch(ten, "ins_2", 1, "large")
	h.read(ten, a, "2026-10-05 00:00", 120, 10<<10)
	h.read(ten, b, "2026-10-05 00:00", 60, 0)
	h.cut(ten, "2026-10-10 00:00") // leaves the egress, 1.00, to the month's end
	h.read(ten, a, "2026-10-12 00:00", 180, 20<<10)
	h.running = []billrun.Running{{ten, metering.Labels{Flavor: "small"}}, {ten, metering.Labels{Flavor: "large"}}}
	now := at("2026-10-15 00:00")
	got, err := h.Accrued(t.Context(), ten, now)
	h.check(err)
	h.want("total", got.Total, "2.75")
	h.want("by resource", got.ByResource, "[{ 2.00} {ins_1 0.75}]")
	h.check(h.RefreshAccrued(t.Context(), now))
	c, err := h.books.Credit(t.Context(), nil, ten, now)
	h.check(err)
	h.want("the cache", c.Accrued, got.Total)
	later, err := h.books.Credit(t.Context(), nil, ten, now.Add(10*time.Minute))
	h.check(err)
	h.want("ten minutes of 3.00 an hour later", later.Accrued, "3.25")
	c, err = h.books.Credit(t.Context(), nil, other, now)
	h.check(err)
	h.want("the other tenant's", c.Accrued, "2.25")
	burn, err := h.Burn(t.Context(), ten, now, metering.Labels{Flavor: "large"})
	h.check(err)
	h.want("an hour of large", burn, 2_250_000_000)
	// What ended and is not issued yet counts too.
	got, err = h.Accrued(t.Context(), ten, at("2026-11-05 00:00"))
	h.check(err)
	h.want("after the month's end", got.Total, "2.75")
}

func TestVerifyNamesWhatDiffers(t *testing.T) {
	h := newHouse(t)
	ten := h.tenant("ten_1")
	h.read(ten, h.epoch(ten, "ins_1", 1, "small"), "2026-10-05 00:00", 600, 0)
	i := h.cut(ten, "2026-10-10 00:00")
	// Only someone who turns the triggers off can do this.
	_, err := h.pool.Exec(t.Context(), `
		ALTER TABLE closing_readings DISABLE TRIGGER ALL;
		UPDATE closing_readings SET level_to[1] = level_to[1] - 60000;
		ALTER TABLE closing_readings ENABLE TRIGGER ALL`)
	h.check(err)
	v, err := h.Verify(t.Context(), i.Number)
	h.check(err)
	if len(v.Differences) == 0 || !strings.Contains(strings.Join(v.Differences, "\n"), "7.49") {
		t.Errorf("a changed closing reading: got %q", v.Differences)
	}
	if _, err := h.Verify(t.Context(), "INV-000002"); !errors.Is(err, invoicing.ErrNotFound) {
		t.Errorf("no invoice: got %v", err)
	}
}

// TestAnySchedule: whatever is read, comes late, is cut or ends when, and however
// the plan changes meanwhile, the books hold, each invoice can be made again, and
// in the end each epoch is billed up to its last reading, once.
func TestAnySchedule(t *testing.T) {
	shared := newHouse(t)
	tenants := 0
	rapid.Check(t, func(rt *rapid.T) {
		tenants++
		h := *shared
		h.t = rt
		plan := fmt.Sprintf("p%d", tenants)
		publish := func(effective string, now time.Time) {
			source := rapid.SampledFrom([]string{standardPlan, startsPlan, linePlan}).Draw(rt, "plan")
			for _, name := range []string{"standard", "starts", "line"} {
				source = strings.Replace(source, "plan: "+name, "plan: "+plan, 1)
			}
			source = strings.Replace(source, "effective: 2026-01-01", "effective: "+effective, 1)
			source = strings.Replace(source, "2.25 per hour", fmt.Sprintf("2.%d per hour", rapid.IntRange(10, 99).Draw(rt, "cents")), 1)
			if _, err := h.Publish(rt.Context(), "plan.yaml", []byte(source), now); err != nil {
				rt.Fatal(err)
			}
		}
		publish("2026-01-01", at("2026-01-01 00:00"))
		ten := h.tenantOn(metering.TenantID(fmt.Sprintf("ten_%d", tenants)), plan)
		type state struct {
			id           metering.EpochID
			minutes, mib uint64
		}
		var epochs []*state
		now := at("2026-10-01 00:00")
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 4*24*60).Draw(rt, "minutes on")) * time.Minute)
			switch rapid.SampledFrom([]string{"epoch", "read", "read", "read", "late", "cut", "once", "publish"}).Draw(rt, "step") {
			case "publish":
				day := now.In(berlin).AddDate(0, 0, rapid.IntRange(1, 20).Draw(rt, "days ahead"))
				publish(day.Format(time.DateOnly)+rapid.SampledFrom([]string{"", " mid-period", " mid-period"}).Draw(rt, "when"), now)
			case "epoch":
				id := h.epoch(ten, metering.InstanceID(fmt.Sprintf("ins_%d", rapid.IntRange(1, 2).Draw(rt, "instance"))),
					metering.StartNo(rapid.IntRange(1, 2).Draw(rt, "start")), rapid.SampledFrom([]string{"small", "large"}).Draw(rt, "flavor"))
				epochs = append(epochs, &state{id: id})
			case "read", "late":
				if len(epochs) == 0 {
					continue
				}
				e := rapid.SampledFrom(epochs).Draw(rt, "of")
				e.minutes += rapid.Uint64Range(0, 600).Draw(rt, "ran")
				e.mib += rapid.Uint64Range(0, 90<<10).Draw(rt, "sent")
				back := time.Duration(rapid.IntRange(0, 40*24*60).Draw(rt, "late by")) * time.Minute
				h.read(ten, e.id, now.Add(-back).In(berlin).Format("2006-01-02 15:04"), e.minutes, e.mib)
			case "cut":
				if _, err := h.Cut(rt.Context(), ten, now); err != nil {
					rt.Fatal(err)
				}
			case "once":
				if err := h.Once(rt.Context(), now); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if _, err := h.Cut(rt.Context(), ten, at("2027-06-01 00:00")); err != nil {
			rt.Fatal(err)
		}
		billed, err := h.books.Billed(rt.Context(), []invoicedb.Position{{Tenant: ten, Seq: 1 << 20}})
		h.check(err)
		for _, e := range epochs {
			h.want("minutes billed of "+string(e.id), billed[string(e.id)][metering.RunningMS], 500+e.minutes*60_000)
			h.want("bytes billed of "+string(e.id), billed[string(e.id)][metering.NetPublicTxBytes], e.mib<<20)
			h.want("steps not joined", h.count(`
				SELECT count(*) FROM (
					SELECT level_from, lag(level_to) OVER (ORDER BY seq, window_start) AS prev FROM closing_readings WHERE source = $1
				) AS steps WHERE prev <> level_from`, string(e.id)), 0)
		}
		left, err := h.Accrued(rt.Context(), ten, at("2027-06-01 00:00"))
		h.check(err)
		if left.Total.Minor > 0 {
			rt.Errorf("%s is not invoiced", left.Total)
		}
		h.audit(ten)
	})
}
