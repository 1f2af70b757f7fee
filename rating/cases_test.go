package rating_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/planfile"
)

// Each file of testdata holds a plan, perhaps before.yaml, the version before it
// that it grandfathers, and any number of cases, a pair of
// sections "usage: TITLE" and "want: TITLE" each. A line of usage is
//
//	WHO  WHAT  FROM  TO  HOW MUCH  [flavor=… created=… start=… before=… …]
//
// with times in UTC ("2026-11-01T00:00", or "month" for the whole period) and
// a quantity in any unit that fits; "period 2026-10" in front of them sets the
// month (default 2026-11), "slots" before a line gives it in hours of an equal part
// each. A line of want is "WHO RATE AMOUNT" ("*" for a rate pooled over the
// tenant, "*VALUE" over like resources), "unrated WHO WHAT QUANTITY [and … that are added]", "total AMOUNT" or
// "refused: TEXT".
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("cases: %v, %v", files, err)
	}
	for _, file := range append(files, presetCases(t)...) {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		plan, before := casePlan(t, file, archive), (*rating.Plan)(nil)
		for _, f := range archive.Files {
			if f.Name == "before.yaml" {
				before = mustParse(t, string(f.Data))
			}
		}
		for i, section := range archive.Files {
			title, ok := strings.CutPrefix(section.Name, "usage: ")
			if !ok {
				continue
			}
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar")+"/"+title, func(t *testing.T) {
				if i+1 == len(archive.Files) || archive.Files[i+1].Name != "want: "+title {
					t.Fatalf("usage: %s is not followed by want: %[1]s", title)
				}
				runCase(t, plan, before, section.Data, archive.Files[i+1].Data)
			})
		}
	}
}

func presetCases(t *testing.T) []string {
	files, err := filepath.Glob("presets/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// casePlan is the plan in the archive, or the one that stands beside it.
func casePlan(t *testing.T, file string, archive *txtar.Archive) *rating.Plan {
	t.Helper()
	name, source := strings.TrimSuffix(file, ".txtar")+".yaml", []byte(nil)
	for _, f := range archive.Files {
		if f.Name == "plan.yaml" {
			name, source = file, f.Data
		}
	}
	if source == nil {
		var err error
		if source, err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	plan, _, err := planfile.Parse(name, source)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func runCase(t *testing.T, plan, before *rating.Plan, usageText, want []byte) {
	period, usage := caseUsage(t, plan, usageText)
	if before != nil {
		var err error
		if plan, err = plan.Grandfather(before, period.Start); err != nil {
			t.Fatal(err)
		}
	}
	got := statementText(plan, period, usage)
	if diff := cmp.Diff(normal(string(want)), normal(got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	verified(t, plan, period, usage)
	slices.Reverse(usage)
	if again := statementText(plan, period, usage); again != got {
		t.Errorf("the order of usage matters:\n%s", cmp.Diff(got, again))
	}
}

// normal is a text without blank lines, comments and runs of blanks.
func normal(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if words := strings.Fields(line); len(words) > 0 {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return strings.Join(lines, "\n")
}

// statementText is the statement as "want" writes it.
func statementText(plan *rating.Plan, period metering.Window, usage []metering.Usage) string {
	result, err := plan.Rate(period, usage)
	if err != nil {
		return "refused: " + err.Error()
	}
	s := result.Statement(true)
	var out bytes.Buffer
	for _, l := range s.Lines {
		resource := string(l.Resource)
		if resource == "" {
			resource = "*"
		}
		if l.Like != "" {
			for part := range strings.SplitSeq(l.Like, ", ") {
				_, value, _ := strings.Cut(part, " ")
				resource += value + "/"
			}
			resource = strings.TrimSuffix(resource, "/")
		}
		fmt.Fprintf(&out, "%s %s %s\n", resource, l.Rate, l.Amount)
	}
	for _, u := range s.Unrated {
		fmt.Fprintf(&out, "unrated %s %s %s %s", u.Resource, u.Meter, u.Quantity, u.Unit)
		if u.Added != "" {
			fmt.Fprintf(&out, " and %s %s that are added", u.Added, u.Unit)
		}
		out.WriteByte('\n')
	}
	fmt.Fprintf(&out, "total %s\n", s.Total)
	return out.String()
}

func caseUsage(t *testing.T, plan *rating.Plan, text []byte) (metering.Window, []metering.Usage) {
	t.Helper()
	month := time.Date(2026, 11, 1, 0, 0, 0, 0, plan.Zone)
	var usage []metering.Usage
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "period":
			var err error
			if month, err = time.ParseInLocation("2006-01", words[1], plan.Zone); err != nil {
				t.Fatal(err)
			}
		case words[0] == "slots":
			usage = append(usage, hourly(caseLine(t, metering.Month(month, plan.Zone), words[1:]))...)
		default:
			usage = append(usage, caseLine(t, metering.Month(month, plan.Zone), words))
		}
	}
	return metering.Month(month, plan.Zone), usage
}

func caseLine(t *testing.T, period metering.Window, words []string) metering.Usage {
	t.Helper()
	u := metering.Usage{Resource: metering.ResourceID(words[0]), Meter: metering.Meter(words[1])}
	rest := words[2:]
	if rest[0] == "month" {
		u.Window, rest = period, rest[1:]
	} else {
		u.Window, rest = metering.Window{Start: instant(t, rest[0]), End: instant(t, rest[1])}, rest[2:]
	}
	u.Quantity = quantity(t, rest[0], rest[1], period)
	for _, word := range rest[2:] {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "flavor":
			u.Labels.Flavor = value
		case "image":
			u.Labels.Image = value
		case "region":
			u.Labels.Region = value
		case "host_class":
			u.Labels.HostClass = value
		case "created":
			u.Labels.Created = value + ":00Z"
		case "start":
			u.Start = value
		case "before":
			i := strings.IndexFunc(value, func(r rune) bool { return r > '9' })
			u.Before = quantity(t, value[:i], value[i:], period)
		default:
			t.Fatalf("%q: unknown", word)
		}
	}
	return u
}

// hourly is the usage in hours of an equal part each, which must be whole.
func hourly(u metering.Usage) (all []metering.Usage) {
	hours := uint64(u.Window.Length() / time.Hour)
	for i := range hours {
		part := u
		part.Window.Start = u.Window.Start.Add(time.Duration(i) * time.Hour)
		part.Window.End = part.Window.Start.Add(time.Hour)
		part.Quantity = metering.Thousandths(u.Quantity.Lo / hours)
		all = append(all, part)
	}
	return all
}

func instant(t *testing.T, s string) time.Time {
	t.Helper()
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02T15:04:05.000"} {
		if at, err := time.Parse(layout, s); err == nil {
			return at
		}
	}
	t.Fatalf("%q is not a time", s)
	return time.Time{}
}

// quantity reads a decimal in a unit, in base units of its meter.
func quantity(t *testing.T, number, unit string, period metering.Window) metering.Quantity {
	t.Helper()
	factors := map[string]int64{
		"s": 1, "min": 60, "h": 3600, "d": 86400, "month": int64(period.Length() / time.Second),
		"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
		"ops": 1, "vCPU": 1,
	}
	n, ok := new(big.Rat).SetString(number)
	if !ok {
		t.Fatalf("%q is not a number", number)
	}
	for name := range strings.SplitSeq(unit, "-") {
		if factors[name] == 0 {
			t.Fatalf("unknown unit %q", name)
		}
		n.Mul(n, big.NewRat(factors[name], 1))
	}
	if size, time, ok := strings.Cut(unit, "-"); ok && time != "" && strings.HasSuffix(size, "B") {
		n.Quo(n, big.NewRat(1<<20, 1)) // sizes over time are metered in MiB·s
	}
	q, err := metering.ParseQuantity(n.FloatString(3))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// verified writes the explained statement out, reads it back and verifies it.
func verified(t *testing.T, plan *rating.Plan, period metering.Window, usage []metering.Usage) {
	t.Helper()
	result, err := plan.Rate(period, usage)
	if err != nil {
		return
	}
	source, err := json.Marshal(result.Statement(true))
	if err != nil {
		t.Fatal(err)
	}
	var s rating.Statement
	if err := json.Unmarshal(source, &s); err != nil {
		t.Fatal(err)
	}
	if differences, err := s.Verify(); err != nil || len(differences) > 0 {
		t.Errorf("the statement is not what its derivations say: %v %v\n%s", err, differences, source)
	}
}
