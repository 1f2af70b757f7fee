// Package planfile reads price plans written in YAML.
//
// It owns the notation of plans: units, prices, spans, calendars and their
// holidays, and what is refused. It never rates, and what it returns needs no
// second check.
//
// Invariants:
//   - Every error names file, line and column, and what would be right.
//   - Nothing in a file is ignored: an unknown key is an error.
//   - Numbers are read as decimals, never as floats.
//
// # The notation
//
// A plan:
//
//	plan           its name
//	currency       a code of ISO 4217
//	timezone       of calendars and dates; UTC if not said
//	effective      2026-12-01, or 2026-12-15 mid-period
//	grandfathered  {until: 2027-06-01}: resources created before this version takes
//	               effect keep the rates of the version before, and what that one
//	               kept, in periods that begin before the day; the minimum spend,
//	               discounts and commitments are this version's for all
//	flavors        name: {vcpus, memory, disk}
//	calendar       time classes: name: {daily, weekly, weekends, holidays}
//	rates          a list, see below
//	discounts      [{name, percent or amount, rates, from, until}], one after the other
//	minimum_spend  5.00 per month; what all charges lack of it is charged
//	tenants        id: {rates, discounts, minimum_spend}: agreed with one tenant; a
//	               rate stands in place of the one of its id, or is a further one
//	rounding       half-away, half-even, up or down: of each line, once over all resources
//
// A rate:
//
//	id           its name, unique in the plan
//	component    rates of one component exclude each other, those of several add up
//	meter        one, or a list of meters in one unit that count together
//	or_higher    a second meter, which counts instead where it comes to more
//	percentile   95, or 95 of valid days: bills that percentile of five-minute slots
//	where        {flavor, image, region, host_class, time}: a value or a list each
//	price        0.0075 per hour; 0.01 per 100 GiB; or steps
//	steps        [{up to: 10 TiB, price: …}, …, {price: …}]
//	tiers        graduated (each part in its step), volume (all in one step),
//	             package (graduated by started price units) or sustained (steps of
//	             time, up to: 0.25 month: the slots of the period are ranked by
//	             usage, and the highest are priced in the first step)
//	pool         resource, tenant, or a list of labels: over what usage is added up;
//	             [region, flavor] is over all resources that have both in common
//	minimum      60 s; 0.01 EUR; [60 s, 0.01 EUR], the larger; per start (default),
//	             per resource, or per tenant, which is due without usage too; a start
//	             counts as a whole, also what of it no rate fits
//	granularity  1 h, per start (default) or per resource: started units count
//	included     500 GiB, per tenant, per resource, per instance-month or
//	             per instance-month(672 h)
//	cap          4.90 per month, or in units: 672 h; 50.00 per month per tenant is of
//	             all resources of a rate that does not pool them; or a list of both
//	on_resize    prorate or restart: each flavor of a resource has a share of cap and
//	             allowance, by usage of the rate's own meter as far as rates rate it
//
// Units: s, min, hour (h), day, month and month(730 h); B, kB to TB and KiB to
// TiB; operation, thousand and million; vCPU-hour, GiB-month and the like; for
// percentiles kbit/s, Mbit/s and Gbit/s. A month is the billing month that the
// usage lies in.
//
// Some rules that need no word of their own: a price list in another currency
// is another plan; a commitment is a minimum per tenant with its price as the
// first step; sustained use of each resource for itself is steps of parts of a
// month; a fee by the time is
// a price per month; a fee that is charged whole is a package of a month.
package planfile
