package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usance/usance/portal"
)

const oldPlan = `plan: standard
currency: EUR
effective: 2026-12-01
flavors: {small: {vcpus: 1, memory: 1 GiB}}
rates:
  - {id: small, meter: instance.running, where: {flavor: small}, price: 0.0075 per hour}
  - {id: egress, meter: network.public.tx, steps: [{up to: 10 TiB, price: 0.010 per GiB}, {price: 0.010 per GiB}]}
`

var (
	newPlan   = strings.Replace(oldPlan, "{price: 0.010 per GiB}]", "{price: 0.008 per GiB}]", 1)
	wrongPlan = strings.Replace(oldPlan, "0.0075 per hour", "0.0075 per GB", 1)
	oddPlan   = strings.Replace(oldPlan, "where: {flavor: small}", "where: {flavor: tiny}", 1)
)

// planRun runs a plan command on files of the given texts, named a, b.
func planRun(t *testing.T, server string, texts []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	for i, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs strings.Builder
	p := program{getenv: func(key string) string { return map[string]string{"USANCE_SERVER": server, "USANCE_TOKEN": "uo"}[key] }, stdout: &out, stderr: &errs}
	full := []string{"plan"}
	for _, a := range args {
		full = append(full, strings.Replace(a, "@", dir+"/", 1))
	}
	code = run(t.Context(), p, full)
	return code, strings.ReplaceAll(out.String(), dir+"/", ""), strings.ReplaceAll(errs.String(), dir+"/", "")
}

func TestPlanCheck(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		args       []string
		code       int
		says       string
	}{
		{"fine", oldPlan, []string{"check", "@a"}, exitOK, "a: plan standard, 2 rates, no mistakes\n"},
		{"fine, strictly", oldPlan, []string{"check", "--strict", "@a"}, exitOK, "no mistakes"},
		{"a flavor that would run unrated", oddPlan, []string{"check", "@a"}, exitOK, "warning: a:4:11: no rate for instance.running fits flavor small"},
		{"likewise, strictly", oddPlan, []string{"check", "--strict", "@a"}, exitUsage, "warning: a:4:11: no rate for instance.running fits flavor small"},
		{"wrong", wrongPlan, []string{"check", "@a"}, exitUsage, "a:6:"},
		{"a preset", oldPlan, []string{"check", "--strict", "preset:standard"}, exitOK, "no mistakes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr := planRun(t, "", []string{tc.text}, tc.args...)
			if code != tc.code || !strings.Contains(stdout+stderr, tc.says) || code != exitOK && stdout != "" {
				t.Errorf("code %d, want %d\n%s%s", code, tc.code, stdout, stderr)
			}
		})
	}
}

func TestPlanDiff(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/operator/plans/standard" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		json.NewEncoder(w).Encode(portal.PlanSource{PublishedPlan: portal.PublishedPlan{Plan: "standard", Version: 3}, Source: oldPlan})
	}))
	defer server.Close()
	const changed = "egress above 10 TiB: 0.010 → 0.008 per GiB\n"
	for _, tc := range []struct {
		name   string
		args   []string
		code   int
		stdout string
	}{
		{"two files", []string{"diff", "@a", "@b"}, exitOK, changed},
		{"the newest version", []string{"diff", "@b"}, exitOK, changed},
		{"nothing", []string{"diff", "@a"}, exitOK, "nothing changes from standard version 3 to a\n"},
		{"a wrong file", []string{"diff", "@a", "@c"}, exitUsage, ""},
		{"no file", []string{"diff", "@a", "@d"}, exitError, ""},
		{"no such preset", []string{"diff", "preset:none", "@a"}, exitError, ""},
		{"no arguments", []string{"diff"}, exitUsage, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr := planRun(t, server.URL, []string{oldPlan, newPlan, wrongPlan}, tc.args...)
			if code != tc.code || stdout != tc.stdout {
				t.Errorf("code %d, want %d; %q, want %q\n%s", code, tc.code, stdout, tc.stdout, stderr)
			}
		})
	}
}

func TestPlanBacktestJoinsPages(t *testing.T) {
	pages := map[string]portal.BacktestJSON{
		"": {Plan: "standard", Period: "2026-10", Currency: "EUR", Accounts: 60, Before: "10.00", After: "9.00", Next: "ten_50",
			ByFlavor: []portal.ComparedJSON{{Name: "small", Before: "10.00", After: "9.00"}},
			ByMeter:  []portal.ComparedJSON{{Name: "instance.running", Before: "10.00", After: "9.00"}},
			Tenants:  []portal.ComparedJSON{{Name: "ten_1", Before: "10.00", After: "9.00"}},
			Unrated: []portal.UnratedTotalJSON{{Tenant: "ten_1", Plan: "after", Meter: "disk.read", Flavor: "small", Resources: 1, Quantity: "5", Unit: "B"},
				{Tenant: "ten_1", Plan: "before", Meter: "disk.write", Flavor: "small", Resources: 1, Quantity: "0.5", Unit: "B"}}},
		"ten_50": {Plan: "standard", Period: "2026-10", Currency: "EUR", Accounts: 60, Before: "1.00", After: "5.50",
			ByFlavor: []portal.ComparedJSON{{Name: "", Before: "0.00", After: "4.00"}, {Name: "small", Before: "1.00", After: "1.50"}},
			ByMeter:  []portal.ComparedJSON{{Name: "instance.running", Before: "1.00", After: "5.50"}},
			Tenants:  []portal.ComparedJSON{{Name: "ten_60", Before: "1.00", After: "5.50"}},
			Unrated:  []portal.UnratedTotalJSON{{Tenant: "ten_60", Plan: "after", Meter: "disk.read", Flavor: "small", Resources: 2, Quantity: "7", Unit: "B"}},
			Skipped:  []portal.SkippedJSON{{Tenant: "ten_59", Reason: "the account has no such period"}}},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var n portal.CreateBacktest
		if err := json.Unmarshal(body, &n); err != nil || n.Plan != newPlan || n.Against != "" || n.Period != "2026-10" || !n.All {
			t.Errorf("asked with %s", body)
		}
		json.NewEncoder(w).Encode(pages[r.URL.Query().Get("after")])
	}))
	defer server.Close()
	for format, want := range map[string][]string{
		"table": {"2 tenants compared", "total   2026-10           11.00   14.50  3.50", "flavor  (pooled)          0.00    4.00   4.00",
			"tenant  ten_60            1.00    5.50   4.50\n        ten_1             10.00   9.00   -1.00",
			"UNRATED, and so free", "after   disk.read   small   2        3          12        B", "skipped ten_59: the account has no such period"},
		"csv": {"kind,name,before,after,change,currency\ntotal,2026-10,11.00,14.50,3.50,EUR\nflavor,,0.00,4.00,4.00,EUR\nflavor,small,11.00,10.50,-0.50,EUR\n",
			"tenant,ten_1,10.00,9.00,-1.00,EUR\n", "unrated after,ten_60 disk.read small: 7 B of 2 resources,,,,\n", "skipped,ten_59: the account"},
		"json": {`"before": "11.00"`, `"after": "14.50"`, `"name": "ten_60"`, `"resources": 2`},
	} {
		code, stdout, stderr := planRun(t, server.URL, []string{newPlan}, "backtest", "--plan", "@a", "--period", "2026-10", "--all", "--format", format)
		if code != exitOK || stderr != "" {
			t.Errorf("%s: code %d, %s", format, code, stderr)
		}
		for _, w := range want {
			if !strings.Contains(stdout, w) {
				t.Errorf("%s: no %q in\n%s", format, w, stdout)
			}
		}
	}
	for _, bad := range [][]string{{"backtest"}, {"backtest", "--plan", "@a"}, {"backtest", "--plan", "@a", "--period", "2026-10", "--format", "pdf"}, {"backtest", "--plan", "@a", "--period", "2026-10", "more"}} {
		if code, _, _ := planRun(t, server.URL, []string{newPlan}, bad...); code != exitUsage {
			t.Errorf("%v: code %d", bad, code)
		}
	}
}
