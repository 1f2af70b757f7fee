package portal_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/usance/usance/portal"
)

// chromium is where Debian's package puts it.
const chromium = "/usr/bin/chromium"

// browser is a headless Chromium; what it says on its console fails the test.
func browser(t *testing.T) context.Context {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Chromium")
	}
	if _, err := os.Stat(chromium); err != nil {
		t.Fatalf("%v: install the package chromium", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Env("TMPDIR="+t.TempDir()), // it leaves its socket's folder behind
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// text waits until the element has the text.
func text(selector, want string) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		var got string
		for {
			query := fmt.Sprintf(`(document.querySelector(%q)?.textContent ?? "").trim().replace(/\s+/g, " ")`, selector)
			if err := chromedp.Evaluate(query, &got).Do(ctx); err != nil {
				return fmt.Errorf("%s is %q, want %q: %w", selector, got, want, err)
			}
			if got == want {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is %q, want %q: %w", selector, got, want, ctx.Err())
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
}

// fits checks that a page as wide as a small telephone's needs no scrolling sideways.
var fits = chromedp.ActionFunc(func(ctx context.Context) error {
	var wide float64
	var where string
	err := chromedp.Tasks{
		emulation.SetDeviceMetricsOverride(360, 800, 1, true),
		chromedp.Evaluate(`document.documentElement.scrollWidth`, &wide),
		chromedp.Location(&where),
		emulation.ClearDeviceMetricsOverride(),
	}.Do(ctx)
	if err == nil && wide > 360 {
		err = fmt.Errorf("%s is %v px wide at 360 px", where, wide)
	}
	return err
})

func TestInBrowser(t *testing.T) {
	ctx := browser(t)
	w := newWorld(t)
	c := w.customer("a@example.com")
	i, epoch := w.instance(c, "web")
	run := func(actions ...chromedp.Action) {
		t.Helper()
		if err := chromedp.Run(ctx, actions...); err != nil {
			t.Fatal(err)
		}
	}
	run(chromedp.Navigate(w.url+"/"), chromedp.WaitVisible("input[name=email]"), fits,
		chromedp.SendKeys("input[name=email]", "a@example.com"), chromedp.SendKeys("input[name=password]", password+"\r"),
		text("h1", "Instances"), text("tbody [data-state]", "running"), fits,
		chromedp.Click("tbody th a"), text("h1", "web"), text("#live-note", "Live"), text("[data-register=running_ms]", "3600000 ms"), fits)
	w.read(c.ID, i.ID, epoch, time.Now(), 7_200_000, 1<<30)
	run(text("[data-register=running_ms]", "7200000 ms"), text("#accrued", "13.00 EUR"))
	run(chromedp.Click("form[action$='/stop'] button"), text("#live [data-state]", "stopping"), text("form[action$='/start'] button", "Start"))
	var closing portal.ClosingJSON
	w.operator("POST", "/operator/tenants/"+string(c.ID)+"/closings", nil, http.StatusCreated, &closing)
	run(text("#accrued", "0.00 EUR"),
		chromedp.Click("nav a[href='/invoices']"), text("h1", "Invoices"), fits,
		chromedp.Click("tbody th a"), text("h1", "Invoice "+closing.Invoice.Number), text(".sums .due dd", "0.00 EUR"), fits)
	var third []string
	run(chromedp.Evaluate(`performance.getEntriesByType("resource").map(e => e.name)`, &third))
	for _, u := range third {
		if !strings.HasPrefix(u, w.url+"/") {
			t.Errorf("the page asked for %s", u)
		}
	}
}
