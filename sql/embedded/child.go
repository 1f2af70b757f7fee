package embedded

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

// ChildCommand is the hidden first argument with which a program that embeds a
// server runs ChildMain on the arguments that follow.
const ChildCommand = "postgres-child"

// holdFD is the descriptor on which the shim waits for end-of-file.
const holdFD = 3

// ChildMain is the shim: it runs a program of Postgres (args: account, program,
// its arguments), interrupts it when the starter closes the pipe at descriptor 3
// or dies, and returns its exit code once it has ended. It must be called from
// the main goroutine of a process that does nothing else.
func ChildMain(args []string) int {
	if len(args) < 2 {
		fmt.Fprintf(os.Stderr, "shim: %s is not for people; it needs an account and a program\n", ChildCommand)
		return 2
	}
	account, err := parseAccount(args[0])
	if err != nil {
		fmt.Fprintf(os.Stderr, "shim: %v\n", err)
		return 2
	}
	// The kernel watches the thread that forks, not the process: stay on it.
	runtime.LockOSThread()
	// Only the pipe ends us. A caught signal is reset in the program we start, an ignored one would not be.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)

	hold := os.NewFile(holdFD, "hold")
	syscall.CloseOnExec(holdFD)
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"} // none of the starter's PG… variables
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: account.credential(),
		Setpgid:    true,
		Pdeathsig:  syscall.SIGINT, // fast shutdown, if the shim is killed
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "shim: %v\n", err)
		return 1
	}
	go func() {
		io.Copy(io.Discard, hold)
		cmd.Process.Signal(syscall.SIGINT)
	}()
	if err := cmd.Wait(); err != nil {
		fmt.Fprintf(os.Stderr, "shim: %s: %v\n", args[1], err)
		return 1
	}
	return 0
}
