package invoicing

import (
	"fmt"
	"slices"
	"strings"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
)

// Backtest is what real usage of a period costs under two plans: before, as
// each tenant is billed, and after. Sums are of invoices without tax, each
// rounded as it would be.
type Backtest struct {
	Currency      money.Currency
	Before, After money.Amount
	ByFlavor      []Compared // by name; "" is what is pooled over a tenant
	ByMeter       []Compared // by name; "" is minimum spend
	ByTenant      []Compared // in the order they were added
	Unrated       []Leak
	Skipped       []Skipped
}

// Compared is what one flavor, meter or tenant costs under both plans.
type Compared struct {
	Name          string
	Before, After money.Amount
}

// Leak is usage of one tenant that no rate of a plan fits.
type Leak struct {
	Tenant    metering.TenantID
	Plan      string // before or after
	Meter     metering.Meter
	Flavor    string
	Resources int
	Quantity  metering.Quantity
}

// Skipped is a tenant that could not be compared.
type Skipped struct {
	Tenant metering.TenantID
	Reason string
}

// What Leak.Plan says.
const (
	LeakBefore = "before"
	LeakAfter  = "after"
)

// Add rates a tenant's usage of a period under both sides' plans, which are in the
// backtest's currency; usage is split at the ends of both.
func (b *Backtest) Add(tenant metering.TenantID, before, after Rated, usage []metering.Usage) error {
	flavors := map[metering.ResourceID]string{}
	for _, u := range usage {
		flavors[u.Resource] = u.Labels.Flavor // the last, where it was resized
	}
	row := Compared{Name: string(tenant), Before: money.Amount{Currency: b.Currency}, After: money.Amount{Currency: b.Currency}}
	for _, side := range []struct {
		Rated
		name string
		sum  *money.Amount
		of   func(*Compared) *money.Amount
	}{
		{before, LeakBefore, &row.Before, func(c *Compared) *money.Amount { return &c.Before }},
		{after, LeakAfter, &row.After, func(c *Compared) *money.Amount { return &c.After }},
	} {
		bill, err := side.Bill(usage)
		if err != nil {
			return fmt.Errorf("bill of %s: %w", tenant, err)
		}
		for _, l := range bill.Lines {
			if err := b.addLine(&l, flavors, side.of); err != nil {
				return err
			}
			if *side.sum, err = side.sum.Add(l.Net); err != nil {
				return err
			}
		}
		b.leaks(tenant, side.name, bill.Unrated)
	}
	return b.Join(&Backtest{Before: row.Before, After: row.After, ByTenant: []Compared{row}})
}

// Join adds the tenants of another backtest in the same currency, after those there are.
func (b *Backtest) Join(o *Backtest) error {
	for _, lists := range []struct {
		to   *[]Compared
		from []Compared
	}{{&b.ByFlavor, o.ByFlavor}, {&b.ByMeter, o.ByMeter}} {
		for _, c := range lists.from {
			if err := b.row(lists.to, c.Name).add(c); err != nil {
				return err
			}
		}
	}
	sum := Compared{Before: b.Before, After: b.After}
	if err := sum.add(Compared{Before: o.Before, After: o.After}); err != nil {
		return err
	}
	b.Before, b.After = sum.Before, sum.After
	b.ByTenant, b.Unrated, b.Skipped = append(b.ByTenant, o.ByTenant...), append(b.Unrated, o.Unrated...), append(b.Skipped, o.Skipped...)
	return nil
}

func (c *Compared) add(o Compared) (err error) {
	if c.Before, err = c.Before.Add(o.Before); err == nil {
		c.After, err = c.After.Add(o.After)
	}
	return err
}

// addLine counts a line's shares where they belong.
func (b *Backtest) addLine(l *rating.Line, flavors map[metering.ResourceID]string, side func(*Compared) *money.Amount) error {
	for _, share := range l.Shares {
		flavor := flavors[share.Resource]
		if len(l.Rate.Where.Flavor) == 1 {
			flavor = l.Rate.Where.Flavor[0]
		}
		for _, at := range []struct {
			list *[]Compared
			name string
		}{{&b.ByFlavor, flavor}, {&b.ByMeter, string(l.Rate.Meter)}} {
			sum := side(b.row(at.list, at.name))
			var err error
			if *sum, err = sum.Add(share.Net); err != nil {
				return fmt.Errorf("sum up %s: %w", at.name, err)
			}
		}
	}
	return nil
}

// row is the row of a name, in order.
func (b *Backtest) row(list *[]Compared, name string) *Compared {
	i, ok := slices.BinarySearchFunc(*list, name, func(c Compared, name string) int { return strings.Compare(c.Name, name) })
	if !ok {
		*list = slices.Insert(*list, i, Compared{name, money.Amount{Currency: b.Currency}, money.Amount{Currency: b.Currency}})
	}
	return &(*list)[i]
}

// leaks notes unrated usage, by meter and flavor.
func (b *Backtest) leaks(tenant metering.TenantID, plan string, unrated []rating.Unrated) {
	for _, u := range SumUnrated(unrated) {
		b.Unrated = append(b.Unrated, Leak{Tenant: tenant, Plan: plan, Meter: u.Meter, Flavor: u.Flavor, Resources: u.Resources, Quantity: u.Quantity})
	}
}
