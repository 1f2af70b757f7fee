package virt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"libvirt.org/go/libvirt"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/metering"
)

// Start makes the domain exist as specified and run. Its disk is made once and
// kept; everything else is made anew at each start. What a failed Start made, it
// removes again. A domain that already runs is left alone; it is an error when it
// runs under another lease or start than specified.
func (h *Hypervisor) Start(ctx context.Context, spec agent.Spec) error {
	if err := check(spec); err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, err)
	}
	defer h.turn(spec.ID)()
	running, err := call(ctx, h.main, func(c *libvirt.Connect) (bool, error) { return runs(c, spec) })
	if err != nil || running {
		return wrap("start", spec.ID, err)
	}
	var undo undoStack
	defer undo.run()
	disk, seed, err := h.makeFiles(ctx, spec, &undo)
	if err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, err)
	}
	text, err := h.domain(spec, disk, seed).Marshal()
	if err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, err)
	}
	if err := act(ctx, h.cfg.URI, func(c *libvirt.Connect) error { return create(c, spec, text) }); err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, err)
	}
	undo.forget()
	return nil
}

// check refuses a specification that cannot be made or would escape its place.
func check(spec agent.Spec) error {
	if err := metering.CheckID(metering.PrefixInstance, string(spec.ID)); err != nil {
		return err
	}
	if f := spec.Flavor; f.VCPUs < 1 || f.MemoryMiB < 1 || f.DiskMiB < 1 {
		return fmt.Errorf("flavor %q with %d vCPUs, %d MiB memory, %d MiB disk: each must be at least 1", f.Name, f.VCPUs, f.MemoryMiB, f.DiskMiB)
	}
	if mac, err := net.ParseMAC(spec.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("MAC address %q: want six bytes of one station", spec.MAC)
	}
	if !hostName.MatchString(spec.Name) {
		return fmt.Errorf("host name %q: want letters, digits and - , at most 63", spec.Name)
	}
	for _, key := range spec.SSHKeys {
		if strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
			return fmt.Errorf("ssh key %q: want one line of plain characters", key)
		}
	}
	if (spec.Image.Kernel == "") == (spec.Image.Disk == "") {
		return fmt.Errorf("image with kernel %q and disk %q: want one of them", spec.Image.Kernel, spec.Image.Disk)
	}
	return nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// runs reports whether the domain runs as specified.
func runs(c *libvirt.Connect, spec agent.Spec) (bool, error) {
	dom, err := c.LookupDomainByName(string(spec.ID))
	if is(err, libvirt.ERR_NO_DOMAIN) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer dom.Free()
	l, ours, err := readLabels(dom)
	if err != nil {
		return false, err
	}
	if !ours {
		return false, errors.New("a domain of that name exists and is not ours")
	}
	active, err := dom.IsActive()
	if err != nil || !active {
		return false, err
	}
	if l.Lease != spec.Lease || l.Start != spec.Start {
		return false, fmt.Errorf("it still runs under lease %d, start %d: not under lease %d, start %d",
			l.Lease, l.Start, spec.Lease, spec.Start)
	}
	return true, nil
}

// create defines the domain and starts it. A domain that this call defined is
// undefined again when it does not start.
func create(c *libvirt.Connect, spec agent.Spec, text string) error {
	before, err := c.LookupDomainByName(string(spec.ID))
	if err == nil {
		defer before.Free()
	} else if !is(err, libvirt.ERR_NO_DOMAIN) {
		return err
	}
	dom, err := c.DomainDefineXML(text)
	if err != nil {
		return err
	}
	defer dom.Free()
	var undo undoStack
	defer undo.run()
	if before == nil {
		undo.push(func() { dom.UndefineFlags(undefineAll) })
	}
	if err := dom.Create(); err != nil {
		// Also so when the first of two attempts started it and then lost the connection.
		if running, errRuns := runs(c, spec); errRuns != nil || !running {
			return err
		}
	}
	undo.forget()
	return nil
}

// makeFiles makes the instance's folder, its disk where there is none yet, and
// the seed: what the guest is told at boot.
func (h *Hypervisor) makeFiles(ctx context.Context, spec agent.Spec, undo *undoStack) (disk, seed string, err error) {
	folder := h.folder(spec.ID)
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		undo.push(func() { os.RemoveAll(folder) })
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", "", err
	}
	disk, seed = filepath.Join(folder, "disk.qcow2"), filepath.Join(folder, "seed.iso")
	if err := makeDisk(ctx, disk, spec); err != nil {
		return "", "", err
	}
	return disk, seed, makeSeed(ctx, seed, spec)
}

// makeDisk makes the disk, over the image's or empty, or fits the one that exists.
func makeDisk(ctx context.Context, path string, spec agent.Spec) error {
	if _, err := os.Stat(path); err == nil {
		return fitDisk(ctx, path, spec)
	}
	args := []string{"create", "-q", "-f", "qcow2"}
	if base := spec.Image.Disk; base != "" {
		args = append(args, "-b", base, "-F", "qcow2")
	}
	part := path + ".part"
	args = append(args, part, strconv.FormatInt(spec.Flavor.DiskMiB, 10)+"M")
	if _, err := qemuImg(ctx, args...); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// fitDisk makes the disk of an instance that is off as large as its flavor says,
// never smaller, and has it find the image's disk where this host keeps it.
func fitDisk(ctx context.Context, path string, spec agent.Spec) error {
	out, err := qemuImg(ctx, "info", "--output=json", path)
	if err != nil {
		return err
	}
	var is struct {
		Size int64  `json:"virtual-size"` // bytes
		Base string `json:"backing-filename"`
	}
	if err := json.Unmarshal(out, &is); err != nil {
		return fmt.Errorf("qemu-img info of %s: %w", path, err)
	}
	if base := spec.Image.Disk; base != is.Base && base != "" {
		if _, err := qemuImg(ctx, "rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", path); err != nil {
			return err
		}
	}
	if size := spec.Flavor.DiskMiB << 20; size > is.Size {
		_, err = qemuImg(ctx, "resize", "-q", "-f", "qcow2", path, strconv.FormatInt(size, 10))
	}
	return err
}

func qemuImg(ctx context.Context, args ...string) (out []byte, err error) {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "qemu-img", args...)
	cmd.Stderr = &said
	if out, err = cmd.Output(); err != nil {
		return nil, fmt.Errorf("qemu-img %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out, nil
}

// makeSeed writes the NoCloud seed: a small ISO image labelled cidata.
func makeSeed(ctx context.Context, path string, spec agent.Spec) error {
	tree, err := os.MkdirTemp("", "usance-seed-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	var meta strings.Builder
	fmt.Fprintf(&meta, "instance-id: %q\nlocal-hostname: %q\n", string(spec.ID), spec.Name)
	if len(spec.SSHKeys) > 0 {
		meta.WriteString("public-keys:\n")
	}
	for _, key := range spec.SSHKeys {
		fmt.Fprintf(&meta, "  - %q\n", key)
	}
	user := spec.UserData
	if user == "" {
		user = "#cloud-config\n"
	}
	for name, text := range map[string]string{"meta-data": meta.String(), "user-data": user} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	part := path + ".part"
	out, err := exec.CommandContext(ctx, "xorrisofs", "-quiet", "-volid", "cidata", "-joliet", "-rock", "-output", part, tree).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make seed %s: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	return os.Rename(part, path)
}

// wrap adds what was being done to err, if there is one.
func wrap(verb string, id metering.InstanceID, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, id, err)
}

// undoStack holds what undoes the steps done so far.
type undoStack []func()

func (u *undoStack) push(f func()) { *u = append(*u, f) }

// forget keeps what was done.
func (u *undoStack) forget() { *u = nil }

// run undoes the steps, last first.
func (u *undoStack) run() {
	for i := len(*u) - 1; i >= 0; i-- {
		(*u)[i]()
	}
}
