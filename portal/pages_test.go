package portal_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/cascadia"
	"golang.org/x/net/html"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
)

// texts are the texts of what the selector finds, with white space made one blank.
func texts(t *testing.T, page []byte, selector string) []string {
	t.Helper()
	root, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, n := range cascadia.QueryAll(root, cascadia.MustCompile(selector)) {
		var b strings.Builder
		for d := range n.Descendants() {
			if d.Type == html.TextNode {
				b.WriteString(d.Data + " ")
			}
		}
		all = append(all, strings.Join(strings.Fields(b.String()), " "))
	}
	return all
}

// check wants the page to have, for each selector, an element with exactly this text.
func check(t *testing.T, page []byte, want map[string]string) {
	t.Helper()
	for selector, text := range want {
		got := texts(t, page, selector)
		found := false
		for _, g := range got {
			found = found || g == text
		}
		if !found {
			t.Errorf("%s: got %q, want %q", selector, got, text)
		}
	}
}

func TestPages(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	empty := w.page(c.browser, "/instances")
	check(t, empty.body, map[string]string{"title": "Instances · Usance", "nav a[aria-current]": "Instances", ".figures dd": "500.00 EUR",
		".choice strong": "6.00 EUR per hour", "select[name=image] option": "tiny"})
	if len(texts(t, empty.body, "p.empty")) != 1 {
		t.Error("an empty list says nothing")
	}
	i, _ := w.instance(c, "web")
	time.Sleep(1100 * time.Millisecond)
	check(t, w.page(c.browser, "/instances").body, map[string]string{`table a[href="/instances/` + string(i.ID) + `"]`: "web",
		"[data-state=running]": "running", "td[data-label=Accrued]": "7.00 EUR", ".figures dd": "7.00 EUR"})
	page := w.page(c.browser, "/instances/"+string(i.ID))
	check(t, page.body, map[string]string{"h1": "web", "#accrued": "7.00 EUR", "[data-register=running_ms]": "3600000 ms",
		"[data-register=net_public_tx_bytes]": "1073741824 B", ".registers td": "1.00 GiB", "form[action$='/stop'] button": "Stop"})
	if len(texts(t, page.body, "form[action$='/start']")) != 0 {
		t.Error("a running instance can be started")
	}
	var closing portal.ClosingJSON
	w.operator("POST", "/operator/tenants/"+string(c.ID)+"/closings", nil, http.StatusCreated, &closing)
	number := closing.Invoice.Number
	check(t, w.page(c.browser, "/invoices").body, map[string]string{`a[href="/invoices/` + number + `"]`: number, "td[data-label=Total]": "7.00 EUR", "td[data-label=Due]": "0.00 EUR"})
	check(t, w.page(c.browser, "/invoices/"+number).body, map[string]string{"h1": "Invoice " + number, "td[data-label=Quantity]": "1 hour",
		"td[data-label=Price]": "6.00 per hour", "td[data-label=Exact]": "6", "td[data-label=Amount]": "6.00 EUR", ".sums dd": "7.00 EUR", ".sums .due dd": "0.00 EUR"})
	if got := w.page(c.browser, "/nothing"); got.status != http.StatusNotFound {
		t.Errorf("an unknown page: %d", got.status)
	} else {
		check(t, got.body, map[string]string{"h1": "Not Found", ".kicker": "404"})
	}
	if got := w.page(c.browser, "/"); got.status != http.StatusSeeOther || got.header.Get("Location") != "/instances" {
		t.Errorf("/: %d to %q", got.status, got.header.Get("Location"))
	}
}

func TestForms(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	fields := url.Values{"name": {"web"}, "flavor": {"small"}, "image": {"tiny"}, "key": {"form_1"}}
	made := w.form(c.browser, "/instances", fields)
	again := w.form(c.browser, "/instances", fields)
	path := made.header.Get("Location")
	if made.status != http.StatusSeeOther || path == "" || again.header.Get("Location") != path {
		t.Fatalf("create: %d to %q, then to %q", made.status, path, again.header.Get("Location"))
	}
	bad := url.Values{"name": {"Not <a> name"}, "flavor": {"small"}, "image": {"tiny"}}
	refused := w.form(c.browser, "/instances", bad)
	if refused.status != http.StatusUnprocessableEntity || len(texts(t, refused.body, "[role=alert]")) != 1 ||
		!bytes.Contains(refused.body, []byte(`value="Not &lt;a&gt; name"`)) {
		t.Errorf("a bad name: %d, the form does not come back with what was typed and why it is refused", refused.status)
	}
	for _, o := range []struct {
		verb, button string
		values       url.Values
	}{{"stop", "form[action$='/start']", nil}, {"start", "form[action$='/stop']", nil}} {
		if got := w.form(c.browser, path+"/"+o.verb, o.values); got.status != http.StatusSeeOther || got.header.Get("Location") != path {
			t.Errorf("%s: %d to %q", o.verb, got.status, got.header.Get("Location"))
		}
		if len(texts(t, w.page(c.browser, path).body, o.button)) != 1 {
			t.Errorf("after %s there is no %s", o.verb, o.button)
		}
	}
	if got := w.form(c.browser, path+"/delete", url.Values{"confirm": {"wrong"}}); got.status != http.StatusBadRequest {
		t.Errorf("delete with a wrong name: %d", got.status)
	}
	if got := w.form(c.browser, path+"/delete", url.Values{"confirm": {"web"}}); got.status != http.StatusSeeOther {
		t.Errorf("delete: %d", got.status)
	}
	if len(texts(t, w.page(c.browser, path).body, "form[action^='/instances/']")) != 0 {
		t.Error("an instance that is being deleted can be ordered")
	}
}

func TestSignIn(t *testing.T) {
	w := newWorld(t)
	w.customer("a@example.com")
	jar, err := cookiejar.New(nil)
	w.must(err)
	browser := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	got := w.page(browser, "/invoices?after=3")
	if want := "/login?next=" + url.QueryEscape("/invoices?after=3"); got.header.Get("Location") != want {
		t.Errorf("sent to %q, want %q", got.header.Get("Location"), want)
	}
	wrong := w.form(browser, "/login", url.Values{"email": {"a@example.com"}, "password": {"wrong"}})
	if wrong.status != http.StatusUnauthorized || wrong.header.Get("Set-Cookie") != "" {
		t.Errorf("a wrong password: %d, cookie %q", wrong.status, wrong.header.Get("Set-Cookie"))
	}
	check(t, wrong.body, map[string]string{"[role=alert]": "Unknown e-mail address or wrong password."})
	in := w.form(browser, "/login", url.Values{"email": {"a@example.com"}, "password": {password}, "next": {"/invoices?after=3"}})
	cookie := in.header.Get("Set-Cookie")
	if in.header.Get("Location") != "/invoices?after=3" || !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Lax") || strings.Contains(cookie, "Secure") {
		t.Errorf("signed in to %q with cookie %q", in.header.Get("Location"), cookie)
	}
	if got := w.page(browser, "/invoices"); got.status != http.StatusOK {
		t.Errorf("after signing in: %d", got.status)
	}
	w.form(browser, "/logout", nil)
	if got := w.page(browser, "/invoices"); got.status != http.StatusSeeOther {
		t.Errorf("after signing out: %d", got.status)
	}
	refused := 0
	for range 2 * portal.SignInBurstForTest {
		if w.form(browser, "/login", url.Values{"email": {"a@example.com"}, "password": {strings.Repeat("x", 2000)}}).status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("signing in is not throttled")
	}
}

func TestHeadersAndStatic(t *testing.T) {
	w := newWorld(t)
	page := w.page(http.DefaultClient, "/login")
	csp := page.header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(csp, want) || strings.Contains(csp, "unsafe") {
			t.Errorf("CSP %q lacks %s", csp, want)
		}
	}
	if page.header.Get("Cache-Control") != "no-store" || page.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers %v", page.header)
	}
	links := regexp.MustCompile(`(?:href|src)="(/static/[^"]+)"`).FindAllSubmatch(page.body, -1)
	if len(links) != 2 {
		t.Fatalf("links %q", links)
	}
	for _, l := range links {
		if got := w.page(http.DefaultClient, string(l[1])); got.status != http.StatusOK || !strings.Contains(got.header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", l[1], got.status, got.header)
		}
	}
	if got := w.page(http.DefaultClient, "/static/usance.css"); got.status != http.StatusNotFound {
		t.Errorf("without a hash: %d", got.status)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	if got := w.page(http.DefaultClient, "/healthz"); got.status != http.StatusOK || string(got.body) != "ok\n" {
		t.Errorf("%d %s", got.status, got.body)
	}
	w.must(w.readings.Close())
	if got := w.page(http.DefaultClient, "/healthz"); got.status != http.StatusServiceUnavailable || string(got.body) != "ClickHouse does not answer\n" {
		t.Errorf("without ClickHouse: %d %s", got.status, got.body)
	}
}

// TestTemplatesAreClean holds what the content policy and a quiet browser need.
func TestTemplatesAreClean(t *testing.T) {
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|<script(?:>|\s+[^>]*[^"]>)|\son[a-z]+=|https?://`)
	for name, tmpl := range portal.TemplatesForTest() {
		for _, part := range tmpl.Templates() {
			if part.Tree == nil {
				continue
			}
			if found := inline.FindString(part.Tree.Root.String()); found != "" {
				t.Errorf("%s, %s: %q", name, part.Name(), found)
			}
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	for v, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 1536: "1.50 KiB", 1<<20 - 1: "1023.99 KiB", 5 << 30: "5.00 GiB", 1<<64 - 1: "15.99 EiB"} {
		if got := portal.BytesTextForTest(v); got != want {
			t.Errorf("%d bytes: %q, want %q", v, got, want)
		}
	}
	for v, want := range map[uint64]string{0: "0:00:00", 61_999: "0:01:01", 360_000_000: "100:00:00"} {
		if got := portal.DurationTextForTest(v); got != want {
			t.Errorf("%d ms: %q, want %q", v, got, want)
		}
	}
	if got := portal.GroupedForTest(1234567); got != "1\u202f234\u202f567" {
		t.Errorf("grouped %q", got)
	}
}

func TestPagesWithoutAccrued(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	broken := errors.New("broken")
	w.accruedErr.Store(&broken)
	i, _ := w.instance(c, "web")
	for path, selector := range map[string]string{"/instances": "td[data-label=Accrued]", "/instances/" + string(i.ID): "#accrued"} {
		check(t, w.page(c.browser, path).body, map[string]string{selector: "not known now"})
	}
}

// While the readings cannot be asked, instances are shown without them: absent is
// not zero.
func TestPagesWithoutReadings(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	i, _ := w.instance(c, "web")
	time.Sleep(1100 * time.Millisecond) // what pages cache of the meters
	w.must(w.readings.Close())
	path := "/instances/" + string(i.ID)
	one := w.page(c.browser, path)
	check(t, one.body, map[string]string{"#accrued": "not known now", "h1": "web"})
	missing := []byte("cannot be read since <time")
	if one.status != http.StatusOK || bytes.Contains(one.body, []byte("data-register=")) || !bytes.Contains(one.body, missing) {
		t.Errorf("%d, with registers: %s", one.status, one.body)
	}
	list := w.page(c.browser, "/instances")
	check(t, list.body, map[string]string{"td[data-label=Accrued]": "not known now"})
	if list.status != http.StatusOK || !bytes.Contains(list.body, missing) {
		t.Errorf("list: %d %s", list.status, list.body)
	}
	var got portal.InstanceJSON
	var all portal.List[portal.InstanceJSON]
	w.want(c.token, "GET", path, nil, http.StatusOK, &got)
	w.want(c.token, "GET", "/instances", nil, http.StatusOK, &all)
	for _, j := range append(all.Items, got) {
		if j.Registers != nil || j.ReadAt != nil || j.UnreadSince == nil || j.Accrued != nil || j.State != "running" {
			t.Errorf("over the API: %+v", j)
		}
	}
}

func TestUnknownSince(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	i, _ := w.instance(c, "web")
	since := time.Now().UTC().Add(-time.Minute)
	_, err := w.pool.Exec(t.Context(), `UPDATE instances SET state = 'unknown', since = $2 WHERE id = $1`, i.ID, since)
	w.must(err)
	want := "unknown since " + since.Format("15:04") + " UTC"
	for _, path := range []string{"/instances", "/instances/" + string(i.ID)} {
		check(t, w.page(c.browser, path).body, map[string]string{"[data-state=unknown]": want})
	}
}

// TestStreamsAreBounded opens as many live pages of one tenant as it may have,
// and one more.
func TestStreamsAreBounded(t *testing.T) {
	w := newWorld(t)
	a, b := w.customer("a@example.com"), w.customer("b@example.com")
	ofA, _ := w.instance(a, "web")
	ofB, _ := w.instance(b, "web")
	open := func(c customer, id metering.InstanceID) int {
		resp, err := c.browser.Get(w.url + "/instances/" + string(id) + "/events")
		w.must(err)
		t.Cleanup(func() { resp.Body.Close() })
		return resp.StatusCode
	}
	for n := range portal.MaxStreamsOfForTest {
		if status := open(a, ofA.ID); status != http.StatusOK {
			t.Fatalf("stream %d: %d", n, status)
		}
	}
	if status := open(a, ofA.ID); status != http.StatusTooManyRequests {
		t.Errorf("one more: %d, want 429", status)
	}
	if status := open(b, ofB.ID); status != http.StatusOK {
		t.Errorf("another tenant's: %d", status)
	}
}
