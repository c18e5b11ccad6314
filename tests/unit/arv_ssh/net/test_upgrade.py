"""The upgrade's request text, and its answer read in pieces of every size."""

import subprocess
import sys
from pathlib import Path

import pytest

from arv_ssh import errors
from arv_ssh.net import upgrade
from arv_ssh.net.upgrade import UpgradeAnswer

SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ssh\r\n"
    b"X-Arvados-Ssh-Host-Key:  ssh-ed25519 AAAA  \r\n\r\n"
)
SENTENCE = b'{"errors": ["container zzzzz-dz642-abcdeabcdeabcde is Queued"], "request_id": "req-1"}'
REFUSED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(SENTENCE), SENTENCE)
)
CHUNKED = (
    b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'10\r\n{"errors":["no s\r\n8;x=y\r\nhell"]} \r\n0\r\n\r\n'
)


def feed(data: bytes, size: int, answer: UpgradeAnswer | None = None) -> UpgradeAnswer:
    """Feed ``data`` in pieces; the rest of the last piece is part of what arrived."""
    answer = answer or UpgradeAnswer("controller")
    for start in range(0, len(data), size):
        if answer.receive(data[start : start + size]):
            return answer
    raise AssertionError("the answer is not complete")


sizes = pytest.mark.parametrize("size", [1, 10, 100_000])


def test_request_text() -> None:
    """A request has the upgrade headers, the caller's, and an exact length of its percent-encoded form."""
    wire = upgrade.request("POST", "/ssh", "h:1", [("X-A", "b")], {"detach_keys": "ctrl-p,é &", "login_username": ""})
    head, _, body = wire.partition(b"\r\n\r\n")
    assert body == b"detach_keys=ctrl-p%2C%C3%A9%20%26&login_username="
    lines = head.split(b"\r\n")
    assert lines[:3] == [b"POST /ssh HTTP/1.1", b"Host: h:1", b"X-A: b"]
    assert {b"Upgrade: ssh", b"Connection: upgrade", b"Content-Length: %d" % len(body)} <= set(lines)


def test_header_injection_is_refused_without_showing_it() -> None:
    """A line break in a header's value raises, and the message does not show the value."""
    with pytest.raises(ValueError) as caught:
        upgrade.request("POST", "/", "h", [("Authorization", "Bearer s3cret\r\nX: y")], {})
    assert "s3cret" not in str(caught.value)


@sizes
def test_switched(size: int) -> None:
    """A 101 is complete at the end of its head, with the headers by lower-case name."""
    answer = feed(SWITCHED, size)
    assert (answer.status, answer.reason) == (101, "Switching Protocols")
    assert answer.headers["x-arvados-ssh-host-key"] == "ssh-ed25519 AAAA"
    assert answer.trailing == b""


def test_bytes_glued_to_the_head_belong_to_ssh() -> None:
    """What follows the head in the same packet is kept, bit by bit as it came."""
    assert feed(SWITCHED + b"SSH-2.0-x\r\n\r\n\0", 100_000).trailing == b"SSH-2.0-x\r\n\r\n\0"


@sizes
def test_interim_answers_are_skipped(size: int) -> None:
    """100 Continue and 103 Early Hints are not the answer."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    answer = feed(interim + SWITCHED, size)
    assert answer.status == 101
    assert "link" not in answer.headers


@sizes
def test_refusal(size: int) -> None:
    """An error is complete at the end of its body, and becomes our error with the server's sentence."""
    error = feed(REFUSED, size).error()
    assert isinstance(error, errors.Unavailable)
    assert str(error) == "container zzzzz-dz642-abcdeabcdeabcde is Queued"


@sizes
def test_chunked_refusal(size: int) -> None:
    """A chunked error body is put together."""
    error = feed(CHUNKED, size).error()
    assert isinstance(error, errors.Forbidden)
    assert str(error) == "no shell"


def test_refusal_that_ends_with_the_connection() -> None:
    """A body without a length ends where the connection does."""
    answer = UpgradeAnswer()
    assert not answer.receive(b'HTTP/1.0 404 Not Found\r\n\r\n{"errors": ["no such\\n container"]}')
    assert answer.receive(b"")
    assert str(answer.error()) == "no such container"


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"<html>nginx</html>", "Bad Gateway"), (b'{"errors": []}', "Bad Gateway"), (b"[1]", "Bad Gateway"), (b"", "")],
)
def test_refusal_without_a_sentence(body: bytes, reason: str) -> None:
    """A body with no reason in it still gives a sentence with the status."""
    wire = b"HTTP/1.1 502 %s\r\nContent-Length: %d\r\n\r\n%s" % (reason.encode(), len(body), body)
    error = feed(wire, 7).error()
    assert isinstance(error, errors.BadGateway)
    assert str(error) == f"controller answered 502 {reason}".rstrip() + " and gave no reason"


def test_success_that_is_no_upgrade() -> None:
    """A 200 to an upgrade says that this is not the right server."""
    error = feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 5).error()
    assert str(error).startswith("controller answered 200 OK instead of switching to SSH;")


def test_truncated_body_keeps_the_status() -> None:
    """A connection that ends inside an error's body still tells which error it was."""
    answer = UpgradeAnswer("controller")
    assert not answer.receive(REFUSED[:-10])
    assert answer.receive(b"")
    assert str(answer.error()) == "controller answered 503 Service Unavailable and gave no reason"


def test_endless_body_is_cut() -> None:
    """No more than the limit of a body is kept or waited for."""
    answer = UpgradeAnswer("controller")
    assert not answer.receive(b"HTTP/1.1 500 Oops\r\n\r\n")
    for _ in range(100):
        if answer.receive(b"x" * 1000):
            break
    assert len(answer.body) == upgrade.BODY_LIMIT
    assert answer.error().status == 502


@sizes
def test_header_block_over_the_limit(size: int) -> None:
    """An over-long header block is refused as soon as it is over the limit, complete or not."""
    wire = b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"a" * upgrade.HEAD_LIMIT
    for data in (wire, wire + b"\r\n\r\n"):
        with pytest.raises(errors.BadGateway, match="more than 16384 bytes"):
            feed(data, size)


@sizes
def test_long_trailing_bytes_are_no_header(size: int) -> None:
    """The limit is one of the head: any number of SSH bytes may follow it."""
    answer = feed(SWITCHED + b"s" * 2 * upgrade.HEAD_LIMIT, size)
    assert answer.status == 101


@pytest.mark.parametrize("cut", [0, 1, 20, len(SWITCHED) - 1])
def test_truncated_head(cut: int) -> None:
    """A connection that ends inside the head is an answer that never came."""
    answer = UpgradeAnswer("controller")
    if cut:
        assert not answer.receive(SWITCHED[:cut])
    with pytest.raises(errors.BadGateway, match="controller closed the connection before it answered"):
        answer.receive(b"")


@pytest.mark.parametrize("wire", [b"SSH-2.0-OpenSSH_9.2\r\n", b"H2", b"\x15\x03\x01\x00", b"HTTP/2 101 \r\n"])
def test_not_http_is_told_at_once(wire: bytes) -> None:
    """A server that speaks something else is told from its first bytes; nothing waits for a head that never comes."""
    with pytest.raises(errors.BadGateway, match="does not answer in HTTP"):
        UpgradeAnswer().receive(wire)


@sizes
@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b"HTTP/1.1 abc Nope\r\n\r\n", "malformed HTTP status line"),
        (b"HTTP/1.1 101 ok\r\nUpgrade ssh\r\n\r\n", "malformed HTTP header"),
        (b"HTTP/1.1 101 ok\r\nUpgrade: ssh\r\n folded\r\n\r\n", "malformed HTTP header"),
        (b"HTTP/1.1 101 ok\r\nUpgrade: websocket\r\n\r\n", "a protocol other than SSH"),
        (b"HTTP/1.1 101 ok\r\n\r\n", "a protocol other than SSH"),
        (b"HTTP/1.1 404 ok\r\n: x\r\n\r\n", "answered 404 in malformed HTTP"),
        (b"HTTP/1.1 404 ok\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "answered 404 in malformed HTTP"),
    ],
)
def test_malformed(wire: bytes, message: str, size: int) -> None:
    """Malformed HTTP is the server's fault, in one sentence."""
    with pytest.raises(errors.BadGateway, match=message):
        feed(wire, size)


def test_h11_is_not_imported_for_an_upgrade() -> None:
    """Reading a 101 imports neither h11 nor json: ssh-proxy pays for each import on each connection."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from arv_ssh.net.upgrade import *\n"
        f"assert UpgradeAnswer().receive({SWITCHED!r})\n"
        "assert not {'h11', 'json', 'urllib.parse'} & set(sys.modules), sys.modules"
    )
    root = str(Path(upgrade.__file__).parents[2])
    # Without site: an editable install has a .pth file that imports pathlib and more.
    subprocess.run([sys.executable, "-I", "-S", "-c", code, root], check=True, timeout=30)
