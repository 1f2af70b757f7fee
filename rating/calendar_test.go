package rating

import (
	"testing"
	"time"

	"github.com/usance/usance/metering"
)

// The last day of a leap year past the zone's table of changes once made the
// walk over changes stand still.
func TestTimelineGoesOnPastTheZonesTable(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	c := Calendar{Name: "day", Weekly: []Hours{{Days: [7]bool{true, true, true, true, true, true, true}, From: 8 * 60, To: 18 * 60}}}
	years := metering.Window{Start: time.Date(2039, 1, 1, 0, 0, 0, 0, time.UTC), End: time.Date(2042, 1, 1, 0, 0, 0, 0, time.UTC)}
	tl := c.timeline(years, zone)
	days := int(years.Length().Hours() / 24)
	if len(tl.at) != 2*days+1 {
		t.Errorf("%d changes in %d days, want two a day and the beginning", len(tl.at), days)
	}
}
