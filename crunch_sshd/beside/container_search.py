"""The container of a stock crunch-run, found without its help: by its name on the engine, or by its pid namespace.

Owns what the two kinds of engine have in common for us: the word by which a gateway knows the container, "" while it
does not run yet.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from arv_ssh.errors import ArvSshError, NotFound
from arv_ssh.log import event
from crunch_sshd.runtimes import host_processes
from crunch_sshd.runtimes.host_processes import Stat

logger = logging.getLogger(__name__)

DOCKER = "docker"
"""Stock's word for the engine that is reached by a socket: Docker's or Podman's."""

INITS = ("appinit", "sinit")
"""The names of the inits that Apptainer and Singularity start above a container's program."""


class Search(Protocol):
    """A way to find one container."""

    def find(self) -> str:
        """Return the container's full id, or its leader's pid on this host; "" while it does not run. Blocks."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called, by any thread, when :meth:`find` may have more to say. It need not be."""


def search(engine: str, uuid: str, stock: int) -> Search:
    """Return the search for container ``uuid`` on stock's ``engine``, which the process ``stock`` runs."""
    return EngineSearch(uuid) if engine == DOCKER else NamespaceSearch(stock)


class EngineSearch:
    """Looks for the engine's container with the UUID as its name."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._failure = ""

    def find(self) -> str:
        from crunch_sshd.runtimes import docker_engine

        try:
            client = docker_engine.connect()
            try:
                with docker_engine.engine_errors(f"container {self._uuid}"):
                    facts = client.api.inspect_container(self._uuid)
            finally:
                client.close()
        except NotFound:
            return ""
        except ArvSshError as error:
            self._note(str(error))
            return ""
        return str(facts["Id"]) if facts["State"]["Running"] else ""

    def watch(self, changed: Callable[[], None]) -> None:
        threading.Thread(target=self._watch, args=(changed,), name="engine-events", daemon=True).start()

    def _watch(self, changed: Callable[[], None]) -> None:
        from crunch_sshd.runtimes import docker_engine

        wanted = {"container": [self._uuid], "event": ["start"], "type": ["container"]}
        try:
            client = docker_engine.connect()
            with docker_engine.engine_errors("the Docker engine's events"):
                for _ in client.api.events(filters=wanted):
                    changed()
        except ArvSshError as error:  # looking at intervals does as well
            self._note(str(error))

    def _note(self, failure: str) -> None:
        """Log a failure once, not with each look."""
        if failure != self._failure:
            event(logger, "the engine cannot be asked", level=logging.WARNING, container_uuid=self._uuid, error=failure)
        self._failure = failure


class NamespaceSearch:
    """Looks below the process ``stock`` for the leader of a pid namespace (Apptainer, Singularity).

    Where that is an init of theirs, which has an environment of its own, it looks for the program that this one runs.
    """

    def __init__(self, stock: int) -> None:
        self._stock = stock

    def find(self) -> str:
        own = host_processes.namespace_depth(self._stock)
        leaders = [
            one for one in descendants(self._stock)
            if host_processes.namespace_depth(one.pid) == own + 1 and host_processes.pid_inside(one.pid) == 1
        ]  # fmt: skip
        program = _below_init(leaders[0].pid) if leaders else 0
        return str(program) if program else ""

    def watch(self, changed: Callable[[], None]) -> None:
        """Do nothing: looking at intervals has to do."""


def _below_init(leader: int) -> int:
    """Return the process that ``leader`` is the init of, 0 while there is none; ``leader`` itself if it is no init."""
    try:
        name = (host_processes.PROC / str(leader) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return 0
    if name not in INITS:
        return leader
    return next((one.pid for one in descendants(leader)), 0)


def descendants(ancestor: int) -> list[Stat]:
    """Return the living processes below ``ancestor``, parents before their children."""
    every = [one for one in host_processes.processes() if one.state not in "ZX"]
    found: list[Stat] = []
    above = {ancestor}
    while below := [one for one in every if one.parent in above]:
        found += below
        above = {one.pid for one in below}
    return found
