#!/bin/sh
# Runs on the builder with the guest's tree as $1, after packages and files.
set -eu
root=$1
for name in ssh gpt-auto hibernate-resume cryptsetup veritysetup integritysetup tpm2 bless-boot; do
    rm -f "$root/usr/lib/systemd/system-generators/systemd-$name-generator"
done
rm -f "$root"/boot/initrd.img* "$root"/etc/nginx/sites-enabled/default
# A front end has thousands of connections.
sed -i 's/worker_connections .*/worker_connections 16384;/' "$root/etc/nginx/nginx.conf"
# A test starts it that wants it.
chroot "$root" systemctl disable -q haproxy.service
# Newer than /usr, so that no update service runs at each boot.
touch "$root/etc/.updated" "$root/var/.updated"
echo web > "$root/etc/hostname"
: > "$root/etc/machine-id"
chroot "$root" passwd -q -d root
chroot "$root" python3 -m compileall -q /usr/lib/python3.13 || true
# Something to download: no two blocks alike, the same in every build.
python3 -c 'import random, sys; sys.stdout.buffer.write(random.Random(1).randbytes(16 << 20))' > "$root/var/www/html/random.bin"
# 200 MB that take no room: holes, and a number at the begin of each 64 KiB.
python3 - "$root/var/www/html/large.bin" <<'EOF'
import struct
import sys

with open(sys.argv[1], "wb") as file:
    for number in range(3052):
        file.seek(number << 16)
        file.write(struct.pack(">Q", number))
    file.truncate(200_000_000)
EOF
