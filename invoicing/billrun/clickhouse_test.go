package billrun_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/usance/usance/invoicing/billrun"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/allocdb"
	"github.com/usance/usance/metering/readingdb"
	"github.com/usance/usance/metering/readingdb/readingtest"
	"github.com/usance/usance/rating/plandb"
)

// TestTheRealReadings cuts on the real store of readings what it cuts on the
// one in memory: same lines, same accrued cost.
func TestTheRealReadings(t *testing.T) {
	h := newHouse(t)
	store := readingtest.Store(t)
	run, err := billrun.New(billrun.Config{
		Books: h.books, Plans: plandb.New(h.pool), Epochs: h.epochs, Allocations: allocdb.New(h.pool), Readings: store,
		Running: func(context.Context) ([]billrun.Running, error) { return nil, nil }, Log: slog.New(slog.DiscardHandler),
	})
	h.check(err)
	one, two := h.tenant("ten_1"), h.tenant("ten_2") // the same readings, in memory and in ClickHouse
	inMemory := h.epoch(one, "ins_1", 1, "small")
	real := h.epoch(two, "ins_1", 1, "small")
	read := func(when string, minutes, mib uint64) {
		h.read(one, inMemory, when, minutes, mib)
		h.check(store.Insert(t.Context(), column(two, real, at(when), minutes, mib)))
	}
	read("2026-10-05 00:00", 600, 10<<10)
	read("2026-10-20 00:03", 700, 11<<10)
	read("2026-11-01 00:00", 760, 11<<10)
	read("2026-11-01 00:00", 760, 11<<10) // repeated
	read("2026-11-03 00:00", 900, 90<<10)
	for _, step := range []func(){func() {}, func() { read("2026-10-31 00:00", 870, 60<<10) }, func() { read("2026-11-02 00:00", 890, 80<<10) }} {
		step()
		for _, cut := range []string{"2026-10-20 00:01", "2026-11-01 00:00", "2026-11-10 00:00", "2026-12-01 00:00"} {
			want, err := h.Accrued(t.Context(), one, at(cut))
			h.check(err)
			got, err := run.Accrued(t.Context(), two, at(cut))
			h.check(err)
			h.want("accrued at "+cut, got.ByResource, want.ByResource)
		}
	}
	want := h.cut(one, "2026-11-10 00:00")
	made, err := run.Cut(t.Context(), two, at("2026-11-10 00:00"))
	h.check(err)
	got := made.Invoice
	h.want("gross", got.Gross, want.Gross)
	h.want("lines", len(got.Lines), len(want.Lines))
	h.check(run.RefreshAccrued(t.Context(), at("2026-11-10 00:00")))
	v, err := run.Verify(t.Context(), got.Number)
	h.check(err)
	h.want("differences", len(v.Differences), 0)
	c, err := h.books.Credit(t.Context(), nil, two, at("2026-11-10 00:00"))
	h.check(err)
	a, err := run.Accrued(t.Context(), two, at("2026-11-10 00:00"))
	h.check(err)
	h.want("the cache", c.Accrued, a.Total)
}

func column(tenant metering.TenantID, epoch metering.EpochID, when time.Time, minutes, mib uint64) *metering.Columns {
	c := &metering.Columns{
		Tenant: []string{string(tenant)}, Instance: []string{"ins_1"}, Epoch: []string{string(epoch)},
		AtMS: []int64{when.UnixMilli()}, ReceivedMS: []int64{when.UnixMilli()},
	}
	var r metering.Registers
	r[metering.RunningMS], r[metering.NetPublicTxBytes] = 500+minutes*60_000, mib<<20
	for i, v := range r {
		c.Registers[i] = []uint64{v}
	}
	return c
}

var _ billrun.Readings = (*readingdb.Store)(nil)
