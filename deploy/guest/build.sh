#!/usr/bin/env bash
# Builds the test guest "tiny" from Debian packages: the cloud kernel and an
# initramfs of busybox, dropbear and the init beside this script.
#
#     build.sh OUTDIR
#
# writes OUTDIR/kernel, OUTDIR/initrd, OUTDIR/image.json (name, command line,
# checksums) and OUTDIR/source (checksum of what it was built from, by which
# deps.sh sees that it is up to date). OUTDIR is replaced in one step. Needs
# busybox-static, cpio, dropbear-bin and a package list of apt's; needs no root
# and mounts nothing. The same packages give the same bytes.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUTDIR}
out=$(realpath -m "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# In this order: virtio before virtio_ring fails on an unknown symbol.
modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
failover net_failover virtio_net virtio_balloon cdrom isofs button evdev"
command_line="console=ttyS0 quiet panic=10"

package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-.*-cloud-amd64\)$/\1/p')
if [ -z "$package" ]; then
  echo "build.sh: apt knows no linux-image-cloud-amd64: run apt-get update" >&2
  exit 1
fi
mkdir "$work/download"
(cd "$work/download" && apt-get -qq -o APT::Sandbox::User=root download "$package")
dpkg-deb -x "$work"/download/*.deb "$work/linux"
version=${package#linux-image-}

root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,run,tmp,mnt,root/.ssh,lib/modules,etc/acpi/PWRF,etc/dropbear,usr/sbin}
chmod 700 "$root/root" "$root/root/.ssh"
for module in $modules; do
  file=$(find "$work/linux/lib/modules/$version/kernel" -name "$module.ko")
  [ -n "$file" ] || { echo "build.sh: $package has no module $module" >&2; exit 1; }
  cp "$file" "$root/lib/modules/"
  echo "$module" >>"$root/lib/modules/order"
done

install -m 755 /bin/busybox "$root/bin/busybox"
for applet in $(busybox --list); do
  [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
install -m 755 /usr/sbin/dropbear "$root/usr/sbin/dropbear"
ldd /usr/sbin/dropbear | grep -o '/[^ ]*' | while read -r library; do
  install -D -m 755 "$library" "$root$library"
done
echo 'root::0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
echo /bin/sh >"$root/etc/shells"
install -m 755 "$here/init" "$root/init"
install -m 755 "$here/load" "$root/bin/load"
install -m 755 "$here/lease" "$root/etc/lease"
printf '#!/bin/sh\nsync\npoweroff -f\n' >"$root/etc/acpi/PWRF/00000080"
chmod 755 "$root/etc/acpi/PWRF/00000080"

new=$work/new
mkdir "$new"
cp "$work/linux/boot/vmlinuz-$version" "$new/kernel"
find "$root" -exec touch -h -d @0 {} +
(cd "$root" && find . -print0 | LC_ALL=C sort -z |
  cpio --quiet --null -o -H newc -R 0:0 --reproducible | gzip -9n) >"$new/initrd"

entry() {
  printf '{"name":"%s","sha256":"%s","size":%d}' "$1" "$(sha256sum "$new/$1" | cut -d' ' -f1)" "$(stat -c %s "$new/$1")"
}
printf '{"name":"tiny","command_line":"%s","files":[%s,%s]}\n' \
  "$command_line" "$(entry kernel)" "$(entry initrd)" >"$new/image.json"
"$here/source.sh" >"$new/source"

mkdir -p "$(dirname "$out")"
chmod 755 "$new"
rm -rf "$out.new" "$out.old"
cp -r "$new" "$out.new"
[ ! -e "$out" ] || mv "$out" "$out.old"
mv "$out.new" "$out"
rm -rf "$out.old"
