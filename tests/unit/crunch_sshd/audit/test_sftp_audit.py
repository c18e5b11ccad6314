"""What stands between a client and its file server while records are required: nothing passes before its record."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, cast

import pytest

from arv_ssh.audit.trail import NotRecorded
from crunch_sshd.audit.sftp_audit import LOOK, SftpAudit
from crunch_sshd.inside.sftp import wire

REMOVE = bytes([wire.REMOVE]) + (7).to_bytes(4, "big") + (5).to_bytes(4, "big") + b"/file"
REQUEST = len(REMOVE).to_bytes(4, "big") + REMOVE


class Audit:
    """Hands out records that the test lets be written."""

    required = True

    def __init__(self) -> None:
        self.futures: list[Future[None]] = []

    def commit(self, name: str, **fields: Any) -> Future[None]:
        self.futures.append(Future())
        return self.futures[-1]

    def refusal(self, error: BaseException) -> NotRecorded:
        return NotRecorded(f"no record: {error}")

    def note(self, name: str, **fields: Any) -> None:
        pass


class Server:
    """Takes so many bytes at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = bytearray()
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        self.taken += data[: self.room]
        return min(self.room, len(data))

    def wait_writable(self, timeout: float) -> bool:
        return True

    def close_stdin(self) -> None:
        self.closed = True


def watched(room: int = 1000) -> tuple[SftpAudit, Audit, Server]:
    audit, server = Audit(), Server(room)
    return SftpAudit(cast(Any, audit)).attach(server), audit, server


def test_nothing_passes_before_its_record() -> None:
    """A request waits for its record; then all of it passes, in the pieces that the server takes."""
    sftp, audit, server = watched(room=5)
    assert sftp.write(REQUEST) == 0 and not server.taken
    (future,) = audit.futures
    future.set_result(None)
    rest = memoryview(REQUEST)
    while rest:
        rest = rest[sftp.write(rest) :]
    assert server.taken == REQUEST
    assert len(audit.futures) == 1, "a request is recorded once"


def test_record_that_cannot_be_written() -> None:
    """The server gets no more to do, and the session hears why."""
    sftp, audit, server = watched()
    sftp.write(REQUEST)
    audit.futures[0].set_exception(OSError("the disk is full"))
    with pytest.raises(BrokenPipeError):
        sftp.write(REQUEST)
    assert server.closed and not server.taken
    assert str(sftp.refusal) == "no record: the disk is full"


def test_bytes_that_come_while_a_record_waits() -> None:
    """What is joined to a request that waits is looked at only after it, and passes only with its own record."""
    sftp, audit, server = watched()
    assert sftp.write(REQUEST) == 0
    audit.futures[0].set_result(None)
    assert sftp.write(REQUEST * 2) == len(REQUEST)
    assert server.taken == REQUEST
    assert sftp.write(REQUEST) == 0 and len(audit.futures) == 2
    audit.futures[1].set_result(None)
    assert sftp.write(REQUEST) == len(REQUEST)


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    "request_",
    [bytes([wire.WRITE]) + bytes(8), bytes([wire.WRITE]) + bytes(4) + wire.text(b"h" * 300) + bytes(99)],
    ids=["only a handle", "a long handle"],
)
def test_what_the_server_understands_better(request_: bytes, required: bool) -> None:
    """A request that the file server answers with a status, but that cannot be followed, ends the session."""
    sftp, audit, server = watched()
    audit.required = required
    with pytest.raises(BrokenPipeError):
        sftp.write(wire.text(request_) + REQUEST)
    assert server.closed and not server.taken
    assert sftp.refusal is not None and "cannot be followed" in str(sftp.refusal)


STAT = wire.text(bytes([wire.STAT]) + bytes(8))
"""A request that takes less to send than to keep."""


def answered(count: int) -> bytes:
    return wire.text(bytes([wire.ATTRS]) + bytes(4)) * count


def test_client_that_sends_faster_than_the_server_answers() -> None:
    """Its requests are left with it until the server has answered some; then all of them pass, in order."""
    sftp, _, server = watched(room=1 << 20)
    flood = memoryview(STAT * 10_000)
    taken = 0
    while size := sftp.write(flood[taken:]):
        taken += size
    assert taken == 4096 * len(STAT) == len(server.taken)
    assert not sftp.wait_writable(0)
    sftp.answers(answered(4096))
    assert sftp.wait_writable(0)
    while taken < len(flood):
        taken += sftp.write(flood[taken:])
        sftp.answers(answered(1))
    assert server.taken == flood


def test_what_was_looked_at_waits_for_the_server_only() -> None:
    """Requests that the server has not got yet are passed on, not waited for: it cannot answer them before."""
    sftp, _, server = watched(room=0)
    assert sftp.write(STAT * 5000) == 0
    assert sftp.wait_writable(0)
    server.room = 1 << 20
    assert sftp.write(STAT * 5000) == 4096 * len(STAT)


def test_long_pieces_are_looked_at_in_part() -> None:
    """The audit holds what it looks at, and it looks at no more than it may."""
    sftp, _, server = watched(room=1 << 20)
    assert sftp.write(wire.text(bytes([wire.WRITE]) + bytes(200_000))) == LOOK
    assert len(server.taken) == LOOK
