package embedded

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// lockPatience is how long a child waits for another one to leave the data
	// folder; then it fails, saying who holds it.
	lockPatience = 30 * time.Second
	// lastRequests is how long running statements may take after the parent has
	// gone or asked; then they are cut off, which loses nothing acknowledged.
	lastRequests = 10 * time.Second
	// parentPipe is the descriptor of the pipe whose other end the parent holds.
	parentPipe = 3
)

// ChildMain is the child process: it holds the engine and serves it until file
// descriptor 3 reads EOF, which is when the parent has gone or asked. args are
// those that Start gives. It returns the exit code; what went wrong is the last
// line on stderr.
func ChildMain(args []string) int {
	if err := runChild(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runChild(args []string) error {
	flags := flag.NewFlagSet(ChildCommand, flag.ContinueOnError)
	dir := flags.String("dir", "", "data folder")
	socket := flags.String("socket", "", "path of the unix socket")
	path := flags.String("library", "", "path of libchdb.so")
	memory := flags.Int64("memory", DefaultMemoryLimit, "bytes the engine may use")
	if err := flags.Parse(args); err != nil {
		return err
	}
	// The parent decides when to end; a Ctrl-C on its terminal is not for us.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	lock, err := lockFolder(*dir, lockPatience)
	if err != nil {
		return err
	}
	defer lock.Close()
	lib, err := loadLibrary(*path)
	if err != nil {
		return err
	}
	engine, err := bootEngine(lib, filepath.Join(*dir, "data"), *memory)
	if err != nil {
		return err
	}
	defer engine.close()
	listener, err := listenPrivately(*socket)
	if err != nil {
		return err
	}
	return serve(engine, listener)
}

// serve answers requests until the parent's pipe ends.
func serve(engine *engine, listener net.Listener) error {
	server := &http.Server{Handler: &handler{engine: engine}}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	parentGone := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.NewFile(parentPipe, "parent"))
		close(parentGone)
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-parentGone:
	}
	time.AfterFunc(2*lastRequests, func() { os.Exit(2) }) // should the engine itself hang
	ctx, cancel := context.WithTimeout(context.Background(), lastRequests)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		server.Close() // ends the requests' contexts: their statements are killed
	}
	return nil
}

// listenPrivately listens on a unix socket that only this user can open, in
// place of one that a dead child left behind.
func listenPrivately(socket string) (net.Listener, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	defer syscall.Umask(syscall.Umask(0o177)) // nothing else runs yet that makes files
	return net.Listen("unix", socket)
}

// lockFolder takes the data folder for this process. The lock goes with the
// process, however it ends.
func lockFolder(dir string, patience time.Duration) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := waitForLock(f, patience); err != nil {
		holder, _ := io.ReadAll(f)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data folder %s is in use by %s: stop that process first", dir, describeProcess(strings.TrimSpace(string(holder))))
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if err := errors.Join(f.Truncate(0), writePid(f)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// waitForLock fails with EWOULDBLOCK when the lock is held for all of patience.
func waitForLock(f *os.File, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
	}
}

func writePid(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// describeProcess is "process 123 (its command line)".
func describeProcess(pid string) string {
	if pid == "" {
		return "another process"
	}
	cmdline, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")))
}
