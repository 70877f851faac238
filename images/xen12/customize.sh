#!/bin/sh
# Runs on the builder with the host's tree as $1, after packages and files.
set -eu
root=$1
rm -f "$root"/boot/initrd.img* "$root"/etc/ssh/ssh_host_*
mkdir -p "$root/srv/packages" "$root/var/lib/vmacro/images"
for name in gpt-auto hibernate-resume cryptsetup veritysetup integritysetup bless-boot; do
    rm -f "$root/usr/lib/systemd/system-generators/systemd-$name-generator"
done
# Newer than /usr, so that no update service runs at each boot.
touch "$root/etc/.updated" "$root/var/.updated"
# Four fifths of the tree: drivers of hardware that a VM does not have.
for modules in "$root"/lib/modules/*/kernel; do
    rm -rf "$modules/sound" "$modules/net/wireless" "$modules/net/mac80211" "$modules/net/bluetooth"
    for name in accel ata bluetooth firewire gpu hid hwmon iio infiniband input isdn media mfd mmc mtd nvme pcmcia platform \
        power scsi staging target thunderbolt usb video; do
        rm -rf "$modules/drivers/$name"
    done
    for name in ethernet wireless wwan usb hamradio arcnet can fddi ieee802154 ppp phy dsa; do
        rm -rf "$modules/drivers/net/$name"
    done
    for name in afs btrfs ceph cifs f2fs gfs2 hfs hfsplus jfs jffs2 nfs nfsd ntfs3 ocfs2 reiserfs ubifs udf xfs; do
        rm -rf "$modules/fs/$name"
    done
    chroot "$root" depmod "$(basename "$(dirname "$modules")")"
done
