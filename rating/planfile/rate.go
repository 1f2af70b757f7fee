package planfile

import (
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
)

// rate reads one rate. Units depend on the meter, so that is read first.
func (d *decoder) rate(n *yaml.Node, plan *rating.Plan) rating.Rate {
	var r rating.Rate
	base, known := "", false
	if m := child(n, "meter"); m != nil {
		base, known = d.meters(m, &r)
	}
	if p := child(n, "percentile"); p != nil && known {
		r.Percentile, r.ValidDays = d.percentile(p, base)
		base = slotBytes
	}
	var price, steps *yaml.Node
	d.mapping(n, "a rate", fields{
		"id":          func(n *yaml.Node) { r.ID = d.name(n) },
		"component":   func(n *yaml.Node) { r.Component = d.name(n) },
		"meter":       nil,
		"or_higher":   func(n *yaml.Node) { r.OrHigher = d.orHigher(n, &r) },
		"percentile":  nil,
		"where":       func(n *yaml.Node) { r.Where = d.where(n, plan) },
		"price":       func(n *yaml.Node) { price = n },
		"tiers":       func(n *yaml.Node) { r.Tiers = rating.Tiers(d.choice(n, "graduated", "volume", "package", "sustained")) },
		"steps":       func(n *yaml.Node) { steps = n },
		"pool":        func(n *yaml.Node) { r.Pool, r.Like = d.pool(n) },
		"minimum":     nil,
		"granularity": nil,
		"included":    nil,
		"cap":         nil,
		"on_resize":   func(n *yaml.Node) { r.OnResize = rating.OnResize(d.choice(n, "prorate", "restart")) },
	}, "id", "meter")
	if c := child(n, "cap"); c != nil && known {
		d.caps(c, base, &r)
	}
	if in := child(n, "included"); in != nil && known {
		r.Included = d.included(in, base, r.Pool)
	}
	if g := child(n, "granularity"); g != nil && known {
		r.Granularity, r.Rounds = d.granularity(g, base, r.Pool)
	}
	if m := child(n, "minimum"); m != nil && known {
		r.Minimum = d.minimum(m, base, r.Pool, string(plan.Currency))
	}
	switch {
	case n.Kind != yaml.MappingNode || !known:
	case price == nil && steps == nil:
		d.errorf(n, "a rate needs a price, such as %s, or steps", priceExamples[base])
	case price != nil && steps != nil:
		d.errorf(steps, "a rate has either a price or steps")
	case price != nil:
		if child(n, "tiers") != nil && r.Tiers != rating.Package {
			d.errorf(child(n, "tiers"), "tiers need steps in place of a price")
		}
		r.Steps = []rating.Step{d.price(price, base)}
	default:
		upTo := base
		if r.Tiers == rating.Sustained {
			upTo = "s"
		}
		r.Steps = d.steps(steps, base, upTo)
	}
	if r.Minimum.Nano > 0 && len(r.Steps) > 0 && r.Steps[0].Nano == 0 && r.Steps[0].Count > 0 {
		d.errorf(n, "a minimum in money is the usage that it buys in the first step, and there everything is free; state it as usage")
	}
	if r.Percentile > 0 && (!r.Granularity.IsZero() || !r.Minimum.IsZero() && r.Minimum.For != rating.ForTenant) {
		d.errorf(n, "a percentile has no starts, so neither granularity nor minimum apply, but one per tenant")
	}
	if r.Tiers == rating.Sustained {
		d.checkSustained(n, &r, base)
	}
	return r
}

// checkSustained refuses what has no meaning where slots are ranked.
func (d *decoder) checkSustained(n *yaml.Node, r *rating.Rate, base string) {
	switch {
	case !strings.HasSuffix(base, "s"):
		d.errorf(n, "sustained use is of a meter in s, vCPU·s or MiB·s, and not in %s", base)
	case r.Percentile > 0 || r.OrHigher != "":
		d.errorf(n, "a percentile ranks slots itself; tiers sustained go without percentile and or_higher")
	case !r.Granularity.IsZero() || !r.Minimum.IsZero() || !r.Included.Amount.IsZero():
		d.errorf(n, "tiers sustained rank slots, so granularity, minimum and included have nothing to apply to")
	}
}

// pool reads "resource", "tenant", or the labels that like resources have in
// common: "region", "[region, flavor]".
func (d *decoder) pool(n *yaml.Node) (rating.Pool, []string) {
	if s, ok := n.Value, n.Kind == yaml.ScalarNode; ok && (s == "resource" || s == "tenant") {
		return rating.Pool(d.choice(n, "resource", "tenant")), nil
	}
	words := []string{"flavor", "image", "region", "host_class"}
	var like []string
	for _, item := range d.list(n) {
		switch s, ok := d.scalar(item); {
		case !ok:
		case !slices.Contains(words, s):
			d.errorf(item, "%q is nothing to pool over; resource and tenant are, and lists of %s", s, quoted(words))
		case slices.Contains(like, s):
			d.errorf(item, "%q stands in this list already", s)
		default:
			like = append(like, s)
		}
	}
	slices.Sort(like)
	return rating.PoolLike, like
}

// percentile reads "95", "95 of valid days".
func (d *decoder) percentile(n *yaml.Node, base string) (percentile int, validDays bool) {
	s, ok := d.scalar(n)
	if !ok {
		return 0, false
	}
	number, validDays := strings.CutSuffix(s, " of valid days")
	percentile, err := strconv.Atoi(number)
	if err != nil || percentile < 1 || percentile > 99 {
		d.errorf(n, "%q is not a percentile from 1 to 99; 95 is, and 95 of valid days", s)
	}
	if base != "B" {
		d.errorf(n, "a percentile is of a meter in B, and not in %s", base)
	}
	return percentile, validDays
}

// orHigher reads the meter that counts where it comes to more.
func (d *decoder) orHigher(n *yaml.Node, r *rating.Rate) metering.Meter {
	s, ok := d.scalar(n)
	if !ok {
		return ""
	}
	mine, _ := r.Meter.BaseUnit()
	if unit, known := metering.Meter(s).BaseUnit(); !known || unit != mine || s == string(r.Meter) {
		d.errorf(n, "%q is not another meter in %s", s, mine)
	}
	return metering.Meter(s)
}

// meters reads one meter, or several in one base unit that count together.
func (d *decoder) meters(n *yaml.Node, r *rating.Rate) (base string, known bool) {
	for i, item := range d.list(n) {
		s, ok := d.scalar(item)
		if !ok {
			return "", false
		}
		m := metering.Meter(s)
		unit, ok := m.BaseUnit()
		switch {
		case !ok:
			d.errorf(item, "there is no meter %q; the meters are %s", s, meterNames())
			return "", false
		case i == 0:
			r.Meter, base = m, unit
			continue
		case unit != base:
			d.errorf(item, "meter %s is in %s and not in %s as %s is; they cannot count together", s, unit, base, r.Meter)
		case m == r.Meter || slices.Contains(r.Also, m):
			d.errorf(item, "meter %s twice", s)
		}
		r.Also = append(r.Also, m)
	}
	return base, r.Meter != ""
}

// granularity reads "1 h", "1 h per start", "1 h per resource".
func (d *decoder) granularity(n *yaml.Node, base string, pool rating.Pool) (rating.Span, rating.For) {
	s, ok := d.scalar(n)
	if !ok {
		return rating.Span{}, 0
	}
	least, per, _ := strings.Cut(s, " per ")
	span, err := parseSpan(strings.TrimSpace(least), base)
	if err != nil {
		d.errorf(n, "granularity: %v", err)
	}
	span.Text = s
	switch per = strings.TrimSpace(per); {
	case per == "" || per == "start":
		return span, rating.ForStart
	case per == "resource" && pool == rating.PoolResource:
		return span, rating.ForResource
	case per == "resource":
		d.errorf(n, "granularity per resource needs pool: resource")
	default:
		d.errorf(n, "granularity per %q is not known; per start and per resource are", per)
	}
	return span, 0
}

func meterNames() string {
	var names []string
	for _, m := range metering.Meters() {
		names = append(names, string(m))
	}
	return quoted(names)
}

func (d *decoder) span(n *yaml.Node, base string) rating.Span {
	s, ok := d.scalar(n)
	if !ok {
		return rating.Span{}
	}
	span, err := parseSpan(s, base)
	if err != nil {
		d.errorf(n, "%v", err)
	}
	return span
}

func (d *decoder) price(n *yaml.Node, base string) rating.Step {
	s, ok := d.scalar(n)
	if !ok {
		return rating.Step{}
	}
	step, err := parsePrice(s, base)
	if err != nil {
		d.errorf(n, "price: %v", err)
	}
	return step
}

// steps reads the steps of a rate: rising, the last without an end.
func (d *decoder) steps(n *yaml.Node, base, ends string) []rating.Step {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		d.errorf(n, "steps must be a list such as [{up to: %s, price: %s}, {price: …}]", examples[ends], priceExamples[base])
		return nil
	}
	var steps []rating.Step
	last := len(n.Content) - 1
	for i, item := range n.Content {
		var step rating.Step
		var upTo *yaml.Node
		wrong := len(d.errors)
		d.mapping(item, "a step", fields{
			"up to": func(n *yaml.Node) { upTo = n },
			"price": func(n *yaml.Node) { step = d.price(n, base) },
		}, "price")
		switch {
		case len(d.errors) > wrong: // a misspelt up to is one mistake
		case i == last && upTo != nil:
			d.errorf(upTo, "the last step has an end, so usage above it would have no price; leave its up to away")
		case i < last && upTo == nil:
			d.errorf(item, "only the last step goes without up to")
		case upTo != nil:
			step.UpTo = d.span(upTo, ends)
			if i > 0 && !step.UpTo.IsZero() && !steps[i-1].UpTo.IsZero() && !above(step.UpTo, steps[i-1].UpTo) {
				d.errorf(upTo, "steps out of order: up to %s does not lie above up to %s before it", step.UpTo.Text, steps[i-1].UpTo.Text)
			}
		}
		steps = append(steps, step)
	}
	return steps
}

func (d *decoder) where(n *yaml.Node, plan *rating.Plan) rating.Where {
	var w rating.Where
	values := func(to *[]string) func(*yaml.Node) {
		return func(n *yaml.Node) {
			for _, item := range d.list(n) {
				s, ok := d.scalar(item)
				if ok && slices.Contains(*to, s) {
					d.warnf(item, "%q stands in this list already", s)
				} else if ok {
					*to = append(*to, s)
				}
			}
		}
	}
	d.mapping(n, "where", fields{
		"flavor":     values(&w.Flavor),
		"image":      values(&w.Image),
		"region":     values(&w.Region),
		"host_class": values(&w.HostClass),
		"time":       values(&w.Time),
	})
	d.classes = append(d.classes, classUse{child(n, "time"), w.Time})
	return w
}

// minimum reads "60 s", "0.01 EUR", "[60 s, 0.01 EUR]", "1 h per resource", "500 h per tenant".
func (d *decoder) minimum(n *yaml.Node, base string, pool rating.Pool, currency string) rating.Minimum {
	var m rating.Minimum
	for i, item := range d.list(n) {
		s, ok := d.scalar(item)
		if !ok {
			continue
		}
		least, per, _ := strings.Cut(s, " per ")
		whom := max(0, slices.Index([]string{"start", "resource", "tenant"}, strings.TrimSpace(per)))
		switch {
		case per != "" && whom == 0 && per != "start":
			d.errorf(item, "a minimum per %q is not known; per start, per resource and per tenant are", per)
		case rating.For(whom) == rating.ForTenant && pool != rating.PoolTenant:
			d.errorf(item, "a minimum per tenant needs pool: tenant")
		case rating.For(whom) == rating.ForResource && pool != rating.PoolResource:
			d.errorf(item, "a minimum per resource needs pool: resource")
		case i > 0 && m.For != rating.For(whom):
			d.errorf(item, "minimums of one rate are all per start, all per resource or all per tenant")
		}
		m.For = rating.For(whom)
		var err error
		if money, ok := strings.CutSuffix(least, " "+currency); ok {
			if m.Nano, err = parseDecimal(money); err == nil && m.Nano == 0 {
				d.errorf(item, "a minimum of nothing; leave it away")
			}
		} else {
			var span rating.Span
			if span, err = parseSpan(least, base); err == nil && !m.Usage.IsZero() {
				d.errorf(item, "a second minimum of usage; one of usage and one of money are read")
			}
			m.Usage = span
		}
		if err != nil {
			d.errorf(item, "minimum: %v", err)
		}
		m.Text = strings.TrimPrefix(m.Text+", "+s, ", ")
	}
	return m
}

// included reads "500 GiB", "500 GiB per instance-month", "… per instance-month(672 h)",
// "… per tenant", "… per resource".
func (d *decoder) included(n *yaml.Node, base string, pool rating.Pool) rating.Included {
	s, ok := d.scalar(n)
	if !ok {
		return rating.Included{}
	}
	amount, per, _ := strings.Cut(s, " per ")
	span, err := parseSpan(strings.TrimSpace(amount), base)
	if err != nil {
		d.errorf(n, "included: %v", err)
	}
	in := rating.Included{Amount: span}
	per = strings.TrimSpace(per)
	month, fixed := strings.CutPrefix(per, "instance-month(")
	switch {
	case per == "" || per == "month":
	case per == "tenant" || per == "tenant-month":
		if pool != rating.PoolTenant {
			d.errorf(n, "included per tenant needs pool: tenant; per resource and per instance-month do without")
		}
	case per == "resource" || per == "resource-month":
		in.Per = rating.PerResource
	case per == "instance-month":
		in.Per = rating.PerInstanceMonth
	case fixed:
		in.Per = rating.PerInstanceMonth
		if in.Month, err = parseSpan(strings.TrimSuffix(month, ")"), "s"); err != nil || !strings.HasSuffix(month, ")") {
			d.errorf(n, "included per %q is not known; per instance-month(672 h) is", per)
		}
	default:
		d.errorf(n, "included per %q is not known; per tenant, per resource and per instance-month are", per)
	}
	return in
}

// caps reads one cap, or one of each pool and one of the tenant.
func (d *decoder) caps(n *yaml.Node, base string, r *rating.Rate) {
	for _, item := range d.list(n) {
		s, ok := d.scalar(item)
		if !ok {
			continue
		}
		to, bound := &r.Cap, s
		if of, tenant := strings.CutSuffix(s, " per tenant"); tenant {
			if bound = of; r.Pool != rating.PoolTenant {
				to = &r.TenantCap
			}
		}
		if to.Set {
			d.errorf(item, "a second cap of the same; 4.90 per month and 50.00 per month per tenant go together where resources are not pooled")
		}
		*to = d.cap(item, bound, base)
		to.Text = s
	}
}

// cap reads "4.90 per month", "4.90", "672 h", "672 h per month".
func (d *decoder) cap(n *yaml.Node, s, base string) rating.Cap {
	c := rating.Cap{Set: true}
	bound, per, dated := strings.Cut(s, " per ")
	if per = strings.TrimSpace(per); dated && per != "month" {
		d.errorf(n, "a cap per %q is not known; 4.90 per month is, 672 h, and 50.00 per month per tenant", per)
		return c
	}
	var err error
	if strings.Contains(bound, " ") {
		c.Units, err = parseSpan(bound, base)
	} else {
		c.Nano, err = parseDecimal(bound)
	}
	if err != nil {
		d.errorf(n, "cap: %v", err)
	}
	return c
}

// shortMonth and longMonth are what a month has at least and at most, in seconds.
const (
	shortMonth = 28 * 86400
	longMonth  = 31*86400 + 3600
)

// above reports whether a lies above b in every month.
func above(a, b rating.Span) bool {
	for _, month := range []uint64{shortMonth, longMonth} {
		if spanRat(a, month).Cmp(spanRat(b, month)) <= 0 {
			return false
		}
	}
	return true
}
