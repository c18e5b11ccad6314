"""What a program reads about its SSH connection."""

from __future__ import annotations

import pytest

from crunch_sshd.session.connection_variables import variables


@pytest.mark.parametrize(
    ("client", "gateway", "ends"),
    [
        ("192.0.2.7", "10.0.0.7:34567", ("192.0.2.7", "10.0.0.7", "34567")),
        ("2001:db8::7", "[fd00::1]:22", ("2001:db8::7", "fd00::1", "22")),
        ("::ffff:192.0.2.7", "10.0.0.7:34567", ("192.0.2.7", "10.0.0.7", "34567")),
        ("fe80::1%eth0", "", ("fe80::1%eth0", "UNKNOWN", "65535")),
        ("", "tunnel https://zzzzz.example.org:443", ("UNKNOWN", "UNKNOWN", "65535")),
        ("a lie 1 2", "node7:80", ("UNKNOWN", "UNKNOWN", "65535")),
        ("192.0.2.7\nX=1", "10.0.0.7:34567", ("UNKNOWN", "10.0.0.7", "34567")),
    ],
)
def test_form(client: str, gateway: str, ends: tuple[str, str, str]) -> None:
    """Addresses and ports are sshd's, one word each; what is not known has sshd's words for that."""
    theirs, ours, port = ends
    assert variables(client, gateway) == {
        "SSH_CLIENT": f"{theirs} 65535 {port}", "SSH_CONNECTION": f"{theirs} 65535 {ours} {port}"
    }  # fmt: skip
