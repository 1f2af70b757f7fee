package metering

import (
	"iter"
	"math/bits"
	"strconv"
	"time"
)

// Labels tell resources of different price apart. All usage of one epoch has
// one set of labels.
type Labels struct {
	Flavor    string `json:"flavor,omitempty"`
	Image     string `json:"image,omitempty"`
	Region    string `json:"region,omitempty"`
	HostClass string `json:"host_class,omitempty"`
	// Created is when the resource was created: RFC 3339 in UTC, to the second. ""
	// is not known, and is priced like what is created now.
	Created string `json:"created,omitempty"`
}

// CreatedAt is an instant as Labels.Created has it.
func CreatedAt(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Usage is the quantity of one meter of one resource in one window. It is
// derived, never stored.
type Usage struct {
	Resource ResourceID
	Meter    Meter
	Window   Window
	Quantity Quantity
	Labels   Labels
	// Start names the start the usage belongs to, within the resource; "" means
	// that all usage of the resource is one start.
	Start string
	// Before is what earlier periods billed of that start under this meter.
	Before Quantity
}

// EpochRecord is what the control plane knows of an epoch: the host's record,
// and the labels that follow from the lease.
type EpochRecord struct {
	Epoch
	Tenant TenantID
	Host   HostID
	Labels Labels
	Void   *Void // nil unless an operator voided the epoch
}

// StartID is the name of the epoch's start in Usage.
func (e EpochRecord) StartID() string { return strconv.FormatUint(uint64(e.Start), 10) }

// Resource is the instance as a resource.
func (e EpochRecord) Resource() ResourceID { return ResourceID(e.Instance) }

// Allocation is an interval in which a tenant held something that is billed by
// holding it. Its usage in a window is Amount × the time both share.
type Allocation struct {
	ID       string // "all_" and 17 hex digits
	Tenant   TenantID
	Resource ResourceID
	Meter    Meter
	Labels   Labels
	Amount   uint64 // 1 for meters in s, the size in MiB for meters in MiB·s
	Start    time.Time
	End      time.Time // zero while it is held
}

// At is the allocation's odometer at t, in thousandths of the meter's base
// unit: Amount × milliseconds held until t.
func (a Allocation) At(t time.Time) uint64 {
	if !a.End.IsZero() && t.After(a.End) {
		t = a.End
	}
	if !t.After(a.Start) {
		return 0
	}
	return a.Amount * uint64(t.Sub(a.Start).Milliseconds())
}

// Unbilled is what a window from a to b adds to the bill of an epoch, register
// by register: max(R(b), W) − max(R(a), W), where atStart is R(a), atEnd is R(b)
// and billed is W, the epoch's last closing reading (its opening reading before
// the first closing). It is never negative, and over any partition of time it
// sums to R(end) − W.
func Unbilled(atStart, atEnd, billed Registers) Registers {
	return atEnd.Join(billed).Sub(atStart.Join(billed))
}

// Of is the meter's quantity at the register values r. The quantity of a window
// is Of(end) minus Of(start), not Of(end − start): CPU nanoseconds are floored
// to thousandths at both ends, so that parts sum to the whole. It is zero for a
// meter that does not come from registers.
func (m Meter) Of(r Registers) Quantity {
	for i := range meterTable {
		t := &meterTable[i]
		if t.meter != m {
			continue
		}
		var sum Quantity
		for _, reg := range t.registers {
			hi, lo := bits.Mul64(r[reg], t.num)
			sum = sum.Add(Quantity{hi, lo})
		}
		if t.den > 1 {
			var rem uint64
			hi := sum.Hi / t.den
			rem = sum.Hi % t.den
			lo, _ := bits.Div64(rem, sum.Lo, t.den)
			sum = Quantity{hi, lo}
		}
		return sum
	}
	return Quantity{}
}

// Registers are what the meter follows from; none for one of allocations.
func (m Meter) Registers() []Register {
	for i := range meterTable {
		if meterTable[i].meter == m {
			return meterTable[i].registers
		}
	}
	return nil
}

// RegisterMeters are the meters that follow from registers.
func RegisterMeters() []Meter {
	var some []Meter
	for i := range meterTable {
		if len(meterTable[i].registers) > 0 {
			some = append(some, meterTable[i].meter)
		}
	}
	return some
}

// Measure is the usage of a tenant in the windows between neighbouring instants,
// which ascend: of every epoch by its labels and start, and of every allocation. levels
// are R(e,t) at the instants, as a store answers; an epoch that is absent has no
// reading. What is zero is left out.
func Measure(instants []time.Time, epochs []EpochRecord, levels map[EpochID][]Registers, allocations []Allocation) iter.Seq[Usage] {
	return func(yield func(Usage) bool) {
		for _, e := range epochs {
			u := Usage{Resource: e.Resource(), Labels: e.Labels, Start: e.StartID()}
			level := levels[e.ID]
			for i := 1; i < len(instants) && level != nil; i++ {
				from, to := e.Counted(level[i-1]), e.Counted(level[i])
				if from == to {
					continue
				}
				u.Window = Window{Start: instants[i-1], End: instants[i]}
				for _, u.Meter = range registerMeters {
					if u.Quantity = u.Meter.Of(to).Sub(u.Meter.Of(from)); !u.Quantity.IsZero() && !yield(u) {
						return
					}
				}
			}
		}
		for _, a := range allocations {
			u := Usage{Resource: a.Resource, Meter: a.Meter, Labels: a.Labels}
			for i := 1; i < len(instants); i++ {
				u.Window = Window{Start: instants[i-1], End: instants[i]}
				if u.Quantity = Thousandths(a.At(instants[i]) - a.At(instants[i-1])); !u.Quantity.IsZero() && !yield(u) {
					return
				}
			}
		}
	}
}

var registerMeters = RegisterMeters()
