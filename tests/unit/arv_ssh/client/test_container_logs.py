"""Lines of several files in the order of time, read on from where the last look ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from arv_ssh.client import container_logs
from arv_ssh.client.container_logs import ContainerLog
from arv_ssh.client.controller import Controller
from arv_ssh.errors import BadGateway, HttpError

REQUEST, CONTAINER = "zzzzz-xvhdp-000000000000001", "zzzzz-dz642-000000000000001"


class Answer:
    """An answer to a look, in pieces of three bytes."""

    def __init__(self, status: int, body: bytes = b"", total: int | None = None) -> None:
        self.status, self.total, self._body = status, total, body

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), 3):
            yield self._body[start : start + 3]

    def refusal(self) -> HttpError:
        return BadGateway("refused")


class Server:
    """Files by their names; with ``ranges`` False it sends them whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **files: bytes) -> None:
        self.files = {f"{name.replace('_', '-')}.txt": content for name, content in files.items()}
        self.ranges = True
        monkeypatch.setattr(container_logs, "download", self.download)

    @contextmanager
    def download(self, controller: Any, path: str, start: int) -> Iterator[Answer]:
        prefix, _, name = path.rpartition("/")
        assert prefix == f"/arvados/v1/container_requests/{REQUEST}/log/{CONTAINER}"
        if name not in self.files:
            yield Answer(404)
        elif not self.ranges:
            yield Answer(200, self.files[name])
        elif start < len(self.files[name]):
            yield Answer(206, self.files[name][start:])
        else:
            yield Answer(416, total=len(self.files[name]))


def log() -> ContainerLog:
    return ContainerLog(cast(Controller, None), REQUEST, CONTAINER)


def look(one: ContainerLog, *, final: bool = False) -> list[str]:
    return [f"{line.file}: {line.text.decode()}" for line in one.new_lines(final=final)]


def test_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are in the order of their times; one without a time stays behind the one before it, or comes last."""
    Server(
        monkeypatch,
        crunch_run=b'{"time": "2026-01-01T00:00:01.5Z"}\n2026-01-01T00:00:03.000Z end\n',
        stderr=b"2026-01-01T00:00:02.1Z first\n  continued\n2026-01-01T00:00:04Z last\n",
        stdout=b"no time\n",
    )
    assert look(log()) == [
        'crunch-run.txt: {"time": "2026-01-01T00:00:01.5Z"}', "stderr.txt: 2026-01-01T00:00:02.1Z first",
        "stderr.txt:   continued", "crunch-run.txt: 2026-01-01T00:00:03.000Z end",
        "stderr.txt: 2026-01-01T00:00:04Z last", "stdout.txt: no time",
    ]  # fmt: skip


@pytest.mark.parametrize("ranges", [True, False])
def test_growing(monkeypatch: pytest.MonkeyPatch, ranges: bool) -> None:
    """Each look gives what is new, in whole lines; the final one also what has no end."""
    server = Server(monkeypatch, stderr=b"one\ntw")
    server.ranges = ranges
    one = log()
    assert look(one) == ["stderr.txt: one"] and look(one) == []
    server.files["stderr.txt"] += b"o\nthree\xc3"
    assert look(one) == ["stderr.txt: two"]
    server.files["stderr.txt"] += b"\xa4"
    assert look(one, final=True) == ["stderr.txt: threeä"]


def test_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another attempt to run the container begins its log anew, and so do we."""
    server = Server(monkeypatch, stderr=b"first attempt\n")
    one = log()
    assert look(one) == ["stderr.txt: first attempt"]
    server.files["stderr.txt"] = b"second\n"
    assert look(one) == [] and look(one) == ["stderr.txt: second"]


def test_endless_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that does not end is shown in parts: it is not all kept."""
    monkeypatch.setattr(container_logs, "LONGEST_LINE", 10)
    Server(monkeypatch, stderr=b"x" * 30)
    assert "".join(line.partition(": ")[2] for line in look(log(), final=True)) == "x" * 30


def test_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other answer is the server's refusal."""
    @contextmanager
    def refuse(*_: Any) -> Iterator[Answer]:
        yield Answer(503)

    monkeypatch.setattr(container_logs, "download", refuse)
    with pytest.raises(BadGateway, match="refused"):
        look(log())
