package virt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/metering"
)

// run is what is asked once while one QEMU process runs a domain.
type run struct {
	labels
	pid      int
	pidStart uint64 // clock ticks after boot
	devices  devices
}

// runOf is the run of an active domain, from memory while its QEMU lives. ours is
// false for a domain that is not ours, or ended meanwhile.
func (h *Hypervisor) runOf(dom *libvirt.Domain) (r run, ours bool, err error) {
	name, err := dom.GetName()
	if err != nil {
		return r, false, err
	}
	id := metering.InstanceID(name)
	h.mu.Lock()
	r, known := h.runs[id]
	forgotten := h.forgotten
	h.mu.Unlock()
	if known {
		if start, err := startOf(r.pid); err == nil && start == r.pidStart {
			return r, true, nil
		}
	}
	r = run{}
	if r.labels, ours, err = readLabels(dom); err != nil || !ours {
		return r, false, err
	}
	if r.pid, r.pidStart, err = h.process(id); err != nil {
		return r, true, fmt.Errorf("QEMU of %s: %w", id, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.forgotten == forgotten { // else what was read may be what was to be forgotten
		h.runs[id] = r
	}
	return r, true, nil
}

// forgetRun has the labels of a domain's run read anew.
func (h *Hypervisor) forgetRun(id metering.InstanceID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forgotten++
	delete(h.runs, id)
}

// process finds the QEMU of a domain by libvirt's pid file. That file is there
// also for a libvirtd in a mount namespace of its own, whose socket and pid
// files share a folder.
func (h *Hypervisor) process(id metering.InstanceID) (pid int, start uint64, err error) {
	text, err := os.ReadFile(filepath.Join(h.runDir, "qemu", string(id)+".pid"))
	if err != nil {
		return 0, 0, err
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return 0, 0, fmt.Errorf("pid file: %w", err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return 0, 0, err
	}
	if !bytes.Contains(line, []byte("guest="+string(id))) {
		return 0, 0, fmt.Errorf("process %d is another", pid)
	}
	start, err = startOf(pid)
	return pid, start, err
}

// startOf is field 22 of /proc/PID/stat. Field 2, the command, is in parentheses and may
// hold spaces and parentheses itself: counting begins after the last one.
func startOf(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	rest := string(text[bytes.LastIndexByte(text, ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, errors.New("process ended")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
