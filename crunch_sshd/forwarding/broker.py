"""The gateway's side of the broker: requests to the process inside the container, sockets back.

Owns the process: the first request starts it, the next one restarts it if it was killed, and
:meth:`BrokerClient.close` ends it. The sockets belong to the gateway and outlive the process; the files of those it
made are noted here, so that the next process removes them. Any number of threads may ask at once; each waits only for
its own answer.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from arv_ssh.errors import ArvSshError
from arv_ssh.log import event
from crunch_sshd.forwarding.broker_answers import MESSAGE_LIMIT, Answer, BrokerError, Failed, Malformed, receive
from crunch_sshd.inside.system_calls import BROKER
from crunch_sshd.runtimes import Account, entry
from crunch_sshd.runtimes.child import Child
from crunch_sshd.runtimes.host_container import HostContainer
from crunch_sshd.ssh import threads

__all__ = ["BrokerClient", "BrokerError", "Found", "Listening"]

logger = logging.getLogger(__name__)

MODULE = "crunch_sshd.inside.broker.process"
END_TIMEOUT = 5.0
"""Seconds for the process to remove its files before it is killed."""
MAX_STARTS = 20
"""Processes started for one connection: whatever kills this many one after the other will kill the next one too."""
ENDED = "the process inside the container has ended"


@dataclass(frozen=True)
class Found:
    """One address of a host; ``own`` says whether it is the container's."""

    address: str
    own: bool


@dataclass(frozen=True)
class Listening:
    """Sockets that listen inside the container; ``key`` is for :meth:`BrokerClient.remove`."""

    key: int
    sockets: list[socket.socket]
    port: int = 0
    path: str = ""


@dataclass(frozen=True)
class _Running:
    """One process, the socket to it, and the requests that wait for its answers."""

    child: Child
    sock: socket.socket
    waiting: dict[int, Future[Answer]] = field(default_factory=dict)


class BrokerClient:
    """Makes sockets in ``container`` as ``account``. Methods block, and raise :class:`BrokerError`."""

    def __init__(self, container: HostContainer, account: Account) -> None:
        self._container = container
        self._account = account
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._files: dict[int, list[str]] = {}
        self._last = 0
        self._starts = 0
        self._failure = ""

    def resolve(self, host: str) -> list[Found]:
        """Look a name up as the container does; an address resolves to itself."""
        answer = self._ask("resolve", host=host)
        answer.close()
        return [Found(address, own) for address, own in answer.addresses()]

    def connect(self, addresses: list[str], port: int) -> socket.socket:
        """Connect to the first of the addresses that answers."""
        return self._connected("connect", addresses=addresses, port=port)

    def connect_unix(self, path: str) -> socket.socket:
        """Connect to a unix socket."""
        return self._connected("connect-unix", path=path)

    def listen(self, host: str, port: int) -> Listening:
        """Listen on ``host``: "" means every address, ``localhost`` both loopbacks; port 0 means any free one."""
        answer = self._ask("listen", host=host, port=port)
        with _closed_on_error(answer):
            return Listening(answer.identifier, answer.some_sockets(), port=answer.port())

    def listen_unix(self, path: str) -> Listening:
        """Listen on a new unix socket."""
        answer = self._ask("listen-unix", path=path)
        with _closed_on_error(answer):
            return self._noted(Listening(answer.identifier, [answer.one_socket()], path=path), path)

    def listen_agent(self) -> Listening:
        """Listen on a new unix socket in a new directory, both for the user alone."""
        answer = self._ask("listen-agent")
        with _closed_on_error(answer):
            path = answer.path()
            return self._noted(
                Listening(answer.identifier, [answer.one_socket()], path=path), os.path.dirname(path), path
            )

    def remove(self, listening: Listening) -> None:
        """Remove the files of a unix socket; the caller closes the sockets themselves."""
        with self._lock:
            paths = self._files.pop(listening.key, [])
        self._ask("remove", made=listening.key, paths=paths).close()

    def close(self) -> None:
        """End the process; waiting requests get :class:`BrokerError`. Does not block; may come twice."""
        with self._lock:
            self._failure = self._failure or "the connection is closed"
            running, self._running = self._running, None
        if running is not None:
            _shut_down(running.sock)
            # Not a daemon: the gateway does not end until the container is left clean.
            try:
                threads.start(partial(_reap, running.child), "broker-end", daemon=False)
            except OSError:
                running.child.end()

    @property
    def spent(self) -> bool:
        """Say whether no request will ever be answered any more."""
        with self._lock:
            return bool(self._failure) or (self._running is None and self._starts >= MAX_STARTS)

    def _connected(self, request: str, **values: Any) -> socket.socket:
        answer = self._ask(request, **values)
        with _closed_on_error(answer):
            return answer.one_socket()

    def _noted(self, listening: Listening, *paths: str) -> Listening:
        """Remember the files that were made, in case a next process is needed."""
        with self._lock:
            self._files[listening.key] = list(paths)
        return listening

    def _ask(self, request: str, **values: Any) -> Answer:
        future: Future[Answer] = Future()
        with self._lock:
            message = json.dumps({"id": self._last + 1, "do": request, **values}).encode()
            if len(message) > MESSAGE_LIMIT:
                raise BrokerError(os.strerror(errno.ENAMETOOLONG))
            running = self._started()
            self._last += 1
            running.waiting[self._last] = future
        try:
            running.sock.send(message)
        except OSError:
            _shut_down(running.sock)  # the process has ended: the receiver fails all waiting requests
        answer = future.result()
        with _closed_on_error(answer):
            answer.check()
        return answer

    def _started(self) -> _Running:
        """Return the process, starting it if it is not running. The caller holds the lock."""
        if self._failure:
            raise BrokerError(self._failure)
        if self._running is None:
            if self._starts >= MAX_STARTS:
                raise BrokerError(f"{ENDED} {MAX_STARTS} times; open another connection")
            try:
                self._running = self._start()
            except ArvSshError as error:
                raise BrokerError(str(error)) from error
            except threads.NO_ROOM as error:  # the next request tries again: this host may have room by then
                raise BrokerError(f"the gateway cannot start its broker: {threads.reason(error)}") from error
            self._starts += 1
        return self._running

    def _start(self) -> _Running:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                child = entry.enter(
                    self._container, self._account, MODULE, BROKER, [self._account.home], gateway=theirs.fileno()
                )
            except BaseException:
                ours.close()
                raise
        running = _Running(child, ours)
        try:
            threads.start(partial(self._receive, running), "broker")
        except OSError:
            ours.close()
            child.end()
            raise
        return running

    # The receiver's thread.

    def _receive(self, running: _Running) -> None:
        failure = ""
        with running.sock:
            try:
                while (said := receive(running.sock)) is not None:
                    if isinstance(said, Failed):
                        failure = f"the container cannot be entered: {said.text}"
                        break
                    self._deliver(running, said)
            except Malformed as error:
                event(logger, "the broker is not to be trusted", level=logging.WARNING, error=str(error))
        self._over(running, failure)

    def _deliver(self, running: _Running, answer: Answer) -> None:
        with self._lock:
            future = running.waiting.pop(answer.identifier, None)
        if future is None:
            answer.close()
            raise Malformed("an answer to no request")
        future.set_result(answer)

    def _over(self, running: _Running, failure: str) -> None:
        """Fail all waiting requests, as the process has ended; if it left files, tell the next one about them."""
        with self._lock:
            unasked = self._running is running
            if unasked:
                self._running = None
                self._failure = failure
            failure = self._failure or ENDED
            waiting = list(running.waiting.values())
            files = list(self._files.items()) if unasked and not self._failure else []
        for future in waiting:
            future.set_exception(BrokerError(failure))
        if unasked:
            running.child.kill()  # no effect when it has ended
            running.child.wait()
        for key, paths in files:
            with suppress(BrokerError):
                self._ask("keep", made=key, paths=paths).close()


@contextmanager
def _closed_on_error(answer: Answer) -> Iterator[None]:
    """Close the answer's sockets when the block does not take them."""
    try:
        yield
    except BaseException:
        answer.close()
        raise


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        logger.debug("the broker was gone already")


def _reap(child: Child) -> None:
    try:
        child.wait(END_TIMEOUT)
    except TimeoutError:
        child.kill()
        child.wait()
