"""An operator's own certificate authority, for libvirt's and QEMU's TLS. Keys of hosts never come here: their
requests do."""
