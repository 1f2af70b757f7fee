package rating

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/usance/usance/metering"
)

// Calendar is a time class: the union of its rules, read on a wall clock.
type Calendar struct {
	Name     string
	Zone     *time.Location // nil for the plan's; of an earlier version, that one's
	Weekly   []Hours
	Holidays map[Date]string // whole days, to the holiday's name
}

// Hours is a span of the wall clock on some days of the week. Where To is not
// after From, the span ends on the following day.
type Hours struct {
	Days     [7]bool // by time.Weekday
	From, To int     // minutes after local midnight, 0 to 1440
}

// Date is a day of the calendar.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// String is the date in ISO 8601.
func (d Date) String() string { return fmt.Sprintf("%04d-%02d-%02d", d.Year, d.Month, d.Day) }

// holds reports whether a wall clock that shows t is inside the class.
func (c *Calendar) holds(t time.Time) bool {
	year, month, day := t.Date()
	if _, ok := c.Holidays[Date{year, month, day}]; ok {
		return true
	}
	minute := t.Hour()*60 + t.Minute()
	today := t.Weekday()
	yesterday := (today + 6) % 7
	for i := range c.Weekly {
		h := &c.Weekly[i]
		switch {
		case h.From < h.To:
			if h.Days[today] && h.From <= minute && minute < h.To {
				return true
			}
		case h.Days[today] && minute >= h.From || h.Days[yesterday] && minute < h.To:
			return true
		}
	}
	return false
}

// timeline is one calendar over a period: at each instant of at, in UTC
// seconds, the class begins or ends.
type timeline struct {
	name  string
	at    []int64 // rising; the first is the period's start
	holds []bool  // from at[i] on
}

// timeline reads the wall clock at every instant where it can enter or leave
// the class: its rules' times on each day under each offset of that day, and
// the changes of the zone's offset. So a day of 23 or 25 hours needs no case of
// its own.
func (c *Calendar) timeline(period metering.Window, zone *time.Location) timeline {
	instants := []int64{period.Start.Unix()}
	add := func(t time.Time) {
		if t.After(period.Start) && t.Before(period.End) {
			instants = append(instants, t.Unix())
		}
	}
	minutes := []int{0}
	for _, h := range c.Weekly {
		minutes = append(minutes, h.From, h.To)
	}
	last := period.End.In(zone).AddDate(0, 0, 1)
	for day := period.Start.In(zone).AddDate(0, 0, -1); !day.After(last); day = day.AddDate(0, 0, 1) {
		year, month, date := day.Date()
		midnight := time.Date(year, month, date, 0, 0, 0, 0, time.UTC)
		_, before := midnight.AddDate(0, 0, -1).In(zone).Zone()
		_, after := midnight.AddDate(0, 0, 2).In(zone).Zone()
		for _, minute := range minutes {
			wall := midnight.Add(time.Duration(minute) * time.Minute)
			add(wall.Add(-time.Duration(before) * time.Second))
			if after != before {
				add(wall.Add(-time.Duration(after) * time.Second))
			}
		}
	}
	for t := period.Start; ; {
		_, change := t.In(zone).ZoneBounds()
		if !change.IsZero() && !change.After(t) {
			// Past the zone's table, time gives a leap year's last day an end at
			// its own beginning. An instant too many does no harm.
			change = t.AddDate(0, 0, 1)
		}
		if change.IsZero() || !change.Before(period.End) {
			break
		}
		add(change)
		t = change
	}
	slices.Sort(instants)
	tl := timeline{name: c.Name}
	for _, at := range slices.Compact(instants) {
		holds := c.holds(time.Unix(at, 0).In(zone))
		if n := len(tl.holds); n == 0 || tl.holds[n-1] != holds {
			tl.at, tl.holds = append(tl.at, at), append(tl.holds, holds)
		}
	}
	return tl
}

// locate reports whether the window lies inside the class; where it crosses a
// boundary, ok is false and boundary is the first.
func (tl *timeline) locate(w metering.Window) (inside bool, boundary time.Time, ok bool) {
	i := sort.Search(len(tl.at), func(i int) bool { return tl.at[i] > w.Start.Unix() }) - 1
	if i+1 < len(tl.at) {
		if next := time.Unix(tl.at[i+1], 0).UTC(); next.Before(w.End) {
			return false, next, false
		}
	}
	return tl.holds[i], time.Time{}, true
}

// Boundaries are the instants inside the period at which a time class that a
// rate names begins or ends, by time. Usage must be split there before it is
// rated.
func (p *Plan) Boundaries(period metering.Window) []time.Time {
	var all []time.Time
	for _, c := range p.usedCalendars() {
		for _, at := range c.timeline(period, p.zoneOf(c)).at[1:] {
			all = append(all, time.Unix(at, 0).UTC())
		}
	}
	slices.SortFunc(all, time.Time.Compare)
	return slices.CompactFunc(all, time.Time.Equal)
}

// usedCalendars are those that some rate names, in the plan's order.
func (p *Plan) usedCalendars() []*Calendar {
	var used []*Calendar
	for i := range p.Calendars {
		c := &p.Calendars[i]
		if slices.ContainsFunc(p.Rates, func(r Rate) bool { return slices.Contains(r.Where.Time, c.Name) }) {
			used = append(used, c)
		}
	}
	return used
}

// zoneOf is where the wall clock of a time class hangs.
func (p *Plan) zoneOf(c *Calendar) *time.Location {
	if c.Zone != nil {
		return c.Zone
	}
	return p.Zone
}

// classYears is how many years classSets looks through: what meets only later
// is found when usage is rated.
const classYears = 12

// classSets are the sets of the rates' time classes that hold at some instant
// of the plan's first years.
func (p *Plan) classSets(rates []int) [][]string {
	var calendars []*Calendar
	for _, c := range p.usedCalendars() {
		if slices.ContainsFunc(rates, func(i int) bool { return slices.Contains(p.Rates[i].Where.Time, c.Name) }) {
			calendars = append(calendars, c)
		}
	}
	if len(calendars) == 0 {
		return [][]string{nil}
	}
	first := 2026
	if !p.Effective.IsZero() {
		first = p.Effective.Year()
	}
	years := metering.Window{
		Start: time.Date(first, 1, 1, 0, 0, 0, 0, time.UTC),
		End:   time.Date(first+classYears, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	lines := make([]timeline, len(calendars))
	var instants []int64
	for i, c := range calendars {
		lines[i] = c.timeline(years, p.zoneOf(c))
		instants = append(instants, lines[i].at...)
	}
	slices.Sort(instants)
	found := make(map[string][]string)
	for _, at := range slices.Compact(instants) {
		var set []string
		for i := range lines {
			if inside, _, _ := lines[i].locate(metering.Window{Start: time.Unix(at, 0), End: time.Unix(at, 0)}); inside {
				set = append(set, lines[i].name)
			}
		}
		found[strings.Join(set, "\n")] = set
	}
	sets := make([][]string, 0, len(found))
	for _, set := range found {
		sets = append(sets, set)
	}
	slices.SortFunc(sets, slices.Compare)
	return sets
}
