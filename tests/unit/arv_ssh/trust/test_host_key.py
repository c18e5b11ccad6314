"""The host key's two encodings."""

from __future__ import annotations

import io

import paramiko

from arv_ssh.trust import host_key
from tests.unit.arv_ssh.trust.test_credentials import HOST_KEY, SECRET


def test_private_and_public_half_are_one_key() -> None:
    """The private PEM, read by paramiko, has the public half that is announced."""
    key = paramiko.Ed25519Key(file_obj=io.StringIO(host_key.private_pem(SECRET)))
    assert f"{key.get_name()} {key.get_base64()}" == HOST_KEY == host_key.public_line(SECRET)


def test_another_container_has_another_key() -> None:
    """The key comes from the container's secret."""
    assert host_key.public_line(SECRET[::-1]) != HOST_KEY
