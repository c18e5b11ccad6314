"""The broker's own process: enters the container, then makes the sockets it is asked for, each in a thread.

Owns the requests (the table in :class:`BrokerServer`), and the files that the broker's sockets leave in the container:
they are removed when the gateway closes its end, or is killed. Started by :mod:`crunch_sshd.forwarding.broker`; after
:func:`enter` nothing more can be imported, so modules that the standard library imports late are imported here.
"""

from __future__ import annotations

import array  # noqa: F401 - socket.send_fds imports it when called
import encodings.idna  # noqa: F401 - as socket.connect may
import errno
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from crunch_sshd.inside import enter
from crunch_sshd.inside.broker import dial, resolver

MESSAGE_LIMIT = 64 * 1024
"""Bytes of one request or answer; a packet of the socketpair carries it whole."""
UMASK = 0o177
"""As sshd's StreamLocalBindMask: only their owner can use the sockets."""
LOOPBACK = ["127.0.0.1", "::1"]
EVERYWHERE = ["0.0.0.0", "::"]  # noqa: S104 - only when the client asks for it, and inside the container
AGENT_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108 - a directory of our own is made there
"""Places to try for the agent socket's directory, after sshd's own choice; the home directory comes last."""

Answer = tuple[dict[str, Any], list[socket.socket]]


class BrokerServer:
    """Serves the requests that come on ``gateway`` until the gateway closes it."""

    def __init__(self, gateway: socket.socket, home: str) -> None:
        self._gateway = gateway
        self._home = home
        self._lock = threading.Lock()
        self._made: dict[int, list[str]] = {}
        self._closed = False
        self._requests: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "resolve": self._resolve,
            "connect": self._connect,
            "connect-unix": self._connect_unix,
            "listen": self._listen,
            "listen-unix": self._listen_unix,
            "listen-agent": self._listen_agent,
            "remove": self._remove,
            "keep": self._keep_again,
        }

    def serve(self) -> None:
        """Answer until the end, then remove the files made."""
        while message := self._gateway.recv(MESSAGE_LIMIT):
            request = json.loads(message)
            try:
                threading.Thread(target=self._answer, args=(request,), daemon=True).start()
            except RuntimeError:  # the container's limit of processes counts for us too
                self._send(request["id"], {"error": os.strerror(errno.EAGAIN)}, [])
        with self._lock:
            self._closed = True
            made = [path for paths in self._made.values() for path in paths]
        _remove(made)

    def _answer(self, request: dict[str, Any]) -> None:
        sockets: list[socket.socket] = []
        try:
            answer, sockets = self._requests[request["do"]](request)
        except resolver.LookupFailed as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"error": os.strerror(error.errno) if error.errno else str(error)}
        except Exception as error:  # a mistake of ours: the caller must hear of it
            answer = {"error": f"the broker failed: {type(error).__name__}"}
        self._send(request["id"], answer, sockets)

    def _send(self, identifier: int, answer: dict[str, Any], sockets: list[socket.socket]) -> None:
        data = json.dumps({"id": identifier, **answer, "sockets": len(sockets)}).encode()
        with suppress(OSError):  # the gateway is gone, and serve() ends
            socket.send_fds(self._gateway, [data], [sock.fileno() for sock in sockets])
        for sock in sockets:
            sock.close()

    def _resolve(self, request: dict[str, Any]) -> Answer:
        found = resolver.resolve(request["host"])
        return {"addresses": [[address, dial.is_own(address)] for address in found]}, []

    def _connect(self, request: dict[str, Any]) -> Answer:
        return {}, [dial.connect(request["addresses"], request["port"])]

    def _connect_unix(self, request: dict[str, Any]) -> Answer:
        return {}, [dial.connect_unix(os.fsencode(request["path"]))]

    def _listen(self, request: dict[str, Any]) -> Answer:
        host = request["host"]
        if host in ("", "*"):
            addresses = EVERYWHERE
        elif host == "localhost":
            addresses = LOOPBACK
        else:
            addresses = resolver.resolve(host)
        sockets = dial.listen(addresses, request["port"])
        return {"port": sockets[0].getsockname()[1]}, sockets

    def _listen_unix(self, request: dict[str, Any]) -> Answer:
        path = request["path"]
        sock = dial.listen_unix(os.fsencode(path))
        self._keep(request["id"], path)
        return {}, [sock]

    def _listen_agent(self, request: dict[str, Any]) -> Answer:
        failure: OSError | None = None
        for place in (*AGENT_PLACES, self._home):
            directory = f"{place.rstrip('/')}/ssh-{os.urandom(8).hex()}"
            try:
                os.mkdir(directory)
            except OSError as error:
                failure = failure or error
                continue
            self._keep(request["id"], directory)
            os.chmod(directory, 0o700)  # the umask removed the right to enter it
            path = f"{directory}/agent"
            sock = dial.listen_unix(os.fsencode(path))
            self._keep(request["id"], path)
            return {"path": path}, [sock]
        raise failure or OSError("no place for the agent's socket")

    def _remove(self, request: dict[str, Any]) -> Answer:
        with self._lock:
            made = self._made.pop(request["made"], request.get("paths", []))
        _remove(made)
        return {}, []

    def _keep_again(self, request: dict[str, Any]) -> Answer:
        """Take over the files of an earlier broker process that was killed."""
        for path in request["paths"]:
            self._keep(request["made"], path)
        return {}, []

    def _keep(self, identifier: int, path: str) -> None:
        """Note a path to remove; remove it at once if the end came while it was being made."""
        with self._lock:
            if not self._closed:
                self._made.setdefault(identifier, []).append(path)
                return
        _remove([path])


def _remove(paths: list[str]) -> None:
    """Remove sockets and then the directories they were in."""
    for path in reversed(paths):
        with suppress(OSError):  # the user may have removed it, or put something else there
            try:
                os.unlink(path)
            except IsADirectoryError:
                os.rmdir(path)


def _report(gateway: socket.socket, failure: str) -> None:
    """Tell the gateway, and stay until it has heard: a request left unread would turn the answer into a reset."""
    with suppress(OSError):
        gateway.send(json.dumps({"failed": failure}).encode())
        gateway.shutdown(socket.SHUT_WR)
        while gateway.recv(MESSAGE_LIMIT):
            pass


def main(job: dict[str, Any]) -> int:
    """Enter the job's container; serve on its descriptor ``gateway``; its only argument is the user's home."""
    (home,) = job["arguments"]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the gateway, not before
    gateway = socket.socket(fileno=job["gateway"])
    try:
        enter.enter(job)
    except OSError as error:
        _report(gateway, error.strerror or str(error))
        return 1
    os.umask(UMASK)
    BrokerServer(gateway, home).serve()
    os._exit(0)  # threads that are still connecting no longer have a gateway to answer
