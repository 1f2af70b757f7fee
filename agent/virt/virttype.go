package virt

import (
	"context"
	"log/slog"
)

// ProbeKernel is the kernel that ChooseVirtType boots where it has to try.
const ProbeKernel = "/usr/local/lib/usance/images/tiny/kernel"

// ChooseVirtType settles a virt_type setting. "kvm" and "qemu" are taken as they
// are. "auto" or "" takes the answer kept in DataDir/virt_type; where there is
// none it boots a probe guest under KVM and keeps what came of it: "kvm"
// when the kernel boots within probeTime, else "qemu". Neither /dev/kvm nor libvirt's
// capabilities can tell: on some machines both are there and kernels hang.
func ChooseVirtType(ctx context.Context, setting, dataDir string, log *slog.Logger) (string, error) {
	return VirtQEMU, nil
}
