package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
	"github.com/usance/usance/rating/money"
)

const (
	// backtestPage is how many accounts the control plane tries in one request.
	backtestPage = 50
	// backtestRows is how many tenants on either side the table shows; csv and
	// json show all.
	backtestRows = 10
)

// backtestFlags are the flags of plan backtest.
type backtestFlags struct {
	plan, against, format string
	portal.CreateBacktest
}

// planBacktest prints what real usage of a month would have cost under a plan.
func planBacktest(ctx context.Context, p program, args []string) int {
	const name = "plan backtest"
	var b backtestFlags
	f := p.flags(name, name+" [flags] --plan FILE --period MONTH")
	client := asOperator(f)
	b.flags(f)
	if code, ok := p.parse(f, args); !ok {
		return code
	}
	if f.NArg() != 0 || b.plan == "" || b.Period == "" || !slices.Contains([]string{"table", "csv", "json"}, b.format) {
		f.Usage()
		return exitUsage
	}
	c, err := client()
	if err == nil {
		err = b.run(ctx, p, c)
	}
	if err != nil {
		return p.fail(name, err)
	}
	return exitOK
}

func (b *backtestFlags) flags(f *flag.FlagSet) {
	f.StringVar(&b.plan, "plan", "", "plan `file` to be tried, or preset:NAME")
	f.StringVar(&b.against, "against", "current", "`file` or preset:NAME to compare with; current is what each tenant is billed under")
	f.StringVar(&b.Period, "period", "", "`month` such as 2026-10, in each tenant's billing zone")
	f.StringVar((*string)(&b.Tenant), "tenant", "", "only this `tenant`, whatever its plan")
	f.BoolVar(&b.All, "all", false, "also tenants on plans of another name")
	f.BoolVar(&b.AtPar, "at-par", false, "take the plan's prices as of the tenants' currency")
	f.StringVar(&b.format, "format", "table", "table, csv or json")
}

// run asks page by page and prints the whole.
func (b *backtestFlags) run(ctx context.Context, p program, c *apiClient) error {
	source, err := planSource(b.plan)
	if err != nil {
		return err
	}
	b.Plan = string(source)
	if b.against != "current" {
		if source, err = planSource(b.against); err != nil {
			return err
		}
		b.Against = string(source)
	}
	var whole portal.BacktestJSON
	bar := progress{out: p.stderr}
	for after, done := "", 0; ; {
		var page portal.BacktestJSON
		path := fmt.Sprintf("/operator/backtest?limit=%d&after=%s", backtestPage, url.QueryEscape(after))
		if err := c.call(ctx, "POST", path, b.CreateBacktest, &page); err != nil {
			bar.clear()
			return err
		}
		if whole, err = joined(whole, page); err != nil {
			bar.clear()
			return err
		}
		done = min(done+backtestPage, page.Accounts)
		bar.show(done, page.Accounts)
		if after = page.Next; after == "" {
			break
		}
	}
	bar.clear()
	switch b.format {
	case "json":
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(whole)
	case "csv":
		return backtestCSV(p.stdout, whole)
	}
	return backtestTable(p.stdout, whole)
}

// progress draws a bar, on a terminal only.
type progress struct {
	out   io.Writer
	drawn bool
}

func (b *progress) show(done, of int) {
	const width = 40
	file, ok := b.out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) || of == 0 {
		return
	}
	full := done * width / of
	fmt.Fprintf(b.out, "\r[%s%s] %d of %d accounts", strings.Repeat("#", full), strings.Repeat(".", width-full), done, of)
	b.drawn = true
}

func (b *progress) clear() {
	if b.drawn {
		fmt.Fprint(b.out, "\r\x1b[K")
	}
}

// joined adds a page to those before it.
func joined(whole, page portal.BacktestJSON) (portal.BacktestJSON, error) {
	if whole.Currency == "" {
		page.Next = ""
		return page, nil
	}
	total, err := addRows([]portal.ComparedJSON{{Before: whole.Before, After: whole.After}}, []portal.ComparedJSON{{Before: page.Before, After: page.After}}, page.Currency)
	if err != nil {
		return whole, err
	}
	whole.Before, whole.After = total[0].Before, total[0].After
	if whole.ByFlavor, err = addRows(whole.ByFlavor, page.ByFlavor, page.Currency); err != nil {
		return whole, err
	}
	if whole.ByMeter, err = addRows(whole.ByMeter, page.ByMeter, page.Currency); err != nil {
		return whole, err
	}
	whole.Tenants = append(whole.Tenants, page.Tenants...)
	whole.Unrated = append(whole.Unrated, page.Unrated...)
	whole.Skipped = append(whole.Skipped, page.Skipped...)
	return whole, nil
}

// addRows adds rows of the same name up; further ones follow, all by name.
func addRows(to, more []portal.ComparedJSON, currency string) ([]portal.ComparedJSON, error) {
	for _, row := range more {
		i := slices.IndexFunc(to, func(c portal.ComparedJSON) bool { return c.Name == row.Name })
		if i < 0 {
			to = append(to, row)
			continue
		}
		var errs [2]error
		to[i].Before, errs[0] = addAmounts(to[i].Before, row.Before, currency)
		to[i].After, errs[1] = addAmounts(to[i].After, row.After, currency)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(to, func(a, b portal.ComparedJSON) int { return cmp.Compare(a.Name, b.Name) })
	return to, nil
}

func addAmounts(a, b, currency string) (string, error) {
	x, err := money.Parse(a, money.Currency(currency))
	if err != nil {
		return "", err
	}
	y, err := money.Parse(b, money.Currency(currency))
	if err != nil {
		return "", err
	}
	sum, err := x.Add(y)
	return sum.String(), err
}

// change is what a row costs more, with its sign.
func change(c portal.ComparedJSON, currency string) (money.Amount, error) {
	before, err := money.Parse(c.Before, money.Currency(currency))
	if err != nil {
		return before, err
	}
	after, err := money.Parse(c.After, money.Currency(currency))
	if err != nil {
		return after, err
	}
	return after.Sub(before)
}

// backtestCSV has one line for each flavor, meter and tenant, and the total.
func backtestCSV(out io.Writer, b portal.BacktestJSON) error {
	w := csv.NewWriter(out)
	w.Write([]string{"kind", "name", "before", "after", "change", "currency"})
	for _, list := range backtestLists(b) {
		for _, row := range list.rows {
			more, err := change(row, b.Currency)
			if err != nil {
				return err
			}
			w.Write([]string{list.kind, row.Name, row.Before, row.After, more.String(), b.Currency})
		}
	}
	for _, u := range b.Unrated {
		w.Write([]string{"unrated " + u.Plan, fmt.Sprintf("%s %s %s: %s %s of %d resources", u.Tenant, u.Meter, u.Flavor, u.Quantity, u.Unit, u.Resources), "", "", "", ""})
	}
	for _, s := range b.Skipped {
		w.Write([]string{"skipped", fmt.Sprintf("%s: %s", s.Tenant, s.Reason), "", "", "", ""})
	}
	w.Flush()
	return w.Error()
}

type backtestList struct {
	kind string
	rows []portal.ComparedJSON
}

func backtestLists(b portal.BacktestJSON) []backtestList {
	return []backtestList{
		{"total", []portal.ComparedJSON{{Name: b.Period, Before: b.Before, After: b.After}}},
		{"flavor", b.ByFlavor}, {"meter", b.ByMeter}, {"tenant", b.Tenants},
	}
}

// backtestTable shows the tenants that pay most more and most less.
func backtestTable(out io.Writer, b portal.BacktestJSON) error {
	fmt.Fprintf(out, "%s under plan %s, invoices without tax in %s, %d tenants compared\n\n", b.Period, b.Plan, b.Currency, len(b.Tenants))
	rows := [][]string{{"", "", "BEFORE", "AFTER", "CHANGE"}}
	for _, list := range backtestLists(b) {
		shown, hidden, err := mostChanged(list, b.Currency)
		if err != nil {
			return err
		}
		for i, c := range shown {
			name := c.Name
			if name == "" {
				name = map[string]string{"flavor": "(pooled)", "meter": "(minimum spend)"}[list.kind]
			}
			kind := list.kind
			if i > 0 {
				kind = ""
			}
			rows = append(rows, []string{kind, name, c.Before, c.After, c.change.String()})
		}
		if hidden > 0 {
			rows = append(rows, []string{"", fmt.Sprintf("(%d tenants between)", hidden), "", "", ""})
		}
	}
	if err := table(out, rows); err != nil {
		return err
	}
	if err := unratedTable(out, b.Unrated); err != nil {
		return err
	}
	for _, s := range b.Skipped {
		fmt.Fprintf(out, "skipped %s: %s\n", s.Tenant, s.Reason)
	}
	if len(b.Tenants)+len(b.Skipped) == 0 {
		fmt.Fprintf(out, "No tenant is on a plan named %s; --all compares every tenant, --tenant one.\n", b.Plan)
	}
	return nil
}

// unratedTable sums up over tenants what no rate fits, before and after.
func unratedTable(out io.Writer, all []portal.UnratedTotalJSON) error {
	if len(all) == 0 {
		return nil
	}
	type sum struct {
		portal.UnratedTotalJSON
		tenants  int
		quantity metering.Quantity
	}
	var sums []sum
	for _, u := range all {
		quantity, err := metering.ParseQuantity(u.Quantity)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(sums, func(s sum) bool { return s.Plan == u.Plan && s.Meter == u.Meter && s.Flavor == u.Flavor })
		if i < 0 {
			i = len(sums)
			sums = append(sums, sum{UnratedTotalJSON: u})
			sums[i].Resources = 0
		}
		sums[i].tenants++
		sums[i].Resources += u.Resources
		sums[i].quantity = sums[i].quantity.Add(quantity)
	}
	slices.SortStableFunc(sums, func(a, b sum) int {
		return cmp.Or(cmp.Compare(b.Plan, a.Plan), cmp.Compare(a.Meter, b.Meter), cmp.Compare(a.Flavor, b.Flavor)) // "before" first
	})
	fmt.Fprint(out, "\nUNRATED, and so free, because no rate fits; a price of 0 says that this is meant:\n")
	rows := [][]string{{"", "METER", "FLAVOR", "TENANTS", "RESOURCES", "QUANTITY", "UNIT"}}
	for _, s := range sums {
		rows = append(rows, []string{s.Plan, string(s.Meter), s.Flavor, fmt.Sprint(s.tenants), fmt.Sprint(s.Resources), s.quantity.String(), s.Unit})
	}
	return table(out, rows)
}

// changedRow is a row with what it costs more.
type changedRow struct {
	portal.ComparedJSON
	change money.Amount
}

// mostChanged are the rows; of tenants those that pay most more first, without
// those in the middle when there are many.
func mostChanged(list backtestList, currency string) (shown []changedRow, hidden int, err error) {
	for _, c := range list.rows {
		more, err := change(c, currency)
		if err != nil {
			return nil, 0, err
		}
		shown = append(shown, changedRow{c, more})
	}
	if list.kind != "tenant" {
		return shown, 0, nil
	}
	slices.SortStableFunc(shown, func(a, b changedRow) int { return cmp.Compare(b.change.Minor, a.change.Minor) })
	if hidden = len(shown) - 2*backtestRows; hidden > 0 {
		return slices.Delete(shown, backtestRows, backtestRows+hidden), hidden, nil
	}
	return shown, 0, nil
}
