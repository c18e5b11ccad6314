"""The two requests about a session's terminal: pty-req (RFC 4254 §6.2) and window-change (§6.7). Pure.

Owns their wire form and its limits. Does not know what a terminal is made of.
"""

from __future__ import annotations

from dataclasses import replace

from paramiko.message import Message

from crunch_sshd.runtimes import Terminal
from crunch_sshd.ssh.limits import MODES_SIZE, TERM_LENGTH


def terminal(message: Message) -> Terminal | None:
    """Return the terminal that a pty-req asks for; None when its type or its modes are too long."""
    term = message.get_binary().decode("utf-8", "replace")
    found = replace(sized(message, Terminal(term, 0, 0)), modes=message.get_binary())
    return found if len(term) <= TERM_LENGTH and len(found.modes) <= MODES_SIZE else None


def sized(message: Message, before: Terminal) -> Terminal:
    """Return ``before`` with the four sizes that come next in ``message``."""
    columns, rows, width_px, height_px = (message.get_int() for _ in range(4))
    return replace(before, columns=columns, rows=rows, width_px=width_px, height_px=height_px)
