package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// networkName is libvirt's name of the network that guests are on.
const networkName = "default"

// folders are ours under Dir, and libvirt's places that they cover in the mount
// namespace.
var folders = []struct{ name, covers string }{
	{"run", "/run/libvirt"},
	{"lib", "/var/lib/libvirt"},
	{"etc", "/etc/libvirt"},
	{"log", "/var/log/libvirt"},
	{"cache", "/var/cache/libvirt"},
}

// Everything inside runs as root without confinement by libvirt: files keep their
// owners, and no helper daemon of libvirt's is needed.
const qemuConf = `user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
`

// The socket is reached through the folder, which only root can enter. A QEMU
// that hangs holds up one request each, hence more of them than usual.
const libvirtdConf = `listen_tls = 0
listen_tcp = 0
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
unix_sock_ro_perms = "0700"
max_client_requests = 50
max_workers = 60
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
host_uuid = "%s"
`

const networkXML = `<network>
  <name>` + networkName + `</name>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='on' delay='0'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.122.2' end='192.168.122.254'/>
    </dhcp>
  </ip>
</network>
`

// writeFolders makes the folders and the configuration in them. What libvirt
// itself wrote there stays.
func (l *Libvirtd) writeFolders() error {
	for _, f := range folders {
		if err := os.MkdirAll(filepath.Join(l.dir, f.name), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(l.dir, "run"), 0o700); err != nil {
		return err
	}
	uuid, err := l.hostUUID()
	if err != nil {
		return err
	}
	for path, text := range map[string]string{
		"etc/qemu.conf":     qemuConf,
		"etc/libvirtd.conf": fmt.Sprintf(libvirtdConf, uuid),
	} {
		if err := os.WriteFile(filepath.Join(l.dir, path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return l.writeNetwork()
}

// writeNetwork defines the network and marks it for start, unless libvirt has it.
func (l *Libvirtd) writeNetwork() error {
	networks := filepath.Join(l.dir, "etc", "qemu", "networks")
	if err := os.MkdirAll(filepath.Join(networks, "autostart"), 0o755); err != nil {
		return err
	}
	file := networkName + ".xml"
	f, err := os.OpenFile(filepath.Join(networks, file), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(networkXML)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	err = os.Symlink("/etc/libvirt/qemu/networks/"+file, filepath.Join(networks, "autostart", file))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// hostUUID is a UUID of this libvirtd, drawn once: libvirt takes it from the
// machine's firmware otherwise, which all libvirtds of a machine share.
func (l *Libvirtd) hostUUID() (string, error) {
	path := filepath.Join(l.dir, "host_uuid")
	if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), os.WriteFile(path, b, 0o644)
}
