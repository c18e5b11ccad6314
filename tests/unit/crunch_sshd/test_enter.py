"""The ticket of a process that enters a container."""

from __future__ import annotations

import pytest

from crunch_sshd.enter import Ticket


@pytest.mark.parametrize(
    "ticket",
    [
        Ticket({"mnt": 5, "net": 6}, 7, 1000, 1001, [1001, 27], 0xA80425FB),
        Ticket({}, 3, 0, 0, [], 0),
    ],
)
def test_ticket(ticket: Ticket) -> None:
    """A ticket comes out of its text as it went in."""
    assert vars(Ticket.decode(ticket.encode())) == vars(ticket)
