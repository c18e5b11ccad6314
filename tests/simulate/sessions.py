"""Simulated users: as many new sessions as the controller can take, and thousands that are open and idle."""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path

from tests.bench.crowd import Crowd
from tests.integration.controllers import Controller
from tests.postgresql import PostgresqlServer, postgresql_server
from tests.simulate.report import Fact
from tests.simulate.site import Site
from tests.unit.arv_ssh.embedded.cluster import ROOT_TOKEN

USERS = 4
"""Processes of users, who open sessions or hold them."""
_SPAWN = multiprocessing.get_context("spawn")


def saturation(directory: Path, workers: int, seconds: float) -> list[Fact]:
    """Measure the sessions that begin in a second when users open and close them as fast as they can."""
    with ExitStack() as stack:
        site = Site(directory, f"sqlite:///{directory}/db.sqlite", workers, stack)
        pool = stack.enter_context(ProcessPoolExecutor(USERS, mp_context=_SPAWN))
        place = (site.controller.address, str(site.controller.ca), site.token)
        list(pool.map(_open_and_close, *zip(*[(*place, uuid, 0.5) for uuid in site.uuids[:USERS]], strict=True)))
        before, start = site.seconds(), time.perf_counter()
        opened = sum(
            pool.map(_open_and_close, *zip(*[(*place, uuid, seconds) for uuid in site.uuids[:USERS]], strict=True))
        )
        took, used = time.perf_counter() - start, site.seconds() - before
    return [
        Fact(f"{workers} worker processes: sessions a second", f"{opened / took:.0f}"),
        Fact(f"{workers} worker processes: the controller's time for each, ms", f"{used / opened * 1000:.1f}"),
    ]


def _open_and_close(address: str, ca: str, token: str, uuid: str, seconds: float) -> int:
    controller = Controller(address, Path(ca), ROOT_TOKEN, Path("/dev/null"))
    opened, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        answer, connection = controller.ask_for_session(uuid, token)
        connection.close()
        if answer.status != 101:
            sys.exit(f"refused with {answer.status}: {answer.body!r}")
        opened += 1
    return opened


def idle(directory: Path, workers: int, sizes: list[int], seconds: float) -> list[Fact]:
    """Measure memory and processor time of a controller with open sessions that say something every 30 s."""
    facts = []
    with ExitStack() as stack:
        site = Site(directory, f"sqlite:///{directory}/db.sqlite", workers, stack)
        users = Users(site, stack)
        users.grow(16 * workers)  # what is only imported or allocated once is there
        time.sleep(2)
        empty = site.resident()
        for size in sizes:
            start = time.perf_counter()
            held = users.grow(size)
            opening = time.perf_counter() - start
            time.sleep(15)  # the revocation's next look has come
            before, since = site.seconds(), time.perf_counter()
            time.sleep(seconds)
            share = (site.seconds() - before) / (time.perf_counter() - since)
            memory = site.resident() - empty
            facts.append(Fact(
                f"{held} idle sessions in {f'{workers} processes' if workers > 1 else 'one process'}",
                f"{memory / held / 1024:.0f} KB each, {memory / 2**20:.0f} MB in all; {share * 100:.1f} % of a core; "
                f"opened in {opening:.0f} s",
            ))  # fmt: skip
    return facts


class Users:
    """Users with open sessions, in :data:`USERS` processes: one process may not have as many descriptors."""

    def __init__(self, site: Site, stack: ExitStack) -> None:
        self._pipes = [self._start(site, site.uuids[index::USERS], stack) for index in range(USERS)]

    @staticmethod
    def _start(site: Site, uuids: list[str], stack: ExitStack) -> Connection[int | None, int]:
        here, there = _SPAWN.Pipe()
        place = (site.controller.address, str(site.controller.ca), site.token)
        process = _SPAWN.Process(target=_hold, args=(*place, uuids, there))
        process.start()
        there.close()
        stack.callback(process.join)
        stack.callback(here.close)
        return here

    def grow(self, size: int) -> int:
        """Open sessions until there are ``size``, less what does not divide; return how many there are."""
        for pipe in self._pipes:
            pipe.send(size // USERS)
        return sum(pipe.recv() for pipe in self._pipes)


def _hold(address: str, ca: str, token: str, uuids: list[str], pipe: Connection[int, int]) -> None:
    controller = Controller(address, Path(ca), ROOT_TOKEN, Path("/dev/null"))
    with ExitStack() as stack, suppress(EOFError):
        crowds = [Crowd(controller, uuid, token, stack) for uuid in uuids]
        while True:
            size = pipe.recv()
            for crowd in crowds:
                crowd.grow(size // len(crowds))
            pipe.send(sum(map(len, crowds)))


def queries(directory: Path, sessions: int, seconds: float) -> list[Fact]:
    """Count the statements that PostgreSQL gets for each session that begins, and for open ones in each minute."""
    with ExitStack() as stack:
        server = stack.enter_context(postgresql_server())
        name = stack.enter_context(server.database())
        server.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
        site = Site(directory, server.url(name), 1, stack)
        crowd = Crowd(site.controller, site.uuids[0], site.token, stack)
        crowd.grow(2)
        time.sleep(1)
        none = _statements(server)
        crowd.grow(2 + sessions)
        each = (_statements(server) - none) / sessions
        time.sleep(1)
        before, since = _statements(server), time.perf_counter()
        time.sleep(seconds)
        minute = (_statements(server) - before) / (time.perf_counter() - since) * 60
    return [
        Fact("statements to PostgreSQL for each session that begins", f"{each:.0f}"),
        Fact(f"statements a minute, {sessions + 2} sessions of a user in a container being open", f"{minute:.0f}"),
    ]


def _statements(server: PostgresqlServer) -> int:
    """Return how many statements are in the server's log; BEGIN and COMMIT are among them."""
    log = (server.directory / "log").read_text(errors="replace")
    return log.count("LOG:  statement:") + log.count("LOG:  execute ")
