"""The gateway's host keys in the two forms the house needs: OpenSSH's private PEM and its public line.

Owns the encoding only; what the keys are made of comes from :mod:`arv_ssh.trust.credentials`. Every gateway has the
Ed25519 key. The ECDSA key is for clients that may not use Ed25519, as under FIPS 140.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from arv_ssh.trust import credentials

ED25519 = "ssh-ed25519"
ECDSA = "ecdsa-sha2-nistp256"
KINDS = (ED25519, ECDSA)
"""The kinds of keys that derive from a container's secret, by their names in SSH."""

REMEMBERED = 512
"""Public keys kept, two for each container: a controller compares them at each login, and after TLS, deriving them is
a dial's most costly part."""


def private_pem(secret: str, kind: str = ED25519) -> str:
    """Return the host key as an unencrypted OpenSSH private key, as paramiko's classes of keys read it."""
    return _private_key(secret, kind).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


@lru_cache(maxsize=REMEMBERED)
def public_line(secret: str, kind: str = ED25519) -> str:
    """Return the public half as ``ssh-ed25519 AAAA…``, as it stands in a known_hosts file."""
    return _private_key(secret, kind).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _private_key(secret: str, kind: str) -> Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    if kind == ED25519:
        return Ed25519PrivateKey.from_private_bytes(credentials.host_key_seed(secret))
    return ec.derive_private_key(credentials.ecdsa_host_key_number(secret), ec.SECP256R1())
