package portal

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/money"
	"github.com/usance/usance/rating/planfile"
)

// priceDecimals is how many decimals a price by the hour is shown with at most;
// what lies beyond is rounded away here alone.
const priceDecimals = 9

// priceText is an exact price with the currency's decimals at least.
func priceText(f money.Fraction, c money.Currency) string {
	s := f.Decimal(priceDecimals)
	for least := len(s) - priceDecimals + c.Digits(); len(s) > least && strings.HasSuffix(s, "0"); {
		s = s[:len(s)-1]
	}
	return strings.TrimSuffix(s, ".")
}

// NewFlavorJSON is a flavor with what it costs when it always runs, and when it
// is switched off.
func NewFlavorJSON(f rating.Flavor, v invoicing.Preview) FlavorJSON {
	return FlavorJSON{Name: f.Name, VCPUs: f.VCPUs, MemoryMiB: int64(f.MemoryMiB), DiskMiB: int64(f.DiskMiB),
		Hourly:  &Money{priceText(v.Hour, v.Currency), string(v.Currency)},
		Monthly: &Money{v.Month.String(), string(v.Currency)},
		Stopped: &Money{v.Stopped.String(), string(v.Currency)},
	}
}

func (s *server) getPreview(w http.ResponseWriter, r *http.Request, who caller) error {
	return s.replyPreview(w, r, who.tenant)
}

func (s *server) getTenantPreview(w http.ResponseWriter, r *http.Request, _ caller) error {
	return s.replyPreview(w, r, tenantID(r))
}

// replyPreview prices the instance that the query names, for a tenant.
func (s *server) replyPreview(w http.ResponseWriter, r *http.Request, tenant metering.TenantID) error {
	q := r.URL.Query()
	planned := rating.Planned{Labels: metering.Labels{Flavor: q.Get("flavor"), Image: q.Get("image")}, Running: rating.Always}
	var hours *int
	if text := q.Get("hours"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > 745 {
			return fmt.Errorf("%w: hours %q is not a number from 0 to 745", errBadRequest, text)
		}
		hours, planned.Running = &n, time.Duration(n)*time.Hour
	}
	flavors, err := s.Flavors(r.Context(), tenant)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(flavors, func(f FlavorJSON) bool { return f.Name == planned.Labels.Flavor }) {
		return fmt.Errorf("flavor %q: %w", planned.Labels.Flavor, compute.ErrNoFlavor)
	}
	v, err := s.Bills.Preview(r.Context(), tenant, time.Now(), planned)
	if err != nil {
		return err
	}
	j := PreviewJSON{Flavor: planned.Labels.Flavor, Image: planned.Labels.Image, Hours: hours, Start: v.Period.Start, End: v.Period.End,
		Currency: string(v.Currency), Hourly: priceText(v.Hour, v.Currency), Net: v.Month.String(), Tax: v.Tax.String(), Gross: v.Gross.String(),
		TaxRule: v.TaxRule.Code(), Stopped: v.Stopped.String(), Lines: []PreviewLineJSON{}, Unrated: unratedJSON(v.Unrated)}
	for _, l := range v.Lines {
		j.Lines = append(j.Lines, PreviewLineJSON{l.Rate.ID, decimal(l.Quantity), l.Unit, l.PriceText, decimal(l.Allowance), l.Net.String()})
	}
	return reply(w, http.StatusOK, j)
}

func unratedJSON(all []rating.Unrated) []UnratedJSON {
	list := make([]UnratedJSON, len(all))
	for i, u := range all {
		unit, _ := u.Meter.BaseUnit()
		list[i] = UnratedJSON{Resource: u.Resource, Meter: u.Meter, Flavor: u.Labels.Flavor, Quantity: u.Quantity.String(), Unit: unit}
		if !u.Added.IsZero() {
			list[i].Added = u.Added.String()
		}
	}
	return list
}

// createBacktest tries a plan on past usage, for one page of accounts.
func (s *server) createBacktest(w http.ResponseWriter, r *http.Request, _ caller) error {
	limit, err := limitOf(r)
	if err != nil {
		return err
	}
	var n CreateBacktest
	if err := decode(r, &n); err != nil {
		return err
	}
	month, err := time.Parse("2006-01", n.Period)
	if err != nil || month.Year() < 1970 || month.Year() > 2200 {
		return fmt.Errorf("%w: period %q is not a month such as 2026-10", errBadRequest, n.Period)
	}
	t := billrun.Trial{Year: month.Year(), Month: month.Month(), Tenant: n.Tenant, All: n.All, AtPar: n.AtPar}
	if t.Plan, _, err = planfile.Parse("plan", []byte(n.Plan)); err != nil {
		return err
	}
	if n.Against != "" {
		if t.Against, _, err = planfile.Parse("against", []byte(n.Against)); err != nil {
			return err
		}
	}
	b, next, err := s.Bills.Backtest(r.Context(), t, time.Now(), metering.TenantID(r.URL.Query().Get("after")), limit)
	if err != nil {
		return err
	}
	accounts := 1
	if n.Tenant == "" {
		if accounts, err = s.Invoices.CountAccounts(r.Context()); err != nil {
			return err
		}
	}
	return reply(w, http.StatusOK, backtestJSON(t.Plan.Name, n.Period, b, accounts, next))
}

func backtestJSON(plan, period string, b invoicing.Backtest, accounts int, next metering.TenantID) BacktestJSON {
	j := BacktestJSON{Plan: plan, Period: period, Currency: string(b.Currency), Accounts: accounts, Before: b.Before.String(), After: b.After.String(),
		ByFlavor: compared(b.ByFlavor), ByMeter: compared(b.ByMeter), Tenants: compared(b.ByTenant),
		Unrated: make([]UnratedTotalJSON, len(b.Unrated)), Skipped: make([]SkippedJSON, len(b.Skipped)), Next: string(next)}
	for i, l := range b.Unrated {
		unit, _ := l.Meter.BaseUnit()
		j.Unrated[i] = UnratedTotalJSON{l.Tenant, l.Plan, l.Meter, l.Flavor, l.Resources, l.Quantity.String(), unit}
	}
	for i, k := range b.Skipped {
		j.Skipped[i] = SkippedJSON(k)
	}
	return j
}

func compared(rows []invoicing.Compared) []ComparedJSON {
	list := make([]ComparedJSON, len(rows))
	for i, c := range rows {
		list[i] = ComparedJSON{c.Name, c.Before.String(), c.After.String()}
	}
	return list
}
