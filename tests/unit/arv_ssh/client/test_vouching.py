"""Host keys from the answers for a container's log, where a session came without."""

from __future__ import annotations

import json

import pytest

from arv_ssh.client.controller import Controller
from arv_ssh.client.vouching import keys_by_log
from tests.unit.conftest import Start
from tests.unit.controller_double import Peer

UUID, REQUEST = "zzzzz-dz642-abcdeabcdeabcde", "zzzzz-xvhdp-abcdeabcdeabcde"
KEYS = ["ssh-ed25519 AAAA", "ecdsa-sha2-nistp256 BBBB"]
HEADERS = f"X-Arvados-Ssh-Host-Key: {KEYS[0]}\r\nX-Arvados-Ssh-Other-Host-Keys: {KEYS[1]}\r\n"


@pytest.mark.parametrize("status", ["206 Partial Content", "404 Not Found"])
def test_keys(double: Start, status: str) -> None:
    """The keys are those that the answer names, whether the file is there or not."""

    def script(peer: Peer) -> None:
        if "/log/" in peer.request:
            peer.send(f"HTTP/1.1 {status}\r\n{HEADERS}Content-Length: 1\r\n\r\nx".encode())
        else:
            body = json.dumps({"items": [{"uuid": REQUEST}]})
            peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    server = double(script)
    assert keys_by_log(Controller(server.settings()), UUID) == KEYS
    assert server.requests[1].startswith(f"GET /arvados/v1/container_requests/{REQUEST}/log/{UUID}/crunch-run.txt ")


@pytest.mark.parametrize("items", ["[]", '[{"uuid": "../x"}]', "null"])
def test_no_keys(double: Start, items: str) -> None:
    """A container whose request nobody shows, or whose gateway names no key, has none; that is no failure."""

    def script(peer: Peer) -> None:
        body = f'{{"items": {items}}}'
        peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    server = double(script)
    assert keys_by_log(Controller(server.settings()), UUID) == []
    assert len(server.requests) == 1


def test_refused(double: Start) -> None:
    """A controller without logs is one that does not vouch."""
    assert keys_by_log(Controller(double(lambda peer: peer.refuse("404 Not Found", b"{}")).settings()), UUID) == []
