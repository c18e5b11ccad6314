"""One controller process: serve until a signal, keep the sessions for a while, leave.

Owns the effects of signals. SIGTERM: stop accepting, and end when the last session has ended or the drain time-out has
passed; a second SIGTERM, or SIGINT, ends at once. SIGHUP: read the config again. All it knows of other processes is
whether the supervisor, if any, is gone: that counts as a SIGTERM too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import uvloop

from arv_ssh import log
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.controller.peers import private_socket
from arv_ssh.controller.peers.peers import Peers, url_of
from arv_ssh.controller.process import systemd
from arv_ssh.controller.process.server import Controller
from arv_ssh.errors import ArvSshError
from arv_ssh.processes import garbage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Process:
    """How a controller process runs.

    ``load`` reads the config, now and on SIGHUP. ``run_dir`` and ``drain_timeout`` (seconds) override the config's.
    ``supervisor`` is a connected socket: a line that we write says that we serve, and EOF that the supervisor is gone.
    """

    load: Callable[[], ClusterConfig]
    listeners: Sequence[socket.socket]
    run_dir: Path | None = None
    drain_timeout: float | None = None
    supervisor: socket.socket | None = None

    def run(self) -> None:
        """Serve until a signal asks to stop."""
        log.configure()
        early: list[int] = []
        signal.signal(signal.SIGHUP, lambda number, frame: early.append(number))  # its default would end us
        config = self.load()
        private = private_socket.enter(private_socket.directory(config, self.run_dir, os.environ))
        with closing(private), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            listen = self.listeners[0].getsockname()[:2]
            peers = Peers(private.path, url_of(listen, config.internal_urls), config.internal_urls)
            runner.run(_Life(self, Controller(config, peers), early).run(private.listener))
        sys.stderr.flush()


class _Life:
    """A controller from start to end; ``early`` are the SIGHUPs that came while it was being made."""

    def __init__(self, process: Process, controller: Controller, early: Sequence[int]) -> None:
        self._early = early
        self._process = process
        self._controller = controller
        self._terminated = False
        self._leave = asyncio.Event()
        self._leave_now = asyncio.Event()
        self._reload_wanted = asyncio.Event()

    async def run(self, private: socket.socket) -> None:
        self._watch_signals()
        await self._controller.start(self._process.listeners, private)
        garbage.spare_what_is_here()
        reloading = asyncio.create_task(self._reload_when_asked())
        self._announce()
        await self._leave.wait()
        systemd.notify("STOPPING=1")
        await self._drain()
        reloading.cancel()
        log.event(logger, "controller is stopping", sessions=len(self._controller.sessions))
        await self._controller.stop()

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        if self._early:
            self._reload_wanted.set()
        if self._process.supervisor is not None:
            loop.add_reader(self._process.supervisor, self._supervisor_ended)

    def _terminate(self) -> None:
        # SIGTERMs are counted separately: a departing supervisor sends one first, but we may see it gone before that.
        if self._terminated:
            self._leave_now.set()
        self._terminated = True
        self._leave.set()

    def _interrupt(self) -> None:
        self._leave.set()
        self._leave_now.set()

    def _supervisor_ended(self) -> None:
        assert self._process.supervisor is not None  # noqa: S101 - for mypy: the event is about it
        asyncio.get_running_loop().remove_reader(self._process.supervisor)
        self._leave.set()

    def _announce(self) -> None:
        for listener in self._process.listeners:
            host, port = listener.getsockname()[:2]
            cluster_id = self._controller.config.cluster_id
            log.event(logger, "controller is listening", cluster_id=cluster_id, host=host, port=port)
        if self._process.supervisor is None:
            systemd.notify("READY=1")
        else:
            self._process.supervisor.send(b"ready\n")

    async def _drain(self) -> None:
        timeout = self._process.drain_timeout
        if timeout is None:
            timeout = self._controller.config.drain_timeout
        drained = asyncio.create_task(self._controller.drain())
        at_once = asyncio.create_task(self._leave_now.wait())
        await asyncio.wait({drained, at_once}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if drained.done():
            await drained  # raises its exception, if any
        drained.cancel()
        at_once.cancel()

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            try:
                await self._controller.reload(await asyncio.to_thread(self._process.load))
            except ArvSshError as error:
                log.event(logger, "new config refused; keeping the old one", level=logging.ERROR, error=str(error))
            except Exception:  # the controller goes on whatever the file contains
                logger.exception("cannot use the new config; keeping the old one")
            else:
                log.event(logger, "config reloaded")
