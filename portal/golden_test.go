package portal_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
	"github.com/usance/usance/rating/money"
)

var update = flag.Bool("update", false, "accept the pages as they are")

// TestInvoicePageGolden shows what the first cut of a period never has: a line
// that continues another, a cap, late usage, tax, and a part paid by credit.
func TestInvoicePageGolden(t *testing.T) {
	eur := func(minor int64) money.Amount { return money.Amount{Minor: minor, Currency: "EUR"} }
	november := metering.Window{Start: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), End: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}
	october := metering.Window{Start: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC), End: november.Start}
	i := &invoicing.Invoice{Number: "INV-000042", Tenant: "ten_1", Period: november, Cut: november.Start.Add(12 * time.Hour),
		Issued: november.Start.Add(12*time.Hour + time.Second), Currency: "EUR", Net: eur(1267), Tax: eur(241), Gross: eur(1508), Promotional: eur(500), Prepaid: eur(8),
		Lines: []invoicing.LineItem{
			{Period: november, Rate: "small-running", Meter: metering.InstanceRunning, Price: "6.00 per hour", Unit: "hour", Quantity: money.Frac(5, 3),
				Exact: money.Frac(10, 1), BilledExact: money.Frac(1, 3), Billed: eur(33), Amount: eur(1000)},
			{Period: november, Rate: "egress <b>", Meter: metering.NetworkPublicTx, Price: "1.00 per GiB", Unit: "GiB", Quantity: money.Frac(5, 1),
				Exact: money.Frac(5, 1), Allowance: money.Frac(2, 1), Amount: eur(300)},
			{Period: october, Rate: "small-running", Meter: metering.InstanceRunning, Price: "6.00 per hour", Unit: "hour", Quantity: money.Frac(-11, 200),
				Exact: money.Frac(-33, 100), BilledExact: money.Frac(6, 1), Billed: eur(600), Amount: eur(-33)},
		}}
	got, err := portal.InvoicePageForTest("Acme & Sons", i)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "invoice.html")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the page changed (-want +got); -update accepts it:\n%s", diff)
	}
}
