package agent_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/usance/usance/metering"
)

// A commit has three states on disk: nothing done, the state file replaced, and
// the spool appended to. A kill -9 leaves one of them. Whichever it is, the next
// agent's readings are no lower than any durable one and reach the truth.
func TestKillAtAnyPointOfACommit(t *testing.T) {
	// what commits something notable after the epoch has run for a while.
	commits := map[string]func(b *bench){
		"round": func(b *bench) { b.full() },
		"pause": func(b *bench) { b.must(b.host.Pause(vm)) },
		"end":   func(b *bench) { b.must(b.host.GuestOff(vm)) },
		"device replaced, then a round": func(b *bench) {
			b.must(b.host.ReplaceDisk(vm))
			b.run(time.Second)
			b.full()
		},
		"new labels": func(b *bench) { b.must(b.host.Relabel(vm, 2)); b.full() },
	}
	for name, commit := range commits {
		for _, kept := range []struct {
			name         string
			state, spool bool // which of the two writes were done
		}{{"before", false, false}, {"between", true, false}, {"after", true, true}} {
			t.Run(name+"/"+kept.name, func(t *testing.T) {
				b := newBench(t)
				b.host.SetLoadAtStart(load)
				b.boot(1)
				b.run(15 * time.Second)
				b.full()
				b.host.Advance(100 * time.Millisecond)
				before := t.TempDir()
				b.must(os.CopyFS(before, os.DirFS(b.dir)))
				commit(b)
				b.kill()
				if !kept.spool {
					restore(t, before, b.dir, "spool")
				}
				if !kept.state {
					restore(t, before, b.dir, "meter.json")
				}
				b.must(os.WriteFile(filepath.Join(b.dir, "meter.json.tmp"), []byte(`{"torn":`), 0o600))
				b.start()
				b.run(25 * time.Second)
				b.full()
				b.receive()
				checkAfterKill(t, b, kept.state)
			})
		}
	}
}

// checkAfterKill: an epoch that still runs reaches the truth, but for what a
// device had that was replaced before it was durably read; one that ended has at
// least what was durable.
func checkAfterKill(t *testing.T, b *bench, durable bool) {
	for _, truth := range b.host.Truths() {
		got, _ := b.got(truth.Epoch.ID)
		if over := got.Sub(truth.Registers); durable && !over.IsZero() {
			t.Errorf("billed more than used: %v", named(over))
		}
		if truth.Ended && !durable {
			if got[metering.RunningMS] < 15_000 {
				t.Errorf("running_ms = %d, want at least the durable 15000", got[metering.RunningMS])
			}
			continue
		}
		under := truth.Registers.Sub(got)
		if running := under[metering.RunningMS] + under[metering.PausedMS]; running != 0 && durable {
			t.Errorf("%d ms below the truth", running)
		}
		if under[metering.NetPrivateRxBytes] != 0 && !truth.Ended {
			t.Errorf("net_private_rx_bytes is %d below the truth", under[metering.NetPrivateRxBytes])
		}
	}
}

// restore puts a file or folder back as it was; what was not there goes away.
func restore(t *testing.T, from, to, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(to, name)); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(from, name))
	if err != nil {
		if os.IsNotExist(err) {
			return
		}
		t.Fatal(err)
	}
	if st.IsDir() {
		sub, err := fs.Sub(os.DirFS(from), name)
		if err == nil {
			err = os.CopyFS(filepath.Join(to, name), sub)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(filepath.Join(from, name))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, name), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The state file is written before the spool: when the spool takes nothing, the
// state is ahead of it and the next agent makes up for it.
func TestStateIsWrittenBeforeTheSpool(t *testing.T) {
	b := newBench(t)
	b.host.SetLoadAtStart(load)
	b.boot(1)
	b.run(15 * time.Second)
	b.receive()
	b.must(b.rig.Kill()) // the spool takes nothing more
	b.must(b.host.GuestOff(vm))
	b.rig = nil
	b.host.Advance(time.Hour)
	b.start()
	b.check(0, counters...)
}
