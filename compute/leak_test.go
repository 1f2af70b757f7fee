package compute

import (
	"testing"
	"time"

	"github.com/usance/usance/metering"
)

func TestLeaks(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	const id, all = metering.InstanceID("ins_00000000000000001"), "all_00000000000000001"
	const limit = LeakGapLength + leakGrace
	placed := func(state State, desired Power, since time.Duration) []Instance {
		return []Instance{{ID: id, Tenant: "ten_a", Host: "hst_a", Flavor: "small", State: state, Desired: desired, Since: ago(since)}}
	}
	read := func(d time.Duration) map[metering.InstanceID]time.Time {
		return map[metering.InstanceID]time.Time{id: ago(d)}
	}
	stopped := []metering.Allocation{{ID: all, Tenant: "ten_a", Resource: metering.ResourceID(id), Meter: metering.InstanceStopped, Start: ago(time.Hour)}}
	for _, test := range []struct {
		name  string
		facts LeakFacts
		want  LeakKind
		since time.Time
	}{
		{"nothing", LeakFacts{}, "", now},
		{"it runs and is read", LeakFacts{Placed: placed(StateRunning, PowerRunning, time.Hour), Read: read(limit)}, "", now},
		{"it runs and is not read", LeakFacts{Placed: placed(StateRunning, PowerRunning, time.Hour), Read: read(limit + 1)}, LeakUnmetered, ago(limit + 1)},
		{"it never was read", LeakFacts{Placed: placed(StateRunning, PowerRunning, time.Hour)}, LeakUnmetered, ago(time.Hour)},
		{"it has just begun to run", LeakFacts{Placed: placed(StateRunning, PowerRunning, limit), Read: read(time.Hour)}, "", now},
		{"its host is silent", LeakFacts{Placed: placed(StateUnknown, PowerRunning, time.Minute), Read: read(2 * time.Minute)}, LeakUnmetered, ago(2 * time.Minute)},
		{"its host is silent and it is to be off", LeakFacts{Placed: placed(StateUnknown, PowerStopped, time.Minute), Read: read(2 * time.Minute)}, "", now},
		{"it is off", LeakFacts{Placed: placed(StateStopped, PowerStopped, time.Hour), Read: read(time.Hour)}, "", now},
		{"it is to be off and is read", LeakFacts{Placed: placed(StateStopping, PowerStopped, time.Minute), Read: read(time.Second)}, LeakUnwanted, now},
		{"it has no place and is read", LeakFacts{Read: read(time.Second)}, LeakUnwanted, now},
		{"it had a place", LeakFacts{Read: read(limit + 1)}, "", now},
		{"a stray", LeakFacts{Strays: []Stray{{Host: "hst_a", Observation: Observation{ID: id, State: StateStopped}}}}, LeakStray, now},
		{"a deletion that is told again", LeakFacts{Strays: []Stray{{Host: "hst_a", Observation: Observation{ID: id, State: StateDeleted}}}}, "", now},
		{"off and held", LeakFacts{Placed: placed(StateStopped, PowerStopped, time.Hour), Allocations: stopped}, "", now},
		{"running and held", LeakFacts{Placed: placed(StateRunning, PowerRunning, time.Hour), Read: read(0), Allocations: stopped}, LeakAllocation, now},
		{"gone and held", LeakFacts{Allocations: stopped}, LeakAllocation, now},
	} {
		test.facts.Now = now
		got := test.facts.Leaks()
		switch {
		case test.want == "" && len(got) == 0:
		case test.want == "" || len(got) != 1 || got[0].Kind != test.want || !got[0].Since.Equal(test.since) || got[0].Detail == "" || got[0].Subject == "":
			t.Errorf("%s: %+v, want %s since %s", test.name, got, test.want, test.since)
		}
		for _, kind := range []LeakKind{LeakStray, LeakUnmetered, LeakUnwanted, LeakAllocation} {
			if test.facts.Why(kind, string(id)) == "" {
				t.Errorf("%s: no reason why a %s closed", test.name, kind)
			}
		}
	}
}
