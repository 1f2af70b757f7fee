package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// child is a process of ours that ends itself when we end: it holds, as its
// file descriptor 3, the read end of a pipe whose write end only we have. It
// has a process group of its own, so that a Ctrl-C in a terminal reaches us alone.
type child struct {
	cmd  *exec.Cmd
	life *os.File // write end
	done chan struct{}
	err  error // how it ended; valid when done is closed
}

// childPipe is the file descriptor a child finds the pipe under.
const childPipe = 3

func startChild(command []string, out io.Writer, env ...string) (*child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", command[0], err)
	}
	c := &child{cmd: exec.Command(command[0], command[1:]...), life: w, done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = out, out
	c.cmd.ExtraFiles = []*os.File{r}
	c.cmd.Env = append(append(os.Environ(), "USANCE_PIPE=1"), env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = c.cmd.Start()
	r.Close()
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("start %s: %w", command[0], err)
	}
	go func() {
		c.err = c.cmd.Wait()
		w.Close()
		close(c.done)
	}()
	return c, nil
}

// Done is closed when the child has ended.
func (c *child) Done() <-chan struct{} { return c.done }

// Err is how the child ended.
func (c *child) Err() error { return c.err }

// Stop asks the child to end and waits; it kills it when ctx ends.
func (c *child) Stop(ctx context.Context) error {
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("%s did not end when asked: %w", c.cmd.Path, ctx.Err())
	}
}

func (c *child) exitCode() int {
	var e *exec.ExitError
	if errors.As(c.err, &e) {
		return e.ExitCode()
	}
	return exitOK
}

// whenOrphaned calls f when the process that started us as a child is gone.
func whenOrphaned(getenv func(string) string, f func()) {
	if getenv("USANCE_PIPE") == "" {
		return
	}
	syscall.CloseOnExec(childPipe)
	pipe := os.NewFile(childPipe, "pipe")
	go func() {
		io.Copy(io.Discard, pipe)
		f()
	}()
}
