"""The progress bar of ``arvados-client speedtest``; the measurements need a container and are tested with one."""

from __future__ import annotations

import sys

import pytest

from tests.integration.terminal import TerminalSession

SHOW = "from proxycommand.speedtest import Progress; Progress().show('connect', 1, '182933.7 MB/s')"


@pytest.mark.parametrize(("columns", "bar"), [(80, 30), (40, 15), (20, 0)])
def test_narrow_terminal(columns: int, bar: int) -> None:
    """The bar gives way where a terminal is narrow: a line that wraps would be left behind, once for each step."""
    with TerminalSession([sys.executable, "-c", SHOW], size=(24, columns)) as session:
        assert session.wait() == 0
    shown = session.seen.decode()
    line = f"connect [{'#' * bar}] 182933.7 MB/s"[: columns - 1]
    assert shown == f"\r{line}\x1b[K"
