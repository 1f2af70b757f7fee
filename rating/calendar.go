package rating

import "time"

// Calendar is a time class: the union of its rules, read on a wall clock in the
// plan's zone.
type Calendar struct {
	Name     string
	Weekly   []Hours
	Holidays map[Date]string // to the holiday's name
	Text     string          // as written in the plan
}

// Hours is a span of the wall clock on some days of the week. To may be up to
// 24:00; where it is not after From, the span ends on the following day.
type Hours struct {
	Days     [7]bool // by time.Weekday
	From, To int     // minutes after local midnight
}

// Date is a day of the calendar.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}
