"""An operator's own certificate authority, for libvirt's and QEMU's TLS. Hosts keep their private keys; only their
requests for a certificate come here."""
