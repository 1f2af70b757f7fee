package usance_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/compute/leaks"
	"github.com/usance/usance/invoicing/invoicedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/epochdb"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/embedded"
	"github.com/usance/usance/portal"
)

var quietLog = slog.New(slog.DiscardHandler)

// stores are the control plane's databases, looked at from outside.
type stores struct {
	pool     *pgxpool.Pool
	readings *readingdb.Store
	epochs   *epochdb.Store
	books    *invoicedb.Store
	leaks    *leaks.Run
}

func openStores(t testing.TB, data string) *stores {
	t.Helper()
	readings, err := readingdb.Open(t.Context(), embedded.Options(filepath.Join(data, "run", "clickhouse.sock")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { readings.Close() })
	query := url.Values{"host": {filepath.Join(data, "run", "pg")}, "port": {"5432"}, "sslmode": {"disable"}}
	pool, err := pgxpool.New(t.Context(), (&url.URL{Scheme: "postgres", User: url.User("usance"), Path: "/usance", RawQuery: query.Encode()}).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	books, err := invoicedb.New(pool)
	if err != nil {
		t.Fatal(err)
	}
	s := &stores{pool: pool, readings: readings, epochs: epochdb.New(pool), books: books}
	s.leaks = &leaks.Run{Compute: computedb.New(pool, computedb.Config{Log: quietLog}), Epochs: s.epochs, Allocations: allocdb.New(pool),
		Readings: readings, Log: quietLog, Hourly: func(context.Context, metering.TenantID, string) (int64, string, error) { return 0, "EUR", nil }}
	return s
}

// check compares everything with the truth, when all is at rest.
func (c *chaos) check() *report {
	c.t.Helper()
	ctx := c.t.Context()
	open := slices.Concat(c.leaks, c.openLeaks())
	r := &report{said: slices.Concat(c.fallen, open), lost: len(c.fallen), leaks: len(open)}
	totals, err := c.stores.readings.Totals(ctx, nil)
	c.must(err)
	raw := c.rawReadings(r, totals)
	known := map[metering.EpochID]bool{}
	for _, h := range c.hosts {
		h.checkEpochs(r, raw, known)
		r.bodiesResent += h.resent
		r.refusedRounds += h.said(fullSpool) + h.said(fullDisk)
	}
	for epoch := range totals {
		if !known[epoch] {
			r.doubled++
			r.say("epoch %s of %s never was", epoch, totals[epoch].Instance)
		}
	}
	for _, tenant := range c.tenants {
		c.checkBilled(r, tenant.TenantID, totals)
		c.checkInvoices(r, tenant.TenantID, totals)
	}
	c.countQuarantined(ctx, r)
	return r
}

// checkEpochs holds what was ever durable on a host, and what is metered of it, against the truth.
func (h *chaosHost) checkEpochs(r *report, raw map[metering.EpochID][]metering.Reading, known map[metering.EpochID]bool) {
	h.c.t.Helper()
	disk, err := h.witness.durable()
	h.c.must(err)
	r.missed += h.witness.missed
	records := map[metering.EpochID]metering.Epoch{}
	for _, e := range disk.epochs {
		records[e.ID] = e
	}
	durable := map[metering.EpochID][]metering.Reading{}
	for _, reading := range disk.readings {
		durable[reading.Epoch] = append(durable[reading.Epoch], reading)
	}
	type process struct {
		metering.InstanceID
		started uint64
	}
	lives := map[process][]life{}
	for _, truth := range h.machine.Truths() {
		id, of := truth.Epoch.ID, process{truth.Epoch.Instance, truth.PIDStart}
		known[id] = true
		if short := largest(durable[id]).Sub(largest(raw[id])); !short.IsZero() {
			r.lost++
			r.say("epoch %s: %v was durable on %s and is not metered", id, named(short), h.name)
		}
		lives[of] = append(lives[of], life{truth, records[id], slices.Concat(durable[id], raw[id])})
	}
	for _, one := range lives {
		for _, w := range h.follow(one) {
			r.count(w)
		}
	}
}

func largest(readings []metering.Reading) (r metering.Registers) {
	for _, reading := range readings {
		r = r.Join(reading.Registers)
	}
	return r
}

// count adds up what was found of one epoch.
func (r *report) count(w *walk) {
	r.epochs++
	r.said = slices.Concat(r.said, w.short, w.over)
	switch {
	case len(w.over) > 0:
		r.doubled++
	case len(w.short) > 0:
		r.lost++
	case w.look < 0:
		r.unmetered++
	case w.bounded:
		r.bounded++
	default:
		r.equal++
		if w.ends() {
			r.toTheEnd++
		}
		if w.resized {
			r.resized++
		} else if !w.started {
			r.lateStarts++
		}
		if w.continuations > 0 {
			r.continued++
		}
	}
}

// checkBilled compares what a tenant's closings billed of each epoch with its largest reading.
func (c *chaos) checkBilled(r *report, tenant metering.TenantID, totals map[metering.EpochID]readingdb.Total) {
	c.t.Helper()
	standing, err := c.stores.books.Standing(c.t.Context(), tenant)
	c.must(err)
	billed, err := c.stores.books.Billed(c.t.Context(), []invoicedb.Position{{Tenant: tenant, Seq: standing.Last.Seq}})
	c.must(err)
	for epoch, total := range totals {
		if total.Tenant != tenant {
			continue
		}
		was := billed[string(epoch)]
		if short := total.Registers.Sub(was); !short.IsZero() {
			r.lost++
			r.say("epoch %s: %v is metered and not billed", epoch, named(short))
		}
		if over := was.Sub(total.Registers); !over.IsZero() {
			r.doubled++
			r.say("epoch %s: %v is billed and not metered", epoch, named(over))
		}
		r.billed++
	}
}

func named(r metering.Registers) map[string]uint64 {
	m := map[string]uint64{}
	for i, v := range r {
		if v > 0 {
			m[metering.Register(i).String()] = v
		}
	}
	return m
}

// invoicedIn is how many of a meter's base unit are one of the plan's unit.
var invoicedIn = map[string]int64{"GB": 1e9, "thousand": 1000}

// checkInvoices compares the sum of a tenant's invoices with what is metered of it.
func (c *chaos) checkInvoices(r *report, tenant metering.TenantID, totals map[metering.EpochID]readingdb.Total) {
	c.t.Helper()
	invoiced := map[metering.Meter]*big.Rat{}
	for _, number := range c.invoicesOf(tenant) {
		var invoice portal.InvoiceJSON
		c.must(c.call(c.operator, "GET", "/operator/invoices/"+number, nil, &invoice))
		r.invoices++
		for _, line := range invoice.Lines {
			quantity, ok := new(big.Rat).SetString(line.Quantity)
			if !ok {
				c.t.Fatalf("quantity %q", line.Quantity)
			}
			quantity.Mul(quantity, new(big.Rat).SetInt64(max(1, invoicedIn[line.Unit])))
			meter := metering.Meter(line.Meter)
			if invoiced[meter] == nil {
				invoiced[meter] = new(big.Rat)
			}
			invoiced[meter].Add(invoiced[meter], quantity)
		}
	}
	records, err := c.stores.epochs.OfTenant(c.t.Context(), tenant)
	c.must(err)
	for _, meter := range metering.RegisterMeters() {
		var sum, opening metering.Quantity
		for _, record := range records {
			if total, ok := totals[record.ID]; ok {
				sum, opening = sum.Add(meter.Of(total.Registers)), opening.Add(meter.Of(record.Opening))
			}
		}
		metered, _ := new(big.Rat).SetString(sum.Sub(opening).String())
		got := invoiced[meter]
		if got == nil {
			got = new(big.Rat)
		}
		switch got.Cmp(metered) {
		case -1:
			r.lost++
		case +1:
			r.doubled++
		default:
			continue
		}
		r.say("%s of %s: invoiced %s, metered %s", meter, tenant, got.FloatString(3), metered.FloatString(3))
	}
}

func (c *chaos) invoicesOf(tenant metering.TenantID) (numbers []string) {
	c.t.Helper()
	for after := ""; ; {
		var page portal.List[portal.InvoiceJSON]
		c.must(c.call(c.operator, "GET", fmt.Sprintf("/operator/tenants/%s/invoices?limit=100&after=%s", tenant, url.QueryEscape(after)), nil, &page))
		for _, i := range page.Items {
			numbers = append(numbers, i.Number)
		}
		if after = page.Next; after == "" {
			return numbers
		}
	}
}

// rawReadings are all readings that were accepted; totals and slots must be what they say.
func (c *chaos) rawReadings(r *report, totals map[metering.EpochID]readingdb.Total) map[metering.EpochID][]metering.Reading {
	c.t.Helper()
	now := time.Now().UTC().Truncate(metering.SlotLength)
	window := metering.Window{Start: now.Add(-24 * time.Hour), End: now.Add(time.Hour)}
	raw := map[metering.EpochID][]metering.Reading{}
	asked := map[metering.InstanceID]bool{}
	for _, total := range totals {
		if asked[total.Instance] {
			continue
		}
		asked[total.Instance] = true
		all, err := c.stores.readings.Readings(c.t.Context(), total.Tenant, total.Instance, window, 100_000)
		c.must(err)
		r.readings += len(all)
		for _, record := range all {
			raw[record.Epoch] = append(raw[record.Epoch], record.Reading)
		}
	}
	for epoch, total := range totals {
		if most := largest(raw[epoch]); most != total.Registers {
			r.lost++
			r.say("epoch %s: the total is %v, the largest reading %v", epoch, named(total.Registers), named(most))
		}
	}
	differ, err := c.stores.readings.Differences(c.t.Context(), window)
	c.must(err)
	for _, d := range differ {
		r.lost++
		r.say("slots and readings differ: %+v", d)
	}
	return raw
}

// leakPatience is how long a difference may take to close once faults have ended:
// what was just ordered, or waits for its sender's back-off, is no leak.
const leakPatience = 30 * time.Second

// checkLeaks are the differences that stay.
func (c *chaos) checkLeaks() []string {
	c.t.Helper()
	for deadline := time.Now().Add(leakPatience); ; time.Sleep(c.interval) {
		if found := c.leaksNow(); len(found) == 0 || time.Now().After(deadline) {
			return found
		}
	}
}

// leaksNow compares what runs with what is wanted and with what is metered, while
// instances still run.
func (c *chaos) leaksNow() (found []string) {
	c.t.Helper()
	found = c.openLeaks()
	runs := map[metering.InstanceID]bool{}
	for _, h := range c.hosts {
		for _, truth := range h.machine.Truths() {
			runs[truth.Epoch.Instance] = runs[truth.Epoch.Instance] || !truth.Ended
		}
	}
	for _, i := range c.instances() {
		if wanted := i.Desired == "running"; wanted != runs[i.ID] {
			found = append(found, fmt.Sprintf("leak: %s is wanted %s, and that it runs is %v", i.ID, i.Desired, runs[i.ID]))
		} else if wanted && (i.ReadAt == nil || time.Since(*i.ReadAt) > mostBehind+30*c.interval) {
			found = append(found, fmt.Sprintf("leak: %s runs and was last read at %v", i.ID, i.ReadAt))
		}
		delete(runs, i.ID)
	}
	for id, running := range runs {
		if running {
			found = append(found, fmt.Sprintf("leak: %s runs and nobody wants it", id))
		}
	}
	return found
}

// openLeaks are those that the control plane itself finds now.
func (c *chaos) openLeaks() (open []string) {
	c.t.Helper()
	c.must(c.stores.leaks.Once(c.t.Context(), time.Now()))
	var list portal.List[portal.LeakJSON]
	c.must(c.call(c.operator, "GET", "/operator/leaks", nil, &list))
	for _, l := range list.Items {
		open = append(open, fmt.Sprintf("leak: %+v", l))
	}
	return open
}

// countQuarantined counts what was not accepted; all hosts are honest.
func (c *chaos) countQuarantined(ctx context.Context, r *report) {
	c.t.Helper()
	for after := int64(0); ; {
		page, err := c.stores.epochs.Quarantined(ctx, "", after, 1000)
		c.must(err)
		for _, q := range page {
			after = q.ID
			if q.AdmitAt.IsZero() {
				r.quarantined++
				r.say("quarantined: %s: %s", q.Reason, q.Detail)
			}
		}
		if len(page) < 1000 {
			return
		}
	}
}
