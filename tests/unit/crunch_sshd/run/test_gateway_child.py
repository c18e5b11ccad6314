"""crunch-run's side of its gateway, with a process that dies, fails, grows or does not listen, as a script says."""

from __future__ import annotations

import ctypes
import os
import queue
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arv_ssh.errors import ConfigError, Unavailable
from crunch_sshd.gateway.memory_limit import resident
from crunch_sshd.gateway_options import GatewayOptions
from crunch_sshd.run import gateway_child, gateway_leftovers
from crunch_sshd.run.gateway_child import GatewayChild
from tests.timing import DEADLINE, wait_for

UUID = "zzzzz-dz642-abcdeabcdeabcde"
SECRET = "5ecret"  # noqa: S105 - nobody's
ROOT = Path(__file__).parents[4]
MIB = 1 << 20


class Scripted:
    """A gateway child whose processes follow a script; ``moves`` are the addresses that it had recorded."""

    def __init__(self, directory: Path, *words: str, **options: object) -> None:
        self._script = directory / "script"
        self._script.write_text("".join(f"{word}\n" for word in words))
        os.environ["SCRIPT"] = str(self._script)
        self.moves: queue.Queue[str] = queue.Queue()
        self.child = GatewayChild(UUID, SECRET, GatewayOptions(**options))  # type: ignore[arg-type]
        self.child.start()

    def serve(self) -> str:
        """Have it serve a container."""
        return self.child.serve("a container", self.moves.put)

    def log(self) -> list[list[str]]:
        """Return what the processes have noted: pid, and words."""
        path = Path(f"{self._script}.log")
        return [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []


Start = Callable[..., Scripted]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a child with a script; it is stopped at the end, whatever the test did."""
    monkeypatch.setattr(gateway_child, "MODULE", "tests.unit.crunch_sshd.run.scripted_gateway")
    monkeypatch.setattr(gateway_child, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(gateway_leftovers, "_hang_up_execs", lambda container: None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SCRIPT", "")
    monkeypatch.setenv("ARVADOS_API_TOKEN", "v2/token")
    made: list[Scripted] = []

    def begin(*words: str, **options: object) -> Scripted:
        made.append(Scripted(tmp_path, *words, **options))
        return made[-1]

    yield begin
    for one in made:
        one.child.stop("the test is over")
    ctypes.CDLL(None).prctl(gateway_leftovers.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(DEADLINE)
        return probe.connect_ex((host, int(port))) == 0


def test_a_life(start: Start) -> None:
    """It serves at the address that crunch-run bound, is told why it must stop, and then nobody listens there."""
    one = start()
    one.child.check()
    wait_for(one.log)
    address = one.serve()
    assert connects(address)
    one.child.stop("container has ended (exit 3)")
    (_, *begun), (_, *stopped) = one.log()
    assert begun == ["", UUID, SECRET] and " ".join(stopped) == "stopped container has ended (exit 3)"
    assert not connects(address)
    one.child.stop("again")


@pytest.mark.parametrize("words", [["die"], ["die-serving"], ["die-serving", "die", "die-serving", "fail", "die"]])
def test_it_dies(start: Start, words: list[str]) -> None:
    """However often it dies, and when, another one serves at the same address, which took connections meanwhile."""
    one = start(*words)
    address = one.serve()
    assert connects(address)
    wait_for(lambda: len(one.log()) == len(words) + 1, "one that lives")
    assert len({pid for pid, *_ in one.log()}) == len(words) + 1
    assert one.serve() == address or one.child._listener is None


def test_sessions_are_counted(start: Start) -> None:
    """crunch-run hears how many sessions are open, and that none is when their process has died."""
    counts: queue.Queue[int] = queue.Queue()
    one = start("entered")
    one.child.serve("a container", one.moves.put, counts.put)
    assert [counts.get(timeout=DEADLINE) for _ in range(2)] == [2, 0]


def test_a_tunnel_moves(start: Start) -> None:
    """Where the gateway has a tunnel, each new process's address is recorded."""
    one = start("die-serving", tunnel="https://c")
    one.serve()
    wait_for(lambda: len(one.log()) == 2, "the second one")
    expected = [f"tunnel https://c{pid}/" for pid, *_ in one.log()]
    assert [one.moves.get(timeout=DEADLINE) for _ in expected] == expected


def test_it_cannot_be(start: Start) -> None:
    """What the process says before any container is known is the error of the same class."""
    with pytest.raises(ConfigError, match="no such thing as paramiko"):
        start("fail", "fail", "fail").child.check()


def test_it_refuses_the_container(start: Start) -> None:
    """What it says of the container is raised to whoever asked to serve it."""
    one = start("refuse", "refuse")
    one.child.check()
    with pytest.raises(Unavailable, match="is paused"):
        one.serve()


def test_it_eats_memory(start: Start) -> None:
    """One that grows beyond its limit is ended before it has much more, and another one serves."""
    one = start("eat", memory=160 * MIB)
    one.serve()
    pid = int(wait_for(one.log)[0][0])
    most = 0
    while size := resident(pid):
        most = max(most, size)
        os.sched_yield()
    assert most < 4096 * MIB
    wait_for(lambda: len(one.log()) == 2, "the next one")


@pytest.mark.parametrize("frozen", [False, True])
def test_it_does_not_listen(start: Start, monkeypatch: pytest.MonkeyPatch, frozen: bool) -> None:
    """One that does not stop when told, or can hear nothing, is killed after its time."""
    monkeypatch.setattr(gateway_child, "STOP_TIMEOUT", 0.1)
    one = start("deaf")
    one.serve()
    pid = int(wait_for(one.log)[0][0])
    if frozen:
        os.kill(pid, 19)
    one.child.stop("now")
    assert not Path(f"/proc/{pid}").exists()


def test_stopped_before_it_serves(start: Start) -> None:
    """It can be stopped at any moment, also while its process starts, and unstarted."""
    start().child.stop("never mind")
    one = start()
    one.child.check()
    one.child.stop("never mind")
    GatewayChild(UUID, SECRET, GatewayOptions()).stop("")


def test_the_port_is_taken() -> None:
    """A port that cannot be had is said before any process is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(ConfigError, match="cannot listen on"):
            GatewayChild(UUID, SECRET, GatewayOptions(port=other.getsockname()[1]))
