#!/bin/sh
# Runs on the builder with the guest's tree as $1, after packages and files.
set -eu
root=$1
rm -f "$root"/boot/initrd.img* "$root"/etc/ssh/ssh_host_*
echo '/dev/vda / ext4 defaults 0 0' > "$root/etc/fstab"
: > "$root/etc/machine-id"
printf 'auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n' > "$root/etc/network/interfaces"
mkdir -p "$root/var/lib/cloud/seed/nocloud"
