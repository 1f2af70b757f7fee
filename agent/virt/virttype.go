package virt

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// ProbeKernel is the kernel that ChooseVirtType boots where it has to try.
	ProbeKernel = "/usr/local/lib/usance/images/tiny/kernel"
	// probeTime is how long that kernel may take. Under KVM it takes about a
	// second; where KVM only seems to work, it hangs.
	probeTime = 12 * time.Second
	// probeSign is what a kernel says last, having found no root file system: it booted.
	probeSign = "Kernel panic - not syncing: VFS"
)

// ChooseVirtType settles a virt_type setting. "kvm" and "qemu" are taken as they
// are. "auto" or "" takes the answer kept in dataDir/virt_type; where there is
// none, it boots a kernel under KVM and keeps what came of it: "kvm" when it
// boots within probeTime, else "qemu". Neither /dev/kvm nor libvirt's capabilities
// can tell: on some machines both are there and kernels hang.
func ChooseVirtType(ctx context.Context, setting, dataDir string, log *slog.Logger) (string, error) {
	switch setting {
	case VirtKVM, VirtQEMU:
		return setting, nil
	case "", "auto":
	default:
		return "", fmt.Errorf("virt type %q: want %q, %q or \"auto\"", setting, VirtKVM, VirtQEMU)
	}
	path := filepath.Join(dataDir, "virt_type")
	if text, err := os.ReadFile(path); err == nil {
		if kept := strings.TrimSpace(string(text)); kept == VirtKVM || kept == VirtQEMU {
			log.Info("virt type as found out earlier", "virt_type", kept, "kept_in", path)
			return kept, nil
		}
	}
	began := time.Now()
	answer, why := probe(ctx)
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("find out the virt type: %w", err)
	}
	log.Info("virt type found out by a probe guest", "virt_type", answer, "because", why,
		"took", time.Since(began).Round(time.Millisecond), "kept_in", path)
	if err := os.WriteFile(path, []byte(answer+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("keep the virt type: %w", err)
	}
	return answer, nil
}

// probe boots the kernel under KVM as a domain would be, without anything else,
// and reads its serial console.
func probe(ctx context.Context) (answer, why string) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return VirtQEMU, "the machine has no /dev/kvm"
	}
	if _, err := os.Stat(ProbeKernel); err != nil {
		return VirtQEMU, "there is no kernel to try KVM with at " + ProbeKernel
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "128",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", ProbeKernel, "-append", "console=ttyS0 panic=-1")
	// It must not outlive us, which the kernel ties to the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return VirtQEMU, err.Error()
	}
	if err := cmd.Start(); err != nil {
		return VirtQEMU, err.Error()
	}
	booted := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), probeSign) {
			booted = true
			break
		}
	}
	late := ctx.Err() != nil
	cancel()
	err = cmd.Wait()
	switch {
	case booted:
		return VirtKVM, "a kernel boots under KVM"
	case late:
		return VirtQEMU, fmt.Sprintf("a kernel hangs under KVM (%s)", probeTime)
	}
	return VirtQEMU, fmt.Sprintf("QEMU ends under KVM: %v", err)
}
