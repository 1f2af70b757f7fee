package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// enter is what the holder of the namespaces runs in them: our folders over
// libvirt's, the network namespace's own sysfs (libvirt looks for interfaces
// there), the host's name, and then nothing, for as long as the namespaces are to live.
const enter = `set -eu
dir=$1
[ -z "$2" ] || echo "$2" >/proc/sys/kernel/hostname
shift 2
while [ $# -gt 0 ]; do
	mkdir -p "$2"
	mount --bind "$dir/$1" "$2"
	shift 2
done
mount -t sysfs sysfs /sys
ip link set lo up
echo ready
exec sleep infinity >/dev/null 2>&1
`

// environment is all that processes inside inherit: no secret of ours.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}

// hold makes the namespaces and the process that holds them, and returns its pid.
func (l *Libvirtd) hold(ctx context.Context) (int, error) {
	args := []string{"-c", enter, "usance-libvirt", l.dir, l.hostName}
	for _, f := range folders {
		args = append(args, f.name, f.covers)
	}
	cmd := exec.Command("/bin/sh", args...)
	cmd.Dir, cmd.Env = "/", environment
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:       true,
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS, // Go makes / private with it
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if !stop() || err != nil || line != "ready\n" {
		cmd.Process.Kill()
		cmd.Wait()
		return 0, fmt.Errorf("%s: %w", strings.TrimSpace(stderr.String()), errors.Join(err, ctx.Err()))
	}
	go cmd.Wait() // so that it leaves no zombie when it ends before us
	return cmd.Process.Pid, nil
}

// launch starts libvirtd in the namespaces of the process inside. With -d it
// returns when libvirtd is ready, or says why it is not.
func (l *Libvirtd) launch(ctx context.Context, inside int) error {
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(inside), "--mount", "--net", "--uts", "--wd=/", "--",
		"libvirtd", "--daemon", "--config", "/etc/libvirt/libvirtd.conf", "--pid-file", "/run/libvirt/libvirtd.pid")
	cmd.Env = environment
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Kinds of processes inside, told by their command lines. libvirtd also runs
// QEMU for a moment to see what it can do: a guest is one with a guest's name.
func isAny([]string) bool           { return true }
func isLibvirtd(args []string) bool { return filepath.Base(args[0]) == "libvirtd" }
func isGuest(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "guest=") })
}

// members are the processes inside the namespaces whose command line the kind
// wants, in no order. A process is inside when its /run/libvirt is our folder: that is
// true whoever started it and whenever, and a pid used again cannot deceive it.
func (l *Libvirtd) members(kind func(args []string) bool) []int {
	ours, err := os.Stat(filepath.Join(l.dir, "run"))
	if err != nil {
		return nil // no folder, nobody inside
	}
	processes, _ := os.ReadDir("/proc")
	var pids []int
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		there, err := os.Stat(filepath.Join("/proc", p.Name(), "root", "run", "libvirt"))
		if err != nil || !os.SameFile(ours, there) {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", p.Name(), "cmdline"))
		if err == nil && len(line) > 0 && kind(strings.Split(string(line), "\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// end signals the processes inside of one kind and waits until there is none
// left; it kills what is left after endTimeout.
func (l *Libvirtd) end(ctx context.Context, kind func(args []string) bool, signal syscall.Signal) error {
	late := time.Now().Add(endTimeout)
	signalled := map[int]bool{}
	for {
		left := l.members(kind)
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			if time.Now().After(late) {
				signal = syscall.SIGKILL
			} else if signalled[pid] {
				continue
			}
			signalled[pid] = true
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("process %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v: %w", left, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
