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
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

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

_Kind = TypeVar("_Kind")
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
        answer, sockets = self._ask("resolve", host=host)
        _close(sockets)  # one that came along is nobody's
        with _well_formed():
            return [Found(_is(str, address), _is(bool, own)) for address, own in answer["addresses"]]

    def connect(self, addresses: list[str], port: int) -> socket.socket:
        """Connect to the first of the addresses that answers."""
        return self._one("connect", addresses=addresses, port=port)

    def connect_unix(self, path: str) -> socket.socket:
        """Connect to a unix socket."""
        return self._one("connect-unix", path=path)

    def listen(self, host: str, port: int) -> Listening:
        """Listen on ``host``: "" is every address, ``localhost`` both loopbacks; port 0 any free one."""
        answer, sockets = self._ask("listen", host=host, port=port)
        with _well_formed(sockets):
            return Listening(answer["id"], sockets, port=_is(int, answer["port"]))

    def listen_unix(self, path: str) -> Listening:
        """Listen on a new unix socket."""
        answer, sockets = self._ask("listen-unix", path=path)
        return Listening(answer["id"], sockets, path=path)

    def listen_agent(self) -> Listening:
        """Listen on a new unix socket in a directory of its own, both for the user alone."""
        answer, sockets = self._ask("listen-agent")
        with _well_formed(sockets):
            return Listening(answer["id"], sockets, path=_is(str, answer["path"]))

    def remove(self, listening: Listening) -> None:
        """Remove the files of a unix socket; the sockets themselves are the caller's to close."""
        _close(self._ask("remove", made=listening.key)[1])

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

    def _one(self, request: str, **values: Any) -> socket.socket:
        """Ask for one socket, and no more."""
        _, sockets = self._ask(request, **values)
        with _well_formed(sockets):
            (sock,) = sockets
            return sock

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
                if "id" not in answer and "failed" in answer:
                    failure = f"the container cannot be entered: {answer['failed']}"
                    continue
                self._deliver(answer, sockets)
            with self._lock:
                self._failure = self._failure or failure
                waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_exception(BrokerError(self._failure))

    def _deliver(self, answer: dict[str, Any], sockets: list[socket.socket]) -> None:
        number = answer.get("id")
        with self._lock:
            future = self._waiting.pop(number, None) if type(number) is int else None
        if future is None:
            _close(sockets)  # of what nobody asked
        elif "error" in answer:
            _close(sockets)
            future.set_exception(BrokerError(str(answer["error"])))
        elif answer.pop("sockets", 0) != len(sockets):
            _close(sockets)
            future.set_exception(BrokerError("Too many open files"))
        else:
            future.set_result((answer, sockets))


def _receive_one(sock: socket.socket) -> _Answer | None:
    """Return one answer and its sockets; None at the end, and for what the broker would never send.

    The process runs as the session's user, beside that user's other programs: it may have been taken over.
    """
    try:
        message, descriptors, _, _ = socket.recv_fds(sock, MESSAGE_LIMIT, MAX_SOCKETS, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    if not message:
        return None
    sockets: list[socket.socket] = []
    try:
        while descriptors:
            sockets.append(socket.socket(fileno=descriptors[0]))
            del descriptors[0]
            sockets[-1].setblocking(True)  # the broker connected without blocking, and the flag came along
        return _is(dict, json.loads(message)), sockets
    except (OSError, ValueError, TypeError, RecursionError) as error:
        logger.warning("the broker gave an answer that is none: %s", error)
        _close(sockets)
        for descriptor in descriptors:
            os.close(descriptor)
        return None


@contextmanager
def _well_formed(sockets: Sequence[socket.socket] = ()) -> Iterator[None]:
    """Map an answer without what was asked for to :class:`BrokerError`; ``sockets`` came with it."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        _close(sockets)
        raise BrokerError("the process inside the container gave an answer that is none") from error


def _is(kind: type[_Kind], value: Any) -> _Kind:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def _close(sockets: Sequence[socket.socket]) -> None:
    for one in sockets:
        one.close()


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
