"""The algorithms that a gateway offers (RFC 4253 §7.1), by the cluster's choice and by what the client says it is.

Owns the lists. Pure: knows names and the client's identification, nothing of transports. The client's order decides
what is taken, and the host key's signature covers both sides' lists and identifications (§8): no machine in the middle
can talk a client into less than the best that both have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from arv_ssh.trust.host_key import ECDSA, ED25519


@dataclass(frozen=True)
class Algorithms:
    """What is offered, each list in order of preference."""

    kex: tuple[str, ...]
    host_keys: tuple[str, ...]
    ciphers: tuple[str, ...]
    macs: tuple[str, ...]


MODERN = Algorithms(
    kex=("mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org"),
    host_keys=(ED25519,),
    ciphers=("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr", "aes128-ctr"),
    macs=("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"),
)
"""ssh-audit flags none of these. The fastest is first."""

COMPATIBLE = replace(
    MODERN,
    kex=(
        *MODERN.kex,
        "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521",
        "diffie-hellman-group16-sha512", "diffie-hellman-group14-sha256",
    ),
    host_keys=(*MODERN.host_keys, ECDSA),
)  # fmt: skip
"""With what FIPS 140 approves of. Clients that have the others prefer those."""

PLAIN_MACS = ("hmac-sha2-256", "hmac-sha2-512")
"""Encrypt-and-MAC, for those alone that have nothing else or prefer encrypt-then-MAC: PuTTY would take these first."""

_SETS = {"modern": MODERN, "compatible": COMPATIBLE}
_PLAIN_MACS_FOR = {
    "modern": re.compile(r"SSH-2\.0-dropbear"),
    "compatible": re.compile(r"SSH-2\.0-(dropbear|OpenSSH_|JSCH-0\.1\.|libssh2_1\.([0-9]|10)([^0-9]|$))"),
}
"""OpenSSH prefers encrypt-then-MAC, unless the site's rules name these MACs only. The others have no other: dropbear,
JSch before its fork, libssh2 before 1.11."""


def offered(choice: str, client: str = "") -> Algorithms:
    """Return what to offer: ``choice`` is the cluster's ``Sessions.Algorithms``.

    ``client`` is the client's identification line (RFC 4253 §4.2), "" while that is not known.
    """
    offer = _SETS[choice]
    if _PLAIN_MACS_FOR[choice].match(client):
        return replace(offer, macs=offer.macs + PLAIN_MACS)
    return offer
