"""The supervisor of ``--workers N``: keeps N controller processes on the same listening sockets.

Owns starting them again when they end, with back-off, and passing the signals on. It holds the listening sockets, so
connections that wait in their queues while a worker ends go to another worker. Knows nothing of what a worker serves,
and opens no database: each worker opens its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from arv_ssh import log
from arv_ssh.controller.peers import private_socket
from arv_ssh.controller.process import systemd
from arv_ssh.controller.process.acceptor import BACKLOG
from arv_ssh.errors import ConfigError
from arv_ssh.processes import process_lock

logger = logging.getLogger(__name__)

FIRST_DELAY = 0.5
"""Seconds before a worker that ended is started again; each further end doubles them."""
LONGEST_DELAY = 30.0
"""The longest such delay in seconds: a database that comes back is used again within this time."""
STEADY = 60.0
"""Seconds after which a worker has proven itself: its end then counts as the first again."""


class Supervisor:
    """Keeps ``number`` processes of ``command``, to which ``--listen-fd`` and ``--supervisor-fd`` are added.

    ``leave_draining``: on SIGTERM, do not wait for workers whose sessions still run. ``run_dir`` is the controllers'
    run directory: SIGHUP goes to all processes there, including those that an earlier supervisor left.
    """

    def __init__(
        self,
        command: Sequence[str],
        number: int,
        listeners: Sequence[socket.socket],
        *,
        run_dir: Path,
        leave_draining: bool,
    ) -> None:
        self._command = command
        self._number = number
        self._listeners = listeners
        self._run_dir = run_dir
        self._leave_draining = leave_draining
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._ready: set[int] = set()
        self._served = False
        self._stopping = asyncio.Event()
        self._last_signal = signal.SIGTERM
        self._status = 0

    async def run(self) -> int:
        """Keep the workers until a signal; return the exit status."""
        for listener in self._listeners:
            listener.listen(BACKLOG)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        kept = [asyncio.create_task(self._keep(index)) for index in range(self._number)]
        await self._stopping.wait()
        systemd.notify("STOPPING=1")
        if self._leave_draining and self._last_signal == signal.SIGTERM and not self._status:
            log.event(logger, "supervisor leaves the workers to end by themselves", workers=len(self._workers))
            for task in kept:
                task.cancel()
            await asyncio.wait(kept)
            return 0
        await asyncio.gather(*kept)
        return self._status

    def _stop(self, number: signal.Signals) -> None:
        self._last_signal = number
        self._stopping.set()
        # Before the workers do, so that the last to close the sockets is a worker that has emptied their queues.
        for listener in self._listeners:
            listener.close()
        for worker in self._workers.values():
            worker.send_signal(number)

    def _reload(self) -> None:
        for path in private_socket.living(self._run_dir):
            process_lock.send_signal(path.with_suffix(".lock"), signal.SIGHUP)

    async def _keep(self, index: int) -> None:
        delay = FIRST_DELAY
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            try:
                status = await self._run_worker(index)
            except OSError as error:  # out of processes, or the program is being replaced
                log.event(logger, "a worker cannot be started", level=logging.ERROR, error=str(error))
                status = -1
            if self._stopping.is_set():
                return
            if status == ConfigError.exit_code and not self._served:
                self._status = status  # it said why, and another start would not fix the config
                self._stop(signal.SIGTERM)
                return
            if loop.time() - started > STEADY:
                delay = FIRST_DELAY
            log.event(logger, "a worker ended; starting another", level=logging.ERROR, status=status, seconds=delay)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            delay = min(2 * delay, LONGEST_DELAY)

    async def _run_worker(self, index: int) -> int:
        """Run a worker to its end; return its status. Cancelled, leave it alone."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                worker = self._start(theirs)
            ours.setblocking(False)
            self._workers[index] = worker
            serving = asyncio.create_task(self._wait_until_it_serves(index, ours))
            try:
                await _ended(worker)
            finally:
                serving.cancel()
            del self._workers[index]
            self._ready.discard(index)
            return worker.wait()

    def _start(self, channel: socket.socket) -> subprocess.Popen[bytes]:
        inherited = [listener.fileno() for listener in self._listeners]
        listen = [f"--listen-fd={descriptor}" for descriptor in inherited]
        return subprocess.Popen(  # noqa: S603 - our own program
            [*self._command, *listen, f"--supervisor-fd={channel.fileno()}"],
            stdin=subprocess.DEVNULL,
            pass_fds=(*inherited, channel.fileno()),
            # The supervisor reports whether the service is ready.
            env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
        )

    async def _wait_until_it_serves(self, index: int, worker: socket.socket) -> None:
        if not await asyncio.get_running_loop().sock_recv(worker, 16):
            return
        self._ready.add(index)
        if len(self._ready) == self._number and not self._served:
            self._served = True
            log.event(logger, "all workers serve", workers=self._number)
            systemd.notify("READY=1")


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended. Not asyncio's own way, which kills running processes when the loop is closed."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)  # readable once it has ended (pidfd_open(2))
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
