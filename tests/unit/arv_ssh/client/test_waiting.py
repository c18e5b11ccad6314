"""--wait against the double: when it looks, what it shows, and what ends it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable

import pytest

from arv_ssh.client.controller import Controller
from arv_ssh.client.settings import Settings
from arv_ssh.client.transport import Abandoned
from arv_ssh.client.waiting import Wait
from tests.integration.terminal import TerminalSession
from tests.timing import wait_for
from tests.unit.conftest import Run, Start
from tests.unit.controller_double import UNIT, Double, Peer

UUID = "zzzzz-dz642-abcdeabcdeabcde"
OTHER = "zzzzz-dz642-edcbaedcbaedcba"
REQUEST = "zzzzz-xvhdp-abcdeabcdeabcde"
KEY_HEADER = "X-Arvados-Ssh-Host-Key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHzRuz1gm+bq8f7NfO324HWsfsMuqngTO/enjG0NPpkF"
QUEUED = {"state": "Queued", "priority": 1}
LOCKED = {"state": "Locked", "priority": 1}
RUNNING = {"state": "Running", "priority": 1}


Record = dict[str, object]


def serve(double: Start, *states: Record, request: Callable[[int], Record] | None = None) -> Double:
    """Serve a container that is in each of ``states`` for one look, and a session once it is Running."""
    looks = {"container": 0, "request": 0}

    def script(peer: Peer) -> None:
        method, path = peer.request.split(" ")[:2]
        state = states[min(looks["container"], len(states) - 1)]
        if method == "POST" and state["state"] == "Running":
            peer.switch(KEY_HEADER, glued=b"SSH-2.0-x\r\n")
            peer.recv_all()
            return peer.end()
        if method == "POST":
            return peer.refuse("503 Not now", b'{"errors": ["container %s is not running yet"]}' % UUID.encode())
        if "/container_requests/" in path and request:
            looks["request"] += 1
            return peer.refuse("200 OK", json.dumps(request(looks["request"])).encode())
        looks["container"] += 1
        return peer.refuse("200 OK", json.dumps({"uuid": UUID, **state}).encode())

    return double(script)


def test_waits(double: Start, client: Run) -> None:
    """A Queued container is waited for; without a terminal each state is one line, and stdout is SSH's alone."""
    server = serve(double, QUEUED, QUEUED, LOCKED, RUNNING)
    process = client("ssh-proxy", "--wait", UUID, env=server.environment())
    out, err = process.communicate(timeout=2 * UNIT)
    assert (process.returncode, out) == (0, b"SSH-2.0-x\r\n")
    lines = err.decode().splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        f"arvados-client: waiting: container {UUID} is {state}" for state in ("Queued", "Locked")
    ]


def test_without_wait(double: Start, client: Run) -> None:
    """Without --wait the state is told at once."""
    process = client("ssh-proxy", UUID, env=serve(double, QUEUED, RUNNING).environment())
    _, err = process.communicate(timeout=UNIT)
    sentence = f"arvados-client: container {UUID} is not running yet (--wait waits for it)\n"
    assert (process.returncode, err.decode()) == (255, sentence)


def test_on_a_terminal(double: Start) -> None:
    """On a terminal one line is written over and over, and is gone before ssh or an error goes on."""
    cancelled = {"state": "Cancelled", "priority": 0, "runtime_status": {"error": "the image is gone"}}
    server = serve(double, QUEUED, QUEUED, cancelled)
    command = [sys.executable, "-m", "proxycommand", "shell", "--wait", UUID]
    with TerminalSession(["env", *(f"{k}={v}" for k, v in server.environment().items()), *command]) as session:
        assert session.wait() == 255
    shown = session.seen.decode()
    line = f"\rarvados-client: waiting: container {UUID} is Queued ("
    assert shown.startswith(f"{line}0 s)\x1b[K{line}")
    assert shown.endswith(
        f"\r\x1b[Karvados-client: container {UUID} is Cancelled: the image is gone; submit it again\r\n"
    )


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"state": "Cancelled", "priority": 0}, "is Cancelled; submit it again"),
        ({"state": "Complete", "priority": 1}, "is Complete; it cannot be entered any more"),
        ({"state": "Queued", "priority": 0}, "is Queued with priority 0: its requests are cancelled"),
    ],
)
def test_ends_without_a_session(double: Start, client: Run, state: Record, sentence: str) -> None:
    """What can never run any more ends the wait with the reason."""
    process = client("ssh-proxy", "--wait", UUID, env=serve(double, QUEUED, state).environment())
    out, err = process.communicate(timeout=2 * UNIT)
    assert (process.returncode, out) == (255, b"")
    assert err.decode().splitlines()[-1] == f"arvados-client: container {UUID} {sentence}"


def test_refusals_are_not_waited_for(double: Start, client: Run) -> None:
    """Who may not enter is told at once, though the container is in the queue."""
    server = double(lambda peer: peer.refuse("403 Forbidden", b'{"errors": ["%s is another user\'s"]}' % UUID.encode()))
    process = client("ssh-proxy", "--wait", UUID, env=server.environment())
    _, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err.decode()) == (255, f"arvados-client: {UUID} is another user's\n")


def test_disabled_is_not_waited_for(double: Start, client: Run) -> None:
    """Where nobody may enter any container that is told at once, not when this one runs."""
    body = b'{"errors": ["shell access is disabled on this cluster"]}'
    record = json.dumps({"uuid": UUID, **QUEUED}).encode()
    server = double(
        lambda peer: peer.refuse("503 No", body) if peer.request[0] == "P" else peer.refuse("200 OK", record)
    )
    process = client("ssh-proxy", "--wait", UUID, env=server.environment())
    _, err = process.communicate(timeout=UNIT)
    assert process.returncode == 255
    assert err.decode().startswith(f"arvados-client: container {UUID}: shell access is disabled on this cluster")


def test_something_else_is_unavailable(double: Start, client: Run) -> None:
    """A container that runs and still cannot be entered ends the wait with the controller's own reason."""
    body = b'{"errors": ["the gateway of %s cannot be reached"]}' % UUID.encode()
    record = json.dumps({"uuid": UUID, **RUNNING}).encode()
    server = double(
        lambda peer: peer.refuse("503 No", body) if peer.request[0] == "P" else peer.refuse("200 OK", record)
    )
    process = client("ssh-proxy", "--wait", UUID, env=server.environment())
    _, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err.decode()) == (255, f"arvados-client: the gateway of {UUID} cannot be reached\n")


def test_request_without_a_container(double: Start, client: Run) -> None:
    """A committed container request is waited for until it has a container."""

    def request(look: int) -> Record:
        return {"state": "Committed", "priority": 1, "container_uuid": UUID if look > 3 else None}

    process = client("ssh-proxy", "--wait", REQUEST, env=serve(double, RUNNING, request=request).environment())
    out, err = process.communicate(timeout=2 * UNIT)
    assert (process.returncode, out) == (0, b"SSH-2.0-x\r\n")
    assert err.decode().startswith(f"arvados-client: waiting: container request {REQUEST} has no container yet (0 s)\n")


def test_another_attempt(double: Start, client: Run) -> None:
    """When a request is given another container in place of a cancelled one, the wait goes on with that."""
    server = serve(
        double, QUEUED, {"state": "Cancelled"}, RUNNING,
        request=lambda look: {"state": "Committed", "priority": 1, "container_uuid": UUID if look == 1 else OTHER},
    )  # fmt: skip
    process = client("ssh-proxy", "--wait", REQUEST, env=server.environment())
    process.communicate(timeout=2 * UNIT)
    assert process.returncode == 0
    assert server.requests[-1].startswith(f"POST /arvados/v1/containers/{OTHER}/ssh ")


@pytest.mark.parametrize("state", [{"state": "Uncommitted"}, {"state": "Committed", "priority": 0}])
def test_request_that_gets_none(double: Start, client: Run, state: Record) -> None:
    """A request that is not submitted, or cancelled, is not waited for."""
    server = serve(double, RUNNING, request=lambda look: {"container_uuid": None, **state})
    process = client("ssh-proxy", "--wait", REQUEST, env=server.environment())
    _, err = process.communicate(timeout=UNIT)
    assert process.returncode == 255
    assert err.decode().startswith(f"arvados-client: container request {REQUEST} has no container yet")


def test_a_short_outage(double: Start, client: Run) -> None:
    """An API that fails once or twice does not end a wait; one that goes on failing does."""
    looks: list[int] = []

    def script(peer: Peer) -> None:
        if peer.request.startswith("POST") and len(looks) < 4:
            return peer.refuse("503 Not now", b"")
        if peer.request.startswith("POST"):
            return peer.switch(KEY_HEADER)
        looks.append(1)
        return peer.refuse("502 Bad", b"") if len(looks) < 4 else peer.refuse("200 OK", json.dumps(RUNNING).encode())

    process = client("ssh-proxy", "--probe-only", "--wait", UUID, env=double(script).environment())
    _, err = process.communicate(timeout=2 * UNIT)
    assert process.returncode == 0, err
    server = double(lambda peer: peer.refuse("503 Not now" if peer.request[0] == "P" else "502 Bad", b""))
    process = client("ssh-proxy", "--wait", UUID, env=server.environment())
    _, err = process.communicate(timeout=2 * UNIT)
    assert (process.returncode, len(server.requests)) == (255, 6)
    assert "answered 502 Bad and gave no reason" in err.decode().splitlines()[-1]


def test_ends_with_ssh(double: Start, client: Run) -> None:
    """When ssh goes away during the wait, so does ssh-proxy, within a second."""
    server = serve(double, QUEUED)
    process = client("ssh-proxy", "--wait", UUID, env=server.environment())
    wait_for(lambda: len(server.requests) > 3, "some looks")
    assert process.stdin and process.stdout
    process.stdin.close()
    process.stdout.close()
    assert process.wait(1.0) == 255


def test_interrupted(double: Start, client: Run) -> None:
    """Ctrl-C ends a wait without a word, with 130."""
    server = serve(double, QUEUED)
    process = client("ssh-proxy", "--wait", UUID, env=server.environment())
    wait_for(lambda: len(server.requests) > 2, "some looks")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err.count(b"\n")) == (130, 1)


def test_a_pause_ends_with_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of days ends when the reader of what is watched goes away; were it slept through, no test would wait."""
    reader, writer = os.pipe()
    wait = Wait(Controller(Settings("api.example.org", 443, "x"), writer), "zzzzz-dz642-abcdeabcdeabcde")
    monkeypatch.setattr(wait, "_pause", 1e6)
    os.close(reader)
    try:
        with pytest.raises(Abandoned):
            wait._sleep("container", "is Queued")
    finally:
        os.close(writer)
