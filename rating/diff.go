package rating

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"
)

// Change is one difference between two plans, in words: "egress", "above 10
// TiB: 0.010 → 0.008 per GiB".
type Change struct {
	Of   string // the id of a rate, "flavor small"; "" for the plan itself
	Text string
}

// String is the change in one line.
func (c Change) String() string { return strings.TrimPrefix(c.Of+" "+c.Text, " ") }

// Diff is what changes for customers from one plan to another: what is written
// differently and means the same is no change. Rates, flavors, time classes and
// discounts are known by their names.
func Diff(old, new *Plan) []Change {
	d := &differ{}
	d.value("plan", old.Name, new.Name)
	d.value("currency", string(old.Currency), string(new.Currency))
	d.value("time zone", old.Zone.String(), new.Zone.String())
	d.value("effective", old.effectiveText(), new.effectiveText())
	d.value("grandfathered", old.grandfatherText(), new.grandfatherText())
	d.value("rounding", old.Rounding.String(), new.Rounding.String())
	pairs(d, "flavor ", old.Flavors, new.Flavors, func(f *Flavor) string { return f.Name }, (*differ).flavor, (*Flavor).text)
	pairs(d, "time class ", old.Calendars, new.Calendars, func(c *Calendar) string { return c.Name }, (*differ).calendar, (*Calendar).text)
	pairs(d, "", old.Rates, new.Rates, func(r *Rate) string { return r.ID }, (*differ).rate, (*Rate).text)
	pairs(d, "discount ", old.Discounts, new.Discounts, func(c *Discount) string { return c.Name }, (*differ).discount, (*Discount).text)
	d.tenants(old, new)
	return d.changes
}

// tenants tells of each tenant that something is agreed with what changes for it
// beyond what changes for all.
func (d *differ) tenants(old, new *Plan) {
	agreed := slices.AppendSeq(slices.Collect(maps.Keys(old.Tenants)), maps.Keys(new.Tenants))
	slices.Sort(agreed)
	forAll := slices.Clone(d.changes)
	for _, id := range slices.Compact(agreed) {
		for _, c := range Diff(old.ForTenant(id), new.ForTenant(id)) {
			if !slices.Contains(forAll, c) {
				d.changes = append(d.changes, Change{strings.TrimSuffix("tenant "+string(id)+": "+c.Of, " "), c.Text})
			}
		}
	}
}

// differ collects changes of what it is at.
type differ struct {
	of      string
	changes []Change
}

func (d *differ) note(text string) { d.changes = append(d.changes, Change{d.of, text}) }

// value notes that what has this name is another; "" is none.
func (d *differ) value(name, old, new string) {
	if old != new {
		d.note(name + ": " + arrow(old, new))
	}
}

// arrow joins two values; a unit that both have is said once.
func arrow(old, new string) string {
	if old == "" {
		old = "none"
	}
	if new == "" {
		new = "none"
	}
	before, unit, ok := strings.Cut(old, " per ")
	if strings.HasSuffix(new, " per "+unit) && ok {
		old = before
	}
	return old + " → " + new
}

// pairs finds what of two lists has the same name, and tells what each has alone.
func pairs[T any](d *differ, kind string, old, new []T, name func(*T) string, diff func(d *differ, old, new *T), text func(*T) string) {
	find := func(list []T, wanted string) int {
		return slices.IndexFunc(list, func(t T) bool { return name(&t) == wanted })
	}
	for i := range old {
		d.of = kind + name(&old[i])
		if j := find(new, name(&old[i])); j < 0 {
			d.note("removed: " + text(&old[i]))
		} else {
			diff(d, &old[i], &new[j])
		}
	}
	for j := range new {
		if find(old, name(&new[j])) < 0 {
			d.of = kind + name(&new[j])
			d.note("added: " + text(&new[j]))
		}
	}
	d.of = ""
}

func (p *Plan) effectiveText() string {
	s := dayText(p.Effective)
	if p.MidPeriod {
		s += " mid-period"
	}
	return s
}

func (p *Plan) grandfatherText() string {
	if p.Grandfathered.IsZero() {
		return ""
	}
	return fmt.Sprintf("resources created before %s, in periods that begin before %s", dayText(p.Effective), dayText(p.Grandfathered))
}

// dayText is the day an instant begins in its own zone; "" for none.
func dayText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.DateOnly)
}

func (d *differ) flavor(old, new *Flavor) {
	d.value("vCPUs", fmt.Sprint(old.VCPUs), fmt.Sprint(new.VCPUs))
	d.value("memory", mebibytes(old.MemoryMiB), mebibytes(new.MemoryMiB))
	d.value("disk", mebibytes(old.DiskMiB), mebibytes(new.DiskMiB))
}

func (f *Flavor) text() string {
	return fmt.Sprintf("%d vCPUs, %s memory, %s disk", f.VCPUs, mebibytes(f.MemoryMiB), mebibytes(f.DiskMiB))
}

func mebibytes(n uint64) string {
	if n%1024 == 0 {
		return fmt.Sprintf("%d GiB", n/1024)
	}
	return fmt.Sprintf("%d MiB", n)
}

func (d *differ) calendar(old, new *Calendar) {
	d.value("hours", old.hoursText(), new.hoursText())
	if gone := old.holidaysBeyond(new); gone != "" {
		d.note("no longer holidays: " + gone)
	}
	if more := new.holidaysBeyond(old); more != "" {
		d.note("new holidays: " + more)
	}
}

func (c *Calendar) text() string {
	all := []string{c.hoursText()}
	if days := c.holidaysBeyond(&Calendar{}); days != "" {
		all = append(all, "holidays: "+days)
	}
	return strings.TrimPrefix(strings.Join(all, ", "), ", ")
}

func (c *Calendar) hoursText() string {
	var all []string
	for _, h := range c.Weekly {
		var days []string
		for day, on := range h.Days {
			if on {
				days = append(days, strings.ToLower(time.Weekday(day).String()[:3]))
			}
		}
		text := strings.Join(days, ",")
		if len(days) == len(h.Days) {
			text = "daily"
		}
		all = append(all, fmt.Sprintf("%s %02d:%02d-%02d:%02d", text, h.From/60, h.From%60, h.To/60, h.To%60))
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}

// namedHolidays is how many holidays a change names; the others are counted.
const namedHolidays = 5

// holidaysBeyond are the holidays that the other time class does not have.
func (c *Calendar) holidaysBeyond(o *Calendar) string {
	var all []string
	for day, name := range c.Holidays {
		if _, ok := o.Holidays[day]; !ok {
			date := day.String()
			all = append(all, strings.TrimSpace(date+" "+strings.TrimPrefix(name, date)))
		}
	}
	slices.Sort(all)
	if more := len(all) - namedHolidays; more > 0 {
		all = append(all[:namedHolidays], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, ", ")
}

func (d *differ) discount(old, new *Discount) {
	if old.Percent != new.Percent || old.Nano != new.Nano {
		d.note(arrow(old.text(), new.text()))
	}
	d.value("of", strings.Join(old.Rates, ", "), strings.Join(new.Rates, ", "))
	d.value("from", dayText(old.From), dayText(new.From))
	d.value("until", dayText(old.Until), dayText(new.Until))
}

func (c *Discount) text() string { return strings.TrimPrefix(c.Text, c.Name+" ") }

func (d *differ) rate(old, new *Rate) {
	d.value("meter", old.meterText(), new.meterText())
	d.value("for", old.Where.text(), new.Where.text())
	d.value("grandfathered from", old.Former, new.Former)
	d.value("component", old.Component, new.Component)
	d.value("percentile", old.percentileText(), new.percentileText())
	d.prices(old, new)
	d.value("tiers", old.Tiers.String(), new.Tiers.String())
	d.value("counted over", old.poolText(), new.poolText())
	if !same(old.Granularity, new.Granularity) || old.Rounds != new.Rounds {
		d.value("granularity", old.Granularity.Text, new.Granularity.Text)
	}
	if o, n := &old.Minimum, &new.Minimum; !same(o.Usage, n.Usage) || o.Nano != n.Nano || o.For != n.For {
		d.value("minimum", o.Text, n.Text)
	}
	if o, n := &old.Included, &new.Included; !same(o.Amount, n.Amount) || o.Per != n.Per || !same(o.Month, n.Month) {
		d.value("included", o.text(), n.text())
	}
	if o, n := &old.Cap, &new.Cap; o.Set != n.Set || o.Nano != n.Nano || !same(o.Units, n.Units) {
		d.value("cap", o.Text, n.Text)
	}
	if o, n := &old.TenantCap, &new.TenantCap; o.Set != n.Set || o.Nano != n.Nano || !same(o.Units, n.Units) {
		d.value("cap of all", o.Text, n.Text)
	}
	d.value("on resize", old.OnResize.String(), new.OnResize.String())
	d.value("top-up", fmt.Sprint(old.TopUp), fmt.Sprint(new.TopUp))
}

// text is a rate in one line, as far as it is not the default.
func (r *Rate) text() string {
	all := []string{r.meterText()}
	if w := r.Where.text(); w != "" {
		all[0] += " for " + w
	}
	for _, s := range r.intervals(nil) {
		all = append(all, strings.TrimPrefix(s.label+" ", " ")+r.Steps[s.step].Text)
	}
	for _, extra := range [][2]string{{"percentile", r.percentileText()}, {"minimum", r.Minimum.Text}, {"granularity", r.Granularity.Text},
		{"included", r.Included.text()}, {"cap", r.Cap.Text}, {"cap of all", r.TenantCap.Text}} {
		if extra[1] != "" {
			all = append(all, extra[0]+" "+extra[1])
		}
	}
	return strings.TrimPrefix(strings.Join(all, ", "), ", ")
}

func (r *Rate) meterText() string {
	names := []string{string(r.Meter)}
	for _, m := range r.Also {
		names = append(names, string(m))
	}
	text := strings.Join(names, " + ")
	if r.OrHigher != "" {
		text += " or " + string(r.OrHigher) + ", the higher"
	}
	return text
}

func (r *Rate) percentileText() string {
	switch {
	case r.Percentile == 0:
		return ""
	case r.ValidDays:
		return fmt.Sprintf("%d of valid days", r.Percentile)
	}
	return fmt.Sprint(r.Percentile)
}

// text is the allowance as a plan writes it, "" for none.
func (in Included) text() string {
	switch {
	case in.Amount.IsZero():
		return ""
	case in.Per == PerResource:
		return in.Amount.Text + " per resource"
	case in.Per == PerInstanceMonth && !in.Month.IsZero():
		return in.Amount.Text + " per instance-month(" + in.Month.Text + ")"
	case in.Per == PerInstanceMonth:
		return in.Amount.Text + " per instance-month"
	}
	return in.Amount.Text
}

// text is "flavor small or medium, image debian", "" where it fits all.
func (w *Where) text() string {
	var all []string
	for i, values := range w.conditions() {
		if len(values) > 0 {
			values = slices.Sorted(slices.Values(values))
			all = append(all, [...]string{"flavor", "image", "region", "host class", "time"}[i]+" "+strings.Join(values, " or "))
		}
	}
	if w.CreatedFrom != "" {
		all = append(all, "created from "+w.CreatedFrom)
	}
	if w.CreatedBefore != "" {
		all = append(all, "created before "+w.CreatedBefore)
	}
	return strings.Join(all, ", ")
}

// String is the notation of plans.
func (t Tiers) String() string { return [...]string{"graduated", "volume", "package", "sustained"}[t] }

func (r *Rate) poolText() string {
	return strings.TrimSpace([...]string{"resource", "tenant", "like"}[r.Pool] + " " + strings.Join(r.Like, ", "))
}

// String is the notation of plans.
func (o OnResize) String() string { return [...]string{"prorate", "restart"}[o] }

// prices compares step by step, where either of the rates has a threshold.
func (d *differ) prices(old, new *Rate) {
	after := new.intervals(old)
	for i, was := range old.intervals(new) {
		o, n := &old.Steps[was.step], &new.Steps[after[i].step]
		if o.priceRat().Cmp(n.priceRat()) == 0 && o.Unit.Month == n.Unit.Month {
			continue
		}
		label := was.label
		if label == "" {
			label = "price"
		}
		d.note(label + ": " + arrow(o.Text, n.Text))
	}
}

// interval is a range of usage under one step.
type interval struct {
	label string // "", "up to 10 TiB", "10 TiB to 50 TiB", "above 50 TiB"
	step  int
}

// intervals are the ranges between all thresholds of both rates, by size, and
// the step of r that each lies in.
func (r *Rate) intervals(o *Rate) []interval {
	all := r.thresholds()
	if o != nil {
		all = append(all, o.thresholds()...)
	}
	slices.SortStableFunc(all, func(a, b Span) int { return a.nominal().Cmp(b.nominal()) })
	all = slices.CompactFunc(all, func(a, b Span) bool { return a.nominal().Cmp(b.nominal()) == 0 })
	var found []interval
	for i, step := 0, 0; i <= len(all); i++ {
		var label string
		switch {
		case len(all) == 0:
		case i == 0:
			label = "up to " + all[0].Text
		case i == len(all):
			label = "above " + all[i-1].Text
		default:
			label = all[i-1].Text + " to " + all[i].Text
		}
		found = append(found, interval{label, step})
		if i < len(all) && step < len(r.Steps)-1 && r.Steps[step].UpTo.nominal().Cmp(all[i].nominal()) == 0 {
			step++
		}
	}
	return found
}

func (r *Rate) thresholds() []Span {
	var all []Span
	for _, s := range r.Steps[:len(r.Steps)-1] {
		all = append(all, s.UpTo)
	}
	return all
}

// nominalMonth is how long a month is taken to be where months are compared
// with other units, in seconds.
const nominalMonth = 730 * 3600

// nominal is the span in thousandths of the base unit, in a nominal month.
func (s Span) nominal() *big.Rat {
	n := new(big.Rat).SetInt(new(big.Int).SetUint64(s.Thousandths))
	return n.Mul(n, s.Unit.nominal())
}

func (u Unit) nominal() *big.Rat {
	num, den := new(big.Int).SetUint64(u.Num), new(big.Int).SetUint64(max(u.Den, 1))
	if u.Month {
		num.Mul(num, big.NewInt(nominalMonth))
	}
	return new(big.Rat).SetFrac(num, den)
}

// same reports whether two spans mean the same in every month.
func same(a, b Span) bool {
	return a.nominal().Cmp(b.nominal()) == 0 && (a.IsZero() || a.Unit.Month == b.Unit.Month)
}

// priceRat is the price of a base unit, in billionths, in a nominal month.
func (s *Step) priceRat() *big.Rat {
	per := new(big.Rat).Mul(new(big.Rat).SetInt(new(big.Int).SetUint64(s.Count)), s.Unit.nominal())
	return per.Quo(new(big.Rat).SetInt64(s.Nano), per)
}
