package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const ratePlan = `plan: standard
currency: EUR
timezone: Europe/Berlin
rates:
  - {id: running, meter: instance.running, price: 0.01 per hour, cap: 4.90 per month}
  - {id: reads, meter: disk.read, price: 0.10 per GB}
  - {id: egress, meter: network.public.tx, pool: tenant, price: 0.01 per GiB}
`

const rateUsage = `{"resource":"ins_2","meter":"disk.read","start":"2026-11-01T00:00:00Z","end":"2026-11-01T01:00:00Z","quantity":"1500000000"}

{"resource":"ins_2","meter":"instance.running","start":"2026-10-31T23:00:00Z","end":"2026-11-01T00:00:00Z","quantity":"1800.5","labels":{"flavor":"small"},"start_id":"s1","before":"0"}
{"resource":"ins_1","meter":"instance.running","start":"2026-11-01T00:00:00Z","end":"2026-11-01T01:00:00Z","quantity":"1800","labels":{"flavor":"small"}}
{"resource":"ins_1","meter":"network.public.tx","start":"2026-11-01T00:00:00Z","end":"2026-11-01T01:00:00Z","quantity":"1073741824"}
{"resource":"ins_2","meter":"network.public.tx","start":"2026-11-01T00:00:00Z","end":"2026-11-01T01:00:00Z","quantity":"1073741824"}
{"resource":"ins_2","meter":"disk.write","start":"2026-11-01T00:00:00Z","end":"2026-11-01T01:00:00Z","quantity":"5"}
`

// runRate runs the command on a plan and usage of the texts given.
func runRate(t *testing.T, plan, usage string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"plan.yaml": plan, "usage.ndjson": usage} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	args = append([]string{"--plan", filepath.Join(dir, "plan.yaml"), "--usage", filepath.Join(dir, "usage.ndjson"), "--period", "2026-11"}, args...)
	code = rateCommand(t.Context(), args, &out, &errs)
	return code, out.String(), strings.ReplaceAll(errs.String(), dir+string(filepath.Separator), "")
}

func TestRateJSON(t *testing.T) {
	code, stdout, stderr := runRate(t, ratePlan, rateUsage)
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	want := `{"plan":"standard","currency":"EUR","period":{"start":"2026-10-31T23:00:00Z","end":"2026-11-30T23:00:00Z"},
		"lines":[
			{"resource":"","rate":"egress","meter":"network.public.tx","quantity":"2147483648","unit":"B","amount":"0.02"},
			{"resource":"ins_1","rate":"running","meter":"instance.running","quantity":"1800","unit":"s","amount":"0.00"},
			{"resource":"ins_2","rate":"running","meter":"instance.running","quantity":"1800.5","unit":"s","amount":"0.01"},
			{"resource":"ins_2","rate":"reads","meter":"disk.read","quantity":"1500000000","unit":"B","amount":"0.15"}],
		"total":"0.18",
		"unrated":[{"resource":"ins_2","meter":"disk.write","quantity":"5","unit":"B"}]}`
	if diff := cmp.Diff(decode(t, want), decode(t, stdout)); diff != "" {
		t.Error(diff)
	}
}

func decode(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func TestRateOfNothing(t *testing.T) {
	code, stdout, _ := runRate(t, ratePlan, "\n\n")
	if !strings.Contains(stdout, `"lines": []`) || !strings.Contains(stdout, `"unrated": []`) || !strings.Contains(stdout, `"total": "0.00"`) || code != 0 {
		t.Errorf("exit %d: %s", code, stdout)
	}
}

func TestRateBeyond64Bits(t *testing.T) {
	code, stdout, _ := runRate(t, ratePlan, strings.Replace(rateUsage, "1500000000", "9999999999999999999999999999999.999", 1))
	if want := `"amount": "1000000000000000000000.00"`; code != 0 || !strings.Contains(stdout, want) {
		t.Errorf("exit %d, no %s in %s", code, want, stdout)
	}
}

func TestRateExplained(t *testing.T) {
	code, stdout, _ := runRate(t, ratePlan, rateUsage, "--explain")
	lines, _ := decode(t, stdout).(map[string]any)["lines"].([]any)
	if code != 0 || len(lines) != 4 {
		t.Fatalf("exit %d: %s", code, stdout)
	}
	for _, l := range lines {
		if steps, _ := l.(map[string]any)["steps"].([]any); len(steps) < 3 {
			t.Errorf("steps: %v", l)
		}
	}
	code, stdout, _ = runRate(t, ratePlan, rateUsage, "--format", "table", "--explain")
	for _, want := range []string{"ins_1 ", "1800.5", "UNRATED", "total", "0.18", "1800.5 × 0.01 ÷ 3600 =", "cap 4.90 per month"} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("exit %d: the table lacks %q:\n%s", code, want, stdout)
		}
	}
}

// TestRateRefuses: what is wrong is named with file and line, and nothing is printed.
func TestRateRefuses(t *testing.T) {
	swap := func(old, new string) string { return strings.Replace(rateUsage, old, new, 1) }
	for name, tc := range map[string]struct {
		plan, usage string
		args        []string
		code        int
		want        string
	}{
		"a wrong plan":        {strings.Replace(ratePlan, "0.10", "-0.10", 1), rateUsage, nil, 2, "plan.yaml:6:42: price"},
		"a wrong usage":       {ratePlan, swap("disk.write", "disk.erase"), nil, 2, `usage.ndjson:7: meter: there is no meter "disk.erase"`},
		"outside the period":  {ratePlan, swap("2026-10-31T23:00:00Z", "2026-10-31T22:59:59Z"), nil, 2, "usage.ndjson:3: instance.running of ins_2: window"},
		"over a class":        {ratePlan + "  - {id: n, meter: disk.write, where: {time: n}, price: 1 per GB}\ncalendar: {n: {daily: '00:00-01:30'}}\n", rateUsage, nil, 2, "usage.ndjson:7: disk.write of ins_2: window 2026-11-01T00:00:00Z/2026-11-01T01:00:00Z crosses the boundary of time class n at 2026-11-01T00:30:00Z"},
		"a wrong period":      {ratePlan, rateUsage, []string{"--period", "2026-13"}, 2, `--period "2026-13" is not a month`},
		"a year too far":      {ratePlan, rateUsage, []string{"--period", "9999-12"}, 2, `--period "9999-12" is not a month from 1970-01 to 9998-12`},
		"a year too early":    {ratePlan, rateUsage, []string{"--period", "1969-12"}, 2, `--period "1969-12" is not a month from 1970-01 to 9998-12`},
		"two befores":         {ratePlan, rateUsage + strings.Replace(strings.Split(rateUsage, "\n")[2], `"0"}`, `"1"}`, 1), nil, 2, "usage.ndjson:8: before: 1, where line 3 says 0"},
		"a wrong format":      {ratePlan, rateUsage, []string{"--format", "xml"}, 2, `--format "xml" is not known`},
		"an unknown flag":     {ratePlan, rateUsage, []string{"--nope"}, 2, "-nope"},
		"a stray argument":    {ratePlan, rateUsage, []string{"more"}, 2, `"more"`},
		"no plan":             {ratePlan, rateUsage, []string{"--plan", ""}, 2, "needs --plan"},
		"a plan that is not":  {ratePlan, rateUsage, []string{"--plan", "/nonexistent.yaml"}, 1, "read the plan: open /nonexistent.yaml"},
		"a usage that is not": {ratePlan, rateUsage, []string{"--usage", "/nonexistent"}, 1, "read the usage: open /nonexistent"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := runRate(t, tc.plan, tc.usage, tc.args...)
			if code != tc.code || stdout != "" || !strings.Contains(stderr, tc.want) {
				t.Errorf("exit %d, stdout %q, stderr %s\nwant exit %d, %s", code, stdout, stderr, tc.code, tc.want)
			}
		})
	}
}

// TestRateStops: a signal ends it, also while it waits for usage.
func TestRateStops(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "usage")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	plan := filepath.Join(t.TempDir(), "plan.yaml")
	if err := os.WriteFile(plan, []byte(ratePlan), 0o600); err != nil {
		t.Fatal(err)
	}
	opened := make(chan *os.File, 1)
	go func() {
		writer, err := os.OpenFile(pipe, os.O_WRONLY, 0) // waits until it is opened for reading
		if err != nil {
			t.Error(err)
		}
		opened <- writer
		cancel()
	}()
	var out, errs bytes.Buffer
	code := rateCommand(ctx, []string{"--plan", plan, "--usage", pipe, "--period", "2026-11"}, &out, &errs)
	if code != 1 || out.Len() > 0 || !strings.Contains(errs.String(), "rate was stopped") {
		t.Errorf("exit %d, %q, %q", code, out.String(), errs.String())
	}
	if writer := <-opened; writer != nil {
		writer.Close()
	}
}

func TestRateVerify(t *testing.T) {
	_, stdout, _ := runRate(t, ratePlan, rateUsage, "--explain")
	_, bare, _ := runRate(t, ratePlan, rateUsage)
	file := filepath.Join(t.TempDir(), "statement.json")
	for name, tc := range map[string]struct {
		statement string
		code      int
		out, errs string
	}{
		"equal":           {stdout, 0, "equal, 4 lines, total 0.18 EUR", ""},
		"another amount":  {strings.Replace(stdout, `"amount": "0.15"`, `"amount": "0.16"`, 1), 1, "", "line 4 (ins_2 reads): amount is 0.16 and should be 0.15"},
		"another total":   {strings.Replace(stdout, `"total": "0.18"`, `"total": "0.81"`, 1), 1, "", "total: it is 81/100 and should be 9/50"},
		"not explained":   {bare, 2, "", "the statement is not explained"},
		"not a statement": {`{"lines": 1}`, 2, "", "not a statement"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(tc.statement), 0o600); err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			code := rateCommand(t.Context(), []string{"--verify", file}, &out, &errs)
			if code != tc.code || !strings.Contains(out.String(), tc.out) || !strings.Contains(errs.String(), tc.errs) || tc.code != 0 && out.Len() > 0 {
				t.Errorf("exit %d, %q, %q; want %d, %q, %q", code, out.String(), errs.String(), tc.code, tc.out, tc.errs)
			}
		})
	}
}

// TestRateBefore: a plan file with the version before it, which it grandfathers.
func TestRateBefore(t *testing.T) {
	const plan = "plan: p\ncurrency: EUR\neffective: 2026-10-01\ngrandfathered: {until: 2027-01-01}\nrates:\n  - {id: r, meter: instance.running, price: 2 per hour}\n"
	const usage = `{"resource":"a","meter":"instance.running","start":"2026-11-01T00:00:00Z","end":"2026-11-01T01:00:00Z","quantity":"3600","labels":{"created":"2026-09-30T23:59:59Z"}}
{"resource":"b","meter":"instance.running","start":"2026-11-01T00:00:00Z","end":"2026-11-01T01:00:00Z","quantity":"3600","labels":{"created":"2026-10-01T00:00:00Z"}}`
	for name, tc := range map[string]struct {
		before         string
		code           int
		stdout, stderr string
	}{
		"before":           {"plan: p\ncurrency: EUR\neffective: 2026-01-01\nrates:\n  - {id: r, meter: instance.running, price: 1 per hour}\n", 0, `"total": "3.00"`, ""},
		"of no day":        {"plan: p\ncurrency: EUR\nrates:\n  - {id: r, meter: instance.running, price: 1 per hour}\n", 2, "", "before.yaml: plan p of 2026-10-01 cannot grandfather"},
		"another currency": {"plan: p\ncurrency: USD\neffective: 2026-01-01\nrates:\n  - {id: r, meter: instance.running, price: 1 per hour}\n", 2, "", "before.yaml: plan p cannot grandfather rates in USD"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "before.yaml")
			if err := os.WriteFile(file, []byte(tc.before), 0o600); err != nil {
				t.Fatal(err)
			}
			code, stdout, stderr := runRate(t, plan, usage, "--before", file)
			if code != tc.code || !strings.Contains(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) || (code != 0) != (stdout == "") {
				t.Errorf("exit %d\n%s%s", code, stdout, stderr)
			}
		})
	}
}
