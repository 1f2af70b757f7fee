package usagefile

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usance/usance/metering"
)

const line = `{"resource":"ins_1","meter":"instance.running","start":"2026-11-01T01:00:00+01:00","end":"2026-11-01T01:00:00Z",` +
	`"quantity":"3600.125","labels":{"flavor":"small","host_class":"fast","created":"2026-10-01T00:30:00.5+01:00"},"start_id":"s1","before":"60"}`

func TestRead(t *testing.T) {
	got, err := Read("u", strings.NewReader("\n"+line+"\r\n   \n"+line))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	usage := metering.Usage{
		Resource: "ins_1", Meter: metering.InstanceRunning, Window: metering.Window{Start: at, End: at.Add(time.Hour)},
		Quantity: metering.Thousandths(3600125), Labels: metering.Labels{Flavor: "small", HostClass: "fast", Created: "2026-09-30T23:30:00Z"},
		Start: "s1", Before: metering.Thousandths(60000),
	}
	if diff := cmp.Diff([]Entry{{2, usage}, {4, usage}}, got); diff != "" {
		t.Error(diff)
	}
	if none, err := Read("u", strings.NewReader("")); len(none) != 0 || err != nil {
		t.Errorf("nothing: %v, %v", none, err)
	}
}

func TestRefused(t *testing.T) {
	swap := func(old, new string) string { return strings.Replace(line, old, new, 1) }
	for name, tc := range map[string]struct{ line, want string }{
		"not JSON":             {`{"resource":`, "resource: not JSON"},
		"an array":             {`[]`, "must be a JSON object"},
		"trailing text":        {line + "x", "is followed by more"},
		"two objects":          {line + line, "is followed by more"},
		"cut off":              {line[:len(line)-1], "not JSON"},
		"unknown key":          {swap(`"before"`, `"befor"`), `no key "befor"`},
		"capital key":          {swap(`"resource"`, `"Resource"`), `no key "Resource"`},
		"a key twice":          {swap(`"before":"60"`, `"before":"60","before":"60"`), `"before" twice`},
		"unknown label":        {swap(`"flavor"`, `"size"`), `labels: labels has no key "size"`},
		"a label twice":        {swap(`"host_class":"fast"`, `"flavor":"x"`), `"flavor" twice`},
		"a label of null":      {swap(`"small"`, `null`), "flavor: null is not a string"},
		"labels of text":       {swap(`{"flavor":"small","host_class":"fast","created":"2026-10-01T00:30:00.5+01:00"}`, `"x"`), "labels must be a JSON object"},
		"created on a day":     {swap("2026-10-01T00:30:00.5+01:00", "2026-10-01"), `labels: created: "2026-10-01" is not a time`},
		"created too early":    {swap("2026-10-01T00:30:00.5+01:00", "0000-01-01T00:00:00+01:00"), "outside the years 0 to 9999"},
		"unknown meter":        {swap("instance.running", "instance.walking"), `meter: there is no meter "instance.walking"`},
		"no resource":          {swap(`"resource":"ins_1",`, ""), `no "resource"`},
		"an empty resource":    {swap("ins_1", ""), "resource: it is empty"},
		"a number":             {swap(`"3600.125"`, "3600"), "quantity: 3600 is not a string in quotes"},
		"negative":             {swap("3600.125", "-1"), "negative"},
		"too fine":             {swap("3600.125", "0.1234"), "more than 3 decimals"},
		"an exponent":          {swap("3600.125", "1e3"), "not a quantity"},
		"negative before":      {swap(`"60"`, `"-60"`), "before: "},
		"a date":               {swap("2026-11-01T01:00:00Z", "2026-11-01"), `end: "2026-11-01" is not a time`},
		"no zone":              {swap("2026-11-01T01:00:00Z", "2026-11-01T01:00:00"), "is not a time"},
		"a day that is not":    {swap("2026-11-01T01:00:00Z", "2026-11-31T01:00:00Z"), "is not a time"},
		"the end at the start": {swap("2026-11-01T01:00:00Z", "2026-11-01T00:00:00Z"), "the end is not after the start"},
		"not UTF-8":            {swap("ins_1", "ins_\xff"), "not UTF-8"},
		"a long line":          {swap("ins_1", strings.Repeat("x", maxLine)), "a line of more than"},
		"a control character":  {swap("ins_1", `ins\u0000`), `resource: "ins\u0000" has a control character`},
		"a line feed in it":    {swap("ins_1", `ins\n1`), "has a control character"},
		"half a pair":          {swap("ins_1", `ins\ud83d`), `resource: "ins\ud83d" has half of a surrogate pair`},
		"two first halves":     {swap("ins_1", `\ud83d\ud83d`), "has half of a surrogate pair"},
		"the second half":      {swap("small", `\ude00`), "has half of a surrogate pair"},
		"another before":       {swap(`"60"`, `"61"`), "before: 61, where line 1 says 60 of the same start"},
		"before of nothing":    {swap(`"60"`, `"0"`), "before: 0, where line 1 says 60 of the same start"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read("u.ndjson", strings.NewReader(line+"\n\n"+tc.line+"\n"))
			var at *Error
			if !errors.As(err, &at) || at.Line != 3 || !strings.HasPrefix(err.Error(), "u.ndjson:3: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v; want line 3, %s", err, tc.want)
			}
		})
	}
}

// TestBlankLines: of any length, and the last line needs no end.
func TestBlankLines(t *testing.T) {
	blank := strings.Repeat(" \t", maxLine)
	got, err := Read("u", strings.NewReader(blank+"\n\n"+blank+line+"\n"+blank+"\r\n"+line))
	if err != nil || len(got) != 2 || got[0].Line != 3 || got[1].Line != 5 {
		t.Errorf("%d entries, %v", len(got), err)
	}
}

// TestBeforeOfOtherStarts: only one start has one before; none is no contradiction.
func TestBeforeOfOtherStarts(t *testing.T) {
	swap := func(old, new string) string { return strings.Replace(line, old, new, 1) + "\n" }
	other := strings.Replace(swap(`"60"`, `"61"`), `"s1"`, `"s2"`, 1)
	text := line + "\n" + swap(`,"before":"60"`, "") + other + line + "\n" + swap("60\"", "60.000\"")
	if got, err := Read("u", strings.NewReader(text)); err != nil || len(got) != 5 {
		t.Errorf("%d entries, %v", len(got), err)
	}
}

// TestPairsAreCharacters: what stands in pairs, or is escaped itself, is read.
func TestPairsAreCharacters(t *testing.T) {
	got, err := Read("u", strings.NewReader(strings.Replace(line, "ins_1", `\ud83d\ude00 \\ud83d \ufffd`, 1)))
	if err != nil || string(got[0].Usage.Resource) != "\U0001F600 \\ud83d \ufffd" {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestLongReasons: what an error quotes of a long line is cut.
func TestLongReasons(t *testing.T) {
	_, err := Read("u", strings.NewReader(strings.Replace(line, "3600.125", strings.Repeat("9", 1<<19), 1)))
	if err == nil || len(err.Error()) > maxReason+20 || !strings.Contains(err.Error(), "has more than 31 digits") {
		t.Errorf("got %v", err)
	}
}

type broken struct{}

var errBroken = errors.New("broken pipe")

func (broken) Read([]byte) (int, error) { return 0, errBroken }

func TestReaderFails(t *testing.T) {
	var at *Error
	if _, err := Read("u", broken{}); !errors.Is(err, errBroken) || errors.As(err, &at) {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(line)
	f.Add(`{"labels":{"flavor":""}}`)
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := Read("u", strings.NewReader(text))
		for _, e := range entries {
			if err != nil || e.Usage.Resource == "" || e.Usage.Window.Check() != nil {
				t.Errorf("%q: %+v, %v", text, e, err)
			}
		}
	})
}
