package planfile

import (
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/usance/usance/rating"
)

// classUse is where a rate names time classes.
type classUse struct {
	node  *yaml.Node
	names []string
}

// checkClasses reports time classes that the calendar does not define.
func (d *decoder) checkClasses(plan *rating.Plan) {
	var defined []string
	known := make(map[string]bool)
	for _, c := range plan.Calendars {
		known[c.Name] = true
		defined = append(defined, c.Name)
	}
	for _, use := range d.classes {
		for _, name := range use.names {
			switch {
			case known[name]:
			case len(defined) == 0:
				d.errorf(use.node, "time class %q is not defined; define it under calendar", name)
			default:
				d.errorf(use.node, "time class %q is not defined; calendar has %s", name, quoted(defined))
			}
		}
	}
}

// calendars reads the time classes.
func (d *decoder) calendars(n *yaml.Node) []rating.Calendar {
	var list []rating.Calendar
	d.each(n, "calendar", func(key, value *yaml.Node) {
		c := rating.Calendar{Name: d.name(key), Holidays: make(map[rating.Date]string)}
		d.mapping(value, "time class "+c.Name, fields{
			"daily": func(n *yaml.Node) {
				for _, item := range d.list(n) {
					c.Weekly = append(c.Weekly, d.hours(item, everyDay))
				}
			},
			"weekly": func(n *yaml.Node) {
				for _, item := range d.list(n) {
					c.Weekly = append(c.Weekly, d.weekly(item))
				}
			},
			"weekends": func(n *yaml.Node) {
				if d.boolean(n) {
					c.Weekly = append(c.Weekly, rating.Hours{Days: weekend, From: 0, To: dayMinutes})
				}
			},
			"holidays": func(n *yaml.Node) {
				for _, item := range d.list(n) {
					d.holidays(item, c.Holidays)
				}
			},
		})
		if value.Kind == yaml.MappingNode && len(value.Content) == 0 {
			d.errorf(value, "time class %s has no rule; daily, weekly, weekends and holidays are rules", c.Name)
		}
		list = append(list, c)
	})
	return list
}

const dayMinutes = 24 * 60

var (
	everyDay = [7]bool{true, true, true, true, true, true, true}
	weekend  = [7]bool{time.Saturday: true, time.Sunday: true}
	weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
)

// hours reads "22:00-06:00".
func (d *decoder) hours(n *yaml.Node, days [7]bool) rating.Hours {
	s, ok := d.scalar(n)
	if !ok {
		return rating.Hours{}
	}
	from, to, fine := parseHours(s)
	if !fine {
		d.errorf(n, "%q are not hours; 22:00-06:00 are, from 00:00 to 24:00", s)
	}
	return rating.Hours{Days: days, From: from, To: to}
}

func parseHours(s string) (from, to int, ok bool) {
	first, second, _ := strings.Cut(s, "-")
	from, okFrom := parseClock(first)
	to, okTo := parseClock(second)
	return from, to, okFrom && okTo && from != to && from < dayMinutes
}

// parseClock reads "06:00" as minutes after midnight.
func parseClock(s string) (int, bool) {
	s = strings.TrimSpace(s)
	if len(s) != 5 || s[2] != ':' || !allDigits(s[:2]) || !allDigits(s[3:]) {
		return 0, false
	}
	hour, _ := strconv.Atoi(s[:2])
	minute, _ := strconv.Atoi(s[3:])
	return hour*60 + minute, minute < 60 && hour*60+minute <= dayMinutes
}

// weekly reads "mon-fri 08:00-18:00", "sat 00:00-24:00".
func (d *decoder) weekly(n *yaml.Node) rating.Hours {
	s, ok := d.scalar(n)
	if !ok {
		return rating.Hours{}
	}
	name, clock, _ := strings.Cut(s, " ")
	days, okDays := parseDays(name)
	from, to, okHours := parseHours(strings.TrimSpace(clock))
	if !okDays || !okHours {
		d.errorf(n, "%q are not weekly hours; mon-fri 08:00-18:00 are", s)
	}
	return rating.Hours{Days: days, From: from, To: to}
}

// parseDays reads "mon" and "mon-fri", also over the week's end.
func parseDays(s string) (days [7]bool, ok bool) {
	first, last, span := strings.Cut(s, "-")
	if !span {
		last = first
	}
	from, to := -1, -1
	for i, name := range weekdays {
		if name == first {
			from = i
		}
		if name == last {
			to = i
		}
	}
	if from < 0 || to < 0 {
		return days, false
	}
	for i := from; ; i = (i + 1) % 7 {
		days[i] = true
		if i == to {
			return days, true
		}
	}
}
