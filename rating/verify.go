package rating

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Inputs says what Verify takes as a statement gives it.
const Inputs = "given: what was measured, when, and in which slots; the plan's prices, steps, minimums, granularities, allowances, caps and discounts"

// Verify computes a statement again from its own derivations and returns where
// it differs; none means that it is equal. What was measured and the plan's terms
// are given, see Inputs; all that follows from them is computed. A statement
// without derivations is an error.
func (s *Statement) Verify() (differences []string, err error) {
	mode, err := s.rounding()
	if err != nil {
		return nil, err
	}
	if _, err := money.ParseCurrency(string(s.Currency)); err != nil {
		return nil, err
	}
	v := verifier{statement: s, mode: mode, lines: make([]verified, len(s.Lines))}
	for i := range s.Lines {
		v.line(i)
	}
	v.starts()
	v.commitments()
	v.tenantCaps()
	v.discounts()
	v.topUp()
	v.sums()
	return v.differences, nil
}

// rounding is the one mode that all lines are rounded by.
func (s *Statement) rounding() (money.Rounding, error) {
	var found money.Rounding
	for i := range s.Lines {
		steps := s.Lines[i].Steps
		if len(steps) == 0 {
			return 0, errors.New("the statement is not explained; --explain makes one that is")
		}
		mode, err := money.ParseRounding(steps[len(steps)-1].Rounding)
		if err != nil {
			return 0, fmt.Errorf("line %d: %w", i+1, err)
		}
		if i > 0 && mode != found {
			return 0, fmt.Errorf("line %d is rounded %s and others %s", i+1, mode, found)
		}
		found = mode
	}
	return found, nil
}

type verifier struct {
	statement   *Statement
	mode        money.Rounding
	lines       []verified
	differences []string
}

// verified is a line as far as it has been computed again.
type verified struct {
	billable *big.Rat
	parts    []verifiedPart
	charge   *big.Rat // net of what has been taken off so far
}

type verifiedPart struct {
	quantity, each, net *big.Rat
}

// number reads a decimal or a quotient.
func (v *verifier) number(at, text string) *big.Rat {
	n := new(big.Rat)
	if text == "" {
		return n
	}
	if len(text) > maxNumber || strings.Trim(text, "-.0123456789/") != "" {
		v.differ(at, "%.40q is not a decimal or a quotient of at most %d digits", text, maxNumber)
		return n
	}
	if _, ok := n.SetString(text); !ok {
		v.differ(at, "%q is not a number", text)
		return new(big.Rat)
	}
	return n
}

// maxNumber bounds the text of a number in a statement; a longer one is a difference.
const maxNumber = 1000

func (v *verifier) differ(at, format string, args ...any) {
	v.differences = append(v.differences, at+": "+fmt.Sprintf(format, args...))
}

// same notes a difference where got is not want.
func (v *verifier) same(at, what string, got, want *big.Rat) {
	if got.Cmp(want) != 0 {
		v.differ(at, "%s is %s and should be %s", what, got.RatString(), want.RatString())
	}
}

// ruleOrder is the order in which the rules of a line stand; each works on what
// those before it came to.
var ruleOrder = []string{"start", "rank", "percentile", "higher", "minimum", "included", "price", "cap", "top-up", "tenant-cap", "discount", "share"}

func (v *verifier) at(line, step int) string {
	l := &v.statement.Lines[line]
	if step < 0 {
		return fmt.Sprintf("line %d (%s %s)", line+1, l.Resource, l.Rate)
	}
	return fmt.Sprintf("line %d (%s %s), step %d (%s)", line+1, l.Resource, l.Rate, step+1, l.Steps[step].Rule)
}

// line follows one line from its starts to what its own cap leaves.
func (v *verifier) line(i int) {
	l := &v.statement.Lines[i]
	c := lineVerifier{verifier: v, line: l, now: &v.lines[i], sides: make(map[metering.Meter]*side)}
	c.now.billable, c.now.charge = new(big.Rat), new(big.Rat)
	rank := 0
	for k := range l.Steps {
		d := &l.Steps[k]
		c.where = v.at(i, k)
		order := slices.Index(ruleOrder, d.Rule)
		if order < rank {
			v.differ(c.where, "an unknown rule, or one out of order")
		}
		rank = max(order, rank)
		c.step(d)
	}
	c.where = v.at(i, -1)
	if len(c.now.parts) == 0 || len(l.Steps) == 0 || l.Steps[len(l.Steps)-1].Rule != "share" {
		v.differ(c.where, "it is not explained from price to share")
	}
	if c.rest != nil && c.rest.Sign() > 0 {
		v.differ(c.where, "a quantity of %s has no price", c.rest.RatString())
	}
	if len(c.sides) > 0 {
		v.same(c.where, "quantity", v.number(c.where, l.Quantity), c.measured())
	}
}

// side is what a line's starts come to, of one meter.
type side struct {
	measured, billable *big.Rat
}

// lineVerifier computes one line.
type lineVerifier struct {
	*verifier
	where     string
	line      *StatementLine
	now       *verified
	sides     map[metering.Meter]*side // "" where a line has but one meter
	other     metering.Meter           // the second side, of a line with two that are ranked apart
	second    bool                     // and it counts
	ranked    ranking
	slotCount *big.Rat    // of ranked
	rest      *big.Rat    // what has no price yet
	last      *Derivation // the price before
}

// side is that of a meter.
func (c *lineVerifier) side(m metering.Meter) *side {
	if c.sides[m] == nil {
		c.sides[m] = &side{new(big.Rat), new(big.Rat)}
	}
	return c.sides[m]
}

// measured is the quantity of the side that counts, or of all meters.
func (c *lineVerifier) measured() *big.Rat {
	sum := new(big.Rat)
	for m, s := range c.sides {
		if c.other == "" || (m == c.other) == c.second {
			sum.Add(sum, s.measured)
		}
	}
	return sum
}

func (c *lineVerifier) step(d *Derivation) {
	quantity := c.number(c.where, d.Quantity)
	if unit, known := d.Meter.BaseUnit(); d.Meter != "" && (!known || unit != c.line.Unit) {
		c.differ(c.where, "%.40q is no meter in %s", string(d.Meter), c.line.Unit)
	}
	switch d.Rule {
	case "start":
		c.start(d, quantity)
	case "rank":
		c.ranked, c.slotCount = c.slots(d), big.NewRat(int64(len(d.Slots)), 1)
		c.same(c.where, "the sum of slots", c.ranked.total(c.slotCount), c.measured())
		c.now.billable = c.measured()
	case "percentile":
		c.percentile(d, quantity)
	case "higher":
		c.higher(d, quantity)
	case "minimum":
		c.minimum(d, quantity)
	case "included":
		allowed := c.portion(d, d.Each)
		c.same(c.where, "allowed", c.number(c.where, d.Allowed), allowed)
		c.same(c.where, "quantity", quantity, least(allowed, c.now.billable))
		c.rest = new(big.Rat).Sub(c.now.billable, quantity)
	case "price":
		c.price(d, quantity)
	case "cap":
		c.cap(d, quantity)
	}
}

// start checks one start's share, but for what its other lines know of it.
func (c *lineVerifier) start(d *Derivation, quantity *big.Rat) {
	measured := c.number(c.where, d.Measured)
	want := new(big.Rat).Sub(measured, c.number(c.where, d.Covered))
	c.same(c.where, "quantity", quantity, want.Add(want, c.number(c.where, d.Added)))
	s := c.side(d.Meter)
	s.measured.Add(s.measured, measured)
	s.billable.Add(s.billable, quantity)
	c.now.billable.Add(c.now.billable, quantity)
	period := &c.statement.Period
	var gaps []string
	at := period.Start
	for i, text := range d.Windows {
		start, end, _ := strings.Cut(text, "/")
		from, err := time.Parse(time.RFC3339, start)
		to, err2 := time.Parse(time.RFC3339, end)
		if err != nil || err2 != nil || from.Before(at) || !to.After(from) || to.After(period.End) {
			c.differ(c.where, "window %.60q is none, or not after those before it in the period", text)
			return
		}
		if i > 0 {
			gaps = append(gaps, metering.Window{Start: at, End: from}.String())
		}
		at = to
	}
	if !slices.Equal(gaps, d.Gaps) {
		c.differ(c.where, "gaps are %.200q and should be %.200q", d.Gaps, gaps)
	}
}

// ranking is slots by usage, the highest first.
type ranking []likeSlots

// likeSlots are slots of one usage each.
type likeSlots struct {
	used  *big.Rat
	slots int64
}

// total is the usage of the first ranked slots, as many as fit; of the one that
// it ends in, a part.
func (r ranking) total(fit *big.Rat) *big.Rat {
	sum, left := new(big.Rat), fit
	for _, like := range r {
		n := least(left, big.NewRat(like.slots, 1))
		sum.Add(sum, new(big.Rat).Mul(n, like.used))
		if left = new(big.Rat).Sub(left, big.NewRat(like.slots, 1)); left.Sign() <= 0 {
			break
		}
	}
	return sum
}

// slots reads what is ranked, one for each slot of the period or of some of its
// days.
func (c *lineVerifier) slots(d *Derivation) ranking {
	like := make(map[string]int64)
	for _, text := range d.Slots {
		like[text]++
	}
	var ranked ranking
	for text, n := range like {
		ranked = append(ranked, likeSlots{c.number(c.where, text), n})
	}
	period := c.statement.Period.End.Sub(c.statement.Period.Start)
	if of := int(period / metering.SlotLength); len(d.Days) == 0 && len(d.Slots) != of {
		c.differ(c.where, "%d slots and should be %d", len(d.Slots), of)
	}
	slices.SortFunc(ranked, func(a, b likeSlots) int { return b.used.Cmp(a.used) })
	return ranked
}

// percentile picks the slot of one side.
func (c *lineVerifier) percentile(d *Derivation, quantity *big.Rat) {
	ranked, n := c.slots(d), int64(len(d.Slots))
	if n == 0 || d.Percentile < 1 || d.Percentile > 99 {
		c.differ(c.where, "percentile %d of %d slots", d.Percentile, n)
		return
	}
	s := c.sides[d.Meter]
	if s == nil {
		s = c.side("") // of several meters that count together, or but one
		for m, o := range c.sides {
			if m != "" {
				s.measured.Add(s.measured, o.measured)
				delete(c.sides, m)
			}
		}
	}
	if got := ranked.total(big.NewRat(n, 1)); len(d.Days) == 0 && got.Cmp(s.measured) != 0 || got.Cmp(s.measured) > 0 {
		c.differ(c.where, "slots come to %s of %s", got.RatString(), s.measured.RatString())
	}
	dropped := n * int64(100-d.Percentile) / 100
	want := ranked.total(big.NewRat(dropped+1, 1))
	want.Sub(want, ranked.total(big.NewRat(dropped, 1)))
	if len(d.Days) > 0 {
		period := c.statement.Period.End.Sub(c.statement.Period.Start)
		for i, day := range d.Days {
			if _, err := time.Parse(time.DateOnly, day); err != nil || i > 0 && day <= d.Days[i-1] {
				c.differ(c.where, "%.40q is not a day after those before it", day)
			}
		}
		want.Mul(want, big.NewRat(int64(len(d.Days)), int64((period+12*time.Hour)/(24*time.Hour))))
	}
	c.same(c.where, "quantity", quantity, want)
	s.billable = want
	c.now.billable = want
}

// higher picks the side that comes to more.
func (c *lineVerifier) higher(d *Derivation, quantity *big.Rat) {
	c.other = d.Meter
	first, second := new(big.Rat), new(big.Rat)
	for m, s := range c.sides {
		if m == d.Meter {
			second = s.billable
		} else {
			first.Add(first, s.billable)
		}
	}
	c.now.billable, c.second = first, second.Cmp(first) > 0
	if c.second {
		c.now.billable = second
	}
	c.same(c.where, "quantity", quantity, c.now.billable)
}

// minimum is G(before + q) − G(before), where G is what the minimum and the
// granularity of the resource or the tenant make of it.
func (c *lineVerifier) minimum(d *Derivation, quantity *big.Rat) {
	before, paid := c.number(c.where, d.Grandfathered), new(big.Rat)
	paid.Set(before)
	switch d.Of {
	default:
		c.differ(c.where, "of %.40q, which is neither resource nor tenant", d.Of)
	case "tenant":
	case "resource":
		seen := make(map[string]bool)
		for k := range c.line.Steps {
			s := &c.line.Steps[k]
			if key := string(s.Meter) + " " + s.Start; s.Rule == "start" && !seen[key] {
				seen[key] = true
				before.Add(before, c.atLeast(c.number(c.where, s.Before), d.StartMinimum, d.StartMultiple))
			}
		}
		paid = c.atLeast(before, d.Minimum, d.Multiple)
	}
	want := c.number(c.where, d.Minimum)
	if total := new(big.Rat).Add(before, c.now.billable); total.Sign() > 0 {
		want = c.atLeast(total, d.Minimum, d.Multiple)
	}
	want = atLeast0(want.Sub(want, paid))
	c.same(c.where, "quantity", quantity, want)
	change := new(big.Rat).Sub(want, c.now.billable)
	c.same(c.where, "added", c.number(c.where, d.Added), atLeast0(change))
	c.same(c.where, "covered", c.number(c.where, d.Covered), atLeast0(new(big.Rat).Neg(change)))
	c.now.billable = want
}

// atLeast is what a granularity and a minimum make of a quantity; nothing stays
// nothing.
func (v *verifier) atLeast(q *big.Rat, minimum, multiple string) *big.Rat {
	if q.Sign() == 0 {
		return new(big.Rat)
	}
	q = new(big.Rat).Set(q)
	if unit := v.number("terms", multiple); unit.Sign() > 0 {
		n := new(big.Rat).Quo(q, unit)
		whole, over := new(big.Int).QuoRem(n.Num(), n.Denom(), new(big.Int))
		if over.Sign() > 0 {
			whole.Add(whole, big.NewInt(1))
		}
		q.Mul(unit, new(big.Rat).SetInt(whole))
	}
	if m := v.number("terms", minimum); m.Cmp(q) > 0 {
		return m
	}
	return q
}

// portion is what of a term is granted here.
func (v *verifier) portion(d *Derivation, each string) *big.Rat {
	whole := v.number(d.Rule, each)
	of, all, ok := strings.Cut(d.Portion, "/")
	if divisor := v.number(d.Rule, all); ok && divisor.Sign() > 0 {
		whole.Mul(whole, new(big.Rat).Quo(v.number(d.Rule, of), divisor))
	} else if d.Portion != "" {
		v.differ(d.Rule, "portion %.40q is no quotient", d.Portion)
	}
	return whole
}

// price checks how much falls into a step, and quantity × price.
func (c *lineVerifier) price(d *Derivation, quantity *big.Rat) {
	if d.Per <= 0 || d.Nano < 0 {
		c.differ(c.where, "a price of %d for %d", d.Nano, d.Per)
		return
	}
	if c.rest == nil {
		c.rest = new(big.Rat).Set(c.now.billable)
		if len(c.line.Steps[0].Rule) > 0 && c.line.Steps[0].Rule == "price" {
			c.rest.Set(quantity) // the minimum spend, which is of no usage
		}
	}
	c.inStep(d, quantity)
	each := new(big.Rat).SetFrac(big.NewInt(d.Nano), new(big.Int).Mul(big.NewInt(d.Per), big.NewInt(1_000_000_000)))
	amount := new(big.Rat).Mul(each, quantity)
	c.same(c.where, "amount", c.number(c.where, d.Amount), amount)
	c.now.parts = append(c.now.parts, verifiedPart{quantity, each, amount})
	c.now.charge.Add(c.now.charge, amount)
}

// inStep checks the quantity of a step against where it begins and ends.
func (c *lineVerifier) inStep(d *Derivation, quantity *big.Rat) {
	from, upTo := c.number(c.where, d.From), c.number(c.where, d.UpTo)
	if !slices.Contains([]string{"", "volume", "package", "sustained"}, d.Tiers) {
		c.differ(c.where, "tiers %.40q are not known", d.Tiers)
	}
	switch {
	case d.Tiers == "volume":
		if d.From != "" && c.rest.Cmp(from) <= 0 || d.UpTo != "" && c.rest.Cmp(upTo) > 0 {
			c.differ(c.where, "%s does not lie in the step", c.rest.RatString())
		}
		c.same(c.where, "quantity", quantity, c.rest)
		c.rest = new(big.Rat)
		return
	case c.last != nil && (d.Step != c.last.Step+1 || d.From != c.last.UpTo) || c.last == nil && (d.Step != 1 || d.From != ""):
		c.differ(c.where, "step %d does not begin where the one before it ends", d.Step)
	}
	c.last = d
	here := new(big.Rat).Set(c.rest)
	if d.UpTo != "" {
		here = least(here, new(big.Rat).Sub(upTo, from))
	}
	if d.Tiers == "sustained" {
		end := c.slotCount
		if d.UpTo != "" {
			end = inSlots(upTo)
		}
		here = new(big.Rat).Sub(c.ranked.total(end), c.ranked.total(inSlots(from)))
	}
	c.rest = new(big.Rat).Sub(c.rest, here)
	if d.Tiers == "package" {
		here = c.atLeast(here, "", d.Multiple)
	}
	c.same(c.where, "quantity", quantity, here)
}

// inSlots is how many slots fit in some seconds.
func inSlots(seconds *big.Rat) *big.Rat {
	return new(big.Rat).Mul(seconds, big.NewRat(1, int64(metering.SlotLength/time.Second)))
}

// cap takes off, from the last step back, what lies beyond it.
func (c *lineVerifier) cap(d *Derivation, quantity *big.Rat) {
	units := d.Bound == ""
	bound := c.number(c.where, d.Bound)
	if units {
		bound = quantity
	}
	if d.Each != "" {
		c.same(c.where, "the bound", bound, c.portion(d, d.Each))
	}
	over := new(big.Rat).Neg(bound)
	for _, p := range c.now.parts {
		if units {
			over.Add(over, p.quantity)
		} else {
			over.Add(over, p.net)
		}
	}
	off := new(big.Rat)
	for k := len(c.now.parts) - 1; k >= 0 && over.Sign() > 0; k-- {
		p := &c.now.parts[k]
		if units {
			beyond := least(over, p.quantity)
			off.Add(off, new(big.Rat).Mul(beyond, p.each))
			over = new(big.Rat).Sub(over, beyond)
		} else {
			beyond := least(over, p.net)
			off.Add(off, beyond)
			over = new(big.Rat).Sub(over, beyond)
		}
	}
	c.off(c.now, c.where, d, off)
}

// off takes an amount off a line, which the derivation should say.
func (v *verifier) off(l *verified, where string, d *Derivation, off *big.Rat) {
	v.same(where, "amount", v.number(where, d.Amount), new(big.Rat).Neg(off))
	l.charge.Sub(l.charge, off)
}

// each calls f for every derivation of a rule, line by line.
func (v *verifier) each(rule string, f func(line int, where string, d *Derivation)) {
	for i := range v.statement.Lines {
		for k := range v.statement.Lines[i].Steps {
			if d := &v.statement.Lines[i].Steps[k]; d.Rule == rule {
				f(i, v.at(i, k), d)
			}
		}
	}
}

// wholeStart is one start in all lines that have some of it.
type wholeStart struct {
	where                    string
	first                    *Derivation
	meter                    metering.Meter
	measured, covered, added *big.Rat
}

// starts checks what granularity and minimum of each start add to its whole
// life: G(before + q) − G(before), where q is what all lines, and none, have of it.
func (v *verifier) starts() {
	type key struct {
		resource         metering.ResourceID
		component, start string
		meter            metering.Meter
	}
	whole := make(map[key]*wholeStart)
	var order []*wholeStart
	v.each("start", func(line int, where string, d *Derivation) {
		k := key{d.Resource, d.Component, d.Start, d.Meter}
		if k.meter == "" {
			k.meter = v.statement.Lines[line].Meter
		}
		if d.Life == "" && v.number(where, d.Covered).Sign() == 0 && v.number(where, d.Added).Sign() == 0 {
			return // nothing but what was measured
		}
		s := whole[k]
		if s == nil {
			s = &wholeStart{where, d, k.meter, new(big.Rat), new(big.Rat), new(big.Rat)}
			whole[k], order = s, append(order, s)
		}
		if f := s.first; d.Life != f.Life || d.Before != f.Before || d.Minimum != f.Minimum || d.Multiple != f.Multiple {
			v.differ(where, "it says other of the start than %s", s.where)
		}
		s.measured.Add(s.measured, v.number(where, d.Measured))
		s.covered.Add(s.covered, v.number(where, d.Covered))
		s.added.Add(s.added, v.number(where, d.Added))
	})
	for _, s := range order {
		v.wholeStart(s)
	}
}

func (v *verifier) wholeStart(s *wholeStart) {
	d := s.first
	before, life := v.number(s.where, d.Before), v.number(s.where, d.Life)
	paid := v.atLeast(before, d.Minimum, d.Multiple)
	total := v.atLeast(life, d.Minimum, d.Multiple)
	unrated := new(big.Rat).Sub(life, before)
	unrated.Sub(unrated, s.measured)
	covered := least(new(big.Rat).Sub(paid, before), new(big.Rat).Sub(life, before))
	added := atLeast0(total.Sub(total, most(life, paid)))
	switch {
	case unrated.Sign() < 0:
		v.differ(s.where, "the start's life is %s and its lines have more", life.RatString())
	case unrated.Sign() == 0:
		v.same(s.where, "covered", s.covered, covered)
		if s.added.Sign() != 0 || !v.addsUnrated(d, s.meter) {
			v.same(s.where, "added", s.added, added)
		}
	case !v.unrated(d, s.meter, unrated):
		v.differ(s.where, "the start's life has %s that no line has and that is not unrated", unrated.RatString())
	default: // some of it is unrated, and may be what is covered or where it ended
		if s.covered.Cmp(covered) > 0 || new(big.Rat).Add(s.covered, unrated).Cmp(covered) < 0 {
			v.differ(s.where, "covered is %s of %s", s.covered.RatString(), covered.RatString())
		}
		if s.added.Sign() != 0 {
			v.same(s.where, "added", s.added, added)
		}
	}
}

// unrated reports whether so much of a start's meter is listed as unrated.
func (v *verifier) unrated(d *Derivation, meter metering.Meter, q *big.Rat) bool {
	return slices.ContainsFunc(v.statement.Unrated, func(u StatementUnrated) bool {
		return u.Resource == d.Resource && u.Meter == meter && v.number("unrated", u.Quantity).Cmp(q) >= 0
	})
}

// addsUnrated reports whether a start of the meter ended with no rate in force,
// so that what would be added to it is unrated, be it after no usage.
func (v *verifier) addsUnrated(d *Derivation, meter metering.Meter) bool {
	return slices.ContainsFunc(v.statement.Unrated, func(u StatementUnrated) bool {
		return u.Resource == d.Resource && u.Meter == meter && u.Added != ""
	})
}

// commitments checks what earlier rates have of them.
func (v *verifier) commitments() {
	v.each("minimum", func(line int, where string, d *Derivation) {
		sum := new(big.Rat)
		for i := range v.lines {
			if strings.HasPrefix(v.statement.Lines[i].Rate, v.statement.Lines[line].Rate+"@") {
				sum.Add(sum, v.lines[i].billable)
			}
		}
		if d.Of == "tenant" {
			v.same(where, "grandfathered", v.number(where, d.Grandfathered), sum)
		}
	})
}

// tenantCaps takes off what all lines of a rate come to beyond its cap of all, of
// each its part.
func (v *verifier) tenantCaps() {
	all := make(map[string]*big.Rat)
	v.each("tenant-cap", func(line int, _ string, d *Derivation) {
		rate := v.statement.Lines[line].Rate
		if all[rate] == nil {
			all[rate] = new(big.Rat)
		}
		l := &v.lines[line]
		if d.Bound != "" {
			all[rate].Add(all[rate], l.charge)
			return
		}
		for _, p := range l.parts {
			all[rate].Add(all[rate], p.quantity)
		}
	})
	v.each("tenant-cap", func(line int, where string, d *Derivation) {
		of, bound := all[v.statement.Lines[line].Rate], v.number(where, d.Bound+d.Quantity)
		v.same(where, "all", v.number(where, d.All), of)
		off := new(big.Rat)
		if over := new(big.Rat).Sub(of, bound); over.Sign() > 0 {
			off.Mul(v.lines[line].charge, over.Quo(over, of))
		}
		v.off(&v.lines[line], where, d, off)
	})
}

// discounts takes off percentages, and absolute ones line by line until nothing
// is left of them.
func (v *verifier) discounts() {
	left := make(map[string]*big.Rat)
	v.each("discount", func(line int, where string, d *Derivation) {
		l := &v.lines[line]
		if d.Percent != "" {
			off := new(big.Rat).Mul(l.charge, v.number(where, d.Percent))
			v.off(l, where, d, off.Mul(off, big.NewRat(1, 100)))
			return
		}
		if left[d.Discount] == nil {
			left[d.Discount] = v.number(where, d.Bound)
		}
		off := least(left[d.Discount], l.charge)
		left[d.Discount] = new(big.Rat).Sub(left[d.Discount], off)
		v.off(l, where, d, off)
	})
	bounds := make(map[string]string)
	v.each("discount", func(_ int, where string, d *Derivation) {
		if first, ok := bounds[d.Discount]; ok && first != d.Bound+d.Percent {
			v.differ(where, "discount %.40q is %.40s and was %.40s before", d.Discount, d.Bound+d.Percent, first)
		}
		bounds[d.Discount] = d.Bound + d.Percent
	})
}

// topUp takes what all other lines come to off the minimum spend.
func (v *verifier) topUp() {
	v.each("top-up", func(line int, where string, d *Derivation) {
		sum := new(big.Rat)
		for i := range v.lines {
			if i != line {
				sum.Add(sum, v.lines[i].charge)
			}
		}
		v.off(&v.lines[line], where, d, least(sum, v.lines[line].charge))
	})
}

func least(a, b *big.Rat) *big.Rat {
	if b.Cmp(a) < 0 {
		return b
	}
	return a
}

func most(a, b *big.Rat) *big.Rat {
	if b.Cmp(a) > 0 {
		return b
	}
	return a
}

// atLeast0 is a, or 0 where it is negative.
func atLeast0(a *big.Rat) *big.Rat {
	if a.Sign() < 0 {
		return new(big.Rat)
	}
	return a
}

// sums checks rounding, shares and total, rate by rate.
func (v *verifier) sums() {
	s := v.statement
	total := new(big.Rat)
	var done []string
	for i := range s.Lines {
		if slices.Contains(done, s.Lines[i].Rate) {
			continue
		}
		done = append(done, s.Lines[i].Rate)
		var of []int
		var parts []money.Fraction
		all := new(big.Rat)
		for k := i; k < len(s.Lines); k++ {
			if s.Lines[k].Rate == s.Lines[i].Rate {
				of, parts = append(of, k), append(parts, money.FracRat(v.lines[k].charge))
				all.Add(all, v.lines[k].charge)
			}
		}
		whole, shares := money.SumShares(parts, s.Currency, v.mode)
		total.Add(total, v.number("total", whole.String()))
		for n, k := range of {
			v.share(k, v.lines[k].charge, all, whole.String(), shares[n].String())
		}
	}
	v.same("total", "it", v.number("total", s.Total), total)
}

// share checks the last derivation of a line, and the line's amount.
func (v *verifier) share(line int, exact, all *big.Rat, whole, share string) {
	l := &v.statement.Lines[line]
	where := v.at(line, len(l.Steps)-1)
	d := &l.Steps[len(l.Steps)-1]
	v.same(where, "exact", v.number(where, d.Exact), exact)
	v.same(where, "all", v.number(where, d.All), all)
	if d.Whole != whole {
		v.differ(where, "whole is %.40s and should be %s", d.Whole, whole)
	}
	if d.Amount != share {
		v.differ(where, "amount is %.40s and should be %s", d.Amount, share)
	}
	if l.Amount != share {
		v.differ(v.at(line, -1), "amount is %.40s and should be %s", l.Amount, share)
	}
}
