package spool

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

var begin = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func epochOf(i int) metering.Epoch {
	instance := metering.InstanceID(fmt.Sprintf("ins_%017x", i))
	return metering.Epoch{ID: metering.DeriveEpochID(instance, "boot", i, 1, 0), Instance: instance, Lease: 1, Start: 1, Opened: begin}
}

// round is a reading of each of so many instances, n rounds of 10 s after begin.
func round(instances, n int) *metering.Batch {
	b := &metering.Batch{}
	for i := range instances {
		e := epochOf(i)
		r := metering.Reading{Epoch: e.ID, At: begin.Add(time.Duration(n) * 10 * time.Second)}
		for reg := range r.Registers {
			r.Registers[reg] = uint64(n * (10_000 + 1237*i + 31*reg))
		}
		b.Epochs, b.Readings = append(b.Epochs, e), append(b.Readings, r)
	}
	return b
}

// open opens a spool for the length of a test.
func open(t testing.TB, dir string, maxBytes int64) *Spool {
	t.Helper()
	s, err := Open(dir, Config{MaxBytes: maxBytes, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustAppend(t testing.TB, s *Spool, b *metering.Batch) {
	t.Helper()
	if err := s.Append(b, false); err != nil {
		t.Fatal(err)
	}
}

// next is the next item, which must be there, decoded.
func next(t testing.TB, s *Spool) (Item, *metering.Batch) {
	t.Helper()
	item, ok, err := s.Next()
	if err != nil || !ok {
		t.Fatalf("Next: %v, %v", ok, err)
	}
	var b wire.Batch
	if err := wire.Decode(&b, item.Body); err != nil {
		t.Fatal(err)
	}
	if b.Len() != item.Readings {
		t.Fatalf("an item of %d readings says %d", b.Len(), item.Readings)
	}
	return item, b.Rows()
}

// drain acknowledges everything and returns it.
func drain(t testing.TB, s *Spool) []metering.Reading {
	t.Helper()
	var all []metering.Reading
	for s.Stat().Readings > 0 {
		item, b := next(t, s)
		all = append(all, b.Readings...)
		if err := s.Ack(item); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := s.Next(); ok || err != nil {
		t.Fatalf("Next of an empty spool: %v, %v", ok, err)
	}
	return all
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func asideFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, asideFolder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestQueue(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	var want []metering.Reading
	for n := range 3 {
		b := round(2, n)
		mustAppend(t, s, b)
		want = append(want, b.Readings...)
	}
	item, got := next(t, s)
	if diff := cmp.Diff(want, got.Readings); diff != "" {
		t.Errorf("three rounds as one item (-want +got):\n%s", diff)
	}
	if len(got.Epochs) != 2 {
		t.Errorf("%d epoch records for 2 epochs", len(got.Epochs))
	}
	mustAppend(t, s, round(2, 3)) // while the item is on its way
	if err := s.Ack(item); err != nil {
		t.Fatal(err)
	}
	if st := s.Stat(); st.Readings != 2 || !st.Oldest.Equal(begin.Add(30*time.Second)) || st.Bytes == 0 {
		t.Errorf("after the acknowledgement: %+v", st)
	}
	if err := s.Ack(item); err != nil || s.Stat().Readings != 2 {
		t.Errorf("an item acknowledged twice: %v, %+v", err, s.Stat())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir, 0)
	select {
	case <-s.Ready():
	default:
		t.Error("not ready after Open although rounds wait")
	}
	if got := drain(t, s); len(got) != 8 {
		t.Errorf("%d readings after the restart; the segment was not done with, so all 8 are sent again", len(got))
	}
	if st, files := s.Stat(), segmentFiles(t, dir); st != (Stat{Limit: DefaultMaxBytes}) || len(files) != 0 {
		t.Errorf("an empty spool: %+v, %v", st, files)
	}
	mustAppend(t, s, round(1, 9))
	if got := drain(t, s); len(got) != 1 {
		t.Errorf("%d readings after the queue was empty, want 1", len(got))
	}
}

// What an earlier process left is told from what this one adds.
func TestInherited(t *testing.T) {
	dir := t.TempDir()
	before := open(t, dir, 0)
	if err := before.Append(round(2, 1), false); err != nil {
		t.Fatal(err)
	}
	if got := before.Inherited(); got != 0 {
		t.Errorf("its own readings: %d inherited, want 0", got)
	}
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, 0)
	if err := s.Append(round(3, 2), false); err != nil {
		t.Fatal(err)
	}
	if got := s.Inherited(); got != 2 {
		t.Errorf("%d inherited, want 2", got)
	}
	item, ok, err := s.Next()
	if !ok || err != nil {
		t.Fatalf("next: %v, %v", ok, err)
	}
	if err := s.Ack(item); err != nil {
		t.Fatal(err)
	}
	if got, all := s.Inherited(), s.Stat().Readings; got != 0 || all != 5-int64(item.Readings) {
		t.Errorf("after %d were sent: %d inherited of %d waiting", item.Readings, got, all)
	}
}

func TestSecondOpen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	if _, err := Open(dir, Config{}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second Open: %v, want ErrInUse and the folder", err)
	}
	s.Close()
	for name, err := range map[string]error{"Append": s.Append(round(1, 1), false), "Ack": s.Ack(Item{}),
		"SetAside": s.SetAside(Item{}, ""), "Close": s.Close()} {
		if err != ErrClosed {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	open(t, dir, 0)
}

// quickFolder is a folder in memory where there is one, for tests that sync thousands
// of times.
func quickFolder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "spool")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A crash may leave any part of the last record.
func TestTornTail(t *testing.T) {
	dir := quickFolder(t)
	s := open(t, dir, 0)
	mustAppend(t, s, round(1, 1))
	size := s.Stat().Bytes
	mustAppend(t, s, round(1, 2))
	s.Close()
	file := segmentFiles(t, dir)[0]
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for length := range whole {
		if err := os.WriteFile(file, whole[:length], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, 0)
		want := 0
		if int64(length) >= size {
			want = 1
		}
		if got := s.Stat(); got.Readings != int64(want) || want == 1 && got.Bytes != size {
			t.Fatalf("cut at byte %d of %d: %+v, want %d readings", length, len(whole), got, want)
		}
		mustAppend(t, s, round(1, 3))
		if got := drain(t, s); len(got) != want+1 {
			t.Fatalf("cut at byte %d: %d readings, want %d", length, len(got), want+1)
		}
		s.Close()
		if files := segmentFiles(t, dir); len(files) != 0 {
			t.Fatalf("cut at byte %d: %v left", length, files)
		}
	}
}

// A flipped bit costs its record, and what cannot be read is kept.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	for n := range 3 {
		mustAppend(t, s, round(1, n))
	}
	flip := func() {
		file := segmentFiles(t, dir)[0]
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		whole[len(whole)/2] ^= 4
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flip() // while it is open: the second of three
	if got := drain(t, s); len(got) != 2 || len(asideFiles(t, dir)) != 1 {
		t.Errorf("damaged while open: %d readings and %v aside, want 2 and one", len(got), asideFiles(t, dir))
	}
	for n := range 3 {
		mustAppend(t, s, round(1, n))
	}
	s.Close()
	flip()
	s = open(t, dir, 0)
	if got := drain(t, s); len(got) != 1 || len(asideFiles(t, dir)) != 2 {
		t.Errorf("damaged while closed: %d readings and %v aside, want 1 and two", len(got), asideFiles(t, dir))
	}
}

// A failed write counts as not taken, and what was taken before stays.
func TestFailedWrite(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	mustAppend(t, s, round(1, 1))
	s.segments[0].file.Close() // a disk that fails
	if err := s.Append(round(1, 2), false); err == nil {
		t.Fatal("a write to a closed file succeeded")
	}
	mustAppend(t, s, round(1, 3))
	got := drain(t, s)
	if len(got) != 2 || !got[0].At.Equal(begin.Add(10*time.Second)) || !got[1].At.Equal(begin.Add(30*time.Second)) {
		t.Errorf("got %v, want the rounds before and after the failure", got)
	}
}

func TestFull(t *testing.T) {
	const maxBytes = 32 << 10
	dir := t.TempDir()
	s := open(t, dir, maxBytes)
	refusedAt := 0
	for n := 0; refusedAt == 0; n += 30 { // a round in each slot: thinning cannot help
		err := s.Append(round(3, n), false)
		if errors.Is(err, ErrFull) {
			refusedAt = n
		} else if err != nil {
			t.Fatal(err)
		}
	}
	before := s.Stat()
	if before.Bytes > maxBytes-maxBytes/reserveShare || before.Refused != 1 {
		t.Errorf("full: %+v; the reserve is touched", before)
	}
	if err := s.Append(round(3, refusedAt), true); err != nil {
		t.Errorf("a last reading of an epoch: %v, want it in the reserve", err)
	}
	for s.Append(round(3, refusedAt), true) == nil {
	}
	if st := s.Stat(); st.Bytes > maxBytes {
		t.Errorf("%d bytes of %d", st.Bytes, maxBytes)
	}
	if got := drain(t, s); int64(len(got)) < before.Readings {
		t.Errorf("%d readings came out of a full spool that held %d", len(got), before.Readings)
	}
	mustAppend(t, s, round(3, refusedAt))
}

// A disk that others fill refuses rounds, visibly, and takes nothing of what was
// taken, also when the spool is opened with a torn tail that cannot be kept aside.
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a mount")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=128k"); err != nil {
		t.Fatalf("a small disk, which root can mount: %v", err)
	}
	defer syscall.Unmount(disk, syscall.MNT_DETACH)
	dir, filler := filepath.Join(disk, "spool"), filepath.Join(disk, "filler")
	fill := func() {
		f, err := os.OpenFile(filler, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		f.Close()
	}
	s := open(t, dir, 0)
	for n := range 3 {
		mustAppend(t, s, round(3, n))
	}
	fill()
	taken := 3
	var err error
	for ; err == nil; taken++ {
		err = s.Append(round(3, taken), true)
	}
	taken--
	if !errors.Is(err, syscall.ENOSPC) || s.Stat().Refused != 1 || s.Stat().Readings != int64(3*taken) {
		t.Fatalf("on a full disk: %v, %+v after %d rounds were taken", err, s.Stat(), taken)
	}
	s.Close()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(segmentFiles(t, dir)[0], os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.Write(make([]byte, 9))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	fill()
	s = open(t, dir, 0)
	if st := s.Stat(); st.Readings != int64(3*taken) || st.Aside != 0 {
		t.Fatalf("opened on a full disk: %+v", st)
	}
	if err := s.Append(round(3, taken), true); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("on a disk that is still full: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, round(3, taken))
	if got := drain(t, s); len(got) != 3*(taken+1) {
		t.Errorf("%d readings came out, want %d", len(got), 3*(taken+1))
	}
}

// A spool that thins holds more than twice what it would hold otherwise.
func TestThinningIsWorthIt(t *testing.T) {
	const maxBytes = 96 << 10
	s := open(t, t.TempDir(), maxBytes)
	mustAppend(t, s, round(3, 0))
	bare := maxBytes / int(s.Stat().Bytes)
	rounds := 1
	for s.Append(round(3, rounds), false) == nil {
		rounds++
	}
	if st := s.Stat(); rounds < 2*bare || st.Readings+st.Thinned != int64(3*rounds) {
		t.Errorf("%d rounds fit, %d without thinning; %+v", rounds, bare, st)
	}
}

// TestThinningKeepsUsage: thinning changes what a register stood at, at the end
// of no slot, whatever the clock did; the first and the last reading stay.
func TestThinningKeepsUsage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "spool")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s, err := Open(dir, Config{MaxBytes: 1 << 20, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var taken []metering.Reading
		values := make(map[metering.EpochID]uint64)
		at := begin
		for range rapid.IntRange(2, 15).Draw(t, "rounds") {
			at = at.Add(time.Duration(rapid.IntRange(-60_000, 300_000).Draw(t, "step ms")) * time.Millisecond)
			b := &metering.Batch{}
			for i := range rapid.IntRange(1, 3).Draw(t, "instances") {
				e := epochOf(i)
				values[e.ID] += uint64(rapid.IntRange(0, 50).Draw(t, "growth"))
				b.Epochs = append(b.Epochs, e)
				b.Readings = append(b.Readings, metering.Reading{Epoch: e.ID, At: at, Registers: metering.Registers{metering.RunningMS: values[e.ID]}})
			}
			if err := s.Append(b, false); err != nil {
				t.Fatal(err)
			}
			taken = append(taken, b.Readings...)
			if rapid.IntRange(0, 4).Draw(t, "thin") == 0 {
				s.mu.Lock()
				for _, g := range s.segments {
					if err := s.thin(g); err != nil {
						t.Fatal(err)
					}
				}
				s.mu.Unlock()
			}
		}
		var kept []metering.Reading
		for s.Stat().Readings > 0 {
			item, ok, err := s.Next()
			if err != nil || !ok {
				t.Fatalf("%v %v", ok, err)
			}
			var b wire.Batch
			if err := wire.Decode(&b, item.Body); err != nil {
				t.Fatal(err)
			}
			kept = append(kept, b.Rows().Readings...)
			if err := s.Ack(item); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 3 {
			id := epochOf(i).ID
			for slot := begin; slot.Before(at.Add(time.Hour)); slot = slot.Add(metering.SlotLength) {
				if got, want := valueAt(kept, id, slot), valueAt(taken, id, slot); got != want {
					t.Fatalf("instance %d at %s: %d, want %d", i, slot.Format(time.TimeOnly), got, want)
				}
			}
			gotFirst, gotLast := ends(kept, id)
			if first, last := ends(taken, id); !gotFirst.Equal(first) || !gotLast.Equal(last) {
				t.Fatalf("instance %d: from %s to %s, want %s to %s", i, gotFirst, gotLast, first, last)
			}
		}
	})
}

// valueAt is R(e,t) by its definition.
func valueAt(readings []metering.Reading, id metering.EpochID, t time.Time) (largest uint64) {
	for _, r := range readings {
		if r.Epoch == id && !r.At.After(t) {
			largest = max(largest, r.Registers[metering.RunningMS])
		}
	}
	return largest
}

func ends(readings []metering.Reading, id metering.EpochID) (first, last time.Time) {
	for _, r := range readings {
		if r.Epoch == id && (first.IsZero() || r.At.Before(first)) {
			first = r.At
		}
		if r.Epoch == id && r.At.After(last) {
			last = r.At
		}
	}
	return first, last
}

// An item that thinning overtakes on its way is sent again, not lost.
func TestThinningOvertakesItem(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	for n := range 40 {
		mustAppend(t, s, round(1, n))
	}
	item, _ := next(t, s)
	if err := s.thin(s.segments[0]); err != nil {
		t.Fatal(err)
	}
	if err := s.Ack(item); err != nil {
		t.Fatal(err)
	}
	if got := drain(t, s); len(got) != 3 { // the first (it ends a slot), and one for each of two slots
		t.Errorf("%d readings after thinning 40 rounds of 10 s, want 3", len(got))
	}
}

func TestSetAside(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	for n := range 3 {
		mustAppend(t, s, round(1, n))
	}
	item, _ := next(t, s)
	if err := s.SetAside(item, "no good"); err != nil {
		t.Fatal(err)
	}
	if n := len(asideFiles(t, dir)); n != 0 {
		t.Errorf("%d files aside: three rounds went at once", n)
	}
	var sent []int
	for s.Stat().Readings > 0 {
		item, b := next(t, s)
		n := int(b.Readings[0].At.Sub(begin) / (10 * time.Second))
		if sent = append(sent, len(b.Readings)); n == 1 {
			if err := s.SetAside(item, "column \"x\" is unknown"); err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(asideFiles(t, dir)[0])
			if err != nil || !bytes.HasSuffix(content, item.Body) || !bytes.Contains(content, []byte(`column \"x\" is unknown`)) {
				t.Errorf("aside: %q, %v", content, err)
			}
		} else if err := s.Ack(item); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(sent, []int{1, 1, 1}) || len(asideFiles(t, dir)) != 1 || s.Stat().Aside != 1 {
		t.Errorf("sent %v, %+v, want one by one and one aside", sent, s.Stat())
	}
}

func TestAsideIsBounded(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	for i := range maxAsideFiles + 3 {
		if err := s.keepAside(uint64(i), 0, nil, "full"); err != nil {
			t.Fatal(err)
		}
	}
	if files := asideFiles(t, dir); len(files) != maxAsideFiles || !strings.HasSuffix(files[0], "0000000000000003-0") {
		t.Errorf("%d files aside, the first %s", len(files), files[0])
	}
}

// TestKill kills a process that appends with SIGKILL, again and again: every round it
// said was taken is there.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	said := 0
	for kill := range 5 {
		said = max(said, appendUntilKilled(t, dir, said+1, 5+kill*7))
		s := open(t, dir, 0)
		have := make(map[time.Time]bool)
		for s.Stat().Readings > 0 {
			item, b := next(t, s)
			for _, r := range b.Readings {
				have[r.At] = true
			}
			if err := s.Ack(item); err != nil {
				t.Fatal(err)
			}
		}
		for n := range said { // what the earlier runs sent is put back, so that it grows
			at := begin.Add(time.Duration(n+1) * 10 * time.Second)
			if !have[at] {
				t.Fatalf("kill %d: round %d was taken and is lost", kill, n+1)
			}
			mustAppend(t, s, round(1, n+1))
		}
		s.Close()
	}
}

// appendUntilKilled runs a child that appends rounds from first on and kills it
// after it said that so many were taken. It returns the last one said.
func appendUntilKilled(t *testing.T, dir string, first, rounds int) (said int) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "SPOOL_TEST_DIR="+dir, fmt.Sprint("SPOOL_TEST_FIRST=", first))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, err := fmt.Sscanf(lines.Text(), "taken %d", &said); err == nil && said-first >= rounds {
			break
		}
	}
	child.Process.Signal(syscall.SIGKILL)
	for lines.Scan() { // what it had still said
		fmt.Sscanf(lines.Text(), "taken %d", &said)
	}
	child.Wait()
	if said < first {
		t.Fatalf("the child said nothing: %v", lines.Err())
	}
	return said
}

// TestMain makes a child of TestKill out of the test binary when it is told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SPOOL_TEST_DIR"); dir != "" {
		appendForever(dir, os.Getenv("SPOOL_TEST_FIRST"))
	}
	os.Exit(m.Run())
}

// appendForever appends rounds from first on and says of each that it was taken.
func appendForever(dir, first string) {
	n, err := strconv.Atoi(first)
	if err != nil {
		panic(err)
	}
	s, err := Open(dir, Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	for ; ; n++ {
		if err := s.Append(round(1, n), false); err != nil {
			panic(err)
		}
		fmt.Println("taken", n)
	}
}

// BenchmarkAppend compares a durable round of 100 instances with a bare write
// and sync of as many bytes.
func BenchmarkAppend(b *testing.B) {
	batch := round(100, 1000)
	body, err := wire.Encode(nil, batch)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("bare-write-and-sync", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "bare"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		for b.Loop() {
			if _, err := f.Write(body); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("round", func(b *testing.B) {
		s := open(b, b.TempDir(), 0)
		b.ReportMetric(float64(len(body))/100, "B/reading")
		for b.Loop() {
			if err := s.Append(batch, false); err != nil {
				b.Fatal(err)
			}
		}
	})
}
