"""What is used when nothing happens, and that a long transfer takes no more: memory and processor time, absolute."""

from __future__ import annotations

import resource
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from arv_ssh.resume.core import ASK_AFTER
from tests.bench import cpu
from tests.bench.crowd import Crowd, EchoGateway
from tests.bench.places import Places
from tests.bench.rows import Scale
from tests.bench.target import Failed, Target, run
from tests.bench.transfers import output_command
from tests.integration.controllers import Controller, started

MB, KB = 1 << 20, 1 << 10
OPEN_SESSIONS = 20
PROBES = 15
"""Sessions opened one by one, to see how long each takes."""
SETTLED = 2.0
"""Seconds after which what has just ended is gone."""
CONFIRMED = ASK_AFTER + SETTLED
"""Seconds after which both ends of a resumable session that does nothing have confirmed all."""
TURNS = 2


@dataclass(frozen=True)
class Fact:
    """One figure and the most it may be; ``limit`` None where the figure only explains another."""

    name: str
    what: str
    value: float
    unit: str
    limit: float | None

    @property
    def holds(self) -> bool:
        """Say whether the figure is within its limit."""
        return self.limit is None or self.value <= self.limit


def gateway(places: Places, scale: Scale) -> list[Fact]:
    """Measure crunch-run and the gateway that is its child: idle, and the gateway with open sessions."""
    run(places.path.ssh("true"))
    pid = places.cluster.gateway_pid(places.container_uuid)
    time.sleep(SETTLED)
    idle, share = cpu.resident(pid), _share(pid, scale.idle_seconds)
    with ExitStack() as stack:
        for _ in range(OPEN_SESSIONS):
            _open(places.path, stack)
        each = (cpu.resident(pid) - idle) / OPEN_SESSIONS
    job = cpu.resident(places.cluster.crunch_run_pid(places.container_uuid))
    return [
        Fact("gateway-idle-memory", "gateway, idle", idle / MB, "MB", 70),
        Fact("crunch-run-idle-memory", "crunch-run beside it", job / MB, "MB", 45),
        Fact("gateway-idle-cpu", "gateway, idle", share, "% of a core", 0.1),
        Fact("gateway-session-memory", "gateway, each open session", each / MB, "MB", 1.5),
    ]


def _open(target: Target, stack: ExitStack) -> None:
    """Open a session that does nothing."""
    process = subprocess.Popen(target.ssh("echo open; exec cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    stack.enter_context(process)
    stack.callback(process.stdin.close)
    if process.stdout.read(5) != b"open\n":
        raise Failed(f"a session to {target.host} ended before it began")


def resumable(places: Places, scale: Scale) -> list[Fact]:
    """Measure a gateway with idle sessions, as many that outlive their connection as such that do not, in turns."""
    with ExitStack() as stack:
        kinds = [partial(_open, target, stack) for target in (places.path, places.ending)]
        for open_one in kinds:
            open_one()  # the first one pays for what is cached later
        pid = places.cluster.gateway_pid(places.container_uuid)
        ours, reference = each_takes(kinds, 2 * scale.logins, lambda: cpu.proportional(pid), CONFIRMED)
    what = "gateway, each idle session"
    return [
        Fact("resume-memory", f"{what}: more if resumable", (ours - reference) / KB, "KB", 64),
        Fact("resume-memory-without", f"{what} with --no-resume", reference / KB, "KB", None),
    ]


def each_takes(
    kinds: Sequence[Callable[[], None]], number: int, measure: Callable[[], int], settling: float
) -> list[float]:
    """Return what one of each kind adds to what is measured, the mean of two turns in which ``number`` are added.

    Nothing is taken away meanwhile: what others have given back would take nothing. ``settling`` is in seconds.
    """
    added = [0] * len(kinds)
    time.sleep(settling)
    before = measure()
    for _ in range(TURNS):
        for kind, add in enumerate(kinds):
            for _ in range(number):
                add()
            time.sleep(settling)
            now = measure()
            added[kind] += now - before
            before = now
    return [all_ / (number * TURNS) for all_ in added]


def controller(places: Places, scale: Scale) -> list[Fact]:
    """Measure a controller process that holds idle sessions: first some, then five times as many."""
    _raise_open_files()
    directory = places.directory / "crowd"
    directory.mkdir()
    with ExitStack() as stack:
        config = ["--config", str(places.cluster.directory.config)]
        server = stack.enter_context(started(places.cluster, directory, config))
        uuid = places.cluster.run("sleep", "1000000")
        gateway = EchoGateway(uuid, server.root_token, stack)
        server.root.update("containers", uuid, {"gateway_address": gateway.address})
        token = places.cluster.directory.token_file("active").read_text().strip()
        crowd = Crowd(server, uuid, token, stack)
        return _crowded(server, crowd, scale)


def _crowded(server: Controller, crowd: Crowd, scale: Scale) -> list[Fact]:
    crowd.grow(PROBES)
    usual = statistics.median(crowd.open_one() for _ in range(PROBES))
    time.sleep(SETTLED)
    before, first = cpu.resident(server.pid), len(crowd)
    crowd.grow(scale.sessions)
    time.sleep(SETTLED)
    each = (cpu.resident(server.pid) - before) / (len(crowd) - first)
    share = _share(server.pid, 2 * scale.idle_seconds)
    crowd.grow(scale.many_sessions)
    time.sleep(SETTLED)
    crowded = statistics.median(crowd.open_one() for _ in range(PROBES))
    what = f"controller with {scale.sessions} idle sessions"
    return [
        Fact("controller-session-memory", f"{what}, each", each / KB, "KB", 100),
        Fact("controller-idle-cpu", what, share, "% of a core", 2),
        Fact("controller-open-usual", "one more session on a controller that is not busy", usual, "ms", None),
        Fact("controller-open-crowded", f"one more session beside {scale.many_sessions}", crowded, "ms", 2 * usual),
    ]


def transfer(places: Places, scale: Scale) -> list[Fact]:
    """Measure by how much processes grow during a long transfer, after its beginning."""
    with places.path.shared() as target:
        command = output_command(target, scale.long_size)
        pids = {
            "ssh-proxy": cpu.children(target.master)[0],
            "controller": places.cluster.controller_pid(),
            "gateway": places.cluster.gateway_pid(places.container_uuid),
        }
        run(output_command(target, scale.long_size // 20))
        samples = {name: [cpu.resident(pid)] for name, pid in pids.items()}
        over = threading.Event()
        watching = threading.Thread(target=_watch, args=(pids, samples, over))
        watching.start()
        try:
            run(command)
        finally:
            over.set()
            watching.join()
    size = scale.long_size / 1e9
    return [
        Fact(f"transfer-memory-{name}", f"{name}, growth during {size:.1f} GB", (max(all_) - all_[0]) / MB, "MB", 8)
        for name, all_ in samples.items()
    ]


def _watch(pids: dict[str, int], samples: dict[str, list[int]], over: threading.Event) -> None:
    while not over.wait(0.25):
        for name, pid in pids.items():
            samples[name].append(cpu.resident(pid))


def _share(pid: int, seconds: float) -> float:
    """Return the percents of a core that a process uses, over a time in which nothing happens."""
    before = cpu.seconds(pid)[0]
    time.sleep(seconds)
    return (cpu.seconds(pid)[0] - before) / seconds * 100


def _raise_open_files() -> None:
    """Let this process, and what it starts, have as many files open as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


FACTS: dict[str, Callable[[Places, Scale], list[Fact]]] = {
    "gateway-memory": gateway,
    "resume-memory": resumable,
    "controller-idle": controller,
    "transfer-memory": transfer,
}
