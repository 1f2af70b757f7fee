package portal_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/portal"
)

func TestPreviewAPI(t *testing.T) {
	w := newWorld(t)
	c := w.customer("a@example.com")
	var v, operators portal.PreviewJSON
	w.want(c.token, "GET", "/preview?flavor=small&image=tiny&hours=10", nil, http.StatusOK, &v)
	if v.Hourly != "6.00" || v.Net != "60.00" || v.Tax != "0.00" || v.Gross != "60.00" || v.TaxRule != "O" || v.Stopped != "0.00" || v.Hours == nil || *v.Hours != 10 {
		t.Errorf("ten hours: %+v", v)
	}
	if len(v.Lines) != 1 || v.Lines[0] != (portal.PreviewLineJSON{Rate: "small-running", Quantity: "10", Unit: "hour", Price: "6.00 per hour", Allowance: "0", Amount: "60.00"}) {
		t.Errorf("lines %+v", v.Lines)
	}
	var unrated []metering.Meter
	for _, u := range v.Unrated {
		unrated = append(unrated, u.Meter)
	}
	if diff := cmp.Diff([]metering.Meter{metering.InstanceMemory, metering.InstanceStopped, metering.InstanceVCPU}, unrated); diff != "" {
		t.Errorf("unrated (-want +got):\n%s", diff)
	}
	w.operator("GET", "/operator/tenants/"+string(c.ID)+"/preview?flavor=small&image=tiny&hours=10", nil, http.StatusOK, &operators)
	if diff := cmp.Diff(v, operators); diff != "" {
		t.Errorf("the operator sees another (-tenant +operator):\n%s", diff)
	}
	w.want(c.token, "GET", "/preview?flavor=small", nil, http.StatusOK, &v)
	month := metering.Month(time.Now(), time.UTC)
	if v.Hours != nil || !v.Start.Equal(month.Start) || v.Lines[0].Quantity != strings.TrimSuffix(month.Length().String(), "h0m0s") {
		t.Errorf("always: %+v", v)
	}
	monthly := v.Net + "&nbsp;EUR for a month of running, 0.00&nbsp;EUR when stopped, without traffic and tax"
	if body := string(w.page(c.browser, "/instances").body); !strings.Contains(body, monthly) {
		t.Errorf("the form does not say %q", monthly)
	}
	for query, status := range map[string]int{"": http.StatusUnprocessableEntity, "?flavor=huge": http.StatusUnprocessableEntity,
		"?flavor=small&hours=746": http.StatusBadRequest, "?flavor=small&hours=x": http.StatusBadRequest} {
		if got := w.api(c.token, "GET", "/preview"+query, nil); got.status != status {
			t.Errorf("preview%s: %d, want %d", query, got.status, status)
		}
	}
}

func TestBacktestAPI(t *testing.T) {
	w := newWorld(t)
	a, b := w.customer("a@example.com"), w.customer("b@example.com")
	w.instance(a, "web")
	instance, epoch := w.instance(b, "web")
	month := time.Now().UTC().Format("2006-01")
	dearer := strings.Replace(planYAML, "6.00 per hour", "7.50 per hour", 1)
	dearer = strings.Replace(dearer, "  - {id: egress, meter: network.public.tx, price: 1.00 per GiB}\n", "", 1)
	var got portal.BacktestJSON
	w.operator("POST", "/operator/backtest", portal.CreateBacktest{Plan: dearer, Period: month}, http.StatusOK, &got)
	if got.Plan != "standard" || got.Currency != "EUR" || got.Accounts != 2 || got.Before != "14.00" || got.After != "15.00" || len(got.Tenants) != 2 || got.Next != "" {
		t.Errorf("backtest %+v", got)
	}
	if diff := cmp.Diff([]portal.ComparedJSON{{Name: "small", Before: "14.00", After: "15.00"}}, got.ByFlavor); diff != "" {
		t.Errorf("by flavor (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]portal.ComparedJSON{{Name: "instance.running", Before: "12.00", After: "15.00"}, {Name: "network.public.tx", Before: "2.00", After: "0.00"}}, got.ByMeter); diff != "" {
		t.Errorf("by meter (-want +got):\n%s", diff)
	}
	if len(got.Unrated) != 2 || got.Unrated[0].Meter != "network.public.tx" || got.Unrated[0].Quantity != "1073741824" || got.Unrated[0].Plan != "after" {
		t.Errorf("unrated %+v", got.Unrated)
	}
	w.operator("POST", "/operator/backtest", portal.CreateBacktest{Plan: dearer, Period: month, Tenant: b.ID}, http.StatusOK, &got)
	if got.Accounts != 1 || len(got.Tenants) != 1 || got.Tenants[0] != (portal.ComparedJSON{Name: string(b.ID), Before: "7.00", After: "7.50"}) {
		t.Errorf("one tenant %+v", got)
	}
	for _, bad := range []struct {
		n      portal.CreateBacktest
		status int
	}{
		{portal.CreateBacktest{Plan: dearer, Period: "2026"}, http.StatusBadRequest},
		{portal.CreateBacktest{Plan: dearer, Period: "2199-01"}, http.StatusUnprocessableEntity},
		{portal.CreateBacktest{Plan: "plan: p", Period: month}, http.StatusUnprocessableEntity},
		{portal.CreateBacktest{Plan: dearer, Against: "plan: p", Period: month}, http.StatusUnprocessableEntity},
		{portal.CreateBacktest{Plan: dearer, Period: month, Tenant: "ten_00000000000000000"}, http.StatusNotFound},
	} {
		if got := w.api(operatorToken, "POST", "/operator/backtest", bad.n); got.status != bad.status {
			t.Errorf("%+v: %d %s, want %d", bad.n, got.status, got.body, bad.status)
		}
	}

	// Nothing that is invoiced gets another price, and what has no price is told.
	w.readMore(b.ID, instance.ID, epoch)
	var closing portal.ClosingJSON
	w.operator("POST", "/operator/tenants/"+string(b.ID)+"/closings", nil, http.StatusCreated, &closing)
	if closing.Invoice == nil || len(closing.Unrated) != 1 || closing.Unrated[0].Meter != metering.NetworkPublicRx || closing.Unrated[0].Quantity != "5" {
		t.Errorf("closing with unrated %+v", closing.Unrated)
	}
	if got := w.api(operatorToken, "POST", "/operator/plans", []byte(strings.Replace(dearer, "2020-01-01", "2020-02-01", 1))); got.status != http.StatusConflict ||
		!strings.Contains(string(got.body), "period_closed") || !strings.Contains(string(got.body), "is invoiced under version 1") {
		t.Errorf("published into the past: %d %s", got.status, got.body)
	}
}

// readMore stores a reading with 5 bytes received, which the plan has no price for.
func (w *world) readMore(tenant metering.TenantID, instance metering.InstanceID, epoch metering.EpochID) {
	w.t.Helper()
	at := time.Now().Add(-time.Second).UnixMilli()
	c := &metering.Columns{Tenant: []string{string(tenant)}, Instance: []string{string(instance)}, Epoch: []string{string(epoch)}, AtMS: []int64{at}, ReceivedMS: []int64{at}}
	for i := range c.Registers {
		c.Registers[i] = []uint64{0}
	}
	c.Registers[metering.NetPublicRxBytes][0] = 5
	w.must(w.readings.Insert(w.t.Context(), c))
}
