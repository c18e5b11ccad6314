"""How the container is found without stock's help."""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from arv_ssh.errors import NotFound, Unavailable
from crunch_sshd.beside import container_search
from crunch_sshd.beside.container_search import EngineSearch, NamespaceSearch, descendants
from crunch_sshd.runtimes import docker_engine, host_processes
from crunch_sshd.runtimes.host_processes import Stat
from tests.timing import DEADLINE

UUID = "zzzzz-dz642-abcdeabcdeabcde"
Table = dict[int, tuple[int, int, int, str]]


class Engine:
    """An engine that knows what ``answer`` returns, and has one event."""

    def __init__(self, answer: Callable[[], dict[str, Any]]) -> None:
        self._answer = answer
        self.api = self
        self.asked: list[Any] = []

    def inspect_container(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        return self._answer()

    def events(self, filters: Any) -> list[str]:
        self.asked.append(filters)
        return ["start"]

    def close(self) -> None:
        """Nothing is open."""


def raising(error: Exception) -> Callable[[], dict[str, Any]]:
    def answer() -> dict[str, Any]:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda: {"Id": "full", "State": {"Running": True}}, "full"),
        (lambda: {"Id": "full", "State": {"Running": False}}, ""),
        (raising(NotFound("no such container")), ""),
        (raising(Unavailable("no engine")), ""),
    ],
)
def test_by_name(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], dict[str, Any]], found: str) -> None:
    """The container has the UUID as its name, and counts once it runs; an engine that is away is asked again."""
    engine = Engine(answer)
    monkeypatch.setattr(docker_engine, "connect", lambda: engine)
    assert EngineSearch(UUID).find() == found
    assert engine.asked == [UUID]


def test_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's start event of that container has it looked for again."""
    engine = Engine(lambda: {})
    monkeypatch.setattr(docker_engine, "connect", lambda: engine)
    seen: queue.Queue[None] = queue.Queue()
    container_search.search("docker", UUID, 1).watch(lambda: seen.put(None))
    seen.get(timeout=DEADLINE)
    assert engine.asked == [{"container": [UUID], "event": ["start"], "type": ["container"]}]


class Host:
    """Processes: parent, depth of pid namespaces, pid in the innermost, name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, table: Table) -> None:
        for pid, (*_, name) in table.items():
            (tmp_path / str(pid)).mkdir()
            (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
        every = [Stat(pid, "S", parent, pid, pid, 0, pid) for pid, (parent, *_) in table.items()]
        monkeypatch.setattr(host_processes, "PROC", tmp_path)
        monkeypatch.setattr(host_processes, "processes", lambda: every)
        monkeypatch.setattr(host_processes, "namespace_depth", lambda pid: table[pid][1])
        monkeypatch.setattr(host_processes, "pid_inside", lambda pid: table[pid][2])


@pytest.mark.parametrize(
    ("processes", "found"),
    [
        ({}, ""),
        ({12: (11, 1, 12, "starter")}, ""),
        ({12: (11, 1, 12, "starter"), 13: (12, 2, 1, "python3"), 14: (13, 2, 2, "sh")}, "13"),
        ({12: (11, 1, 12, "starter"), 13: (12, 2, 1, "appinit")}, ""),
        ({12: (11, 1, 12, "starter"), 13: (12, 2, 1, "sinit"), 14: (13, 2, 2, "sh")}, "14"),
        ({12: (10, 1, 12, "starter"), 13: (12, 2, 1, "python3")}, ""),
    ],
)
def test_by_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, processes: Table, found: str
) -> None:
    """The leader of a pid namespace below stock's process is the container, or what the engine's own init runs."""
    Host(monkeypatch, tmp_path, {10: (1, 1, 10, "sshd"), 11: (10, 1, 11, "crunch-run")} | processes)
    assert NamespaceSearch(11).find() == found


def test_descendants() -> None:
    """They are found below a living process, down to grandchildren."""
    with subprocess.Popen(["sh", "-c", "sh -c 'echo; read line; :'; :"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert [one.parent for one in descendants(process.pid)] == [process.pid]
        process.communicate()
