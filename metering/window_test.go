package metering

import (
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"
)

func utc(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t.UTC()
}

func TestSlotOf(t *testing.T) {
	for _, test := range []struct{ at, want string }{
		{"2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"}, // a boundary ends its slot
		{"2026-11-01T00:00:00.001Z", "2026-11-01T00:05:00Z"},
		{"2026-11-01T00:04:59.999Z", "2026-11-01T00:05:00Z"},
		{"2026-11-01T00:05:00Z", "2026-11-01T00:05:00Z"},
		{"2026-10-31T23:59:59.999Z", "2026-11-01T00:00:00Z"},
		{"2026-11-01T05:47:00+05:45", "2026-11-01T00:05:00Z"},
	} {
		if got := SlotOf(utc(test.at)); !got.Equal(utc(test.want)) || got.Location() != time.UTC {
			t.Errorf("SlotOf(%s) = %s, want %s", test.at, got, test.want)
		}
	}
}

func TestWindow(t *testing.T) {
	w := Window{utc("2026-11-01T00:00:00Z"), utc("2026-11-01T01:00:00Z")}
	if err := w.Check(); err != nil {
		t.Error(err)
	}
	if got := w.String(); got != "2026-11-01T00:00:00Z/2026-11-01T01:00:00Z" || w.Length() != time.Hour {
		t.Errorf("%s, %s", got, w.Length())
	}
	for _, bad := range []Window{{w.Start, w.Start}, {w.End, w.Start}} {
		if bad.Check() == nil {
			t.Errorf("%s is no window", bad)
		}
	}
}

func TestOverlap(t *testing.T) {
	minute := func(n int) time.Time { return utc("2026-11-01T00:00:00Z").Add(time.Duration(n) * time.Minute) }
	for _, test := range []struct {
		name       string
		a, b, c, d int
		start, end int // equal: none
	}{
		{"apart", 0, 10, 20, 30, 0, 0},
		{"touching", 0, 10, 10, 20, 0, 0},
		{"across", 0, 20, 10, 30, 10, 20},
		{"within", 0, 30, 10, 20, 10, 20},
		{"the same", 0, 30, 0, 30, 0, 30},
	} {
		x, y := Window{minute(test.a), minute(test.b)}, Window{minute(test.c), minute(test.d)}
		for _, pair := range [][2]Window{{x, y}, {y, x}} {
			got, ok := pair[0].Overlap(pair[1])
			if want := (Window{minute(test.start), minute(test.end)}); ok != (test.start < test.end) || ok && got != want {
				t.Errorf("%s: got %s, %v", test.name, got, ok)
			}
		}
	}
}

func TestMonth(t *testing.T) {
	for _, test := range []struct {
		zone, at, start string
		hours           float64
	}{
		{"UTC", "2026-11-30T23:59:59.999Z", "2026-11-01T00:00:00Z", 720},
		{"UTC", "2026-12-01T00:00:00Z", "2026-12-01T00:00:00Z", 744},
		{"UTC", "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", 696},
		{"Europe/Berlin", "2026-02-28T23:00:00Z", "2026-02-28T23:00:00Z", 743}, // March: an hour is lost
		{"Europe/Berlin", "2026-02-28T22:59:59Z", "2026-01-31T23:00:00Z", 672},
		{"Europe/Berlin", "2026-10-31T22:30:00Z", "2026-09-30T22:00:00Z", 745}, // October: an hour comes twice
		{"Europe/Berlin", "2026-12-31T23:00:00Z", "2026-12-31T23:00:00Z", 744},
		{"America/New_York", "2026-11-01T03:59:00Z", "2026-10-01T04:00:00Z", 744},
		{"America/New_York", "2026-11-01T04:00:00Z", "2026-11-01T04:00:00Z", 721},
		{"Asia/Kathmandu", "2026-10-31T18:15:00Z", "2026-10-31T18:15:00Z", 720},
		{"Australia/Lord_Howe", "2026-10-04T00:00:00Z", "2026-09-30T13:30:00Z", 743.5},
		// The clock jumps from 24:00 on 30 September to 01:00 on 1 October.
		{"America/Asuncion", "2023-10-01T03:59:00Z", "2023-09-01T04:00:00Z", 720},
		{"America/Asuncion", "2023-10-01T04:00:00Z", "2023-10-01T04:00:00Z", 743},
		// Midnight of the first comes twice.
		{"Asia/Gaza", "2004-09-30T21:30:00Z", "2004-09-30T21:00:00Z", 745},
		{"America/Havana", "2020-11-01T04:30:00Z", "2020-11-01T04:00:00Z", 721},
	} {
		zone, err := time.LoadLocation(test.zone)
		if err != nil {
			t.Fatal(err)
		}
		got := Month(utc(test.at), zone)
		if !got.Start.Equal(utc(test.start)) || got.Length().Hours() != test.hours || got.Start.Location() != time.UTC || got.End.Location() != time.UTC {
			t.Errorf("Month(%s) in %s = %s of %v hours, want %s and %v", test.at, test.zone, got, got.Length().Hours(), test.start, test.hours)
		}
	}
}

// In every zone months follow each other without gap, hold their instants, and
// are made of whole slots.
func TestMonthsPartitionTime(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/St_Johns", "America/Asuncion",
		"America/Havana", "America/Sao_Paulo", "Asia/Beirut", "Asia/Kathmandu", "Asia/Tehran", "Asia/Amman", "Africa/Cairo",
		"Africa/Casablanca", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham", "Pacific/Kiritimati", "America/Santiago"}
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		at := time.UnixMilli(rapid.Int64Range(utc("1990-01-01T00:00:00Z").UnixMilli(), utc("2060-01-01T00:00:00Z").UnixMilli()).Draw(t, "at"))
		m := Month(at, zone)
		if at.Before(m.Start) || !at.Before(m.End) {
			t.Fatalf("%s is not in its month %s", at.UTC(), m)
		}
		for _, edge := range []time.Time{m.Start, m.End.Add(-time.Millisecond)} {
			if got := Month(edge, zone); got != m {
				t.Fatalf("%s is in %s, want %s", edge, got, m)
			}
		}
		if next := Month(m.End, zone); !next.Start.Equal(m.End) {
			t.Fatalf("%s is followed by %s", m, next)
		}
		if !SlotOf(m.Start).Equal(m.Start) || !SlotOf(m.End).Equal(m.End) {
			t.Fatalf("%s is not made of slots", m)
		}
	})
}

func TestDaysAndHours(t *testing.T) {
	for _, test := range []struct {
		name, zone, from, to string
		days, hours          int    // instants
		day                  string // the second instant of days
	}{
		{"a day", "UTC", "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", 2, 25, "2026-11-02T00:00:00Z"},
		{"within an hour", "UTC", "2026-11-01T00:10:00Z", "2026-11-01T00:20:00Z", 2, 2, "2026-11-01T00:20:00Z"},
		{"over a local midnight", "Europe/Berlin", "2026-11-01T12:00:00Z", "2026-11-02T12:00:00Z", 3, 25, "2026-11-01T23:00:00Z"},
		{"25 hours", "Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", 2, 26, "2026-10-25T23:00:00Z"},
		{"hours at the half", "Asia/Kolkata", "2026-11-01T00:00:00Z", "2026-11-01T02:00:00Z", 2, 4, "2026-11-01T02:00:00Z"},
		{"a day without midnight", "America/Asuncion", "2023-09-30T12:00:00Z", "2023-10-02T12:00:00Z", 4, 49, "2023-10-01T04:00:00Z"},
		{"a day left out", "Pacific/Apia", "2011-12-29T12:00:00Z", "2011-12-31T12:00:00Z", 4, 49, "2011-12-30T10:00:00Z"},
	} {
		zone, err := time.LoadLocation(test.zone)
		if err != nil {
			t.Fatal(err)
		}
		w := Window{utc(test.from), utc(test.to)}
		days, hours := w.Days(zone), w.Hours(zone)
		if len(days) != test.days || len(hours) != test.hours || !days[1].Equal(utc(test.day)) {
			t.Errorf("%s: days %v, %d hours; want %d, %s, %d", test.name, days, len(hours), test.days, test.day, test.hours)
		}
		for _, instants := range [][]time.Time{days, hours} {
			if !instants[0].Equal(w.Start) || !instants[len(instants)-1].Equal(w.End) {
				t.Errorf("%s: %v is not from end to end", test.name, instants)
			}
			for i := 1; i < len(instants); i++ {
				if !instants[i].After(instants[i-1]) {
					t.Errorf("%s: %v does not ascend", test.name, instants)
				}
			}
		}
	}
}
