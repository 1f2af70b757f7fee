package portal_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/portal"
)

func TestTenantAPI(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	made, epoch := w.instance(c, "web")
	time.Sleep(1100 * time.Millisecond) // what was cached before the reading is old then
	var got portal.InstanceJSON
	w.want(c.token, "GET", "/instances/"+string(made.ID), nil, http.StatusOK, &got)
	if got.State != "running" || got.Desired != "running" || got.Reason != "tenant" || got.Address != "10.0.0.7" || got.Host != w.host || got.Name != "web" {
		t.Errorf("instance %+v", got)
	}
	if got.Registers["running_ms"] != "3600000" || got.Registers["net_public_tx_bytes"] != "1073741824" || len(got.Registers) != metering.RegisterCount || got.ReadAt == nil {
		t.Errorf("registers %v, read at %v", got.Registers, got.ReadAt)
	}
	if got.Accrued == nil || *got.Accrued != (portal.Money{Amount: "7.00", Currency: "EUR"}) {
		t.Errorf("accrued %+v, want 7.00 EUR: an hour and a GiB", got.Accrued)
	}
	var list portal.List[portal.InstanceJSON]
	w.want(c.token, "GET", "/instances", nil, http.StatusOK, &list)
	if len(list.Items) != 1 || list.Next != "" {
		t.Fatalf("list %+v", list)
	}
	if diff := cmp.Diff(got, list.Items[0]); diff != "" {
		t.Errorf("the list says otherwise (-one +list):\n%s", diff)
	}
	t.Run("readings", func(t *testing.T) { testReadings(t, w, c, made.ID, epoch) })
	t.Run("usage", func(t *testing.T) { testUsage(t, w, c, made.ID) })
	t.Run("flavors", func(t *testing.T) {
		var flavors portal.List[portal.FlavorJSON]
		w.want(c.token, "GET", "/flavors", nil, http.StatusOK, &flavors)
		if len(flavors.Items) != 1 || flavors.Items[0].Hourly.Amount != "6.00" {
			t.Errorf("flavors %+v", flavors)
		}
	})
	t.Run("invoice", func(t *testing.T) { testInvoice(t, w, c, made.ID) })
	t.Run("orders", func(t *testing.T) {
		for _, o := range []struct{ method, path, desired string }{{"POST", "/stop", "stopped"}, {"POST", "/start", "running"}, {"DELETE", "", "deleted"}} {
			var after portal.InstanceJSON
			w.want(c.token, o.method, "/instances/"+string(made.ID)+o.path, nil, http.StatusAccepted, &after)
			if after.Desired != o.desired {
				t.Errorf("%s %s: desired %s, want %s", o.method, o.path, after.Desired, o.desired)
			}
		}
	})
}

func testReadings(t *testing.T, w *world, c customer, id metering.InstanceID, epoch metering.EpochID) {
	at := time.Now().UTC().Truncate(time.Millisecond)
	for i := range 4 {
		w.read(c.ID, id, epoch, at.Add(time.Duration(i-4)*time.Second), 3_600_000, 1<<30)
	}
	var seen []string
	pages := 0
	for after := ""; ; pages++ {
		var page portal.List[portal.ReadingJSON]
		w.want(c.token, "GET", "/instances/"+string(id)+"/readings?limit=2&after="+after, nil, http.StatusOK, &page)
		for _, r := range page.Items {
			seen = append(seen, r.At.Format(time.RFC3339Nano))
			if r.Epoch != epoch || r.Registers["running_ms"] != "3600000" {
				t.Errorf("reading %+v", r)
			}
		}
		if page.Next == "" {
			break
		}
		after = page.Next
	}
	if len(seen) != 5 || pages != 2 || !slices.IsSortedFunc(seen, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Errorf("%d pages of readings, newest first: %v", pages+1, seen)
	}
	var window portal.List[portal.ReadingJSON]
	w.want(c.token, "GET", "/instances/"+string(id)+"/readings?from="+at.Add(-3*time.Second).Format(time.RFC3339Nano)+"&to="+at.Add(-2*time.Second).Format(time.RFC3339Nano),
		nil, http.StatusOK, &window)
	if len(window.Items) != 1 || !window.Items[0].At.Equal(at.Add(-2*time.Second)) {
		t.Errorf("the window's end is in it and its start is not: %+v", window.Items)
	}
}

func testUsage(t *testing.T, w *world, c customer, id metering.InstanceID) {
	var usage portal.List[portal.UsageJSON]
	w.want(c.token, "GET", "/usage", nil, http.StatusOK, &usage)
	got := map[metering.Meter]string{}
	for _, u := range usage.Items {
		if u.Resource != metering.ResourceID(id) {
			t.Errorf("usage of %s", u.Resource)
		}
		got[u.Meter] = u.Quantity + " " + u.Unit
	}
	if diff := cmp.Diff(map[metering.Meter]string{metering.InstanceRunning: "3600 s", metering.NetworkPublicTx: "1073741824 B"}, got); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
	w.want(c.token, "GET", "/usage?from="+time.Now().UTC().Format(time.RFC3339)+"&to="+time.Now().UTC().Add(time.Hour).Format(time.RFC3339), nil, http.StatusOK, &usage)
	if len(usage.Items) != 0 {
		t.Errorf("usage of the future: %+v", usage.Items)
	}
}

func testInvoice(t *testing.T, w *world, c customer, id metering.InstanceID) {
	var accrued portal.AccruedJSON
	w.want(c.token, "GET", "/accrued", nil, http.StatusOK, &accrued)
	want := []portal.AccruedShare{{Resource: metering.ResourceID(id), Amount: "7.00"}}
	if accrued.Amount != "7.00" || accrued.Currency != "EUR" || !slices.Equal(accrued.Resources, want) {
		t.Errorf("accrued %+v", accrued)
	}
	var closing portal.ClosingJSON
	w.operator("POST", "/operator/tenants/"+string(c.ID)+"/closings", nil, http.StatusCreated, &closing)
	i := closing.Invoice
	if i == nil || i.Gross != "7.00" || i.Credit != "7.00" || i.Due != "0.00" || len(i.Lines) != 2 {
		t.Fatalf("invoice %+v", i)
	}
	if l := i.Lines[0]; l.Rate != "small-running" || l.Quantity != "1" || l.Unit != "hour" || l.Price != "6.00 per hour" || l.Exact != "6" || l.Amount != "6.00" || l.Billed != "0.00" {
		t.Errorf("line %+v", l)
	}
	for path, token := range map[string]string{"/invoices/" + i.Number: c.token, "/operator/invoices/" + i.Number: operatorToken} {
		var again portal.InvoiceJSON
		w.want(token, "GET", path, nil, http.StatusOK, &again)
		if diff := cmp.Diff(*i, again); diff != "" {
			t.Errorf("%s (-closing +read):\n%s", path, diff)
		}
	}
	for path, token := range map[string]string{"/invoices": c.token, "/operator/tenants/" + string(c.ID) + "/invoices": operatorToken} {
		var list portal.List[portal.InvoiceJSON]
		w.want(token, "GET", path, nil, http.StatusOK, &list)
		if len(list.Items) != 1 || list.Items[0].Number != i.Number || list.Items[0].Lines != nil {
			t.Errorf("%s: %+v", path, list)
		}
	}
	w.want(c.token, "GET", "/accrued", nil, http.StatusOK, &accrued)
	if accrued.Amount != "0.00" || accrued.Credit != "493.00" {
		t.Errorf("after the invoice accrued %+v, want 0.00 and 493.00 of credit", accrued)
	}
}

func TestOperatorAPI(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	w.customer("b@example.com")
	var plans portal.List[portal.PublishedPlan]
	w.operator("POST", "/operator/plans", []byte(planYAML), http.StatusCreated, nil) // the same again: no new version
	w.operator("POST", "/operator/plans", []byte(strings.Replace(planYAML, "6.00", "7.00", 1)), http.StatusCreated, nil)
	w.operator("GET", "/operator/plans?limit=1", nil, http.StatusOK, &plans)
	if len(plans.Items) != 1 || plans.Items[0].Effective != "2020-01-01" || plans.Next == "" {
		t.Errorf("first page of plans %+v", plans)
	}
	after := plans.Next
	plans = portal.List[portal.PublishedPlan]{}
	w.operator("GET", "/operator/plans?after="+after, nil, http.StatusOK, &plans)
	if len(plans.Items) != 1 || plans.Items[0].Version != 2 || plans.Next != "" {
		t.Errorf("second page of plans %+v", plans)
	}
	var source portal.PlanSource
	w.operator("GET", "/operator/plans/standard", nil, http.StatusOK, &source)
	if source.Version != 2 || !strings.Contains(source.Source, "7.00 per hour") {
		t.Errorf("source %+v", source)
	}
	var tenants portal.List[portal.TenantJSON]
	w.operator("GET", "/operator/tenants?email=A@example.com", nil, http.StatusOK, &tenants)
	if len(tenants.Items) != 1 || tenants.Items[0] != c.TenantJSON {
		t.Errorf("found %+v, want %+v", tenants, c.TenantJSON)
	}
	w.operator("GET", "/operator/tenants?limit=1", nil, http.StatusOK, &tenants)
	first := tenants.Items[0].ID
	w.operator("GET", "/operator/tenants?limit=1&after="+tenants.Next, nil, http.StatusOK, &tenants)
	if len(tenants.Items) != 1 || tenants.Items[0].ID <= first {
		t.Errorf("second page of tenants %+v", tenants)
	}
	var closing portal.ClosingJSON
	w.operator("POST", "/operator/tenants/"+string(c.ID)+"/closings", nil, http.StatusCreated, &closing)
	if closing.Invoice != nil || closing.Cut.IsZero() {
		t.Errorf("closing of nothing %+v", closing)
	}
	var hosts portal.List[portal.HostJSON]
	w.operator("GET", "/operator/hosts", nil, http.StatusOK, &hosts)
	if len(hosts.Items) != 1 || hosts.Items[0].State != "up" || hosts.Items[0].Name != "rack-1" || hosts.Items[0].VCPUs != 8 {
		t.Errorf("hosts %+v", hosts)
	}
	oldest := time.Now().UTC().Truncate(time.Second)
	w.must(w.compute.Observe(t.Context(), w.host, hostapi.Status{Sent: time.Now(), Capacity: hostapi.Capacity{VCPUs: 8, MemoryMiB: 8192, DiskMiB: 81920},
		Host:  hostapi.HostStat{HypervisorError: "libvirtd is gone"},
		Spool: hostapi.SpoolStat{Bytes: 900, Limit: 1000, Readings: 7, Oldest: oldest, Thinned: 40, Refused: 3, Aside: 1}}))
	w.operator("GET", "/operator/hosts", nil, http.StatusOK, &hosts)
	wantSpool := &portal.SpoolJSON{Bytes: 900, Limit: 1000, Readings: 7, Oldest: &oldest, Thinned: 40, Refused: 3, Aside: 1}
	if diff := cmp.Diff(wantSpool, hosts.Items[0].Spool); diff != "" || hosts.Items[0].HypervisorError != "libvirtd is gone" {
		t.Errorf("what the host reported, %q, -want +got:\n%s", hosts.Items[0].HypervisorError, diff)
	}
	w.operator("POST", "/operator/hosts/tokens", nil, http.StatusCreated, &portal.TokenJSON{})
	w.instance(c, "web")
	w.problem(operatorToken, "DELETE", "/operator/hosts/"+string(w.host), nil, http.StatusConflict, "host_in_use")
	w.operator("DELETE", "/operator/hosts/"+string(w.host)+"?force=true", nil, http.StatusNoContent, nil)
	w.operator("GET", "/operator/hosts", nil, http.StatusOK, &hosts)
	if hosts.Items[0].State != "removed" || hosts.Items[0].VCPUsUsed != 1 {
		t.Errorf("hosts %+v", hosts)
	}
}

// problem wants the API to refuse, with a detail that has all of the words.
func (w *world) problem(token, method, path string, body any, status int, code string, words ...string) {
	w.t.Helper()
	got := w.api(token, method, path, body)
	var p portal.Problem
	if err := json.Unmarshal(got.body, &p); err != nil || got.header.Get("Content-Type") != "application/problem+json" {
		w.t.Errorf("%s %s: no problem but %d %s", method, path, got.status, got.body)
		return
	}
	if got.status != status || p.Status != status || p.Code != code || p.Type == "" || p.Title == "" || p.Detail == "" {
		w.t.Errorf("%s %s: %d %+v, want %d %s", method, path, got.status, p, status, code)
	}
	for _, word := range words {
		if !strings.Contains(p.Detail, word) {
			w.t.Errorf("%s %s: detail %q lacks %q", method, path, p.Detail, word)
		}
	}
}

func TestProblems(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	ok := portal.CreateInstance{Name: "web", Flavor: "small", Image: "tiny"}
	instance := func(change func(*portal.CreateInstance)) portal.CreateInstance {
		n := ok
		change(&n)
		return n
	}
	cases := []struct {
		token, method, path string
		body                any
		status              int
		code                string
		words               []string
	}{
		{"", "GET", "/instances", nil, 401, "unauthorized", nil},
		{"us_wrong", "GET", "/instances", nil, 401, "unauthorized", nil},
		{c.token, "GET", "/operator/hosts", nil, 401, "unauthorized", nil},
		{operatorToken, "GET", "/instances", nil, 401, "unauthorized", nil},
		{c.token, "GET", "/nothing", nil, 404, "not_found", nil},
		{c.token, "PUT", "/instances", nil, 405, "method_not_allowed", nil},
		{c.token, "GET", "/instances/ins_00000000000000000", nil, 404, "not_found", nil},
		{c.token, "GET", "/invoices/INV-999999", nil, 404, "not_found", nil},
		{c.token, "GET", "/instances?limit=0", nil, 400, "bad_request", []string{"limit", "1000"}},
		{c.token, "GET", "/instances?limit=1001", nil, 400, "bad_request", nil},
		{c.token, "GET", "/invoices?after=x", nil, 400, "bad_request", []string{"after"}},
		{c.token, "GET", "/usage?from=yesterday", nil, 400, "bad_request", []string{"from", "yesterday"}},
		{c.token, "GET", "/usage?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", nil, 400, "bad_request", nil},
		{c.token, "POST", "/instances", []byte(`{"name":"web","flavour":"small"}`), 400, "bad_request", []string{`"flavour"`}},
		{c.token, "POST", "/instances", []byte(`{"name":`), 400, "bad_request", nil},
		{c.token, "POST", "/instances", []byte(`{} {}`), 400, "bad_request", nil},
		{c.token, "POST", "/instances", []byte(`{"user_data":"` + strings.Repeat("x", 2<<20) + `"}`), 413, "too_large", nil},
		{c.token, "POST", "/instances", instance(func(n *portal.CreateInstance) { n.Name = "Not a name" }), 422, "invalid", []string{"Not a name"}},
		{c.token, "POST", "/instances", instance(func(n *portal.CreateInstance) { n.Flavor = "huge" }), 422, "no_such_flavor", []string{"huge"}},
		{c.token, "POST", "/instances", instance(func(n *portal.CreateInstance) { n.Image = "odd" }), 422, "no_such_image", []string{"odd"}},
		{operatorToken, "POST", "/operator/plans", []byte(strings.Replace(planYAML, "network.public.tx", "network.tx", 1)), 422, "invalid_plan", []string{"plan.yaml:8:", "network.tx"}},
		{operatorToken, "POST", "/operator/plans", []byte(strings.Replace(planYAML, "effective: 2020-01-01", "", 1)), 422, "invalid_plan", []string{"effective"}},
		{operatorToken, "GET", "/operator/plans/none", nil, 404, "not_found", nil},
		{operatorToken, "POST", "/operator/tenants", portal.CreateTenant{Name: "B", Email: "A@example.com", Password: password, Plan: "standard"}, 409, "email_taken", nil},
		{operatorToken, "POST", "/operator/tenants", portal.CreateTenant{Name: "B", Email: "b@example.com", Password: "short", Plan: "standard"}, 422, "invalid", []string{"password"}},
		{operatorToken, "POST", "/operator/tenants/ten_0/credit", portal.GrantCredit{Amount: "1", Key: "k"}, 404, "not_found", nil},
		{operatorToken, "POST", "/operator/tenants/" + string(c.ID) + "/credit", portal.GrantCredit{Amount: "1", Key: "first"}, 409, "key_reused", nil},
		{operatorToken, "POST", "/operator/tenants/" + string(c.ID) + "/credit", portal.GrantCredit{Amount: "much", Key: "k"}, 422, "invalid", []string{"much"}},
		{operatorToken, "POST", "/operator/tenants/ten_0/tokens", nil, 404, "not_found", nil},
		{operatorToken, "POST", "/operator/tenants/ten_0/closings", nil, 404, "not_found", nil},
		{operatorToken, "GET", "/operator/tenants/ten_0/invoices", nil, 404, "not_found", nil},
		{operatorToken, "GET", "/operator/invoices/INV-1", nil, 404, "not_found", nil},
		{operatorToken, "DELETE", "/operator/hosts/hst_0", nil, 404, "not_found", nil},
	}
	for _, p := range cases {
		w.problem(p.token, p.method, p.path, p.body, p.status, p.code, p.words...)
	}
	if got := w.api(c.token, "PUT", "/instances", nil).header.Values("Allow"); !slices.Equal(got, []string{"GET", "HEAD", "POST"}) {
		t.Errorf("Allow: %v", got)
	}
	var first, again portal.InstanceJSON
	for _, i := range []*portal.InstanceJSON{&first, &again} {
		got := w.api(c.token, "POST", "/instances", ok, "Idempotency-Key", "once")
		w.must(json.Unmarshal(got.body, i))
	}
	if first.ID == "" || first.ID != again.ID {
		t.Errorf("the same key made %q and %q", first.ID, again.ID)
	}
	t.Run("refused admission", func(t *testing.T) {
		// 500 EUR carry three instances at 6 EUR an hour for a day.
		for _, name := range []string{"b", "c"} {
			ok.Name = name
			w.want(c.token, "POST", "/instances", ok, http.StatusCreated, nil)
		}
		w.problem(c.token, "POST", "/instances", ok, http.StatusPaymentRequired, "no_credit", "EUR")
		rich := portal.GrantCredit{Amount: "100000", Key: "rich"}
		w.operator("POST", "/operator/tenants/"+string(c.ID)+"/credit", rich, http.StatusNoContent, nil)
		for range 5 {
			w.want(c.token, "POST", "/instances", ok, http.StatusCreated, nil)
		}
		w.problem(c.token, "POST", "/instances", ok, http.StatusServiceUnavailable, "no_capacity", "vCPUs")
	})
	t.Run("deleted", func(t *testing.T) {
		w.want(c.token, "DELETE", "/instances/"+string(first.ID), nil, http.StatusAccepted, nil)
		w.problem(c.token, "POST", "/instances/"+string(first.ID)+"/start", nil, http.StatusConflict, "deleted")
	})
}

func TestAccruedThatFailsIsNull(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	broken := errors.New("a secret of the inside")
	w.accruedErr.Store(&broken)
	i, _ := w.instance(c, "web")
	var got portal.InstanceJSON
	w.want(c.token, "GET", "/instances/"+string(i.ID), nil, http.StatusOK, &got)
	if got.Accrued != nil {
		t.Errorf("accrued %+v, want null", got.Accrued)
	}
	w.problem(c.token, "GET", "/accrued", nil, http.StatusInternalServerError, "internal")
	if answer := w.api(c.token, "GET", "/accrued", nil); strings.Contains(string(answer.body), "secret") {
		t.Errorf("an internal error is told: %s", answer.body)
	}
}

func TestManyRequestsShareOneComputation(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	w.instance(c, "web")
	time.Sleep(1100 * time.Millisecond)
	w.accruedCalls.Store(0)
	begin := time.Now()
	for range 20 {
		w.want(c.token, "GET", "/instances", nil, http.StatusOK, nil)
	}
	if calls, most := w.accruedCalls.Load(), int64(time.Since(begin)/time.Second)+1; calls < 1 || calls > most {
		t.Errorf("20 requests within %v computed %d times, want at most %d", time.Since(begin), calls, most)
	}
}

func TestReadingsOfOneInstantStayTogether(t *testing.T) {
	at := func(seconds ...int) (all []readingdb.Record) {
		for _, s := range seconds {
			all = append(all, readingdb.Record{Reading: metering.Reading{At: time.Unix(int64(s), 0).UTC()}})
		}
		return all
	}
	for _, c := range []struct {
		all   []readingdb.Record
		limit int
		left  int
		next  int
	}{
		{at(1, 2), 2, 2, 0},
		{at(1, 2, 3), 2, 2, 2},
		{at(1, 2, 2, 3), 2, 1, 3},
		{at(2, 2, 2), 2, 1, 2}, // more of one instant than a page holds: nothing better can be done
	} {
		got, next := portal.LastReadingsForTest(c.all, c.limit)
		want := ""
		if c.next > 0 {
			want = time.Unix(int64(c.next), 0).UTC().Format(time.RFC3339Nano)
		}
		if len(got) != c.left || next != want {
			t.Errorf("%d of %d readings, next %q; want %d, %q", len(got), len(c.all), next, c.left, want)
		}
	}
}
