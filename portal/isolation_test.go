package portal_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/usance/usance/portal"
)

// TestOpenAPIListsEveryRoute holds the document and the routes together.
func TestOpenAPIListsEveryRoute(t *testing.T) {
	var doc struct {
		OpenAPI string                                `json:"openapi"`
		Paths   map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(portal.OpenAPIForTest, &doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Fatalf("openapi %q: %v", doc.OpenAPI, err)
	}
	listed := map[string]bool{}
	for path, methods := range doc.Paths {
		for method := range methods {
			listed[strings.ToUpper(method)+" "+path] = true
		}
	}
	served := 0
	for _, r := range portal.RoutesForTest() {
		path, isAPI := strings.CutPrefix(r.Path, "/api/v1")
		if !isAPI {
			continue
		}
		served++
		if !listed[r.Method+" "+path] {
			t.Errorf("%s %s is served and not in the document", r.Method, r.Path)
		}
		delete(listed, r.Method+" "+path)
	}
	for leftover := range listed {
		t.Errorf("%s is in the document and not served", leftover)
	}
	if served < 20 {
		t.Errorf("only %d routes were found", served)
	}
}

// TestReferencesOfOpenAPI finds every schema that the document names.
func TestReferencesOfOpenAPI(t *testing.T) {
	var doc struct {
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(portal.OpenAPIForTest, &doc); err != nil {
		t.Fatal(err)
	}
	const mark = `"#/components/schemas/`
	rest, found := string(portal.OpenAPIForTest), 0
	for {
		_, after, ok := strings.Cut(rest, mark)
		if !ok {
			break
		}
		name, after, _ := strings.Cut(after, `"`)
		if _, ok := doc.Components.Schemas[name]; !ok {
			t.Errorf("schema %s is not there", name)
		}
		rest, found = after, found+1
	}
	if found < 20 {
		t.Errorf("only %d references were found", found)
	}
}

// TestForeignIsMissing walks all routes: a tenant with the ids of another gets
// what it would get for ids that do not exist, and changes nothing.
func TestForeignIsMissing(t *testing.T) {
	w := newWorld(t)
	a, b := w.customer("a@example.com"), w.customer("b@example.com")
	instance, _ := w.instance(a, "web")
	var closing portal.ClosingJSON
	w.operator("POST", "/operator/tenants/"+string(a.ID)+"/closings", nil, http.StatusCreated, &closing)
	fill := strings.NewReplacer("{id}", string(instance.ID), "{number}", closing.Invoice.Number)
	missing := strings.NewReplacer("{id}", "ins_00000000000000000", "{number}", "INV-999999")
	walked := 0
	for _, r := range portal.RoutesForTest() {
		if r.Anyone || r.IsOperator || !strings.Contains(r.Path, "{") {
			continue
		}
		walked++
		foreign, absent := w.as(b, r, fill.Replace(r.Path)), w.as(b, r, missing.Replace(r.Path))
		if foreign.status != http.StatusNotFound || absent.status != http.StatusNotFound {
			t.Errorf("%s %s: %d for a foreign id, %d for none; want 404", r.Method, r.Path, foreign.status, absent.status)
		}
		if x, y := missing.Replace(unfill(string(foreign.body), string(instance.ID), closing.Invoice.Number)), string(absent.body); x != y {
			t.Errorf("%s %s tells a foreign id from none:\n%s\n%s", r.Method, r.Path, x, y)
		}
	}
	if walked < 10 {
		t.Errorf("only %d routes were walked", walked)
	}
	var after portal.InstanceJSON
	w.want(a.token, "GET", "/instances/"+string(instance.ID), nil, http.StatusOK, &after)
	if after.Desired != "running" {
		t.Errorf("another tenant made it %s", after.Desired)
	}
	for _, path := range []string{"/instances", "/invoices", "/usage", "/instances?after=" + string(instance.ID)} {
		var list portal.List[json.RawMessage]
		w.want(b.token, "GET", path, nil, http.StatusOK, &list)
		if len(list.Items) != 0 {
			t.Errorf("%s shows another tenant's: %s", path, list.Items)
		}
	}
	for _, path := range []string{"/instances", "/invoices"} {
		if body := string(w.page(b.browser, path).body); strings.Contains(body, string(instance.ID)) || strings.Contains(body, closing.Invoice.Number) {
			t.Errorf("page %s shows another tenant's", path)
		}
	}
}

// unfill puts the names of parameters back where their values stand.
func unfill(s, id, number string) string {
	return strings.NewReplacer(id, "{id}", number, "{number}").Replace(s)
}

// as asks as the customer: by its browser for pages, by its token for the API.
func (w *world) as(c customer, r portal.RouteForTest, path string) answered {
	w.t.Helper()
	if api, ok := strings.CutPrefix(path, "/api/v1"); ok {
		return w.api(c.token, r.Method, api, nil)
	}
	if r.Method == "POST" {
		return w.form(c.browser, path, url.Values{"confirm": {"web"}})
	}
	return w.page(c.browser, path)
}

// TestNobodyGetsNothing walks all routes without credentials, and the API with
// those that do not fit.
func TestNobodyGetsNothing(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	instance, _ := w.instance(c, "web")
	fill := strings.NewReplacer("{id}", string(instance.ID), "{number}", "INV-000001", "{plan}", "standard")
	nobody := customer{browser: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	walked := 0
	for _, r := range portal.RoutesForTest() {
		if r.Anyone {
			continue
		}
		walked++
		got := w.as(nobody, r, fill.Replace(r.Path))
		switch {
		case r.Session && (got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/login")):
			t.Errorf("%s %s: %d to %q, want the sign-in page", r.Method, r.Path, got.status, got.header.Get("Location"))
		case !r.Session && (got.status != http.StatusUnauthorized || got.header.Get("WWW-Authenticate") == ""):
			t.Errorf("%s %s: %d, want 401", r.Method, r.Path, got.status)
		}
		if r.IsOperator {
			if got := w.as(c, r, fill.Replace(r.Path)); got.status != http.StatusUnauthorized {
				t.Errorf("%s %s as a tenant: %d, want 401", r.Method, r.Path, got.status)
			}
		}
	}
	if walked < 30 {
		t.Errorf("only %d routes were walked", walked)
	}
}

func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	instance, _ := w.instance(c, "web")
	for _, path := range []string{"/instances/" + string(instance.ID) + "/stop", "/api/v1/instances/" + string(instance.ID) + "/stop", "/login"} {
		req, err := http.NewRequest("POST", w.url+path, nil)
		w.must(err)
		req.Header.Set("Origin", "https://evil.example")
		req.Header.Set("Sec-Fetch-Site", "cross-site")
		if got := w.send(c.browser, req); got.status != http.StatusForbidden {
			t.Errorf("%s from another site: %d, want 403", path, got.status)
		}
	}
	req, err := http.NewRequest("GET", w.url+"/api/v1/instances/"+string(instance.ID), nil)
	w.must(err)
	var after portal.InstanceJSON
	w.must(json.Unmarshal(w.send(c.browser, req).body, &after)) // a session opens the API, too
	if after.Desired != "running" {
		t.Errorf("another site made it %s", after.Desired)
	}
}

func TestThrottle(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	th := portal.NewThrottleForTest()
	for i := range portal.SignInBurstForTest {
		if !th.AllowForTest("a", now) {
			t.Fatalf("attempt %d refused", i)
		}
	}
	if th.AllowForTest("a", now) {
		t.Error("an attempt beyond the burst was allowed")
	}
	if !th.AllowForTest("b", now) {
		t.Error("one address stopped another")
	}
	if !th.AllowForTest("a", now.Add(6*time.Second)) || th.AllowForTest("a", now.Add(6*time.Second)) {
		t.Error("one more attempt after 6 s is wanted, and only one")
	}
	allowed := 0
	for i := range 2 * portal.MaxAddressesForTest {
		if th.AllowForTest(time.Duration(i).String(), now.Add(6*time.Second)) {
			allowed++
		}
	}
	if allowed > 200 {
		t.Errorf("%d attempts from as many addresses at once; the total is bounded by 200", allowed)
	}
}

func TestOwnPath(t *testing.T) {
	for next, want := range map[string]string{
		"/instances/ins_1?x=y": "/instances/ins_1?x=y", "": "/", "instances": "/", "//evil.example": "/", "https://evil.example/": "/",
		`/\evil.example`: "/", "/a\r\nSet-Cookie: x": "/", "javascript:alert(1)": "/",
	} {
		if got := portal.OwnPathForTest(next); got != want {
			t.Errorf("%q: %q, want %q", next, got, want)
		}
	}
}
