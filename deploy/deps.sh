#!/usr/bin/env bash
# Makes a Debian 12 machine fit to build, run and test Usance: Debian packages,
# libchdb and the test guest. It asks first and does only what is missing; with
# everything there it takes a second. Run as root (make does).
#
# What it changes: it installs packages (no service is started, no database
# cluster made) and writes below /usr/local/lib/usance. To undo: remove that
# folder, and the packages it named, with apt-get.
set -euo pipefail

place=/usr/local/lib/usance
chdb_package=@chdb/lib-linux-x64-gnu
chdb_version=26.7.3-stable.1
here=$(cd "$(dirname "$0")" && pwd)

say() { echo "deps: $*"; }
fail() {
  echo "deps: $*" >&2
  exit 1
}

check_prerequisites() {
  [ "$(id -u)" = 0 ] || fail "run this as root: it installs Debian packages and makes network namespaces."
  local release
  # shellcheck source=/dev/null
  release=$(. /etc/os-release && echo "${ID:-} ${VERSION_ID:-}")
  [ "$release" = "debian 12" ] || fail "this machine is \"$release\": Debian 12 is what Usance is built and tested on."
  [ "$(uname -m)" = x86_64 ] || fail "this machine is $(uname -m): x86_64 is needed."
  local tool
  for tool in git make gcc npm; do
    command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install $tool"
  done
  command -v go >/dev/null || fail "go is missing: install Go 1.26 or newer and put it on PATH."
  local version
  version=$(cd / && GOTOOLCHAIN=local go env GOVERSION)
  printf 'go1.26\n%s\n' "$version" | sort -CV || fail "go is $version: Usance needs Go 1.26 or newer."
}

packages=(
  # the hypervisor, and a libvirtd of our own
  libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils dnsmasq-base
  iproute2 iptables nftables ebtables kmod util-linux xorriso
  # to build the agent
  libc6-dev libvirt-dev pkg-config
  # the embedded database of record
  postgresql-15
  # to build the test guest
  busybox-static cpio dropbear-bin
  # to test: pages in a browser, sockets by hand
  chromium fonts-dejavu-core socat
)
# libvirt-daemon-system comes with units for systemd or with scripts for other inits.
if [ -d /run/systemd/system ]; then
  packages+=(libvirt-daemon-system-systemd)
else
  packages+=(libvirt-daemon-system-sysv)
fi

install_packages() {
  local missing
  missing=$(comm -23 <(printf '%s\n' "${packages[@]}" | sort) \
    <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null |
      sed -n 's/^installed //p' | sort -u))
  if [ -z "$missing" ]; then
    say "all ${#packages[@]} Debian packages are installed"
    return
  fi
  # shellcheck disable=SC2086 # one word per package
  say "installing Debian packages:" $missing
  hold_services
  apt_get update
  # qemu-block-extra brings storage drivers, and their many libraries, that nothing here uses.
  # shellcheck disable=SC2086
  apt_get install -y --no-install-recommends $missing qemu-block-extra-
  release_services
}

# apt_get is quiet unless it fails.
apt_get() {
  local log
  log=$(mktemp)
  if ! DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    rm -f "$log"
    fail "apt-get $1 failed: see above."
  fi
  rm -f "$log"
}

policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/usance.conf

# hold_services keeps packages from starting services and Postgres from making a
# cluster while they are installed; what the machine already says of it stays.
hold_services() {
  trap release_services EXIT
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\n# by usance deps.sh, while it installs\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  mkdir -p "$(dirname "$cluster")"
  echo 'create_main_cluster = false' >"$cluster"
}

release_services() {
  rm -f "$cluster"
  if grep -qs 'by usance deps.sh' "$policy"; then rm -f "$policy"; fi
  trap - EXIT
}

install_chdb() {
  local folder=$place/chdb/$chdb_version link=$place/libchdb.so
  if [ ! -s "$folder/libchdb.so" ]; then
    say "fetching libchdb $chdb_version by npm (about 150 MB, 570 MB on disk)"
    local work
    mkdir -p "$place/chdb"
    rm -rf "$place"/chdb/.new.*
    work=$(mktemp -d "$place/chdb/.new.XXXXXX")
    npm install --loglevel=error --no-audit --no-fund --no-save --ignore-scripts --prefix "$work" \
      "$chdb_package@$chdb_version" </dev/null >/dev/null || fail "npm could not fetch $chdb_package@$chdb_version: see above."
    [ -s "$work/node_modules/$chdb_package/libchdb.so" ] || fail "$chdb_package@$chdb_version holds no libchdb.so."
    chmod 755 "$work/node_modules/$chdb_package"
    mv -T "$work/node_modules/$chdb_package" "$folder"
    rm -rf "$work"
  fi
  if [ "$(readlink "$link" || true)" != "chdb/$chdb_version/libchdb.so" ]; then
    ln -sfn "chdb/$chdb_version/libchdb.so" "$link.new"
    mv -fT "$link.new" "$link" # in one step: there is no moment without it
  fi
  say "libchdb $chdb_version is at $link"
}

build_guest() {
  local folder=$place/images/tiny
  if [ -s "$folder/image.json" ] && [ "$(cat "$folder/source" 2>/dev/null)" = "$("$here/guest/source.sh")" ]; then
    say "the test guest is at $folder"
    return
  fi
  say "building the test guest"
  # An old package list, or none, names a kernel that is no longer there.
  if ! "$here/guest/build.sh" "$folder"; then
    say "once more, with new package lists"
    apt_get update
    "$here/guest/build.sh" "$folder"
  fi
  say "the test guest is at $folder"
}

check_prerequisites
install_packages
install_chdb
build_guest
