"""Simulated users: as many new sessions as the controller can take, and thousands that are open and idle."""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.bench.crowd import Crowd
from tests.integration.controllers import Controller
from tests.postgresql import PostgresqlServer, postgresql_server
from tests.simulate.report import Fact
from tests.simulate.site import Site
from tests.unit.arv_ssh.embedded.cluster import ROOT_TOKEN

USERS = 4
"""Processes that open sessions."""
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


def idle(directory: Path, sizes: list[int], seconds: float) -> list[Fact]:
    """Measure memory and processor time of a controller with open sessions that say something every 30 s."""
    facts = []
    with ExitStack() as stack:
        site = Site(directory, f"sqlite:///{directory}/db.sqlite", 1, stack)
        crowds = [Crowd(site.controller, uuid, site.token, stack) for uuid in site.uuids]
        crowds[0].grow(10)  # what is only imported or allocated once is there
        time.sleep(2)
        empty = site.resident()
        for size in sizes:
            start = time.perf_counter()
            for crowd in crowds:
                crowd.grow(size // len(crowds))
            opening = time.perf_counter() - start
            time.sleep(15)  # the revocation's next look has come
            held = sum(len(crowd) for crowd in crowds)
            before, since = site.seconds(), time.perf_counter()
            time.sleep(seconds)
            share = (site.seconds() - before) / (time.perf_counter() - since)
            memory = site.resident() - empty
            facts.append(Fact(
                f"{held} idle sessions in one process",
                f"{memory / held / 1024:.0f} KB each, {memory / 2**20:.0f} MB in all; {share * 100:.1f} % of a core; "
                f"opened in {opening:.0f} s",
            ))  # fmt: skip
    return facts


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
