"""What is offered to whom, and that a current client ends up with what it always had."""

from __future__ import annotations

import pytest

from crunch_sshd.gateway import algorithms
from crunch_sshd.gateway.algorithms import COMPATIBLE, MODERN, PLAIN_MACS, Algorithms

NIST = ["ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521"]
OPENSSH_MACS = ["umac-64-etm@openssh.com", "hmac-sha2-256-etm@openssh.com", "umac-64@openssh.com", "hmac-sha2-256"]
FIRST_OFFERS = {
    "OpenSSH 10": (
        ["mlkem768x25519-sha256", "sntrup761x25519-sha512", "curve25519-sha256", *NIST],
        ["ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512"],
        OPENSSH_MACS,
    ),
    "OpenSSH 8": (
        ["curve25519-sha256", "curve25519-sha256@libssh.org", *NIST],
        ["ecdsa-sha2-nistp256-cert-v01@openssh.com", "ssh-ed25519", "ecdsa-sha2-nistp256"],
        OPENSSH_MACS,
    ),
    "PuTTY 0.78": (
        ["curve448-sha512", "curve25519-sha256", *NIST],
        ["ssh-ed448", "ssh-ed25519", "ecdsa-sha2-nistp256"],
        ["hmac-sha2-256", "hmac-sha2-512", "hmac-sha1", "hmac-sha2-256-etm@openssh.com"],
    ),
}
"""Lists of exchanges, host keys and MACs in the clients' order; the ends are left out."""
IDENTIFICATIONS = {
    "OpenSSH 10": "SSH-2.0-OpenSSH_10.0",
    "OpenSSH 8": "SSH-2.0-OpenSSH_8.4p1 Debian-5+deb11u3",
    "PuTTY 0.78": "SSH-2.0-PuTTY_Release_0.78",
}


def everything(offer: Algorithms) -> tuple[str, ...]:
    return (*offer.kex, *offer.host_keys, *offer.ciphers, *offer.macs)


def taken(offered: tuple[str, ...], wanted: list[str]) -> str:
    """Return what both end up with (RFC 4253 §7.1)."""
    return next(name for name in wanted if name in offered)


@pytest.mark.parametrize("client", FIRST_OFFERS)
@pytest.mark.parametrize("choice", ["modern", "compatible"])
def test_a_current_client_takes_what_is_modern(choice: str, client: str) -> None:
    """Nothing of what is there for others is ever taken by who has better."""
    kex, host_keys, macs = FIRST_OFFERS[client]
    offer = algorithms.offered(choice, IDENTIFICATIONS[client])
    assert taken(offer.kex, kex) in MODERN.kex
    assert taken(offer.host_keys, host_keys) == "ssh-ed25519"
    assert taken(offer.macs, macs) in MODERN.macs


def test_compatible_adds_to_the_end() -> None:
    """The compatible lists begin with the modern ones, and the ciphers are the same."""
    assert COMPATIBLE.kex[: len(MODERN.kex)] == MODERN.kex and COMPATIBLE.kex != MODERN.kex
    assert COMPATIBLE.host_keys == ("ssh-ed25519", "ecdsa-sha2-nistp256")
    assert (COMPATIBLE.ciphers, COMPATIBLE.macs) == (MODERN.ciphers, MODERN.macs)


@pytest.mark.parametrize("choice", ["modern", "compatible"])
def test_nothing_broken(choice: str) -> None:
    """Nothing with SHA-1, MD5, CBC, RSA, DSA, or a group of 1024 bits is offered to anybody."""
    names = everything(algorithms.offered(choice, "SSH-2.0-dropbear_2022.83"))
    assert not [name for name in names if any(bad in name for bad in ("sha1", "md5", "cbc", "rsa", "dss", "group1-"))]


@pytest.mark.parametrize(
    ("choice", "client", "plain"),
    [
        ("modern", "SSH-2.0-dropbear_2022.83", True),
        ("modern", "SSH-2.0-OpenSSH_9.2", False),
        ("compatible", "SSH-2.0-dropbear_2022.83", True),
        ("compatible", "SSH-2.0-OpenSSH_8.7", True),
        ("compatible", "SSH-2.0-JSCH-0.1.54", True),
        ("compatible", "SSH-2.0-JSCH_0.2.16", False),
        ("compatible", "SSH-2.0-libssh2_1.10.0", True),
        ("compatible", "SSH-2.0-libssh2_1.9.0_DEV", True),
        ("compatible", "SSH-2.0-libssh2_1.10", True),
        ("compatible", "SSH-2.0-libssh2_1.11.0", False),
        ("compatible", "SSH-2.0-libssh2_1.100.0", False),
        ("compatible", "SSH-2.0-PuTTY_Release_0.78", False),
        ("compatible", "SSH-2.0-paramiko_5.1.0", False),
        ("compatible", "SSH-2.0-x SSH-2.0-dropbear_1", False),
        ("compatible", "", False),
    ],
)
def test_plain_macs(choice: str, client: str, plain: bool) -> None:
    """Encrypt-and-MAC is offered only to who has nothing else, or would not take it by itself."""
    expected = MODERN.macs + PLAIN_MACS if plain else MODERN.macs
    assert algorithms.offered(choice, client).macs == expected
