"""Reading what a client asks of a terminal."""

from __future__ import annotations

import pytest
from paramiko.message import Message

from crunch_sshd.runtimes import Terminal
from crunch_sshd.session import terminal_requests
from crunch_sshd.ssh.limits import MODES_SIZE, TERM_LENGTH


def wire(*fields: int | bytes) -> Message:
    message = Message()
    for field in fields:
        if isinstance(field, int):
            message.add_int(field)
        else:
            message.add_string(field)
    return Message(message.asbytes())


def test_request() -> None:
    """Type, sizes and modes are the client's; bytes of the type that are no UTF-8 are replaced."""
    found = terminal_requests.terminal(wire(b"xterm\xff", 80, 24, 640, 480, b"\x35\0\0\0\1\0"))
    assert found == Terminal("xterm\ufffd", 80, 24, 640, 480, b"\x35\0\0\0\1\0")


@pytest.mark.parametrize(("term", "modes", "taken"), [
    (TERM_LENGTH, MODES_SIZE, True), (TERM_LENGTH + 1, 0, False), (1, MODES_SIZE + 1, False)
])  # fmt: skip
def test_limits(term: int, modes: int, taken: bool) -> None:
    """The longest that is taken, and one more."""
    found = terminal_requests.terminal(wire(b"x" * term, 80, 24, 0, 0, bytes(modes)))
    assert (found is not None) is taken


def test_change() -> None:
    """A window-change has sizes only."""
    before = Terminal("xterm", 80, 24, modes=b"\0")
    assert terminal_requests.sized(wire(100, 50, 1, 2), before) == Terminal("xterm", 100, 50, 1, 2, b"\0")
