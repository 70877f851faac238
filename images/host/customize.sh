#!/bin/sh
# Runs on the builder with the host's tree as $1, after packages and files.
set -eu
root=$1
rm -f "$root"/etc/ssh/ssh_host_*
mkdir -p "$root/srv/packages" "$root/var/lib/vmacro/images"
