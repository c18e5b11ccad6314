"""Ids of requests, as they stand in logs and in messages."""

from __future__ import annotations

import re

from arv_ssh.client import request_id


def test_new() -> None:
    """An id has the form that Arvados gives its own, and no two are the same."""
    made = {request_id.new() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch("req-[0-9a-z]{20}", one) for one in made)
