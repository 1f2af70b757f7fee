package portal_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/ingest"
	"github.com/usance/usance/portal"
)

func TestQuarantineOverTheAPI(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	i, epoch := w.instance(c, "web")
	at := time.Now().UTC().Truncate(time.Millisecond).Add(-time.Second)
	for n := range 2 {
		w.must(w.epochs.Quarantine(t.Context(), []ingest.Quarantined{{Host: w.host, Tenant: c.ID, Received: at, Reason: ingest.ReasonTime, Detail: "2 h in 1 h",
			Epoch:   metering.Epoch{ID: epoch, Instance: i.ID, Lease: 1, Start: 1, Opened: at},
			Reading: metering.Reading{Epoch: epoch, At: at, Registers: metering.Registers{metering.RunningMS: uint64(7_200_000 + n)}}}}))
	}
	var page, rest portal.List[portal.QuarantinedJSON]
	w.operator("GET", "/operator/quarantine?limit=1", nil, http.StatusOK, &page)
	w.operator("GET", "/operator/quarantine?limit=1&after="+page.Next, nil, http.StatusOK, &rest)
	if len(page.Items) != 1 || len(rest.Items) != 1 || rest.Next != "" || page.Items[0].ID == rest.Items[0].ID {
		t.Fatalf("pages %+v, %+v", page, rest)
	}
	if q := page.Items[0]; q.State != "open" || q.Reason != "time" || q.Tenant != c.ID || q.Instance != i.ID || q.Registers["running_ms"] != "7200000" || !q.At.Equal(at) {
		t.Errorf("%+v", q)
	}
	first, second := "/operator/quarantine/"+page.Items[0].ID, "/operator/quarantine/"+rest.Items[0].ID
	var q portal.QuarantinedJSON
	for range 2 {
		w.operator("POST", first+"/accept", portal.DecideQuarantined{By: "ann", Note: "true"}, http.StatusOK, &q)
	}
	if q.State != "accepted" || q.By != "ann" || q.Note != "true" || q.DecidedAt == nil {
		t.Errorf("%+v", q)
	}
	w.operator("POST", second+"/reject", nil, http.StatusOK, &q)
	if q.State != "rejected" || q.By != "operator" {
		t.Errorf("%+v", q)
	}
	w.operator("POST", second+"/accept", nil, http.StatusConflict, nil)
	w.operator("POST", "/operator/quarantine/nine/accept", nil, http.StatusNotFound, nil)
	w.operator("GET", "/operator/quarantine?state=lost", nil, http.StatusBadRequest, nil)
	w.operator("GET", "/operator/quarantine?state=all", nil, http.StatusOK, &page)
	if len(page.Items) != 2 {
		t.Errorf("all: %+v", page)
	}
	latest, err := w.readings.Latest(t.Context(), c.ID, i.ID)
	w.must(err)
	if got := latest.Registers[metering.RunningMS]; got != 7_200_000 {
		t.Errorf("%d ms", got)
	}
}

// Readings are decided about by what they have in common, once they were counted.
func TestQuarantineIsDecidedInBulk(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	i, epoch := w.instance(c, "web")
	at := time.Now().UTC().Truncate(time.Millisecond).Add(-time.Minute)
	put := func(n int, instance metering.InstanceID, reason ingest.Reason) {
		w.must(w.epochs.Quarantine(t.Context(), []ingest.Quarantined{{Host: w.host, Tenant: c.ID, Received: at, Reason: reason,
			Epoch:   metering.Epoch{ID: epoch, Instance: instance, Lease: 1, Start: 1, Opened: at},
			Reading: metering.Reading{Epoch: epoch, At: at.Add(time.Duration(n) * time.Second), Registers: metering.Registers{metering.RunningMS: uint64(7_200_000 + n)}}}}))
	}
	put(1, i.ID, ingest.ReasonTime)
	put(2, i.ID, ingest.ReasonTime)
	put(3, "ins_0000000000000beef", ingest.ReasonTime) // the epoch is not this one's
	put(4, i.ID, ingest.ReasonBytes)
	var counted portal.SelectedJSON
	w.operator("GET", "/operator/quarantine/count?host="+string(w.host)+"&reason=time", nil, http.StatusOK, &counted)
	if counted.Count != 3 || counted.Since == nil || !counted.Since.Equal(at) {
		t.Fatalf("counted %+v", counted)
	}
	put(5, i.ID, ingest.ReasonTime) // after they were counted
	by := portal.DecideSelected{DecideQuarantined: portal.DecideQuarantined{By: "ann", Note: "its clock was seen"}, Host: w.host, Reason: ingest.ReasonTime, Through: counted.Through}
	var done portal.DecidedJSON
	w.operator("POST", "/operator/quarantine/accept", by, http.StatusOK, &done)
	if done.Decided != 2 || len(done.Left) != 1 || !strings.Contains(done.Left[0].Why, "not of ins_0000000000000beef") || done.Next != "" {
		t.Errorf("accepted %+v, want two, and the third told", done)
	}
	latest, err := w.readings.Latest(t.Context(), c.ID, i.ID)
	w.must(err)
	if got := latest.Registers[metering.RunningMS]; got != 7_200_002 {
		t.Errorf("%d ms count, want those of the accepted", got)
	}
	w.operator("POST", "/operator/quarantine/accept", by, http.StatusOK, &done)
	if done.Decided != 0 || len(done.Left) != 1 {
		t.Errorf("once more: %+v, want nothing but the one that stays", done)
	}
	by.Reason = ""
	w.operator("POST", "/operator/quarantine/reject", by, http.StatusOK, &done)
	if done.Decided != 1 || len(done.Left) != 0 {
		t.Errorf("rejected %+v, want the one that was left", done)
	}
	var page portal.List[portal.QuarantinedJSON]
	w.operator("GET", "/operator/quarantine?state=accepted", nil, http.StatusOK, &page)
	if len(page.Items) != 2 || page.Items[1].By != "ann" || page.Items[1].Note != "its clock was seen" || !page.Items[0].DecidedAt.Equal(*page.Items[1].DecidedAt) {
		t.Errorf("accepted by one decision: %+v", page.Items)
	}
	w.operator("GET", "/operator/quarantine", nil, http.StatusOK, &page)
	if len(page.Items) != 2 { // of another reason, and later than what was counted
		t.Errorf("%d stay open, want 2", len(page.Items))
	}
	w.operator("GET", "/operator/quarantine/count?reason=none", nil, http.StatusOK, &counted)
	if counted.Count != 0 || counted.Through != "" || counted.Since != nil {
		t.Errorf("nothing is counted as %+v", counted)
	}
	for _, d := range []portal.DecideSelected{{Host: w.host}, {Host: w.host, Through: "0"}, {Host: w.host, Through: "9", After: "x"}} {
		w.operator("POST", "/operator/quarantine/reject", d, http.StatusBadRequest, nil)
	}
	w.operator("POST", "/operator/quarantine/reject", portal.DecideSelected{Through: "9"}, http.StatusUnprocessableEntity, nil)
	w.operator("GET", "/operator/quarantine/count", nil, http.StatusBadRequest, nil)
}

// What was billed of an epoch stays billed when it is voided, and what its
// replacing epoch grows by is billed next.
func TestVoidOverTheAPI(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	i, epoch := w.instance(c, "web") // an hour was measured
	closings := "/operator/tenants/" + string(c.ID) + "/closings"
	var closing portal.ClosingJSON
	w.operator("POST", closings, nil, http.StatusCreated, &closing)
	if closing.Invoice == nil || closing.Invoice.Gross != "7.00" {
		t.Fatalf("%+v", closing.Invoice)
	}
	path := "/operator/epochs/" + string(epoch) + "/void"
	from := time.Now().UTC().Add(-time.Minute)
	var v portal.VoidJSON
	for range 2 {
		w.operator("POST", path, portal.VoidEpoch{From: from, Reason: "a counter leapt"}, http.StatusOK, &v)
	}
	if v.Epoch != epoch || v.Tenant != c.ID || v.Instance != i.ID || v.Counted["running_ms"] != "0" || v.Next != metering.ReplacingEpochID(epoch) {
		t.Errorf("%+v", v)
	}
	w.operator("POST", path, portal.VoidEpoch{From: from.Add(time.Second), Reason: "a counter leapt"}, http.StatusConflict, nil)
	w.operator("POST", path, portal.VoidEpoch{From: from}, http.StatusUnprocessableEntity, nil)
	w.operator("POST", path, portal.VoidEpoch{Reason: "a counter leapt"}, http.StatusBadRequest, nil)
	w.operator("POST", "/operator/epochs/e/void", portal.VoidEpoch{From: from, Reason: "a counter leapt"}, http.StatusNotFound, nil)
	time.Sleep(1100 * time.Millisecond) // what pages cache of the meters
	var shown portal.InstanceJSON
	w.want(c.token, "GET", "/instances/"+string(i.ID), nil, http.StatusOK, &shown)
	if shown.Registers["running_ms"] != "0" {
		t.Errorf("shown as running for %s ms", shown.Registers["running_ms"])
	}
	w.operator("POST", closings, nil, http.StatusCreated, &closing)
	if closing.Invoice != nil {
		t.Errorf("nothing grew, and %s are billed", closing.Invoice.Gross)
	}
	w.read(c.ID, i.ID, v.Next, time.Now().Add(-time.Second), 3_600_000+1_800_000, 1<<30)
	w.operator("POST", closings, nil, http.StatusCreated, &closing)
	if closing.Invoice == nil || closing.Invoice.Gross != "3.00" {
		t.Errorf("half an hour more is billed as %+v", closing.Invoice)
	}
	var usage portal.List[portal.UsageJSON]
	w.want(c.token, "GET", "/usage?by=meter", nil, http.StatusOK, &usage)
	if len(usage.Items) != 1 || usage.Items[0].Quantity != "1800" || usage.Items[0].Resource != "" {
		t.Errorf("usage %+v", usage.Items)
	}
}

func TestUsageIsSummedUp(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	a, first := w.instance(c, "a")
	b, _ := w.instance(c, "b")
	_, err := w.pool.Exec(t.Context(), `INSERT INTO allocations (id, tenant, resource, meter, flavor, image, region, host_class, amount, started_at, ended_at)
		VALUES ('all_00000000000000001', $1, $2, 'instance.stopped', 'small', 'tiny', '', '', 1, '2026-01-01T22:30:00Z', '2026-01-02T01:00:00Z')`, c.ID, b.ID)
	w.must(err)
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w.read(c.ID, a.ID, first, day.Add(23*time.Hour), 60_000, 0)
	w.read(c.ID, a.ID, first, day.Add(24*time.Hour), 90_000, 0) // midnight: of the day before
	w.read(c.ID, a.ID, first, day.Add(24*time.Hour+time.Minute), 100_000, 0)
	for _, test := range []struct {
		query string
		want  []string // resource, meter, start, quantity
	}{
		{"by=day", []string{" instance.running 01T00 90", " instance.stopped 01T00 5400", " instance.running 02T00 10", " instance.stopped 02T00 3600"}},
		{"by=meter", []string{" instance.running 01T00 100", " instance.stopped 01T00 9000"}},
		{"by=resource", []string{string(a.ID) + " instance.running 01T00 100", string(b.ID) + " instance.stopped 01T00 9000"}},
		{"by=hour&resource=" + string(a.ID), []string{string(a.ID) + " instance.running 01T22 60", string(a.ID) + " instance.running 01T23 30", string(a.ID) + " instance.running 02T00 10"}},
		{"by=hour&resource=ins_00000000000000000", nil},
	} {
		var got portal.List[portal.UsageJSON]
		w.want(c.token, "GET", "/usage?from=2026-01-01T00:00:00Z&to=2026-01-03T00:00:00Z&"+test.query, nil, http.StatusOK, &got)
		var have []string
		for _, u := range got.Items {
			have = append(have, string(u.Resource)+" "+string(u.Meter)+" "+u.Start.Format("02T15")+" "+u.Quantity)
		}
		want := map[string]bool{}
		for _, line := range test.want {
			want[strings.TrimSpace(line)] = true
		}
		for _, line := range have {
			if !want[strings.TrimSpace(line)] {
				t.Errorf("%s: %q is not wanted", test.query, line)
			}
			delete(want, strings.TrimSpace(line))
		}
		if len(want) > 0 {
			t.Errorf("%s: %v are missing of %q", test.query, want, have)
		}
	}
	// Up to now, from totals, is what slots and readings say.
	now := time.Now().UTC()
	for _, by := range []string{"resource", "meter"} {
		var open, closed portal.List[portal.UsageJSON]
		w.want(c.token, "GET", "/usage?from=2025-12-01T00:00:00Z&by="+by, nil, http.StatusOK, &open)
		w.want(c.token, "GET", "/usage?from=2025-12-01T00:00:00Z&by="+by+"&to="+url.QueryEscape(now.Format(time.RFC3339Nano)), nil, http.StatusOK, &closed)
		if len(open.Items) == 0 || len(open.Items) != len(closed.Items) {
			t.Fatalf("by %s: %+v and %+v", by, open.Items, closed.Items)
		}
		for i := range open.Items {
			if open.Items[i].Quantity != closed.Items[i].Quantity {
				t.Errorf("by %s: %+v up to now, %+v to %s", by, open.Items[i], closed.Items[i], now)
			}
		}
	}
	for _, query := range []string{"by=week", "by=hour&from=2020-01-01T00:00:00Z"} {
		w.want(c.token, "GET", "/usage?"+query, nil, http.StatusBadRequest, nil)
	}
}

func TestLeaksOverTheAPI(t *testing.T) {
	w := newWorld(t)
	minor := int64(600)
	kinds := []compute.LeakKind{compute.LeakUnmetered}
	leak := computedb.Leak{Leak: compute.Leak{Kind: compute.LeakUnmetered, Subject: "ins_1", Tenant: "ten_a", Host: w.host, Since: time.Now(), Detail: "no reading"},
		Hourly: &minor, Currency: "EUR"}
	save := func(found ...computedb.Leak) {
		t.Helper()
		_, err := w.compute.SaveLeaks(t.Context(), kinds, found, func(compute.LeakKind, string) string { return "readings come again" }, time.Now())
		w.must(err)
	}
	save(leak)
	var list portal.List[portal.LeakJSON]
	w.operator("GET", "/operator/leaks", nil, http.StatusOK, &list)
	if len(list.Items) != 1 || list.Items[0].Hourly == nil || *list.Items[0].Hourly != (portal.Money{Amount: "6.00", Currency: "EUR"}) || list.Items[0].Closed != nil {
		t.Fatalf("%+v", list)
	}
	save()
	w.operator("GET", "/operator/leaks?state=all", nil, http.StatusOK, &list)
	if len(list.Items) != 1 || list.Items[0].Closed == nil || list.Items[0].Why != "readings come again" {
		t.Fatalf("%+v", list)
	}
	w.operator("GET", "/operator/leaks", nil, http.StatusOK, &list)
	if len(list.Items) != 0 {
		t.Errorf("%+v", list)
	}
	w.operator("GET", "/operator/leaks?state=lost", nil, http.StatusBadRequest, nil)
	w.operator("GET", "/operator/leaks?after=x", nil, http.StatusBadRequest, nil)
}
