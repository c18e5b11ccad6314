"""crunch-run's side of its gateway: a separate process, restarted whenever it ends without being asked to.

Owns the listening socket, so that the address on the record stays the same and connections wait while there is no
gateway; the back-off; and the memory limit. Must not know SSH, nor import the code that serves it: this process is the
job's.

Why a watch and not a control group: version 2 does not let a process stay in a group whose child groups have limits of
their own, and batch systems own the group crunch-run is in. Why not RLIMIT_DATA: it counts thread stacks that are
reserved but not used, and makes calls fail in the middle of the gateway instead of ending it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from arv_ssh import errors
from arv_ssh.errors import ArvSshError
from arv_ssh.log import event
from arv_ssh.net.listen import bind
from crunch_sshd.gateway import control, memory_limit
from crunch_sshd.gateway_options import GatewayOptions
from crunch_sshd.run.gateway_leftovers import Leftovers
from crunch_sshd.runtimes import host_processes

logger = logging.getLogger(__name__)

MODULE = "crunch_sshd.gateway.process"
START_TIMEOUT = 60.0
"""Seconds for a process to import its modules, on a node that swaps."""
SERVE_TIMEOUT = 15.0
"""Seconds for the gateway to serve before the container is announced without its address, which then follows."""
STOP_TIMEOUT = 20.0
"""Seconds for a gateway to end its sessions, write its audit and leave; its own steps take at most 11."""
LEFTOVERS_TIMEOUT = 3.0
"""Seconds for a killed gateway's leftovers to end before the container is stopped, which ends the rest."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the next start; the first is immediate, and the pause doubles with each gateway that does not last."""
STEADY = 60.0
"""Seconds that a gateway must have lasted for its end to count as the first."""
LOOK = 0.25
"""Seconds between checks of the gateway's memory: in that time it can grow by at most a few hundred MB."""


class GatewayChild:
    """The gateway of one container, from :meth:`start` to :meth:`stop`. The methods are for one thread.

    Raises :class:`arv_ssh.errors.ConfigError` when it cannot listen.
    """

    def __init__(self, container_uuid: str, secret: str, options: GatewayOptions) -> None:
        self._uuid = container_uuid
        self._secret = secret
        self._options = options
        self._listener = None if options.tunnel else bind(options.host, options.port)
        if self._listener is not None:
            self._listener.listen(socket.SOMAXCONN)  # connections wait while no gateway accepts them
        self._leftovers = Leftovers()
        self._changed = threading.Condition()
        self._container = ""
        self._inner = ""
        self._moved: Callable[[str], Any] = lambda address: None
        self._sessions: Callable[[int], Any] = lambda count: None
        self._control: control.Control | None = None
        self._ready = self._serving = self._stopping = False
        self._failure: ArvSshError | None = None
        self._address = self._listening_address()
        self._thread = threading.Thread(target=self._supervise, name="gateway-child", daemon=True)

    def start(self) -> None:
        """Start the process; returns at once."""
        self._thread.start()

    def check(self) -> None:
        """Wait until the process is ready to serve; raise its error if it could not serve any container at all."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._failure, START_TIMEOUT)
            if not self._ready:
                raise self._failure or ArvSshError(f"the gateway's process was not ready within {START_TIMEOUT:g} s")

    def serve(
        self,
        container_id: str,
        moved: Callable[[str], Any],
        sessions: Callable[[int], Any] = lambda count: None,
        inner: str = "",
    ) -> str:
        """Serve the engine's container with this full id; return the address to record, "" while there is none yet.

        With the runtime ``namespace`` it is the pid of the container's program. Logs and ports are relayed to the
        gateway at ``inner`` where there is one.
        ``moved`` is called with each new address, on a thread of its own, and ``sessions`` with the number of sessions
        whenever one is opened or ends. Raises the gateway's error when it cannot serve that container.
        """
        with self._changed:
            self._container, self._moved, self._sessions, self._failure = container_id, moved, sessions, None
            self._inner = inner
            self._tell_container()
            self._changed.wait_for(lambda: self._serving or self._failure, SERVE_TIMEOUT)
            if self._failure and not self._serving:
                raise self._failure
        return self._address

    def stop(self, reason: str) -> None:
        """End the gateway and its sessions, showing ``reason`` to users. May be called twice, or before the start."""
        with self._changed:
            first, self._stopping = not self._stopping, True
            self._changed.notify_all()
            if first and self._control is not None:
                self._control.send("stop", reason=reason)
        if self._thread.is_alive():
            self._thread.join()
        if self._listener is not None:
            self._listener.close()  # not earlier: a process may be about to start with it
        self._leftovers.wait(LEFTOVERS_TIMEOUT)

    def _listening_address(self) -> str:
        if self._listener is None:
            return ""
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        return f"{host}:{self._listener.getsockname()[1]}"

    def _tell_container(self) -> None:
        """Say which container to serve, once that is known and a process is there to hear it. With the lock."""
        if self._control is not None and self._ready and self._container:
            self._control.send("serve", container=self._container, inner=self._inner)

    # The supervising thread.

    def _supervise(self) -> None:
        pause = 0.0
        while not self._stopping:
            began = time.monotonic()
            try:
                status = self._run_one()
            except (OSError, subprocess.SubprocessError) as error:  # no process or descriptor free: later there may be
                status = None
                self._failed(ArvSshError(f"the gateway's process cannot be started: {error}"))
            if self._stopping:
                return
            pause = 0.0 if time.monotonic() - began >= STEADY else pause
            event(logger, "the gateway ended; starting another", level=logging.WARNING, container_uuid=self._uuid,
                  status=status, seconds=pause)  # fmt: skip
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, pause)
            pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)

    def _run_one(self) -> int:
        """Run one process to its end; return its exit status. By then its leftovers are ended or being ended."""
        ours, theirs = control.pair()
        try:
            child = self._spawn(theirs)
            ours.send("begin", container_uuid=self._uuid, secret=self._secret, options=self._options.to_fields(),
                      listener=None if self._listener is None else self._listener.fileno())  # fmt: skip
            with self._changed:
                self._control = ours
                if self._stopping:
                    ours.send("stop", reason="")
            self._attend(child, ours)
        finally:
            with self._changed:
                self._control, self._ready, self._serving = None, False, False
            ours.close()
            self._sessions(0)
        self._end_leftovers()
        return child.returncode

    def _end_leftovers(self) -> None:
        if self._options.runtime == "namespace":  # whose containers no engine knows
            namespace = host_processes.pid_namespace(int(self._container)) if self._container else None
            self._leftovers.end("", namespace)
        else:
            self._leftovers.end(self._container)

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        passed = [theirs.fileno()] + ([self._listener.fileno()] if self._listener is not None else [])
        environment = {name: value for name, value in os.environ.items() if name != "ARVADOS_API_TOKEN"}
        command = [sys.executable, "-P", "-m", MODULE, str(theirs.fileno())]
        with theirs:
            return self._leftovers.start(
                lambda: subprocess.Popen(  # noqa: S603 - our own module
                    command, stdin=subprocess.DEVNULL, env=environment, pass_fds=passed, start_new_session=True
                )
            )

    def _attend(self, child: subprocess.Popen[bytes], ours: control.Control) -> None:
        """Receive the process's messages and watch its memory, until it has ended."""
        end = os.pidfd_open(child.pid)
        poll = select.poll()
        poll.register(end, select.POLLIN)
        poll.register(ours, select.POLLIN)
        deadline = None
        try:
            while end not in (ready := dict(poll.poll(LOOK * 1000))):
                if ours.fileno() in ready and not self._take(ours.receive()):
                    poll.unregister(ours)
                if self._stopping:
                    deadline = deadline or time.monotonic() + STOP_TIMEOUT
                if (deadline and time.monotonic() > deadline) or self._is_too_large(child.pid):
                    signal.pidfd_send_signal(end, signal.SIGKILL)
        finally:
            os.close(end)
        child.wait()
        while (message := ours.receive()):  # its last messages
            self._take(message)

    def _is_too_large(self, pid: int) -> bool:
        used = memory_limit.resident(pid)
        if used <= self._options.memory:
            return False
        event(logger, "the gateway is beyond its memory limit; ending it", level=logging.ERROR,
              container_uuid=self._uuid, bytes=used, limit=self._options.memory)  # fmt: skip
        return True

    def _take(self, message: dict[str, Any]) -> bool:
        """Act on a message; False when no more will come."""
        kind = message.get("kind")
        with self._changed:
            if kind == "ready":
                self._ready = True
                self._tell_container()
            elif kind in ("serving", "moved"):
                self._serving = True
                self._address = message["address"] or self._address
            elif kind == "failed":
                self._failure = _error(message["error"], message["sentence"])
            self._changed.notify_all()
        if kind == "moved":
            self._moved(message["address"])
        elif kind == "sessions":
            self._sessions(message["count"])
        elif kind == "failed":
            event(logger, "the gateway cannot serve", level=logging.ERROR, container_uuid=self._uuid,
                  error=message["sentence"])  # fmt: skip
        return bool(message)

    def _failed(self, error: ArvSshError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()


def _error(name: str, sentence: str) -> ArvSshError:
    """Return the error that the gateway's process met, in the same class if that is one of ours."""
    kind = getattr(errors, name, ArvSshError)
    return kind(sentence) if isinstance(kind, type) and issubclass(kind, ArvSshError) else ArvSshError(sentence)
