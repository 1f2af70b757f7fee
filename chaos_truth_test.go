package usance_test

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/usance/usance/agent/agenttest"
	"github.com/usance/usance/metering"
)

// What the chaos run asks of every reading that was durable on a host: that it
// equals what was true at its own instant, in every register, to the unit.
//
// A reading's instant is where its epoch opened plus the time that its registers
// have counted since: an instant of the host's monotonic clock. There
//
//   - running, paused, vCPU and memory time are the truth's;
//   - CPU time and what disks and networks counted are what one call of Sample
//     showed, all of them the same call, no later than the instant, unless that call
//     overtook the event of a change of state: then time waits for the event;
//   - used memory is the truth's from the first sample on, before which nobody
//     knows it;
//   - bridged time grows only where no agent watched, and never by more than running;
//   - the stamp is what the host's wall clock showed, right or wrong; thinning gives the
//     last reading of a slot the latest stamp in it, also when the clock was set back since.
//
// Time that is given away by rule, and is subtracted from the truth exactly:
//
//   - An epoch whose start nobody saw before its first sample opens at that sample.
//   - A resize counts from the first sample that shows it, or from a round that was taken
//     before that sample came: until then the epoch before goes on, and the next opens
//     where it ends, both in one durable write. What nobody watched of a process that was
//     resized counts under the new labels, in full.
//   - An agent that lost its state goes on from the control plane's largest reading,
//     by the wall clock, and by no more than the age of the process allows. Until
//     it has heard that, it opens no epoch.
//
// And an epoch ends exactly where it ended, its counters at the last sample that
// the agent had, unless nobody watched: then at its last reading, whose instant is
// some other one. Of an epoch of which at most one sample reached an agent there may be
// no reading.
//
// Only bounded, not equal, are epochs that an agent continued from the control
// plane's memory and whose first reading after that is gone, because a full
// spool was thinned or the disk lost: how much was given away then is known only to
// within the rule.
type walk struct {
	h     *chaosHost
	truth agenttest.Truth

	last    metering.Reading // the one before, at first the epoch's opening
	ms      int64            // its instant
	latest  time.Time        // of all stamps so far
	look    int              // the sample that showed its counters; -1 before the first
	given   [metering.RegisterCount]int64
	used    bool  // given holds what was given away of used memory
	heir    *life // of the same process, under other labels, of which something was durable
	goesOn  bool  // its process goes on, under other labels
	lost    int   // how many of the host's losses of state lie behind it
	bounded bool
	gap     *walk // it was resized unwatched: its first reading counts from where this one ended
	// continuations is how often an agent that had lost its state went on with it.
	continuations int

	started bool     // its start was seen
	resized bool     // it began with a resize
	short   []string // what is less than the truth
	over    []string // what is more than the truth
}

// timely are the registers that follow from recorded changes of state.
var timely = []metering.Register{metering.RunningMS, metering.PausedMS, metering.VCPUMS, metering.MemoryMiBMS}

// counted are the registers of which samples show the hypervisor's counters.
var counted = []metering.Register{metering.CPUNS, metering.DiskReadBytes, metering.DiskReadOps, metering.DiskWriteBytes, metering.DiskWriteOps,
	metering.NetPublicRxBytes, metering.NetPublicRxPackets, metering.NetPublicTxBytes, metering.NetPublicTxPackets,
	metering.NetPrivateRxBytes, metering.NetPrivateRxPackets, metering.NetPrivateTxBytes, metering.NetPrivateTxPackets}

func only(of []metering.Register, r metering.Registers) (kept metering.Registers) {
	for _, register := range of {
		kept[register] = r[register]
	}
	return kept
}

// lived is the time that registers have counted, ms.
func lived(r metering.Registers) int64 { return int64(r[metering.RunningMS] + r[metering.PausedMS]) }

// life is an epoch as it was (truth), as its agent recorded it, and what was durable of it.
type life struct {
	truth    agenttest.Truth
	record   metering.Epoch // zero when nothing was durable
	readings []metering.Reading
}

// follow holds the readings of the epochs of one process, which follow each other,
// against the truth.
func (h *chaosHost) follow(process []life) (walks []*walk) {
	var before *walk // the last one of which something was durable
	for i, l := range process {
		w := &walk{h: h, truth: l.truth, look: -1, resized: i > 0}
		w.prolong(process[i+1:])
		w.follow(l, before)
		walks = append(walks, w)
		if l.record.ID != "" {
			before = w
		}
	}
	return walks
}

// prolong lets the truth go on, as an agent may have seen it that did not see the new labels
// of its process at once.
func (w *walk) prolong(next []life) {
	for i := range next {
		w.goesOn = true
		w.truth.Course = w.truth.Until(next[i].truth.Course, next[i].truth.EndedMS)
		if next[i].record.ID != "" {
			w.heir = &next[i]
			return
		}
	}
}

func (w *walk) follow(l life, before *walk) {
	w.ms = w.truth.OpenedMS
	if len(l.readings) > 0 && !w.open(l.record, before) {
		w.say(&w.short, "it opened at %s with %v, which is neither its start %s (%d ms) nor the first sample that an agent had; samples: %s", l.record.Opened, named(l.record.Opening),
			w.truth.Epoch.Opened, w.truth.OpenedMS, w.looks())
		return
	}
	slices.SortFunc(l.readings, func(a, b metering.Reading) int {
		return cmp.Or(cmp.Compare(lived(a.Registers), lived(b.Registers)), slices.Compare(a.Registers[:], b.Registers[:]))
	})
	for i, r := range l.readings {
		if w.next(r); len(w.short)+len(w.over) > 0 {
			w.around(l.readings, i)
			return
		}
	}
	w.end()
}

// around adds the readings around the i-th to what was said.
func (w *walk) around(readings []metering.Reading, i int) {
	text := "; readings around it:"
	for _, r := range readings[max(0, i-4):min(len(readings), i+4)] {
		text += fmt.Sprintf(" %s running %d paused %d bridged %d,", r.At.Format("15:04:05.000"),
			r.Registers[metering.RunningMS], r.Registers[metering.PausedMS], r.Registers[metering.BridgedMS])
	}
	for _, said := range []*[]string{&w.short, &w.over} {
		for j := range *said {
			(*said)[j] += text
		}
	}
}

func (w *walk) say(to *[]string, format string, args ...any) {
	*to = append(*to, fmt.Sprintf("epoch %s of %s on %s: ", w.truth.Epoch.ID, w.truth.Epoch.Instance, w.h.name)+fmt.Sprintf(format, args...))
}

// open places the opening on the truth's clock.
func (w *walk) open(epoch metering.Epoch, before *walk) bool {
	w.last, w.latest = metering.Reading{At: epoch.Opened, Registers: epoch.Opening}, epoch.Opened
	w.started = before == nil && epoch.Opened.Equal(w.truth.Epoch.Opened)
	if w.started {
		return epoch.Opening.IsZero()
	}
	if before != nil && before.ms < w.truth.OpenedMS {
		w.ms, w.gap = before.ms, before
		return before.goesOnAt(epoch.Opened) && epoch.Opening == before.last.Registers && w.h.unwatched(before.ms, w.truth.OpenedMS)
	}
	if before != nil {
		w.giveAway(before.ms)
		late := slices.IndexFunc(w.truth.Looks, func(l agenttest.Look) bool { return l.At.Mono.Milliseconds() >= w.ms })
		return before.goesOnAt(epoch.Opened) && epoch.Opening == before.last.Registers && w.missed(w.truth.Looks[:max(0, late)]) <= 1
	}
	i := lookStamped(w.truth, epoch.Opened)
	if i < 0 {
		return false
	}
	opened := w.truth.Looks[i].At.Mono.Milliseconds()
	if w.missed(w.truth.Looks[:i]) > 1 && !w.h.forgot(w.truth.OpenedMS, opened) {
		return false
	}
	w.giveAway(opened)
	return epoch.Opening.IsZero()
}

// looks are the first samples of the epoch, for messages.
func (w *walk) looks() (text string) {
	for _, look := range w.truth.Looks[:min(20, len(w.truth.Looks))] {
		at := look.At.Mono.Milliseconds()
		text += fmt.Sprintf("%d ms %s", at, look.At.Wall.Format("15:04:05.000"))
		if !w.h.machine.delivered(look) {
			text += " lost"
		}
		if w.h.unwatched(at, at) {
			text += " unwatched"
		}
		text += "; "
	}
	return text + fmt.Sprintf("losses of state: %v ms", w.h.losses)
}

// goesOnAt reports whether the next epoch of its process, which opened at, begins where
// this one ended. After a loss of state that is by the latest stamp.
func (w *walk) goesOnAt(at time.Time) bool { return at.Equal(w.last.At) || at.Equal(w.latest) }

// missed is how many of the samples an agent had that watched.
func (w *walk) missed(looks []agenttest.Look) (n int) {
	for _, look := range looks {
		if at := look.At.Mono.Milliseconds(); w.h.machine.delivered(look) && !w.h.unwatched(at, at) {
			n++
		}
	}
	return n
}

// giveAway places the last reading at an instant: what the truth has there and it has
// not is given away for good.
func (w *walk) giveAway(ms int64) {
	w.ms = ms
	truth := w.truth.TimesAt(ms)
	for _, register := range timely {
		w.given[register] = int64(truth[register]) - int64(w.last.Registers[register])
	}
}

// lookStamped is the sample of an epoch whose stamp is at, or -1.
func lookStamped(truth agenttest.Truth, at time.Time) int {
	return slices.IndexFunc(truth.Looks, func(l agenttest.Look) bool { return l.At.Wall.Truncate(time.Millisecond).Equal(at) })
}

// next compares the next reading.
func (w *walk) next(r metering.Reading) {
	before, from := w.last.Registers, w.ms
	switch {
	case w.gap != nil:
		w.fill(r)
	case w.continued(r):
	default:
		w.ms += lived(r.Registers) - lived(before)
		if w.lost < len(w.h.losses) && w.h.losses[w.lost] >= from && !(w.timely(r) && w.stamped(r)) && !w.bound(r) {
			w.say(&w.short, "its agent lost its state at %d ms, its last reading is of %s at %d ms with %v, and the next of %s at %d ms with %v, which no rule gives",
				w.h.losses[w.lost], w.last.At, from, named(only(timely, before)), r.At, w.ms, named(only(timely, r.Registers)))
			return
		}
		w.checkTimes(r)
	}
	w.checkCounters(r)
	w.checkUsed(r)
	bridged := r.Registers[metering.BridgedMS] - before[metering.BridgedMS]
	if ran := r.Registers[metering.RunningMS] - before[metering.RunningMS]; bridged > ran || bridged > 0 && !w.h.unwatched(from, w.ms) {
		w.say(&w.over, "%d ms of %d are bridged from %d to %d ms", bridged, ran, from, w.ms)
	}
	w.last = r
	if r.At.After(w.latest) {
		w.latest = r.At
	}
}

// fill compares the first reading of an epoch that began with an unwatched resize: it stands at a
// sample, or later where a full spool refused that one, and has what passed since the epoch before ended.
func (w *walk) fill(r metering.Reading) {
	before := w.last.Registers
	if i := lookStamped(w.truth, r.At); i >= 0 {
		w.ms = w.truth.Looks[i].At.Mono.Milliseconds()
	} else if w.ms += lived(r.Registers) - lived(before); !w.stamped(r) {
		w.say(&w.short, "nobody saw its process resized, and its first reading of %s is neither a sample nor of %d ms", r.At, w.ms)
		return
	}
	then, now := w.gap.truth.TimesAt(w.gap.ms), w.truth.TimesAt(w.ms)
	forgot := slices.ContainsFunc(w.h.losses, func(ms int64) bool { return w.gap.ms <= ms && ms < w.ms })
	for _, register := range []metering.Register{metering.RunningMS, metering.PausedMS} {
		switch got, want := r.Registers[register]-before[register], now[register]-then[register]; {
		case got > want:
			w.say(&w.over, "%s grew by %d over an unwatched resize, and really by %d", register, got, want)
		case got < want && !forgot:
			w.say(&w.short, "%s grew by %d over an unwatched resize, and really by %d", register, got, want)
		}
	}
	ran := r.Registers[metering.RunningMS] - before[metering.RunningMS]
	for _, register := range []metering.Register{metering.VCPUMS, metering.MemoryMiBMS} {
		got, perMS := r.Registers[register]-before[register], w.perMS(register, w.ms)
		if ran > 0 && perMS > 0 && got != ran*perMS { // 0 if it was paused since
			w.say(&w.over, "%s grew by %d in %d ms over an unwatched resize", register, got, ran)
		}
	}
	w.last.Registers = r.Registers
	w.giveAway(w.ms)
	w.gap, w.used = nil, false
	if forgot {
		w.continuations++
	}
}

// continued reports whether r is the first reading of an agent that lost its state, as the
// rule makes it of the control plane's largest reading, the last one here.
func (w *walk) continued(r metering.Reading) bool {
	if w.lost == len(w.h.losses) || w.h.losses[w.lost] < w.ms {
		for w.lost < len(w.h.losses) && w.h.losses[w.lost] < w.ms {
			w.lost++
		}
		if w.lost == len(w.h.losses) {
			return false
		}
	}
	i := lookStamped(w.truth, r.At)
	if i < 0 || w.truth.Looks[i].At.Mono.Milliseconds() <= w.h.losses[w.lost] {
		return false
	}
	look := w.truth.Looks[i]
	age := look.At.Mono - time.Duration(w.truth.PIDStart+1)*10*time.Millisecond
	gap := max(0, min(look.At.Wall.Sub(w.latest), age-time.Duration(lived(w.last.Registers))*time.Millisecond)).Milliseconds()
	want := w.last.Registers
	if look.Paused {
		want[metering.PausedMS] += uint64(gap)
	} else {
		for _, register := range []metering.Register{metering.RunningMS, metering.BridgedMS} {
			want[register] += uint64(gap)
		}
		for _, register := range []metering.Register{metering.VCPUMS, metering.MemoryMiBMS} {
			want[register] += uint64(gap) * w.perMS(register, look.At.Mono.Milliseconds())
		}
	}
	if only(timely, want) != only(timely, r.Registers) || want[metering.BridgedMS] != r.Registers[metering.BridgedMS] {
		return false
	}
	w.last.Registers = want
	w.giveAway(look.At.Mono.Milliseconds())
	for _, register := range timely {
		if w.given[register] < 0 {
			w.say(&w.over, "an agent without memory made %s %d more than the truth", register, -w.given[register])
		}
	}
	w.used = false
	w.continuations++
	return true
}

// perMS is what a register grows by in the millisecond after an instant.
func (w *walk) perMS(register metering.Register, ms int64) uint64 {
	return w.truth.TimesAt(ms + 1)[register] - w.truth.TimesAt(ms)[register]
}

// bound places a reading whose instant nothing tells exactly, after a loss of state,
// by its stamp: the truth there must be no less.
func (w *walk) bound(r metering.Reading) bool {
	for _, offset := range w.h.machine.offsets() {
		ms := r.At.Sub(w.h.machine.epoch.Add(offset)).Milliseconds()
		if ms <= w.h.losses[w.lost] {
			continue
		}
		w.last.Registers = r.Registers
		w.giveAway(ms)
		if slices.Min(w.given[:]) >= -1 { // the stamp tells the instant to the millisecond
			w.bounded, w.used = true, false
			return true
		}
	}
	return false
}

func (w *walk) timely(r metering.Reading) bool {
	truth := w.truth.TimesAt(w.ms)
	return !slices.ContainsFunc(timely, func(register metering.Register) bool {
		return int64(r.Registers[register])+w.given[register] != int64(truth[register])
	})
}

// stamped reports whether a reading at w.ms bears a time that the host's wall clock may have shown
// then, or that of an earlier reading from before the clock was set back, with which it was thinned.
// Both are cut to milliseconds, each by itself.
func (w *walk) stamped(r metering.Reading) bool {
	right := w.h.machine.epoch.Add(time.Duration(w.ms) * time.Millisecond)
	return slices.ContainsFunc(w.h.machine.offsets(), func(offset time.Duration) bool {
		return r.At.Sub(right.Add(offset)).Abs() <= time.Millisecond
	}) || r.At.Equal(w.latest) && w.h.said(thinnedSpool) > 0
}

func (w *walk) checkTimes(r metering.Reading) {
	truth := w.truth.TimesAt(w.ms)
	for _, register := range timely {
		switch got, want := int64(r.Registers[register])+w.given[register], int64(truth[register]); {
		case got < want:
			w.say(&w.short, "%s of %s is %d below the truth %d", register, r.At, want-got, want)
		case got > want:
			w.say(&w.over, "%s of %s is %d above the truth %d", register, r.At, got-want, want)
		}
	}
	if !w.stamped(r) {
		w.say(&w.short, "its clock never showed %s at %d ms", r.At, w.ms)
	}
}

// eventLate is for how long an agent waits for the event of what a sample has shown.
const eventLate = 2 * time.Second

// checkCounters looks for the latest sample that showed what the reading says.
func (w *walk) checkCounters(r metering.Reading) {
	found, want := -1, only(counted, r.Registers)
	for i := max(0, w.look); i < len(w.truth.Looks); i++ {
		at := w.truth.Looks[i].At.Mono.Milliseconds()
		if overtook := at <= w.ms+eventLate.Milliseconds() && w.truth.Turned(w.ms, at); at > w.ms && !overtook {
			break
		}
		if w.truth.Looks[i].Counters == want {
			found = i
		}
	}
	if found < 0 {
		var showed []int64
		for _, l := range w.truth.Looks {
			if l.Counters == want {
				showed = append(showed, l.At.Mono.Milliseconds())
			}
		}
		w.say(&w.short, "no sample up to %d ms and from the last reading's on showed the counters of %s: %v; those at %v ms did", w.ms, r.At, named(want), showed)
		return
	}
	w.look = found
}

// checkUsed knows from when used memory was counted once a reading tells it: from a sample.
func (w *walk) checkUsed(r metering.Reading) {
	const used = metering.MemoryUsedMiBMS
	given := int64(w.truth.TimesAt(w.ms)[used]) - int64(r.Registers[used])
	if w.used && given == w.given[used] {
		return
	}
	if !w.used && slices.ContainsFunc(w.truth.Looks, func(l agenttest.Look) bool {
		ms := l.At.Mono.Milliseconds()
		counted := int64(w.truth.TimesAt(ms)[used]) - int64(w.last.Registers[used])
		return ms <= w.ms && counted == given
	}) {
		w.used, w.given[used] = true, given
		return
	}
	w.say(&w.short, "%s of %s is %d and was %d at the last reading; the truth is %d", used, r.At, r.Registers[used], w.last.Registers[used],
		w.truth.TimesAt(w.ms)[used])
}

// end compares the last reading with the end of the epoch.
func (w *walk) end() {
	ended, missed := w.truth.EndedMS, w.missed(w.truth.Looks[w.look+1:])
	switch {
	case w.look >= 0 && w.ms > ended:
		w.say(&w.over, "its last reading of %s is %d ms after its end", w.last.At, w.ms-ended)
	case w.heir != nil && !w.goesOnAt(w.heir.record.Opened): // and the rest is seen there
		w.say(&w.short, "its last reading is of %s, and its process went on as another epoch at %s", w.last.At, w.heir.record.Opened)
	case w.goesOn || !w.ends():
	case w.look >= 0 && w.ms < ended:
		w.say(&w.short, "it ended %d ms after its last reading of %s, and its agent watched", ended-w.ms, w.last.At)
	case missed > 1 && !(w.look < 0 && w.h.forgot(w.truth.OpenedMS, ended)):
		w.say(&w.short, "its agent had %d samples more than its last reading of %s tells", missed, w.last.At)
	}
	if w.h.last[w.truth.Epoch.ID] && only(counted, w.last.Registers) != only(counted, w.truth.Registers) {
		w.say(&w.short, "its counters stood still at %v, and its last reading has %v", named(only(counted, w.truth.Registers)), named(w.last.Registers))
	}
}

// ends reports whether its end was seen.
func (w *walk) ends() bool { return w.heir != nil || !w.h.unwatched(w.truth.EndedMS, w.truth.EndedMS) }
