package rating

import (
	"fmt"

	"github.com/usance/usance/metering"
)

// InForce is a plan and the window of a period in which it is in force.
type InForce struct {
	Plan   *Plan
	Window metering.Window
	ready  *Rater // nil: made ready at each use
}

// Ready is the part made ready for the period, for whoever rates it many times.
func (p InForce) Ready(period metering.Window) (InForce, error) {
	var err error
	p.ready, err = p.rater(period)
	return p, err
}

func (p InForce) rater(period metering.Window) (*Rater, error) {
	if r := p.ready; r != nil && r.plan == p.Plan && r.period == period && r.window == p.Window {
		return r, nil
	}
	return p.Plan.forPart(period, p.Window)
}

// RateParts rates a period in which the plan changes: one result for each part.
// Parts follow each other without a gap and make up the period; usage lies in
// one of them, and one that does not is a *UsageError. Caps, allowances,
// thresholds, commitments, fees and minimum spend are prorated; a start keeps
// what the parts before have charged of it.
func RateParts(period metering.Window, parts []InForce, usage []metering.Usage) ([]*Result, error) {
	if err := adjoining(period, parts); err != nil {
		return nil, err
	}
	if len(parts) == 1 {
		rater, err := parts[0].rater(period)
		if err != nil {
			return nil, err
		}
		result, err := rater.Rate(usage)
		return []*Result{result}, err
	}
	type startKey struct {
		resource metering.ResourceID
		meter    metering.Meter
		start    string
	}
	measured := make(map[startKey]metering.Quantity) // in the parts before
	var results []*Result
	done := 0
	for _, part := range parts {
		var own []metering.Usage
		var index []int
		for i, u := range usage {
			if u.Window.Start.Before(part.Window.Start) || !u.Window.Start.Before(part.Window.End) {
				continue
			}
			u.Before = u.Before.Add(measured[startKey{u.Resource, u.Meter, u.Start}])
			own, index = append(own, u), append(index, i)
		}
		done += len(own)
		rater, err := part.rater(period)
		if err != nil {
			return nil, err
		}
		result, err := rater.Rate(own)
		if bad, ok := err.(*UsageError); ok {
			return nil, &UsageError{index[bad.Index], bad.Err}
		} else if err != nil {
			return nil, err
		}
		results = append(results, result)
		for _, u := range own {
			k := startKey{u.Resource, u.Meter, u.Start}
			measured[k] = measured[k].Add(u.Quantity)
		}
	}
	if done < len(usage) {
		for i, u := range usage {
			if u.Window.Start.Before(period.Start) || !u.Window.Start.Before(period.End) {
				return nil, &UsageError{i, fmt.Errorf("%s of %s: window %s is not inside the period %s", u.Meter, u.Resource, u.Window, period)}
			}
		}
	}
	return results, nil
}

// adjoining checks that the parts make up the period.
func adjoining(period metering.Window, parts []InForce) error {
	at := period.Start
	for _, p := range parts {
		if !p.Window.Start.Equal(at) || !p.Window.End.After(at) {
			return fmt.Errorf("plan %s is in force in %s, which does not follow on %s", p.Plan.Name, p.Window, at.UTC())
		}
		at = p.Window.End
	}
	if !at.Equal(period.End) {
		return fmt.Errorf("no plan is in force at the end of %s", period)
	}
	return nil
}
