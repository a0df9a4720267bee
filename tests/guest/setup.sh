#!/bin/sh
# What the guest tests need: QEMU and a few tools, and a stock Debian kernel unpacked in .cache/guest. Quick the second time.
set -eu
cache=$(cd "$(dirname "$0")/../.." && pwd)/.cache/guest
packages="qemu-system-x86 kmod busybox-static
    dpdk dpdk-dev librte-net-e1000-23 librte-bus-pci23 librte-bus-vdev23 librte-mempool-ring23"

missing=$(for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
done)
kernel=$(ls "$cache"/root/boot/vmlinuz-* 2>/dev/null | head -n 1)
modules=${kernel:+$cache/root/lib/modules/${kernel##*/vmlinuz-}}
if [ -n "$kernel" ] && [ -z "$missing" ] && [ "$(readlink "/lib/modules/${modules##*/}")" = "$modules" ]; then
    exit 0
fi

if [ "$(id -u)" != 0 ]; then
    echo "the guest tests need to be set up once as root: sudo $0" >&2
    echo "(installs ${missing:-nothing}; links a Debian kernel's modules into /lib/modules)" >&2
    exit 1
fi
apt-get update -qq
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086  # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
if [ -z "$kernel" ]; then
    # linux-image-amd64 is empty and depends on the kernel of the day. Unpacked, not installed: this machine boots nothing.
    package=$(apt-cache depends linux-image-amd64 | awk '$1 == "Depends:" { print $2; exit }')
    rm -rf "$cache"
    mkdir -p "$cache/download"
    (cd "$cache/download" && apt-get download -qq -o APT::Sandbox::User=root "$package")
    dpkg -x "$cache"/download/*.deb "$cache/unpacked"
    version=${package#linux-image-}
    /sbin/depmod -b "$cache/unpacked" "$version"
    rm -rf "$cache/download"
    mv "$cache/unpacked" "$cache/root"
    modules=$cache/root/lib/modules/$version
fi
mkdir -p /lib/modules
ln -sfn "$modules" "/lib/modules/${modules##*/}"
