package invoicing_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
	"github.com/usance/usance/rating/planfile"
)

// plans are price plans by what they show; each prices running time and egress.
var plans = map[string]string{
	"plain": `
rates:
  - {id: run, meter: instance.running, price: 0.0075 per hour}
  - {id: tx, meter: network.public.tx, price: 0.013 per GiB}
  - {id: cpu, meter: instance.cpu, price: 0.1 per hour}`,
	"cap": `
rates:
  - {id: run, meter: instance.running, price: 0.0075 per hour, cap: 1.90 per month}
  - {id: tx, meter: network.public.tx, price: 0.013 per GiB}`,
	"start": `
rates:
  - {id: small, meter: instance.running, where: {flavor: small}, price: 0.75 per hour, minimum: 10 min, granularity: 1 min}
  - {id: large, meter: instance.running, where: {flavor: large}, price: 2.25 per hour, granularity: 1 h}
  - {id: tx, meter: network.public.tx, price: 0.013 per GiB}`,
	"minimum": `
rates:
  - {id: run, meter: instance.running, price: 0.75 per hour, minimum: 10 min, granularity: 1 min}`,
	"included": `
rates:
  - {id: run, meter: instance.running, price: 0.0075 per hour}
  - {id: tx, meter: network.public.tx, pool: tenant, included: 5 GiB per instance-month, price: 0.13 per GiB}`,
	"graduated": `
rates:
  - {id: run, meter: instance.running, price: 0.0075 per hour}
  - id: tx
    meter: network.public.tx
    pool: tenant
    included: 1 GiB
    tiers: graduated
    steps: [{up to: 3 GiB, price: 0.5 per GiB}, {price: 0.2 per GiB}]`,
	"volume": `
rates:
  - {id: run, meter: instance.running, price: 0.0075 per hour}
  - id: tx
    meter: network.public.tx
    pool: tenant
    tiers: volume
    steps: [{up to: 3 GiB, price: 0.5 per GiB}, {price: 0.2 per GiB}]`,
	"percentile": `
rates:
  - {id: run, meter: instance.running, price: 0.0075 per hour, cap: 2.90 per month}
  - {id: line, meter: network.public.tx, percentile: 95, price: 1.50 per Mbit/s}`,
	"pooled": `
rates:
  - {id: run, meter: instance.running, price: 0.0075 per hour}
  - {id: line, meter: network.public.tx, pool: tenant, percentile: 70, included: 1 Mbit/s, price: 90.00 per Mbit/s}
  - {id: traffic, component: traffic, meter: network.public.tx, price: 0.013 per GiB}
minimum_spend: 3.00 per month`,
	"classes": `
calendar:
  off-peak: {daily: "22:00-06:00", weekends: true}
rates:
  - {id: day, meter: instance.running, price: 0.03 per hour}
  - {id: night, meter: instance.running, where: {time: off-peak}, price: 0.01 per hour}`,
}

func plan(t rapid.TB, name string) *rating.Plan {
	t.Helper()
	p, _, err := planfile.Parse(name, []byte("plan: "+name+"\ncurrency: EUR\ntimezone: Europe/Berlin\neffective: 2026-01-01\n"+plans[name]))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// change is a plan that takes over within a period.
type change struct {
	plan *rating.Plan
	at   time.Time
	said time.Time // no cut before this knows of it, and none before at comes after it
}

// arrival is a reading and when it arrives.
type arrival struct {
	metering.Reading
	arrives time.Time
}

// books are what closings have recorded, in memory.
type books struct {
	account  invoicing.Account
	plan     *rating.Plan // from the beginning on
	changes  []change     // by time
	epochs   []metering.EpochRecord
	readings []arrival
	last     invoicing.Closing
	segments []invoicing.Segment
	lines    []invoicing.LineItem
	invoices []*invoicing.Invoice
}

func newBooks(t rapid.TB, planName string) *books {
	return &books{plan: plan(t, planName), account: invoicing.Account{
		Tenant: "ten_1", Currency: "EUR", Plan: planName, Zone: berlin, CreditLimit: money.Amount{Currency: "EUR"},
		Tax: invoicing.TaxRule{Category: invoicing.TaxStandard, PercentMilli: 19_000}, Created: at("2026-09-15 12:00"),
	}}
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

// level is R(e,t) as known at an instant.
func (b *books) level(e metering.EpochRecord, t, known time.Time) invoicing.Level {
	level := e.Opening
	for _, r := range b.readings {
		if r.Epoch == e.ID && !r.At.After(t) && !r.arrives.After(known) {
			level = level.Join(r.Registers)
		}
	}
	return level
}

func (b *books) billed(e metering.EpochRecord) (level invoicing.Level, seen bool) {
	level = e.Opening
	for _, g := range b.segments {
		if g.ID == string(e.ID) {
			level, seen = g.To, true
		}
	}
	return level, seen
}

// rated is a period with the plans in force in it, as is known at an instant.
func (b *books) rated(period metering.Window, known time.Time) invoicing.Rated {
	r := invoicing.Whole(period, b.plan)
	for _, c := range b.changes {
		last := &r.Parts[len(r.Parts)-1]
		switch {
		case c.said.After(known) || !c.at.Before(period.End):
		case !c.at.After(period.Start):
			*last = rating.InForce{Plan: c.plan, Window: period}
		default:
			last.Window.End = c.at
			r.Parts = append(r.Parts, rating.InForce{Plan: c.plan, Window: metering.Window{Start: c.at, End: period.End}})
		}
	}
	return r
}

// lay lays segments over slots, as far as their plans want it.
func (b *books) lay(t rapid.TB, rated []invoicing.Rated, segments []invoicing.Segment, known time.Time) {
	t.Helper()
	for i := range segments {
		g := &segments[i]
		k := slices.IndexFunc(rated, func(r invoicing.Rated) bool { return r.Period == g.Period })
		meters := rated[k].At(g.Window.Start).Plan.MetersBySlot(&g.Labels)
		if len(meters) == 0 {
			continue
		}
		var read []metering.Reading
		for _, r := range b.readings {
			if string(r.Epoch) == g.ID && !r.arrives.After(known) {
				slot := metering.SlotOf(r.At)
				k, found := slices.BinarySearchFunc(read, slot, func(r metering.Reading, at time.Time) int { return r.At.Compare(at) })
				if !found {
					read = slices.Insert(read, k, metering.Reading{At: slot})
				}
				read[k].Registers = read[k].Registers.Join(r.Registers)
			}
		}
		if err := g.Lay(meters, read); err != nil {
			t.Fatal(err)
		}
	}
}

// measure is what the books lack at a cut, by what has arrived when known.
func (b *books) measure(t rapid.TB, cut, known time.Time) ([]invoicing.Segment, []invoicing.Difference) {
	t.Helper()
	periods, err := b.account.Periods(cut)
	if err != nil {
		t.Fatal(err)
	}
	var rated []invoicing.Rated
	for _, p := range periods {
		rated = append(rated, b.rated(p, cut))
	}
	fine := make([]bool, len(rated))
	fine[len(fine)-1] = true
	var segments []invoicing.Segment
	for again := true; again; again = invoicing.Refine(rated, fine, segments) {
		spans, instants := invoicing.Spans(rated, fine, cut)
		var odometers []invoicing.Odometer
		for _, e := range b.epochs {
			o := invoicing.Odometer{Source: invoicing.EpochSource(e)}
			o.Billed, o.Seen = b.billed(e)
			for _, at := range instants {
				o.At = append(o.At, b.level(e, at, known))
			}
			odometers = append(odometers, o)
		}
		if segments, err = invoicing.Advance(odometers, spans); err != nil {
			t.Fatal(err)
		}
	}
	b.lay(t, rated, segments, known)
	// All periods, always: what is not touched must not differ.
	differences, _, err := invoicing.Differences(rated, append(slices.Clone(b.segments), segments...), b.lines)
	if err != nil {
		t.Fatal(err)
	}
	return segments, differences
}

// cut closes at an instant, by what has arrived when known.
func (b *books) cut(t rapid.TB, cut, known time.Time) *invoicing.Invoice {
	t.Helper()
	segments, differences := b.measure(t, cut, known)
	period, err := b.account.PeriodOf(cut)
	if err != nil {
		t.Fatal(err)
	}
	c := invoicing.Closing{Tenant: b.account.Tenant, Seq: b.last.Seq + 1, Period: period, Cut: cut, Closed: known}
	lines, unsettled, err := invoicing.Choose(differences, c)
	if err != nil {
		t.Fatal(err)
	}
	// A closing looks back no further than late usage and what is unsettled.
	from := period.Start
	for _, g := range segments {
		if g.Period.Start.Before(from) {
			from = g.Period.Start
		}
	}
	if u := b.last.Unsettled; !u.IsZero() && u.Before(from) {
		from = u
	}
	for _, d := range differences {
		if d.Period.Start.Before(from) && d.Amount.Minor != 0 {
			t.Fatalf("%s of %s differs by %s although nothing since %s changed", d.Key, d.Period, d.Amount, from)
		}
	}
	c.Unsettled = unsettled
	b.last = c
	invoice, err := invoicing.NewInvoice(b.account, c, lines)
	if err != nil {
		t.Fatal(err)
	}
	b.segments = append(b.segments, segments...)
	if invoice != nil {
		if _, err := invoice.Entry(); err != nil {
			t.Fatal(err)
		}
		for _, l := range invoice.Lines {
			whole, err := money.Round(l.BilledExact.Add(l.Exact).Sub(l.Allowance), "EUR", money.HalfAway)
			if err != nil || whole.Minor-l.Billed.Minor != l.Amount.Minor {
				t.Fatalf("%s of %s: %s + %s − %s is %s, billed were %s, the amount is %s (%v)", l.Key, l.Period,
					l.BilledExact.Text(), l.Exact.Text(), l.Allowance.Text(), whole, l.Billed, l.Amount, err)
			}
		}
		b.lines = append(b.lines, invoice.Lines...)
		b.invoices = append(b.invoices, invoice)
	}
	return invoice
}

// add adds an epoch of a start with readings as given: time, hours run, GiB sent.
type point struct {
	at, arrives string // arrives "" is at once
	minutes     uint64
	mib         uint64
}

func (b *books) add(id string, instance string, start metering.StartNo, flavor string, opening metering.Registers, points ...point) {
	e := metering.EpochRecord{
		Epoch:  metering.Epoch{ID: metering.EpochID(id), Instance: metering.InstanceID(instance), Start: start, Opening: opening},
		Tenant: b.account.Tenant, Labels: metering.Labels{Flavor: flavor},
	}
	b.epochs = append(b.epochs, e)
	for _, p := range points {
		r := arrival{Reading: metering.Reading{Epoch: e.ID, At: at(p.at), Registers: registers(opening, p.minutes, p.mib)}}
		if r.arrives = r.At; p.arrives != "" {
			r.arrives = at(p.arrives)
		}
		b.readings = append(b.readings, r)
	}
}

func registers(opening metering.Registers, minutes, mib uint64) metering.Registers {
	var r metering.Registers
	r[metering.RunningMS] = minutes * 60_000
	r[metering.CPUNS] = minutes*17_777_777_777 + mib // thousandths are cut off
	r[metering.NetPublicTxBytes] = mib << 20
	return r.Add(opening)
}

func total(invoices []*invoicing.Invoice) (net int64) {
	for _, i := range invoices {
		net += i.Net.Minor
	}
	return net
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestUsageIsBilledInThePeriodItLiesIn(t *testing.T) {
	b := newBooks(t, "plain")
	b.add("e1", "ins_1", 1, "small", registers(metering.Registers{}, 1000, 0),
		point{at: "2026-09-30 23:00", minutes: 60 * 400}, point{at: "2026-10-01 00:00", minutes: 60*400 + 60}, point{at: "2026-10-01 00:10", minutes: 60*400 + 70})
	september := b.cut(t, at("2026-10-01 00:00"), at("2026-10-01 00:05"))
	want(t, "September", september.Lines[0].Amount, "3.01") // 401 h at 0.0075, up to the last instant
	want(t, "its quantity", september.Lines[0].Quantity.Text(), "401")
	october := b.cut(t, at("2026-11-01 00:00"), at("2026-11-01 00:05"))
	if october != nil {
		t.Errorf("ten minutes cost 0.00125: got invoice of %s, want none", october.Net)
	}
	if len(b.segments) != 2 {
		t.Errorf("%d closing readings, want 2: a closing without an invoice keeps its own", len(b.segments))
	}
}

func TestLateUsageBelowTheBilledLevelIsBilledAlready(t *testing.T) {
	b := newBooks(t, "minimum")
	// 2 minutes in September, 3 more that arrive when October's cut has billed
	// them as October's, 20 in October.
	b.add("e1", "ins_1", 1, "small", metering.Registers{},
		point{at: "2026-09-30 23:50", minutes: 2}, point{at: "2026-09-30 23:59", arrives: "2026-10-20 00:00", minutes: 5}, point{at: "2026-10-01 00:30", minutes: 25})
	want(t, "September: the minimum of 10 minutes", b.cut(t, at("2026-10-01 00:00"), at("2026-10-01 00:00")).Net, "0.13")
	interim := b.cut(t, at("2026-10-10 00:00"), at("2026-10-10 00:00"))
	want(t, "October: 25 minutes of the start less the 10 charged", interim.Net, "0.19") // 0.3125 − 0.125, of which the minutes 3 to 25 are October's so far
	if late := b.cut(t, at("2026-11-01 00:00"), at("2026-11-01 00:00")); late != nil {
		t.Errorf("what came late was billed before: got %s, want no invoice", late.Net)
	}
	if !b.last.Unsettled.IsZero() {
		t.Errorf("unsettled from %s, want nothing", b.last.Unsettled)
	}
	want(t, "segments", len(b.segments), 2)
}

func TestLateUsageIsTheDifferenceInItsOwnPeriod(t *testing.T) {
	b := newBooks(t, "start")
	// The start runs 2 minutes and 3 more in September that arrive late; nothing
	// is known of October when its cut comes.
	b.add("e1", "ins_1", 1, "small", metering.Registers{},
		point{at: "2026-09-30 23:50", minutes: 2},
		point{at: "2026-09-30 23:59", arrives: "2026-10-20 00:00", minutes: 14},
		point{at: "2026-10-01 00:30", arrives: "2026-10-20 00:00", minutes: 25})
	want(t, "September: the minimum of 10 minutes", b.cut(t, at("2026-10-01 00:00"), at("2026-10-01 00:00")).Net, "0.13")
	if i := b.cut(t, at("2026-10-10 00:00"), at("2026-10-10 00:00")); i != nil {
		t.Errorf("nothing arrived: got %s, want no invoice", i.Net)
	}
	late := b.cut(t, at("2026-11-01 00:00"), at("2026-11-01 00:00"))
	if late == nil || len(late.Lines) != 2 {
		t.Fatalf("got %+v, want a line for each month", late)
	}
	want(t, "late usage lies in", late.Lines[0].Period.Start, at("2026-09-01 00:00"))
	want(t, "14 minutes less the 10 charged", late.Lines[0].Amount, "0.05") // 0.175 rounds to 0.18
	want(t, "11 minutes of October", late.Lines[1].Amount, "0.14")          // 0.1375
}

func TestLateUsageBetweenCuts(t *testing.T) {
	b := newBooks(t, "cap")
	b.add("e1", "ins_1", 1, "small", metering.Registers{},
		point{at: "2026-10-01 00:00"},
		point{at: "2026-10-05 00:00", minutes: 60 * 96},
		point{at: "2026-10-09 00:00", arrives: "2026-10-15 00:00", minutes: 60 * 192},
		point{at: "2026-10-20 00:00", minutes: 60 * 456})
	b.cut(t, at("2026-10-01 00:00"), at("2026-10-01 00:00"))
	want(t, "first cut", b.cut(t, at("2026-10-10 00:00"), at("2026-10-10 00:00")).Net, "0.72")
	want(t, "second cut, with what came late", b.cut(t, at("2026-10-16 00:00"), at("2026-10-16 00:00")).Net, "0.72")
	last := b.cut(t, at("2026-11-01 00:00"), at("2026-11-01 00:00"))
	want(t, "month's end, at the cap", last.Net, "0.46")
	want(t, "its allowance", last.Lines[0].Allowance.Text(), "1.52") // 456 h cost 3.42
	want(t, "before it", last.Lines[0].Billed, "1.44")
}

func TestWhatMayFallWaitsForTheLastCut(t *testing.T) {
	b := newBooks(t, "volume")
	b.add("e1", "ins_1", 1, "small", metering.Registers{},
		point{at: "2026-10-05 00:00", minutes: 6000, mib: 2 << 10}, point{at: "2026-10-20 00:00", minutes: 12000, mib: 10 << 10})
	interim := b.cut(t, at("2026-10-10 00:00"), at("2026-10-10 00:00"))
	for _, l := range interim.Lines {
		if l.Rate == "tx" {
			t.Errorf("interim cut bills volume tiers: %s", l.Amount)
		}
	}
	want(t, "unsettled", b.last.Unsettled, at("2026-10-01 00:00"))
	last := b.cut(t, at("2026-11-01 00:00"), at("2026-11-01 00:00"))
	i := slices.IndexFunc(last.Lines, func(l invoicing.LineItem) bool { return l.Rate == "tx" })
	want(t, "all of it in the second step", last.Lines[i].Amount, "2.00")
}

func TestWhatWouldBeGivenBackWaits(t *testing.T) {
	b := newBooks(t, "volume")
	b.add("e1", "ins_1", 1, "small", metering.Registers{},
		point{at: "2026-10-05 00:00", minutes: 600, mib: 3 << 10},
		point{at: "2026-10-06 00:00", arrives: "2026-11-05 00:00", minutes: 600, mib: 3<<10 + 1},
		point{at: "2026-12-20 00:00", minutes: 600 + 60*400, mib: 3<<10 + 1})
	want(t, "October, 3 GiB at 0.5", b.cut(t, at("2026-11-01 00:00"), at("2026-11-01 00:00")).Net, "1.58")
	if i := b.cut(t, at("2026-12-01 00:00"), at("2026-12-01 00:00")); i != nil {
		t.Fatalf("late usage made October cheaper: got invoice of %s, want none", i.Net)
	}
	want(t, "unsettled", b.last.Unsettled, at("2026-10-01 00:00"))
	want(t, "December, 3.00, less 0.90 of October", b.cut(t, at("2027-01-01 00:00"), at("2027-01-01 00:00")).Net, "2.10")
	want(t, "unsettled", b.last.Unsettled.IsZero(), true)
}

func TestTax(t *testing.T) {
	for _, c := range []struct {
		rule invoicing.TaxRule
		net  int64
		want int64
		code string
	}{
		{invoicing.TaxRule{Category: invoicing.TaxOutside}, 12345, 0, "O"},
		{invoicing.TaxRule{Category: invoicing.TaxStandard, PercentMilli: 19_000}, 1050, 200, "S:19.000"}, // 199.5
		{invoicing.TaxRule{Category: invoicing.TaxStandard, PercentMilli: 25_500}, 100, 26, "S:25.500"},
		{invoicing.TaxRule{Category: invoicing.TaxStandard, PercentMilli: 19_000}, 2, 0, "S:19.000"},
	} {
		got, err := c.rule.On(money.Amount{Minor: c.net, Currency: "EUR"})
		if err != nil || got.Minor != c.want || c.rule.Code() != c.code || c.rule.Check() != nil {
			t.Errorf("%v on %d: got %v, %v and %s, want %d and %s", c.rule, c.net, got, err, c.rule.Code(), c.want, c.code)
		}
	}
	for _, bad := range []invoicing.TaxRule{{}, {Category: "X"}, {Category: invoicing.TaxStandard}, {Category: invoicing.TaxReverseCharge, PercentMilli: 1}} {
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestPeriods(t *testing.T) {
	a := newBooks(t, "plain").account
	for _, c := range []struct{ cut, start, end string }{
		{"2026-09-15 12:00", "2026-09-01 00:00", "2026-10-01 00:00"},
		{"2026-10-01 00:00", "2026-09-01 00:00", "2026-10-01 00:00"}, // the last instant is the month's end
		{"2026-10-25 02:30", "2026-10-01 00:00", "2026-11-01 00:00"}, // 745 hours
	} {
		got, err := a.PeriodOf(at(c.cut))
		if err != nil || !got.Start.Equal(at(c.start)) || !got.End.Equal(at(c.end)) {
			t.Errorf("period of %s: got %s, %v", c.cut, got, err)
		}
	}
	if _, err := a.PeriodOf(at("2026-09-01 00:00")); err == nil {
		t.Error("a cut before the first period is accepted")
	}
	all, err := a.Periods(at("2027-04-01 00:00"))
	if err != nil || len(all) != 7 {
		t.Errorf("from September to March: got %d periods, %v", len(all), err)
	}
	for i := 1; i < len(all); i++ {
		if !all[i].Start.Equal(all[i-1].End) {
			t.Errorf("a gap between %s and %s", all[i-1], all[i])
		}
	}
}

// history draws epochs with readings from September to November, and when each
// arrives: at once, or up to a month late.
func history(t *rapid.T, b *books, late bool) {
	begin, end := at("2026-09-15 12:00"), at("2026-11-30 00:00")
	for i := range rapid.IntRange(1, 4).Draw(t, "epochs") {
		e := metering.EpochRecord{
			Epoch: metering.Epoch{
				ID:       metering.EpochID(fmt.Sprintf("e%d", i)),
				Instance: metering.InstanceID(fmt.Sprintf("ins_%d", rapid.IntRange(1, 2).Draw(t, "instance"))),
				Start:    metering.StartNo(rapid.IntRange(1, 2).Draw(t, "start")),
				Opening:  registers(metering.Registers{}, rapid.Uint64Range(0, 5000).Draw(t, "opening"), 7),
			},
			Tenant: b.account.Tenant,
			Labels: metering.Labels{Flavor: rapid.SampledFrom([]string{"small", "large"}).Draw(t, "flavor")},
		}
		b.epochs = append(b.epochs, e)
		now, minutes, mib := begin, uint64(0), uint64(0)
		for range rapid.IntRange(0, 8).Draw(t, "readings") {
			step := time.Duration(rapid.IntRange(1, 20*24*60).Draw(t, "step")) * time.Minute
			if now = now.Add(step); now.After(end) {
				break
			}
			minutes += rapid.Uint64Range(0, uint64(step/time.Minute)).Draw(t, "minutes")
			mib += rapid.Uint64Range(0, 3000).Draw(t, "mib")
			r := arrival{Reading: metering.Reading{Epoch: e.ID, At: now, Registers: registers(e.Opening, minutes, mib)}, arrives: now}
			if late && rapid.Bool().Draw(t, "late") {
				r.arrives = now.Add(time.Duration(rapid.IntRange(1, 30*24*60).Draw(t, "delay")) * time.Minute)
			}
			b.readings = append(b.readings, r)
		}
	}
}

// change draws other plans that take over within October and November, each said
// some time before.
func (b *books) change(t *rapid.T) {
	day := at("2026-09-28 00:00")
	for range rapid.IntRange(0, 2).Draw(t, "changes") {
		day = day.In(berlin).AddDate(0, 0, rapid.IntRange(1, 30).Draw(t, "days on")).UTC()
		b.changes = append(b.changes, change{plan(t, rapid.SampledFrom(planNames()).Draw(t, "next plan")), day,
			day.Add(-time.Duration(rapid.IntRange(0, 40*24).Draw(t, "hours before")) * time.Hour)})
	}
}

// months are the ends of the periods; by the last, every reading has arrived.
var months = []string{"2026-10-01 00:00", "2026-11-01 00:00", "2026-12-01 00:00", "2027-01-01 00:00"}

// schedule draws cuts: the months' ends and some between.
func schedule(t *rapid.T) (cuts []time.Time) {
	for range rapid.IntRange(0, 4).Draw(t, "cuts") {
		c := at("2026-09-15 12:00").Add(time.Duration(rapid.IntRange(1, 75*24*60).Draw(t, "cut")) * time.Minute)
		cuts = append(cuts, c)
	}
	for _, m := range months {
		cuts = append(cuts, at(m))
	}
	slices.SortFunc(cuts, time.Time.Compare)
	return slices.CompactFunc(cuts, time.Time.Equal)
}

func planNames() []string {
	var names []string
	for name := range plans {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestCutsSumToTheUncutMonth: whatever the cuts, if all arrives in time a
// period costs what it costs uncut.
func TestCutsSumToTheUncutMonth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(planNames()).Draw(t, "plan")
		cut := newBooks(t, name)
		cut.change(t)
		history(t, cut, false)
		uncut := newBooks(t, name)
		uncut.epochs, uncut.readings, uncut.changes = cut.epochs, cut.readings, cut.changes
		for _, c := range schedule(t) {
			cut.cut(t, c, c)
		}
		for _, m := range months {
			uncut.cut(t, at(m), at(m))
		}
		compare(t, cut, uncut)
	})
}

// compare checks that two books bill each line of each period alike, in sum, and
// with what is left to be given back: a plan that changes within a period leaves
// part of a cap that was billed in whole.
func compare(t *rapid.T, a, b *books) {
	type key struct {
		start time.Time
		line  string
	}
	sums := map[key][2]money.Amount{}
	var totals [2]int64
	for side, books := range []*books{a, b} {
		lines := slices.Clone(books.lines)
		_, left := books.measure(t, at("2027-01-01 00:00"), at("2027-01-01 00:00"))
		for _, d := range left {
			lines = append(lines, d.LineItem)
		}
		for _, l := range lines {
			k := key{l.Period.Start, l.Key}
			pair := sums[k]
			pair[side].Minor += l.Amount.Minor
			sums[k] = pair
			totals[side] += l.Amount.Minor
		}
	}
	for k, pair := range sums {
		if pair[0] != pair[1] {
			t.Errorf("%s of %s: %d against %d minor units", k.line, k.start, pair[0].Minor, pair[1].Minor)
		}
	}
	if totals[0] != totals[1] {
		t.Errorf("in sum %d against %d minor units", totals[0], totals[1])
	}
	if len(a.changes) == 0 && total(a.invoices) != total(b.invoices) {
		t.Errorf("invoices of %d against %d minor units", total(a.invoices), total(b.invoices))
	}
}

// TestNothingIsBilledTwiceOrForgotten: whatever arrives when and is cut when,
// in the end every epoch is billed from its opening to its last reading, once,
// and each period as if all of it had been known.
func TestNothingIsBilledTwiceOrForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBooks(t, rapid.SampledFrom(planNames()).Draw(t, "plan"))
		b.change(t)
		history(t, b, true)
		for _, c := range schedule(t) {
			known := c.Add(time.Duration(rapid.IntRange(0, 48).Draw(t, "settle")) * time.Hour)
			b.cut(t, c, known)
			if again, _ := b.measure(t, c, known); len(again) > 0 {
				t.Fatalf("cut at %s leaves something to bill at the same instant", c)
			}
		}
		b.checkLevels(t)
		b.checkPeriods(t)
	})
}

// checkLevels checks that the segments of each epoch join end to end from its
// opening to its last reading.
func (b *books) checkLevels(t *rapid.T) {
	for _, e := range b.epochs {
		level := e.Opening
		for _, g := range b.segments {
			if g.ID == string(e.ID) {
				if g.From != level {
					t.Errorf("%s: a segment begins at %v, the one before ended at %v", e.ID, g.From, level)
				}
				level = g.To
			}
		}
		if last := b.level(e, at("2027-01-01 00:00"), at("2027-01-01 00:00")); level != last {
			t.Errorf("%s: billed up to %v, its last reading is %v", e.ID, level, last)
		}
	}
}

// checkPeriods checks that what was invoiced of each period, and what was left
// out because it would be given back, is F of all its usage.
func (b *books) checkPeriods(t *rapid.T) {
	_, left := b.measure(t, at("2027-01-01 00:00"), at("2027-01-01 00:00"))
	var missing, net int64
	for _, d := range left {
		missing += d.Amount.Minor
	}
	if missing > 0 {
		t.Errorf("%d minor units are not invoiced", missing)
	}
	for _, m := range months {
		p, err := b.account.PeriodOf(at(m))
		if err != nil {
			t.Fatal(err)
		}
		rated := b.rated(p, at("2027-01-01 00:00"))
		bill, err := rated.Bill(rated.Usage(b.segments))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range bill.Lines {
			net += l.Net.Minor
		}
	}
	if got := total(b.invoices); got+missing != net {
		t.Errorf("invoices sum to %d and %d are left, the periods cost %d", got, missing, net)
	}
}
