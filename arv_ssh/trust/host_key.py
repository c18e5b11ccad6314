"""The gateway's Ed25519 host key in the two forms the house needs: OpenSSH's private PEM and its public line.

Owns the encoding only; the seed comes from :mod:`arv_ssh.trust.credentials`.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from arv_ssh.trust import credentials

REMEMBERED = 256
"""Public keys kept: a controller compares one at each login, and after TLS, deriving it is a dial's most costly
part."""


def private_pem(secret: str) -> str:
    """Return the host key as an unencrypted OpenSSH private key, as ``paramiko.Ed25519Key`` reads it."""
    key = Ed25519PrivateKey.from_private_bytes(credentials.host_key_seed(secret))
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


@lru_cache(maxsize=REMEMBERED)
def public_line(secret: str) -> str:
    """Return the public half as ``ssh-ed25519 AAAA…``, as it stands in a known_hosts file."""
    key = Ed25519PrivateKey.from_private_bytes(credentials.host_key_seed(secret))
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
