"""What the client asks of the controller, and the sentence for each refusal, through ssh-proxy."""

from __future__ import annotations

import re
import threading

import pytest

from arv_ssh.client.controller import Controller
from tests.unit.conftest import Run, Start
from tests.unit.controller_double import UNIT, Peer
from tests.unit.ssh_proxy import REQUEST, UUID, echo, finish


def test_the_request(double: Start, client: Run) -> None:
    """The request names the container, carries the token, and asks for the login name; "_" is sent as none."""
    server = double(echo)
    for user, sent in (([], b"login_username=&"), (["--user", "_"], b"login_username=&"), (["--user=ann"], b"=ann&")):
        finish(client("ssh-proxy", *user, UUID, "--detach-keys", "ctrl-a,d", env=server.environment()))
        assert server.requests[-1].startswith(f"POST /arvados/v1/containers/{UUID}/ssh HTTP/1.1\r\n")
        assert "\r\nUpgrade: ssh" in server.requests[-1]
        assert "\r\nAuthorization: Bearer v2/" in server.requests[-1]
        assert sent in server.bodies[-1]
        assert server.bodies[-1].endswith(b"detach_keys=ctrl-a%2Cd")


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        ("401 Unauthorized", b'{"errors": ["Not logged in"]}', "does not accept the token (Not logged in); set ARV"),
        ("401 Unauthorized", b"", "does not accept the token; set ARVADOS_API_TOKEN to a current token"),
        ("403 Forbidden", b'{"errors": ["no shell in %s: ask ann"]}' % UUID.encode(), f"no shell in {UUID}: ask ann"),
        ("404 Not Found", b'{"errors": ["no such thing"]}', f"container {UUID}: no such thing"),
        ("404 Not Found", b"<html>", f"{UUID}: HOST answered 404 Not Found and gave no reason; check the UUID"),
        ("410 Gone", b'{"errors": ["%s has ended"]}' % UUID.encode(), f"{UUID} has ended"),
        ("429 Too Many Requests", b"", f"{UUID}: HOST answered 429 Too Many Requests and gave no reason; close"),
        ("500 Oops", b"", f"container {UUID}: HOST answered 500 Oops and gave no reason; try again, and tell"),
        ("502 Bad Gateway", b'{"errors": ["it failed"]}', f"container {UUID}: it failed"),
        ("503 Service Unavailable", b'{"errors": ["is Queued"]}', f"container {UUID}: is Queued"),
        ("504 Gateway Timeout", b'{"errors": ["no\\nanswer"]}', f"container {UUID}: no answer"),
        ("200 OK", b"hello", "HOST answered 200 OK instead of switching to SSH; is it an Arvados controller"),
        ("302 Found", b"", "HOST answered 302 Found instead of switching to SSH; is it an Arvados controller"),
    ],
)
def test_refusals(double: Start, client: Run, status: str, body: bytes, sentence: str) -> None:
    """Each refusal of the controller is one line that names the thing, its state and the next step; exit 255."""
    server = double(lambda peer: peer.refuse(status, body))
    process = client("ssh-proxy", UUID, env=server.environment())
    out, err = finish(process)
    assert (process.returncode, out) == (255, b"")
    assert err.startswith("arvados-client: ")
    assert err.count("\n") == 1
    assert sentence.replace("HOST", server.settings().authority) in err
    assert "secretofactiveuser" not in err


def test_request_id(double: Start, client: Run) -> None:
    """One id of Arvados' shape goes with all requests of an ssh-proxy, and into an error that the server left bare."""

    def script(peer: Peer) -> None:
        if peer.request.startswith("GET"):
            return peer.refuse("200 OK", b'{"container_uuid": "%s"}' % UUID.encode())
        return peer.refuse("503 Service Unavailable", b"")

    server = double(script)
    seen = []
    for _ in range(2):
        _, err = finish(client("ssh-proxy", REQUEST, env=server.environment()))
        sent = {match for head in server.requests[-2:] for match in re.findall("\r\nX-Request-Id: (.*)\r", head)}
        assert len(sent) == 1
        seen.append(sent.pop())
        assert re.fullmatch("req-[0-9a-z]{20}", seen[-1])
        assert err.endswith(f"(request {seen[-1]})\n")
    assert seen[0] != seen[1]


def test_what_is_done_while_the_answer_is_on_its_way(double: Start) -> None:
    """What a session needs is made ready after its request has gone, and before the answer to it comes."""
    asked, ready = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        asked.set()
        assert ready.wait(UNIT)
        peer.switch()

    def get_ready() -> None:
        assert asked.wait(UNIT)
        ready.set()

    controller = Controller(double(script).settings(), meanwhile=get_ready)
    controller.open_session(UUID, "_", "").connection.close()
    assert ready.is_set()
