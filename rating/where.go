package rating

import (
	"slices"

	"github.com/usance/usance/metering"
)

// conditions are the lists of w, one per label, in a fixed order; the time
// class is the last.
func (w *Where) conditions() [5][]string {
	return [5][]string{w.Flavor, w.Image, w.Region, w.HostClass, w.Time}
}

// isEmpty reports whether there are no conditions.
func (w *Where) isEmpty() bool {
	for _, list := range w.conditions() {
		if len(list) > 0 {
			return false
		}
	}
	return true
}

// fits reports whether the labels meet the conditions, the time class aside.
func (w *Where) fits(l *metering.Labels) bool {
	return allows(w.Flavor, l.Flavor) && allows(w.Image, l.Image) && allows(w.Region, l.Region) && allows(w.HostClass, l.HostClass) && w.allowsAge(l.Created)
}

// allowsAge reports whether a resource created then, "" for nobody knows, is
// among those that the rate is for.
func (w *Where) allowsAge(created string) bool {
	if created == "" {
		return w.CreatedBefore == ""
	}
	return created >= w.CreatedFrom && (w.CreatedBefore == "" || created < w.CreatedBefore)
}

// sameAge reports whether a resource can be among those of both.
func (w *Where) sameAge(o *Where) bool {
	return (w.CreatedBefore == "" || o.CreatedFrom < w.CreatedBefore) && (o.CreatedBefore == "" || w.CreatedFrom < o.CreatedBefore)
}

// holdsAt reports whether the rate is in force while these time classes hold.
func (w *Where) holdsAt(classes []string) bool {
	return len(w.Time) == 0 || slices.ContainsFunc(w.Time, func(c string) bool { return slices.Contains(classes, c) })
}

// only is the labels without those that names does not have, as Labels names
// them in JSON.
func only(names []string, l *metering.Labels) (some metering.Labels) {
	for _, name := range names {
		switch name {
		case "flavor":
			some.Flavor = l.Flavor
		case "image":
			some.Image = l.Image
		case "region":
			some.Region = l.Region
		case "host_class":
			some.HostClass = l.HostClass
		}
	}
	return some
}

func allows(list []string, value string) bool {
	return len(list) == 0 || slices.Contains(list, value)
}

// moreSpecific reports whether whatever meets w meets o, and o allows more.
func (w *Where) moreSpecific(o *Where) bool {
	strictly := false
	theirs := o.conditions()
	for i, mine := range w.conditions() {
		switch {
		case len(theirs[i]) == 0:
			strictly = strictly || len(mine) > 0
		case len(mine) == 0:
			return false
		default:
			for _, value := range mine {
				if !slices.Contains(theirs[i], value) {
					return false
				}
			}
			strictly = strictly || slices.ContainsFunc(theirs[i], func(v string) bool { return !slices.Contains(mine, v) })
		}
	}
	return strictly
}

// mostSpecific picks the rate whose conditions are narrower than those of every
// other; where there is none it returns −1 and two that stand against each other.
func mostSpecific(rates []Rate, fitting []int) (best, a, b int) {
	if len(fitting) == 0 {
		return -1, -1, -1
	}
	best = fitting[0]
	for _, i := range fitting[1:] {
		if rates[i].Where.moreSpecific(&rates[best].Where) {
			best = i
		}
	}
	for _, i := range fitting {
		if i != best && !rates[best].Where.moreSpecific(&rates[i].Where) {
			return -1, min(best, i), max(best, i)
		}
	}
	return best, -1, -1
}

// Conflict is a pair of rates neither of which is more specific, for some usage
// that both fit.
type Conflict struct{ A, B *Rate }

// Conflicts finds every pair of rates that stand against each other for some
// labels and time classes that can occur together.
func (p *Plan) Conflicts() []Conflict {
	var found []Conflict
	seen := make(map[[2]int]bool)
	rivals := make(map[string][]int) // rates of one meter and component
	var order []string
	for i := range p.Rates {
		for _, meter := range p.Rates[i].meters() {
			key := p.Rates[i].Component + " " + string(meter)
			if rivals[key] == nil {
				order = append(order, key)
			}
			rivals[key] = append(rivals[key], i)
		}
	}
	for _, key := range order {
		all := rivals[key]
		p.eachLabels(all, func(l *metering.Labels, classes []string) {
			var fitting []int
			for _, i := range all {
				w := &p.Rates[i].Where
				if w.fits(l) && w.holdsAt(classes) {
					fitting = append(fitting, i)
				}
			}
			if best, a, b := mostSpecific(p.Rates, fitting); best < 0 && a >= 0 && !seen[[2]int{a, b}] {
				seen[[2]int{a, b}] = true
				found = append(found, Conflict{&p.Rates[a], &p.Rates[b]})
			}
		})
	}
	return found
}

// other stands for every label value that no rate names; a space cannot stand
// in a value.
const other = " "

// eachLabels calls f with every combination of label values that the rates tell
// apart and every set of time classes that occurs.
func (p *Plan) eachLabels(rates []int, f func(*metering.Labels, []string)) {
	var values [4][]string
	for k := range values {
		values[k] = []string{other}
		for _, i := range rates {
			for _, v := range p.Rates[i].Where.conditions()[k] {
				if !slices.Contains(values[k], v) {
					values[k] = append(values[k], v)
				}
			}
		}
	}
	sets := p.classSets(rates)
	for _, flavor := range values[0] {
		for _, image := range values[1] {
			for _, region := range values[2] {
				for _, class := range values[3] {
					l := metering.Labels{Flavor: flavor, Image: image, Region: region, HostClass: class}
					for _, set := range sets {
						f(&l, set)
					}
				}
			}
		}
	}
}

// Sells reports whether some rate for the meter fits the flavor, whatever the
// other labels: ever, and in every set of time classes that occurs. Rates of a
// component come on top and count for nothing here.
func (p *Plan) Sells(meter metering.Meter, flavor string) (ever, always bool) {
	var fitting []int
	for i := range p.Rates {
		r := &p.Rates[i]
		if r.Component == mainComponent && slices.Contains(r.meters(), meter) && allows(r.Where.Flavor, flavor) {
			fitting = append(fitting, i)
		}
	}
	sets := p.classSets(fitting)
	return len(fitting) > 0, !slices.ContainsFunc(sets, func(classes []string) bool {
		return !slices.ContainsFunc(fitting, func(i int) bool { return p.Rates[i].Where.holdsAt(classes) })
	})
}
