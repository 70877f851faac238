"""SSH keys of the lab: its hosts are recognised by their keys, as real ones are."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from vmacro import private


def ssh_key(path: Path, comment: str) -> str:
    """The public half of the OpenSSH key at `path`, which is made if it is not there."""
    public = path.with_suffix(".pub")
    if not public.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        key = ed25519.Ed25519PrivateKey.generate()
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        private.write(path, secret)
        text = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        public.write_text(f"{text.decode()} {comment}\n")
    return public.read_text().strip()
