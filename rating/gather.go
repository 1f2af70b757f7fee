package rating

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/usance/usance/metering"
)

// stretch is the usage of one start under one set of labels and one rate.
type stretch struct {
	resource metering.ResourceID
	start    string
	fit      *fit
	rate     int // −1: unrated
	measured metering.Quantity
	before   metering.Quantity
	samples  []sample // where the rate is of a percentile
	windows  []metering.Window
	first    [1]metering.Window // where windows begins, so that one window costs no allocation
	next     *stretch           // of the same resource
}

// fit is what the rates say of one meter under one set of labels, of which
// Created is an age.
type fit struct {
	meter     metering.Meter
	labels    metering.Labels
	rates     []int // those whose labels fit, whatever the time
	timelines []int // of the time classes that these name
	rate      int   // where none does, the rate, −1 for none
	err       error // why there is none
}

type fitKey struct {
	meter  metering.Meter
	labels metering.Labels
}

// gatherer adds usage up into stretches. Usage that follows its like costs a
// few comparisons and an addition.
type gatherer struct {
	*Rater
	component string
	fits      map[fitKey]*fit
	fit       *fit            // of the last usage that was looked up, and
	labels    metering.Labels // its labels
	index     map[metering.ResourceID]*stretch
	stretches []*stretch
	slab      []stretch
	endUnix   int64            // of the period
	current   *stretch         // the last one, where neither time class nor percentile asks for more
	tail      *metering.Window // its last window, and
	tailUnix  int64            // the end of it
}

// slabSize is how many stretches are allocated at once.
const slabSize = 32

func (g *gatherer) add(u *metering.Usage) error {
	if end := u.Window.End.Unix(); g.follows(u, end) {
		g.current.measured = g.current.measured.Add(u.Quantity)
		g.tail.End, g.tailUnix = u.Window.End, end
		return nil
	}
	if !u.Window.End.After(u.Window.Start) {
		return u.Window.Check()
	}
	if u.Window.Start.Before(g.window.Start) || u.Window.End.After(g.window.End) {
		return fmt.Errorf("window %s is not wholly inside the period %s", u.Window, g.window)
	}
	s, err := g.find(u)
	if err != nil {
		return err
	}
	s.measured = s.measured.Add(u.Quantity)
	if u.Before.Cmp(s.before) > 0 {
		s.before = u.Before
	}
	if n := len(s.windows); n > 0 && s.windows[n-1].End.Equal(u.Window.Start) {
		s.windows[n-1].End = u.Window.End
	} else {
		s.windows = append(s.windows, u.Window)
	}
	g.current = nil
	switch {
	case s.rate >= 0 && g.rates[s.rate].BySlots():
		s.samples = append(s.samples, sample{u.Window, u.Quantity})
	case len(s.fit.timelines) == 0:
		g.current, g.tail = s, &s.windows[len(s.windows)-1]
		g.tailUnix = g.tail.End.Unix()
	}
	return nil
}

// follows reports whether the usage continues the last window of the current
// stretch, well inside the period; end is when it ends. All else takes the longer
// way.
func (g *gatherer) follows(u *metering.Usage, end int64) bool {
	s := g.current
	return s != nil && end > g.tailUnix && end < g.endUnix && u.Window.Start == g.tail.End && u.Before == s.before &&
		u.Resource == s.resource && u.Start == s.start && u.Meter == s.fit.meter && u.Labels == g.labels
}

// find is the stretch the usage belongs to.
func (g *gatherer) find(u *metering.Usage) (*stretch, error) {
	f, err := g.fitOf(u)
	if err != nil {
		return nil, err
	}
	rate, err := g.rateOf(f, u.Window)
	if err != nil {
		return nil, err
	}
	first := g.index[u.Resource]
	for s := first; s != nil; s = s.next {
		if s.fit == f && s.rate == rate && s.start == u.Start {
			return s, nil
		}
	}
	if len(g.slab) == cap(g.slab) {
		g.slab = make([]stretch, 0, slabSize)
	}
	g.slab = append(g.slab, stretch{resource: u.Resource, start: u.Start, fit: f, rate: rate, next: first})
	s := &g.slab[len(g.slab)-1]
	s.windows = s.first[:0]
	g.stretches = append(g.stretches, s)
	g.index[u.Resource] = s
	return s, nil
}

func (g *gatherer) fitOf(u *metering.Usage) (*fit, error) {
	if f := g.fit; f != nil && f.meter == u.Meter && g.labels == u.Labels {
		return f, nil
	}
	g.labels = u.Labels
	key := fitKey{u.Meter, u.Labels}
	key.labels.Created = g.age(u.Labels.Created)
	if f := g.fits[key]; f != nil {
		g.fit = f
		return f, nil
	}
	if _, ok := u.Meter.BaseUnit(); !ok {
		return nil, fmt.Errorf("there is no meter %q", u.Meter)
	}
	f := &fit{meter: u.Meter, labels: key.labels}
	for i := range g.rates {
		r := &g.rates[i]
		if !slices.Contains(r.all, u.Meter) || r.Component != g.component || !r.Where.fits(&key.labels) {
			continue
		}
		f.rates = append(f.rates, i)
		for j := range g.timelines {
			if slices.Contains(r.Where.Time, g.timelines[j].name) && !slices.Contains(f.timelines, j) {
				f.timelines = append(f.timelines, j)
			}
		}
	}
	if len(f.timelines) == 0 {
		f.rate, f.err = g.best(f.rates)
	}
	g.fits[key], g.fit = f, f
	return f, nil
}

// age stands for all instants of creation that no rate tells apart: the last
// before it that one does, so that labels are as few as rates know.
func (g *gatherer) age(created string) string {
	if created == "" || len(g.ages) == 0 {
		return ""
	}
	age := "0" // before all
	for _, from := range g.ages {
		if from <= created {
			age = from
		}
	}
	return age
}

// rateOf is the rate of usage in the window, −1 for none.
func (g *gatherer) rateOf(f *fit, w metering.Window) (int, error) {
	if len(f.timelines) == 0 {
		return f.rate, f.err
	}
	var classes []string
	for _, i := range f.timelines {
		tl := &g.timelines[i]
		inside, boundary, ok := tl.locate(w)
		if !ok {
			return 0, fmt.Errorf("window %s crosses the boundary of time class %s at %s; split the usage there",
				w, tl.name, boundary.Format(time.RFC3339))
		}
		if inside {
			classes = append(classes, tl.name)
		}
	}
	var fitting []int
	for _, i := range f.rates {
		if g.rates[i].Where.holdsAt(classes) {
			fitting = append(fitting, i)
		}
	}
	return g.best(fitting)
}

// best is the rate of those that fit, −1 for none.
func (g *gatherer) best(fitting []int) (int, error) {
	best, a, b := mostSpecific(g.plan.Rates, fitting)
	if best < 0 && a >= 0 {
		return 0, fmt.Errorf("rates %s and %s both fit and neither is more specific", g.rates[a].ID, g.rates[b].ID)
	}
	return best, nil
}

// sorted puts the stretches of one start side by side, in order of time, and
// joins their windows: from here on the order of usage is forgotten.
func (g *gatherer) sorted() []*stretch {
	for _, s := range g.stretches {
		s.windows = joined(s.windows)
	}
	slices.SortFunc(g.stretches, func(a, b *stretch) int {
		if order := strings.Compare(string(a.resource), string(b.resource)); order != 0 {
			return order // most often, and the rest is not looked at
		}
		return cmp.Or(
			strings.Compare(string(a.fit.meter), string(b.fit.meter)),
			strings.Compare(a.start, b.start),
			a.windows[0].Start.Compare(b.windows[0].Start),
			a.end().Compare(b.end()),
			cmp.Compare(a.rate, b.rate),
			compareLabels(&a.fit.labels, &b.fit.labels),
		)
	})
	return g.stretches
}

func compareLabels(a, b *metering.Labels) int {
	return cmp.Or(strings.Compare(a.Flavor, b.Flavor), strings.Compare(a.Image, b.Image),
		strings.Compare(a.Region, b.Region), strings.Compare(a.HostClass, b.HostClass), strings.Compare(a.Created, b.Created))
}

func (s *stretch) end() time.Time { return s.windows[len(s.windows)-1].End }

// joined sorts windows and joins those that touch or overlap.
func joined(windows []metering.Window) []metering.Window {
	if len(windows) < 2 {
		return windows
	}
	slices.SortFunc(windows, func(a, b metering.Window) int { return a.Start.Compare(b.Start) })
	out := windows[:1]
	for _, w := range windows[1:] {
		if last := &out[len(out)-1]; w.Start.After(last.End) {
			out = append(out, w)
		} else if w.End.After(last.End) {
			last.End = w.End
		}
	}
	return out
}
