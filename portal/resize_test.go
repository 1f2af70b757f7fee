package portal_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
)

// say has a host that shares its storage report its instances.
func (w *world) say(host metering.HostID, instances ...compute.Observation) {
	w.t.Helper()
	w.must(w.compute.Observe(w.t.Context(), host, hostapi.Status{Sent: time.Now(), Version: hostapi.Version, Storage: "san",
		Capacity: hostapi.Capacity{VCPUs: 8, MemoryMiB: 4096, DiskMiB: 16384}, Instances: instances}))
}

func TestResizeAPI(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	i, _ := w.instance(c, "web")
	path := "/instances/" + string(i.ID)
	w.say(w.host, compute.Observation{ID: i.ID, Generation: 1, Lease: 1, Start: 1, State: compute.StateRunning, Since: time.Now()})
	for flavor, want := range map[string]portal.Problem{
		"tall":   {Status: http.StatusConflict, Code: "stop_first"},
		"none":   {Status: http.StatusUnprocessableEntity, Code: "no_such_flavor"},
		"widest": {Status: http.StatusServiceUnavailable, Code: "no_capacity"},
	} {
		var p portal.Problem
		w.want(c.token, "POST", path+"/resize", portal.ResizeInstance{Flavor: flavor}, want.Status, &p)
		if p.Code != want.Code || p.Detail == "" {
			t.Errorf("%s: %+v, want code %s", flavor, p, want.Code)
		}
	}
	var got portal.InstanceJSON
	w.want(c.token, "POST", path+"/resize", portal.ResizeInstance{Flavor: "small"}, http.StatusAccepted, &got)
	if got.Resizing {
		t.Errorf("the flavor it has: %+v", got)
	}
	w.want(c.token, "POST", path+"/resize", portal.ResizeInstance{Flavor: "wide"}, http.StatusAccepted, &got)
	if got.Flavor != "wide" || !got.Resizing || got.State != "running" || got.Error != "" {
		t.Errorf("resized: %+v", got)
	}
	w.say(w.host, compute.Observation{ID: i.ID, Generation: 1, Lease: 1, Start: 1, State: compute.StateRunning, Since: time.Now(), Error: "no vCPUs"})
	w.want(c.token, "GET", path, nil, http.StatusOK, &got)
	if !got.Resizing || got.State != "running" || got.Error != "no vCPUs" {
		t.Errorf("a resize that failed: %+v", got)
	}
	w.say(w.host, compute.Observation{ID: i.ID, Generation: 2, Lease: 2, Start: 1, State: compute.StateRunning, Since: time.Now()})
	got = portal.InstanceJSON{}
	w.want(c.token, "GET", path, nil, http.StatusOK, &got)
	if got.Resizing || got.Error != "" {
		t.Errorf("done: %+v", got)
	}
	var p portal.Problem
	w.want(c.token, "POST", path+"/stop", nil, http.StatusAccepted, nil)
	w.say(w.host, compute.Observation{ID: i.ID, Generation: 3, Lease: 2, Start: 1, State: compute.StateStopped, Since: time.Now()})
	w.want(c.token, "POST", path+"/resize", portal.ResizeInstance{Flavor: "small"}, http.StatusConflict, &p)
	if p.Code != "disk_shrinks" {
		t.Errorf("a smaller disk: %+v", p)
	}
	w.want(c.token, "POST", path+"/resize", portal.ResizeInstance{Flavor: "tall"}, http.StatusAccepted, nil)
}

// TestResizeForm shows the flavors with their prices, its own one chosen.
func TestResizeForm(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	i, _ := w.instance(c, "web")
	w.say(w.host)
	path := "/instances/" + string(i.ID)
	page := w.page(c.browser, path).body
	check(t, page, map[string]string{"form[action$='/resize'] strong": "6.00 EUR per hour", "form[action$='/resize'] button": "Resize"})
	if n := len(texts(t, page, "form[action$='/resize'] input[value=small][checked]")); n != 1 {
		t.Errorf("%d flavors are its own, want small alone", n)
	}
	if got := w.form(c.browser, path+"/resize", url.Values{"flavor": {"tall"}}); got.status != http.StatusConflict {
		t.Errorf("other memory while it runs: %d", got.status)
	}
	if got := w.form(c.browser, path+"/resize", url.Values{"flavor": {"wide"}}); got.status != http.StatusSeeOther || got.header.Get("Location") != path {
		t.Errorf("resize: %d to %q", got.status, got.header.Get("Location"))
	}
	time.Sleep(1100 * time.Millisecond)
	check(t, w.page(c.browser, path).body, map[string]string{".facts dd": "wide ordered; it still runs, and is billed, as before"})
}

func TestMoveAPI(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	i, _ := w.instance(c, "web")
	path, move := "/instances/"+string(i.ID), "/operator/instances/"+string(i.ID)+"/move"
	other := w.joinHost()
	refused := func(to metering.HostID, status int, code string) {
		t.Helper()
		var p portal.Problem
		w.operator("POST", move, portal.MoveInstance{Host: to}, status, &p)
		if p.Code != code {
			t.Errorf("%+v, want code %s", p, code)
		}
	}
	refused(other, http.StatusConflict, "stop_first")
	w.want(c.token, "POST", path+"/stop", nil, http.StatusAccepted, nil)
	w.say(w.host, compute.Observation{ID: i.ID, Generation: 2, Lease: 1, Start: 1, State: compute.StateStopped, Since: time.Now()})
	refused(other, http.StatusConflict, "no_shared_storage")
	refused("hst_00000000000000000", http.StatusNotFound, "not_found")
	w.say(other)
	var got portal.MoveJSON
	w.operator("POST", move, portal.MoveInstance{Host: other}, http.StatusAccepted, &got)
	if want := (portal.MoveJSON{Instance: i.ID, Tenant: c.ID, Host: w.host, MovesTo: other}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, verb := range []string{"start", "resize"} {
		var p portal.Problem
		var body any
		if verb == "resize" {
			body = portal.ResizeInstance{Flavor: "wide"}
		}
		w.want(c.token, "POST", path+"/"+verb, body, http.StatusConflict, &p)
		if p.Code != "moving" {
			t.Errorf("%s while it moves: %+v", verb, p)
		}
	}
	w.say(w.host, compute.Observation{ID: i.ID, Generation: 3, Lease: 1, Start: 1, State: compute.StateReleased, Since: time.Now()})
	var in portal.InstanceJSON
	w.want(c.token, "GET", path, nil, http.StatusOK, &in)
	if in.Host != other || in.MovesTo != "" || in.State != "stopped" {
		t.Errorf("moved: %+v", in)
	}
	var hosts portal.List[portal.HostJSON]
	w.operator("GET", "/operator/hosts", nil, http.StatusOK, &hosts)
	for _, h := range hosts.Items {
		if h.Storage != "san" || (h.VCPUsUsed != 0) != (h.ID == other) {
			t.Errorf("host %+v", h)
		}
	}
}

func TestHeldAPI(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	i, _ := w.instance(c, "web")
	path, operators := "/instances/"+string(i.ID), "/operator/instances/"+string(i.ID)
	w.operator("POST", operators+"/stop", nil, http.StatusNoContent, nil)
	var p portal.Problem
	w.want(c.token, "POST", path+"/start", nil, http.StatusConflict, &p)
	if p.Code != "held" {
		t.Errorf("start of what the operator stopped: %+v", p)
	}
	page := w.page(c.browser, path).body
	check(t, page, map[string]string{".notice": "Ordered by the hosting provider."})
	if len(texts(t, page, "form[action$='/start']")) != 0 {
		t.Error("the page offers to start it")
	}
	var got portal.InstanceJSON
	w.operator("POST", operators+"/start", nil, http.StatusNoContent, nil)
	w.want(c.token, "GET", path, nil, http.StatusOK, &got)
	if got.Desired != "running" || got.Reason != "operator" {
		t.Errorf("started by the operator: %+v", got)
	}
	w.want(c.token, "POST", path+"/stop", nil, http.StatusAccepted, nil)
	w.want(c.token, "POST", path+"/start", nil, http.StatusAccepted, nil)
	w.operator("POST", "/operator/instances/ins_00000000000000000/stop", nil, http.StatusNotFound, nil)
}
