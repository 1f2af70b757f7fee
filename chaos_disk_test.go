package usance_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/metering/wire"
)

// diskBytes is the size of a chaos host's disk: minutes of its readings.
const diskBytes = 8 << 20

// newDisk is an empty file system of its own, in memory, as a folder. It is
// mounted nowhere, so nothing of it outlives this process, however that ends.
func newDisk(t testing.TB) string {
	t.Helper()
	fail := func(what string, err error) {
		if err != nil {
			t.Fatalf("a disk of its own: %s: %v", what, err)
		}
	}
	made, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	fail("fsopen", err)
	defer unix.Close(made)
	fail("size", unix.FsconfigSetString(made, "size", fmt.Sprint(diskBytes)))
	fail("create", unix.FsconfigCreate(made))
	disk, err := unix.Fsmount(made, unix.FSMOUNT_CLOEXEC, 0)
	fail("fsmount", err)
	t.Cleanup(func() { unix.Close(disk) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), disk)
}

// fill takes all that is left of a disk, in a file that grows.
func fill(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for chunk := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(chunk) // a part of it, at the end
	}
	if errors.Is(err, unix.ENOSPC) {
		return nil
	}
	return err
}

// witness sees every reading that became durable in a spool's folder, however soon it
// was sent and removed: the kernel tells it of every file, and it reads what the
// agent wrote.
type witness struct {
	dir     string
	inotify *os.File

	mu     sync.Mutex
	open   map[string]*seen // files that are there
	gone   seen             // what those held that are not
	missed int              // files that were gone before they could be opened
	err    error            // why it sees no more
	marks  int
	marked chan struct{}
}

// seen is a file of the spool, as far as it has been read.
type seen struct {
	file     *os.File
	offset   int64 // of whole records
	epochs   []metering.Epoch
	readings []metering.Reading
}

const mark = "mark" // a file by whose name a witness knows that it has caught up

// newWitness watches a folder, which must exist, until the test ends.
func newWitness(t testing.TB, dir string) *witness {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{dir: dir, inotify: os.NewFile(uintptr(fd), "inotify"), open: map[string]*seen{}, marked: make(chan struct{})}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.watch()
	}()
	t.Cleanup(func() {
		w.inotify.Close()
		<-ended
		for _, s := range w.open {
			s.file.Close()
		}
	})
	return w
}

func (w *witness) watch() {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.inotify.Read(buf)
		if err != nil {
			return // the test is over
		}
		for at := 0; at < n; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&buf[at]))
			name := buf[at+unix.SizeofInotifyEvent : at+unix.SizeofInotifyEvent+int(event.Len)]
			at += unix.SizeofInotifyEvent + int(event.Len)
			if event.Mask&unix.IN_Q_OVERFLOW != 0 {
				w.fail(errors.New("events were lost"))
			}
			w.event(event.Mask, string(bytes.TrimRight(name, "\x00")))
		}
	}
}

func (w *witness) fail(err error) { w.err = errors.Join(w.err, err) }

func (w *witness) event(mask uint32, name string) {
	if strings.HasPrefix(name, mark) {
		if mask&unix.IN_CREATE != 0 {
			w.marked <- struct{}{}
		}
		return
	}
	if !strings.HasSuffix(name, ".seg") {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.open[name]
	switch {
	case mask&unix.IN_DELETE != 0:
		w.keep(name, s)
	case mask&unix.IN_MODIFY != 0:
		w.fail(s.read())
	default: // a new file, perhaps in the place of one that was thinned
		w.keep(name, s)
		f, err := os.Open(filepath.Join(w.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			w.missed++
			return
		} else if err != nil {
			w.fail(err)
			return
		}
		w.open[name] = &seen{file: f}
		w.fail(w.open[name].read())
	}
}

// keep takes what a file that is gone held for durable.
func (w *witness) keep(name string, s *seen) {
	if s == nil {
		return
	}
	w.fail(s.read())
	s.file.Close()
	delete(w.open, name)
	w.gone.epochs = append(w.gone.epochs, s.epochs...)
	w.gone.readings = append(w.gone.readings, s.readings...)
}

// catchUp returns when the witness has seen all that was written so far.
func (w *witness) catchUp() error {
	w.mu.Lock()
	w.marks++
	file := filepath.Join(w.dir, fmt.Sprint(mark, w.marks))
	w.mu.Unlock()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	<-w.marked
	return os.Remove(file)
}

// forget is for a disk that is lost with what is on it now: that is durable no more.
func (w *witness) forget() error {
	if err := w.catchUp(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, s := range w.open {
		s.file.Close()
		delete(w.open, name)
	}
	return nil
}

// durable is all that was ever on the disk, but for what a lost disk held. It is
// asked for once, in the end.
func (w *witness) durable() (*seen, error) {
	err := w.catchUp()
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, s := range w.open {
		w.keep(name, s)
	}
	return &w.gone, errors.Join(err, w.err)
}

// Form of a segment, as metering/spool writes it: a magic, then records of a checksum
// (4 bytes), the length of the body (4), its readings (4), their earliest time (8) and the body.
const (
	segmentMagic = 8
	recordHeader = 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// read takes in the whole records that were added. What is cut short waits: it is being
// written, or never counted.
func (s *seen) read() error {
	if s == nil {
		return nil
	}
	s.offset = max(s.offset, segmentMagic)
	for header := make([]byte, recordHeader); ; {
		if _, err := s.file.ReadAt(header, s.offset); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		body := make([]byte, min(binary.LittleEndian.Uint32(header[4:]), wire.MaxBodyBytes))
		if _, err := s.file.ReadAt(body, s.offset+recordHeader); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		sum := crc32.Update(crc32.Checksum(header[4:], castagnoli), castagnoli, body)
		if sum != binary.LittleEndian.Uint32(header) {
			return nil
		}
		var b wire.Batch
		if err := wire.Decode(&b, body); err != nil {
			return fmt.Errorf("a durable record: %w", err)
		}
		s.epochs = append(s.epochs, b.Epochs...)
		s.readings = append(s.readings, b.Rows().Readings...)
		s.offset += int64(recordHeader + len(body))
	}
}
