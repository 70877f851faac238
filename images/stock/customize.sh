#!/bin/sh
# Runs on the builder with the VM's tree as $1, after packages and files.
set -eu
rm -f "$1"/boot/initrd.img*
