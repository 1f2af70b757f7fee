package spool

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/usance/usance/metering"
)

const (
	week    = 7 * 24 * time.Hour
	roundOf = 10 * time.Second
)

// fleet is instances that work hard, each at its own pace, and what every reading
// that must not be lost said: the first of each epoch, and the last of each slot.
type fleet struct {
	rand  *rand.Rand
	batch metering.Batch
	must  map[metering.EpochID]map[time.Time]metering.Registers
}

func newFleet(instances int) *fleet {
	f := &fleet{rand: rand.New(rand.NewPCG(1, 2)), must: map[metering.EpochID]map[time.Time]metering.Registers{}}
	for i := range instances {
		e := epochOf(i)
		f.batch.Epochs = append(f.batch.Epochs, e)
		f.batch.Readings = append(f.batch.Readings, metering.Reading{Epoch: e.ID, At: begin})
		f.must[e.ID] = map[time.Time]metering.Registers{}
	}
	return f
}

// round is the next round: 10 s later, with registers grown by chance as those of
// a busy instance do.
func (f *fleet) round() *metering.Batch {
	for i := range f.batch.Readings {
		r := &f.batch.Readings[i]
		first := r.At.Equal(begin)
		r.At = r.At.Add(roundOf)
		for reg := range r.Registers {
			r.Registers[reg] += f.growth(metering.Register(reg), i)
		}
		if at := r.At; first || at.Equal(metering.SlotOf(at)) {
			f.must[r.Epoch][at] = r.Registers
		}
	}
	return &f.batch
}

func (f *fleet) growth(r metering.Register, instance int) uint64 {
	const ms = uint64(roundOf / time.Millisecond)
	vcpus, mib := uint64(1+instance%4), uint64(1024<<(instance%4))
	switch r {
	case metering.RunningMS:
		return ms
	case metering.PausedMS, metering.BridgedMS:
		return 0
	case metering.VCPUMS:
		return ms * vcpus
	case metering.MemoryMiBMS:
		return ms * mib
	case metering.MemoryUsedMiBMS:
		return ms * f.rand.Uint64N(mib)
	case metering.CPUNS:
		return f.rand.Uint64N(vcpus * uint64(roundOf))
	case metering.DiskReadBytes, metering.DiskWriteBytes:
		return 4096 * f.rand.Uint64N(100_000)
	case metering.DiskReadOps, metering.DiskWriteOps:
		return f.rand.Uint64N(20_000)
	case metering.NetPublicRxPackets, metering.NetPublicTxPackets, metering.NetPrivateRxPackets, metering.NetPrivateTxPackets:
		return f.rand.Uint64N(100_000)
	}
	return f.rand.Uint64N(1 << 30) // bytes of the network
}

// outage appends rounds for so long to a spool that nothing leaves, and checks that
// none was refused and that all that must not be lost comes out again.
func outage(t testing.TB, dir string, instances int, length time.Duration, maxBytes int64) (st Stat) {
	t.Helper()
	s := open(t, dir, maxBytes)
	f := newFleet(instances)
	for range length / roundOf {
		mustAppend(t, s, f.round()) // fails the test when it is refused
	}
	st = s.Stat()
	for s.Stat().Readings > 0 {
		item, b := next(t, s)
		for _, r := range b.Readings {
			if want, must := f.must[r.Epoch][r.At]; must && r.Registers == want {
				delete(f.must[r.Epoch], r.At)
			}
		}
		if err := s.Ack(item); err != nil {
			t.Fatal(err)
		}
	}
	for epoch, lost := range f.must {
		for at := range lost {
			t.Fatalf("%d readings of epoch %s that must be kept did not come out, as that of %s", len(lost), epoch, at)
		}
	}
	return st
}

// Hours without control plane, in a spool that would hold less than two of them in full.
func TestOutage(t *testing.T) {
	const instances, limit, length = 4, 512 << 10, 8 * time.Hour
	st := outage(t, quickFolder(t), instances, length, limit)
	if taken := int64(instances * length / roundOf); st.Thinned < taken/2 || st.Refused != 0 || st.Bytes > limit-limit/reserveShare {
		t.Errorf("%+v of %d readings: want most thinned, none refused", st, taken)
	}
}

// BenchmarkWeek holds a week of 100 busy instances without control plane in a spool
// at its default limit, each round durable: "MiB" is what it takes on disk, "full-h"
// the hours of it that are there round by round. The README states both.
func BenchmarkWeek(b *testing.B) {
	for b.Loop() {
		began := time.Now()
		st := outage(b, b.TempDir(), 100, week, 0)
		if st.Bytes > DefaultMaxBytes || st.Refused > 0 || st.Thinned == 0 {
			b.Errorf("%+v: want some thinned, and none refused", st)
		}
		b.ReportMetric(float64(st.Bytes)/(1<<20), "MiB")
		full := float64(st.Readings) - 100*float64(week/metering.SlotLength)
		b.ReportMetric(full/100*roundOf.Hours(), "full-h")
		b.ReportMetric(float64(time.Since(began).Milliseconds())/float64(week/roundOf), "ms/round")
	}
}
