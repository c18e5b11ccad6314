"""The host keys' two encodings."""

from __future__ import annotations

import io

import paramiko
import pytest

from arv_ssh.trust import host_key
from tests.unit.arv_ssh.trust.test_credentials import ECDSA_HOST_KEY, HOST_KEY, SECRET

KEYS = [(host_key.ED25519, paramiko.Ed25519Key, HOST_KEY), (host_key.ECDSA, paramiko.ECDSAKey, ECDSA_HOST_KEY)]


@pytest.mark.parametrize(("kind", "reader", "line"), KEYS)
def test_private_and_public_half_are_one_key(kind: str, reader: type[paramiko.ECDSAKey], line: str) -> None:
    """The private PEM, read by paramiko, has the public half that is announced."""
    key = reader(file_obj=io.StringIO(host_key.private_pem(SECRET, kind)))
    assert f"{key.get_name()} {key.get_base64()}" == line == host_key.public_line(SECRET, kind)


@pytest.mark.parametrize("kind", host_key.KINDS)
def test_another_container_has_another_key(kind: str) -> None:
    """The key comes from the container's secret."""
    assert host_key.public_line(SECRET[::-1], kind) != host_key.public_line(SECRET, kind)


def test_a_kind_left_out_is_ed25519() -> None:
    """Who knows of one key only gets Ed25519."""
    assert host_key.public_line(SECRET) == HOST_KEY
