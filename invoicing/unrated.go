package invoicing

import (
	"cmp"
	"slices"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
)

// Unrated is usage of one meter and flavor that no rate fits, summed up.
type Unrated struct {
	Meter     metering.Meter
	Flavor    string
	Resources int
	Quantity  metering.Quantity
}

// SumUnrated sums up what no rate fits, by meter and flavor, in that order.
func SumUnrated(all []rating.Unrated) []Unrated {
	all = slices.SortedStableFunc(slices.Values(all), func(a, b rating.Unrated) int {
		return cmp.Or(cmp.Compare(a.Meter, b.Meter), cmp.Compare(a.Labels.Flavor, b.Labels.Flavor), cmp.Compare(a.Resource, b.Resource))
	})
	var sums []Unrated
	var latest metering.ResourceID
	for i, u := range all {
		if i == 0 || u.Meter != all[i-1].Meter || u.Labels.Flavor != all[i-1].Labels.Flavor {
			sums = append(sums, Unrated{Meter: u.Meter, Flavor: u.Labels.Flavor})
			latest = ""
		}
		sum := &sums[len(sums)-1]
		sum.Quantity = sum.Quantity.Add(u.Quantity)
		if u.Resource != latest {
			sum.Resources++
			latest = u.Resource
		}
	}
	return sums
}
