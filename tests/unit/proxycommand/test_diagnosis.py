"""The steps of doctor that no real cluster can be made to fail: what follows the controller's 101."""

from __future__ import annotations

import json

from tests.unit.conftest import Run, Start
from tests.unit.controller_double import UNIT, Peer

UUID = "zzzzz-dz642-abcdeabcdeabcde"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHzRuz1gm+bq8f7NfO324HWsfsMuqngTO/enjG0NPpkF"


def controller(peer: Peer) -> None:
    """Know the user and the container, and then speak no SSH."""
    path = peer.request.split(" ")[1]
    if path.endswith("/ssh"):
        peer.switch(
            f"X-Arvados-Ssh-Host-Key: {KEY}",
            "X-Arvados-Ssh-User-Credential: secret",
            "Server-Timing: policy;dur=3, gateway;dur=2.5, proofs;dur=1",
            glued=b"HTTP/1.1 400 Bad Request\r\n",
        )
        peer.end()
        return
    body = json.dumps({"uuid": UUID, "state": "Running"}).encode()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def test_no_ssh_behind_the_gateway(double: Start, client: Run) -> None:
    """What switches to SSH and then speaks something else fails at the handshake; the controller's times are shown."""
    process = client("doctor", "--json", UUID, env=double(controller).environment())
    out, err = process.communicate(timeout=UNIT)
    steps = {step["step"]: step for step in json.loads(out)["steps"]}
    assert (process.returncode, err) == (255, b"")
    assert not steps["SSH handshake"]["ok"] and UUID in steps["SSH handshake"]["detail"]
    assert (steps["gateway"]["seconds"], steps["proofs"]["seconds"]) == (0.0025, 0.001)
    assert b"secret" not in out


def test_no_escape_sequences(double: Start, client: Run) -> None:
    """What a server says of a failure cannot command the user's terminal."""
    body = json.dumps({"errors": ["no such token \x1b[2J"]}).encode()
    server = double(lambda peer: peer.refuse("401 Unauthorized", body))
    out, _ = client("doctor", env=server.environment()).communicate(timeout=UNIT)
    assert b"(no such token ?[2J)" in out and b"\x1b" not in out
