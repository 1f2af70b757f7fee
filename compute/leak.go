package compute

import (
	"fmt"
	"time"

	"github.com/usance/usance/metering"
)

// LeakKind says what differs from what.
type LeakKind string

// The kinds of leak.
const (
	// LeakStray is a domain that a host reports and that the control plane has not placed there.
	LeakStray LeakKind = "domain-without-instance"
	// LeakUnmetered is an instance that runs, or may run on a silent host, without
	// a reading for three rounds.
	LeakUnmetered LeakKind = "unmetered"
	// LeakUnwanted is an instance of which readings come although it is not wanted running.
	LeakUnwanted LeakKind = "metered-not-desired"
	// LeakAllocation is an open allocation of an instance that is gone, or of
	// stopped time of one that runs.
	LeakAllocation LeakKind = "allocation-without-resource"
	// LeakQuarantine is readings of one host that wait for an operator for one reason.
	LeakQuarantine LeakKind = "quarantine"
	// LeakUnrated is usage that no rate fitted at a tenant's last closing.
	LeakUnrated LeakKind = "unrated"
	// LeakGap is a gap of more than three rounds between two readings. What grew in
	// it is in the reading after it, so it is closed from the beginning.
	LeakGap LeakKind = "gap"
	// LeakDiffers is an epoch whose slots or total are not what its readings say.
	LeakDiffers LeakKind = "slots-differ"
)

// LeakKinds are all kinds.
func LeakKinds() []LeakKind {
	return []LeakKind{LeakStray, LeakUnmetered, LeakUnwanted, LeakAllocation, LeakQuarantine, LeakUnrated, LeakGap, LeakDiffers}
}

const (
	round = 10 * time.Second
	// LeakGapLength is how long three rounds may take; a longer silence is a gap.
	LeakGapLength = 3*round + round/2
	// leakGrace is what a reading may be late beyond that until an instance counts
	// as unmetered: agent, network and inserts take their time.
	leakGrace = 30 * time.Second
	// leakConfirm is how long orders and reports may take to pass through; what
	// differs for no longer was under way.
	leakConfirm = 2 * time.Minute
)

// Confirm is how long a leak must last to be one.
func (k LeakKind) Confirm() time.Duration {
	switch k {
	case LeakStray, LeakUnwanted, LeakAllocation:
		return leakConfirm
	}
	return 0
}

// Leak is a difference between what runs, what is wanted and what is billed.
type Leak struct {
	Kind     LeakKind
	Subject  string            // what it is about, unique within the kind
	Tenant   metering.TenantID // "" when nobody's
	Host     metering.HostID   // "" when of none
	Instance metering.InstanceID
	Flavor   string // what it costs follows from; "" when that cannot be said
	Since    time.Time
	Detail   string
}

// Stray is an instance that a host reports without a lease there.
type Stray struct {
	Observation
	Host   metering.HostID
	Tenant metering.TenantID // of the instance, "" when there never was one
	Flavor string
}

// LeakFacts is what the three sides say at one time.
type LeakFacts struct {
	Now         time.Time
	Placed      []Instance                        // all with an open lease
	Strays      []Stray                           // of hosts that are heard from
	Read        map[metering.InstanceID]time.Time // the latest reading of each instance read not long ago
	Allocations []metering.Allocation             // the open ones
}

// Leaks are the differences between the facts.
func (f LeakFacts) Leaks() []Leak {
	var all []Leak
	placed := f.byID()
	for _, i := range f.Placed {
		all = append(all, f.unmetered(i)...)
	}
	for id, at := range f.Read {
		i, ok := placed[id]
		if f.Now.Sub(at) > LeakGapLength+leakGrace || ok && i.Desired == PowerRunning {
			continue
		}
		l := Leak{Kind: LeakUnwanted, Subject: string(id), Tenant: i.Tenant, Host: i.Host, Instance: id, Flavor: i.Flavor, Since: f.Now,
			Detail: "readings come, and it has no place on any host"}
		if ok {
			l.Detail = fmt.Sprintf("readings come, and it is wanted %s (%s)", i.Desired, i.Reason)
		}
		all = append(all, l)
	}
	for _, s := range f.Strays {
		if s.State != StateDeleted {
			all = append(all, Leak{Kind: LeakStray, Subject: string(s.Host) + "/" + string(s.ID), Tenant: s.Tenant, Host: s.Host, Instance: s.ID,
				Flavor: s.Flavor, Since: f.Now, Detail: fmt.Sprintf("%s there since %s, without a lease", s.State, s.Since.UTC().Format(time.RFC3339))})
		}
	}
	for _, a := range f.Allocations {
		i, ok := placed[metering.InstanceID(a.Resource)]
		if metering.CheckID(metering.PrefixInstance, string(a.Resource)) != nil || ok && (i.State != StateRunning && i.State != StatePaused) {
			continue
		}
		l := Leak{Kind: LeakAllocation, Subject: a.ID, Tenant: a.Tenant, Host: i.Host, Instance: metering.InstanceID(a.Resource), Since: f.Now,
			Detail: fmt.Sprintf("%s of %s is held since %s, and it is gone", a.Meter, a.Resource, a.Start.UTC().Format(time.RFC3339))}
		if ok {
			l.Detail = fmt.Sprintf("%s of %s is held since %s, and it is %s", a.Meter, a.Resource, a.Start.UTC().Format(time.RFC3339), i.State)
		}
		all = append(all, l)
	}
	return all
}

// unmetered is the leak that an instance runs without readings, if it does. One
// whose host is silent counts while it is wanted running.
func (f LeakFacts) unmetered(i Instance) []Leak {
	if i.State != StateRunning && !(i.State == StateUnknown && i.Desired == PowerRunning) {
		return nil
	}
	since, detail := i.Since, fmt.Sprintf("%s since %s without any reading", i.State, i.Since.Format(time.RFC3339))
	if at, ok := f.Read[i.ID]; ok && (i.State == StateUnknown || at.After(since)) {
		since, detail = at, fmt.Sprintf("%s, and the last reading is of %s", i.State, at.Format(time.RFC3339))
	}
	if f.Now.Sub(since) <= LeakGapLength+leakGrace {
		return nil
	}
	return []Leak{{Kind: LeakUnmetered, Subject: string(i.ID), Tenant: i.Tenant, Host: i.Host, Instance: i.ID, Flavor: i.Flavor, Since: since, Detail: detail}}
}

// Why says why a leak that was open is none any more.
func (f LeakFacts) Why(kind LeakKind, subject string) string {
	i, ok := f.byID()[metering.InstanceID(subject)]
	switch kind {
	case LeakUnmetered:
		switch {
		case !ok:
			return "the instance is gone"
		case i.State == StateRunning:
			return "readings come again"
		}
		return "the instance is " + string(i.State)
	case LeakUnwanted:
		if ok && i.Desired == PowerRunning {
			return "it is wanted running"
		}
		return "no more readings come"
	case LeakStray:
		return "the host reports it no more, or is silent"
	case LeakAllocation:
		return "the allocation ended, or its instance is off"
	}
	return "it is no longer found"
}

func (f LeakFacts) byID() map[metering.InstanceID]Instance {
	all := make(map[metering.InstanceID]Instance, len(f.Placed))
	for _, i := range f.Placed {
		all[i.ID] = i
	}
	return all
}
