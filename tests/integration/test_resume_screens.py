"""What is on terminals while their sessions have no connection, and afterwards. One interruption is for all tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pyte
import pytest

from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.resume_site import Site, resume_site
from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE, POLL

Look = Callable[[list[str]], bool]


class Window(TerminalSession):
    """Stock ssh in a terminal's window of 24 lines, which it is drawn in."""

    def __init__(self, site: Site, *arguments: str) -> None:
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)
        settings = (f"{name}={value}" for name, value in ({"TERM": "linux"} | site.user.environment).items())
        super().__init__(["env", *settings, *site.user.command(*arguments)])

    def resize(self, rows: int, columns: int) -> None:
        super().resize(rows, columns)
        self._screen.resize(rows, columns)

    @property
    def lines(self) -> list[str]:
        """What is drawn, the top line first."""
        return [line.rstrip() for line in self._screen.display]

    def until(self, look: Look) -> list[str]:
        """Read until the window looks like that; return what is drawn."""
        end = time.monotonic() + DEADLINE
        while not look(self.lines):
            left = end - time.monotonic()
            assert left > 0 and self._read(min(left, POLL)), "\n".join(["another sight was awaited than", *self.lines])
        return self.lines

    def _read(self, timeout: float) -> bool:
        before = len(self.seen)
        alive = super()._read(timeout)
        self._stream.feed(self.seen[before:])
        return alive


def interrupted(lines: list[str]) -> bool:
    """Say whether the line about an interruption is drawn."""
    return any("no connection to" in line for line in lines)


VIM = "seq -f 'line %g' 100 >/tmp/{0}; exec vim.tiny -N -u NONE -i NONE /tmp/{0}"


class Windows:
    """All windows, brought to where they are when the connections are cut; what vim and top had drawn then."""

    def __init__(self, site: Site, busybox: str, debian: str, stack: ExitStack) -> None:
        def window(*arguments: str) -> Window:
            return stack.enter_context(Window(site, "-tt", *arguments))

        self.prompt = window(busybox, "echo ready; read x; echo got $x")
        self.redrawn = window(debian, "trap 'echo drawn anew' WINCH; echo ready; while sleep 0.1; do :; done")
        self.vim, self.resized = window(debian, VIM.format("kept")), window(debian, VIM.format("resized"))
        self.top = window(debian, "exec top -d 0.5")
        for each in (self.prompt, self.redrawn):
            each.until(lambda lines: "ready" in lines)
        self.top.until(whole_top)
        for each in (self.vim, self.resized):
            each.until(lambda lines: "line 23" in lines)
            each.type("10Gohow it was\x1b")
            each.until(lambda lines: lines[10] == "how it was" and "INSERT" not in lines[-1])
        self.vim_before = self.vim.lines

    @property
    def all(self) -> list[Window]:
        return [self.prompt, self.redrawn, self.vim, self.resized, self.top]

    def interrupt(self, site: Site) -> None:
        """Cut all connections until each window says so; resize one of them, and type there, meanwhile."""
        with site.breaker.down():
            for each in self.all:
                each.until(interrupted)
            self.resized.resize(40, 100)
            self.resized.type("20Gotyped meanwhile\x1b")


@pytest.fixture(scope="module")
def windows(
    cluster: EmbeddedCluster, busybox: str, debian: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Windows]:
    """Windows whose sessions had no connection for some seconds."""
    with ExitStack() as stack:
        site = stack.enter_context(resume_site(cluster, tmp_path_factory.mktemp("screens")))
        found = Windows(site, busybox, debian, stack)
        found.interrupt(site)
        yield found


def test_the_line_goes_away(windows: Windows) -> None:
    """After some seconds a line says that there is no connection, and goes away when it is back; the prompt stays."""
    prompt = windows.prompt
    seen = prompt.expect("no connection to")
    assert seen.rfind(b"\x1b7\r\n") > 0
    prompt.expect("\x1b7\r\n\x1b[K\x1b8")
    assert prompt.lines[0] == "ready" and not interrupted(prompt.lines)
    prompt.type("word\r")
    prompt.expect("got word")
    assert prompt.process.wait(DEADLINE) == 0


def test_a_program_is_told(windows: Windows) -> None:
    """A program of the terminal is told to draw its screen anew, although its size has not changed."""
    windows.redrawn.expect("drawn anew")
    windows.redrawn.type("\x03")


def test_vim_keeps_its_screen(windows: Windows) -> None:
    """An editor's screen is as it was, to the last character; it goes on where it was."""
    vim = windows.vim
    assert vim.until(lambda lines: lines == windows.vim_before)[10] == "how it was"
    vim.type("othe next line\x1b")
    assert vim.until(lambda lines: "the next line" in lines)[10:12] == ["how it was", "the next line"]
    vim.type(":q!\r")
    assert vim.wait() == 0


def test_resized_meanwhile(windows: Windows) -> None:
    """What was typed, and the new size of the window, arrive when the connection is back."""
    vim = windows.resized
    lines = vim.until(lambda lines: len(lines) == 40 and lines[38] == "line 37" and not interrupted(lines))
    assert lines[10] == "how it was" and lines[20:22] == ["typed meanwhile", "line 20"]
    vim.type(":!stty size\r")
    vim.until(lambda lines: "40 100" in lines)
    vim.type("\r:q!\r")
    assert vim.wait() == 0


def test_top_goes_on(windows: Windows) -> None:
    """top's screen is whole, and goes on to change."""
    top = windows.top
    before = top.until(whole_top)[0]
    top.until(lambda lines: whole_top(lines) and lines[0][: len("top - HH:MM:SS")] != before[: len("top - HH:MM:SS")])
    top.type("q")
    assert top.wait() == 0


def whole_top(lines: list[str]) -> bool:
    """Say whether top has drawn all there is to see, and nothing else is drawn."""
    heads = [line.split()[0] for line in lines if "COMMAND" in line]
    return lines[0].startswith("top - ") and heads == ["PID"] and not interrupted(lines)
