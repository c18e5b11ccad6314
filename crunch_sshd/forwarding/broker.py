"""The gateway's side of the broker: requests to the process inside the container, sockets back.

Owns the process: started with the first request, ended by :meth:`BrokerClient.close`. Any number of threads may ask
at once; each waits for its own answer only.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import subprocess
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from arv_ssh.errors import ArvSshError
from crunch_sshd.inside.system_calls import BROKER
from crunch_sshd.runtimes import Account, entry
from crunch_sshd.runtimes.host_container import HostContainer

logger = logging.getLogger(__name__)

MODULE = "crunch_sshd.inside.broker.process"
MESSAGE_LIMIT = 64 * 1024
MAX_SOCKETS = 16
"""Sockets in one answer: a name to listen on may have several addresses."""
END_TIMEOUT = 5.0
"""Seconds for the process to remove its files before it is killed."""

_Answer = tuple[dict[str, Any], list[socket.socket]]


class BrokerError(Exception):
    """What was asked cannot be done; the text is the system's: ``Connection refused``."""


@dataclass(frozen=True)
class Found:
    """One address of a host; ``own`` says that it is the container's."""

    address: str
    own: bool


@dataclass(frozen=True)
class Listening:
    """Sockets that listen inside the container; ``key`` is for :meth:`BrokerClient.remove`."""

    key: int
    sockets: list[socket.socket]
    port: int = 0
    path: str = ""


class BrokerClient:
    """Makes sockets in ``container`` as ``account``. Methods block, and raise :class:`BrokerError`."""

    def __init__(self, container: HostContainer, account: Account) -> None:
        self._container = container
        self._account = account
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[_Answer]] = {}
        self._last = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._failure = ""

    def resolve(self, host: str) -> list[Found]:
        """Look a name up as the container does; an address is found as itself."""
        answer, _ = self._ask("resolve", host=host)
        return [Found(address, own) for address, own in answer["addresses"]]

    def connect(self, addresses: list[str], port: int) -> socket.socket:
        """Connect to the first of the addresses that answers."""
        return self._ask("connect", addresses=addresses, port=port)[1][0]

    def connect_unix(self, path: str) -> socket.socket:
        """Connect to a unix socket."""
        return self._ask("connect-unix", path=path)[1][0]

    def listen(self, host: str, port: int) -> Listening:
        """Listen on ``host``: "" is every address, ``localhost`` both loopbacks; port 0 any free one."""
        answer, sockets = self._ask("listen", host=host, port=port)
        return Listening(answer["id"], sockets, port=answer["port"])

    def listen_unix(self, path: str) -> Listening:
        """Listen on a new unix socket."""
        answer, sockets = self._ask("listen-unix", path=path)
        return Listening(answer["id"], sockets, path=path)

    def listen_agent(self) -> Listening:
        """Listen on a new unix socket in a directory of its own, both for the user alone."""
        answer, sockets = self._ask("listen-agent")
        return Listening(answer["id"], sockets, path=answer["path"])

    def remove(self, listening: Listening) -> None:
        """Remove the files of a unix socket; the sockets themselves are the caller's to close."""
        self._ask("remove", made=listening.key)

    def close(self) -> None:
        """End the process; who waits for an answer gets :class:`BrokerError`. Does not block; may come twice."""
        with self._lock:
            self._failure = self._failure or "the connection is closed"
            child, sock, self._child = self._child, self._sock, None
        if sock is not None:
            _shut_down(sock)
        if child is not None:
            # Not a daemon: the gateway's end waits until the container is left clean.
            threading.Thread(target=_reap, args=(child,), name="broker-end", daemon=False).start()

    def _ask(self, request: str, **values: Any) -> _Answer:
        future: Future[_Answer] = Future()
        with self._lock:
            message = json.dumps({"id": self._last + 1, "do": request, **values}).encode()
            if len(message) > MESSAGE_LIMIT:
                raise BrokerError(os.strerror(errno.ENAMETOOLONG))
            sock = self._started()
            self._last += 1
            self._waiting[self._last] = future
        try:
            sock.send(message)
        except OSError:
            _shut_down(sock)  # the process has ended: the receiver tells all who wait
        return future.result()

    def _started(self) -> socket.socket:
        """Return the socket to the process, which is started if there is none yet. Holds the lock."""
        if self._failure:
            raise BrokerError(self._failure)
        if self._sock is None:
            try:
                self._sock = self._start()
            except ArvSshError as error:
                raise BrokerError(str(error)) from error
            except OSError as error:  # the next request tries again: this host may have room by then
                raise BrokerError(f"the gateway cannot start its broker: {error.strerror}") from error
        return self._sock

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._child = entry.enter(
                    self._container,
                    self._account,
                    MODULE,
                    BROKER,
                    [str(theirs.fileno()), self._account.home],
                    (theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                threading.Thread(target=self._receive, args=(ours,), name="broker", daemon=True).start()
            except BaseException:
                ours.close()
                raise
        return ours

    def _receive(self, sock: socket.socket) -> None:
        failure = "the process inside the container has ended"
        with sock:
            while message := _receive_one(sock):
                answer, sockets = message
                if "failed" in answer:
                    failure = f"the container cannot be entered: {answer['failed']}"
                    continue
                self._deliver(answer, sockets)
            with self._lock:
                self._failure = self._failure or failure
                waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_exception(BrokerError(self._failure))

    def _deliver(self, answer: dict[str, Any], sockets: list[socket.socket]) -> None:
        with self._lock:
            future = self._waiting.pop(answer["id"])
        if "error" in answer:
            future.set_exception(BrokerError(answer["error"]))
        elif answer.pop("sockets", 0) != len(sockets):
            for one in sockets:
                one.close()
            future.set_exception(BrokerError("Too many open files"))
        else:
            future.set_result((answer, sockets))


def _receive_one(sock: socket.socket) -> _Answer | None:
    """Return one answer and its sockets; None at the end."""
    try:
        message, descriptors, _, _ = socket.recv_fds(sock, MESSAGE_LIMIT, MAX_SOCKETS, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    if not message:
        return None
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for one in sockets:
        one.setblocking(True)  # the broker connected without blocking, and the flag came along
    return json.loads(message), sockets


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        logger.debug("the broker was gone already")


def _reap(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
