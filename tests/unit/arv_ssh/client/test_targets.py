"""From a container request to its container, through ssh-proxy; names have their own test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.conftest import Run, Start
from tests.unit.controller_double import Peer
from tests.unit.ssh_proxy import REQUEST, UUID, echo, finish


def test_container_request(double: Start, client: Run, tmp_path: Path) -> None:
    """A container request's UUID leads to its container; the host key is filed under the name ssh was given."""

    def script(peer: Peer) -> None:
        if peer.request.startswith("GET"):
            return peer.refuse("200 OK", b'{"uuid": "%s", "container_uuid": "%s"}' % (REQUEST.encode(), UUID.encode()))
        return echo(peer)

    server = double(script)
    process = client("ssh-proxy", REQUEST, "--known-hosts-dir", str(tmp_path / "k"), env=server.environment())
    assert finish(process)[1] == ""
    assert server.requests[0].startswith(f"GET /arvados/v1/container_requests/{REQUEST}?select=%5B%22uuid%22")
    assert server.requests[1].startswith(f"POST /arvados/v1/containers/{UUID}/ssh ")
    assert (tmp_path / "k" / REQUEST).read_text().startswith(f"{REQUEST},[{REQUEST}]:* ssh-ed25519 ")


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        ("404 Not Found", b"", f"container request {REQUEST}: HOST answered 404 Not Found"),
        ("200 OK", b'{"state": "Uncommitted", "container_uuid": null}', "no container yet (Uncommitted); submit it"),
        ("200 OK", b'{"state": "Committed", "container_uuid": null}', "has no container yet (Committed); try again"),
        ("200 OK", b"<html>", "HOST answered without the container request; check ARVADOS"),
        ("200 OK", b"[]", "HOST answered without the container request; check ARVADOS"),
    ],
)
def test_request_without_a_container(double: Start, client: Run, status: str, body: bytes, sentence: str) -> None:
    """A container request that leads to no container says so."""
    server = double(lambda peer: peer.refuse(status, body))
    process = client("ssh-proxy", REQUEST, env=server.environment())
    _, err = finish(process)
    assert (process.returncode, err.count("\n")) == (255, 1)
    assert sentence.replace("HOST", server.settings().authority) in err
