"""One TLS connection to the API host, dialled and spoken to in plain blocking steps, each with a deadline.

Owns the socket until the relay takes it over: TCP (every address of the name in turn), TLS by
:class:`arv_ssh.net.tls.TlsEngine`, one HTTP answer. Knows nothing of containers or SSH.
"""

from __future__ import annotations

import os
import select
import time

from arv_ssh.client.settings import Settings
from arv_ssh.errors import ArvSshError, BadGateway, ConfigError, GatewayTimeout, Unavailable
from arv_ssh.net import bare, tls
from arv_ssh.net.bare import socket, ssl
from arv_ssh.net.upgrade import UpgradeAnswer

TYPE_CHECKING = False  # type checkers know the name without typing, which takes 4 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from arv_ssh.client.http_proxy import Proxy

    T = TypeVar("T")

CONNECT_TIMEOUT = 20.0
"""Seconds for TCP and TLS together, all addresses of the host included."""

ANSWER_TIMEOUT = 60.0
"""Seconds for the answer; the controller's own dial of a gateway fits in, so that its 504 reaches the user."""

BUFFER_SIZE = 256 * 1024

_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPALIVE", 15), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""A silent peer is dead after 15 + 3 * 10 seconds. TCP_KEEPALIVE is macOS' name of the first."""


class Abandoned(ArvSshError):
    """The program that started us has gone, so there is no one to report to."""


class Connection:
    """A TLS connection whose handshake is done. ``peer`` is how messages name the other end."""

    def __init__(self, sock: socket.socket, engine: tls.TlsEngine, peer: str) -> None:
        self.sock = sock
        self.engine = engine
        self.peer = peer

    def close(self) -> None:
        """Say goodbye in TLS as far as the socket takes it at once, and close."""
        try:
            self.engine.write_eof()
            self.sock.send(self.engine.outgoing())
        except (OSError, ssl.SSLError):
            pass  # the peer closed first
        self.sock.close()


def _proxy(settings: Settings) -> Proxy | None:
    if not any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return None
    from arv_ssh.client import http_proxy  # 4 ms, for those who have one

    return http_proxy.choose(settings.host, settings.port)


class _Hop:
    """What is connected to: the API host, or the proxy before it; ``variable`` is where it was named."""

    def __init__(self, settings: Settings, proxy: Proxy | None) -> None:
        where = proxy or settings
        self.host = where.host
        self.port = where.port
        self.name = str(proxy) if proxy else settings.authority
        self.variable = proxy.variable if proxy else "ARVADOS_API_HOST"
        self.up = f"that {'the proxy' if proxy else 'the controller'} is up"


def dial(
    settings: Settings,
    watch: int | None = None,
    passed: Callable[[str, str], None] | None = None,
    timeout: float = CONNECT_TIMEOUT,
) -> Connection:
    """Connect to the API host of ``settings``, through the proxy that the environment names for it.

    ``watch`` is a descriptor whose hang-up ends the wait with :class:`Abandoned`. ``passed`` is called after
    each step (DNS, TCP, proxy, TLS), with its result. ``timeout`` is in seconds. Raise :class:`Unavailable`,
    :class:`GatewayTimeout` or :class:`BadGateway` with a sentence that names the host.
    """
    if not hasattr(select, "poll"):
        raise ArvSshError("this platform has no poll(); run arvados-client on Linux, macOS, or in WSL on Windows")
    passed = passed or _ignore
    directory = _ca_directory(settings)
    deadline = time.monotonic() + timeout
    if directory is None:
        return _dial(settings, None, watch, passed, deadline, timeout)
    try:
        return _dial(settings, directory, watch, passed, deadline, timeout)
    except BadGateway as error:
        if not isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise
    # Perhaps it is trusted by a CA that somebody wrote into the file alone. The steps before TLS were told already.
    again = lambda step, detail: passed(step, detail) if step == "TLS" else None  # noqa: E731
    return _dial(settings, None, watch, again, deadline, timeout)


def _ca_directory(settings: Settings) -> str | None:
    """Return the directory in which each of the system's CAs is found when it is needed, if it seems to have them all.

    To read the file with all of them takes longer than the rest of ssh-proxy's start. Debian makes it in the very
    directory where each CA has its own file, too.
    """
    if settings.insecure or settings.ca_file:
        return None
    file, directory = bare.ca_paths()
    if not file or not directory or os.path.dirname(os.path.realpath(file)) != os.path.realpath(directory):
        return None
    try:
        return directory if any(name.endswith(".0") for name in os.listdir(directory)) else None
    except OSError:
        return None


def _dial(
    settings: Settings,
    ca_directory: str | None,
    watch: int | None,
    passed: Callable[[str, str], None],
    deadline: float,
    timeout: float,
) -> Connection:
    proxy = _proxy(settings)
    hop = _Hop(settings, proxy)
    addresses = _resolve(hop)
    passed("DNS", ", ".join(dict.fromkeys(address[0] for _, address in addresses)))
    context: ssl.SSLContext | None = None
    for position, (family, address) in enumerate(addresses):
        share = (deadline - time.monotonic()) / (len(addresses) - position)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            started = _start(sock, address)
            # The CAs are read while the connection is under way: with a big bundle that is 40 ms.
            context = context or _context(settings, ca_directory)
            _finish(sock, started, time.monotonic() + share, watch)
            _tune(sock)
            passed("TCP", f"connected to {address[0]}, port {address[1]}")
            early = _open_tunnel(sock, proxy, settings, deadline, watch) if proxy else b""
            if proxy:
                passed("proxy", f"through {proxy}")
            connection = _handshake(sock, context, settings, early, deadline, watch)
            passed("TLS", "not checked (ARVADOS_API_HOST_INSECURE)" if settings.insecure else "a trusted certificate")
            return connection
        except OSError as error:
            sock.close()
            if isinstance(error, ssl.SSLError):
                raise _tls_error(error, settings.authority) from error
            if position == len(addresses) - 1:
                raise _connect_error(error, hop, timeout) from error
        except BaseException:
            sock.close()
            raise
    raise Unavailable(f"the host {hop.host} has no address; check {hop.variable}")


def _ignore(step: str, detail: str) -> None:
    """Ignore the step: only a diagnosis shows it."""


def exchange(
    connection: Connection,
    request: bytes,
    watch: int | None = None,
    timeout: float = ANSWER_TIMEOUT,
    meanwhile: Callable[[], object] = lambda: None,
) -> UpgradeAnswer:
    """Send ``request`` and return its answer, complete; ``timeout`` is in seconds.

    ``meanwhile`` is called in between: most of the time is the other side's.
    """
    deadline = time.monotonic() + timeout
    answer = UpgradeAnswer(connection.peer)
    send(connection, request, deadline, watch, timeout)
    meanwhile()
    while not answer.receive(receive(connection, deadline, watch, timeout)):
        pass
    return answer


def send(
    connection: Connection, data: bytes, deadline: float, watch: int | None = None, timeout: float = ANSWER_TIMEOUT
) -> None:
    """Send ``data``, by ``deadline`` (monotonic seconds), ``timeout`` seconds after the beginning."""
    connection.engine.write(data)
    _speaking(connection, lambda: _send(connection.sock, connection.engine, deadline, watch), timeout)


def receive(
    connection: Connection, deadline: float, watch: int | None = None, timeout: float = ANSWER_TIMEOUT
) -> bytes:
    """Return what comes next, by ``deadline`` as for :func:`send`; empty when the other side has ended."""
    return _speaking(connection, lambda: _receive_plain(connection, deadline, watch), timeout)


def _speaking(connection: Connection, step: Callable[[], T], timeout: float) -> T:
    """Return what ``step`` does; raise its failure as a sentence."""
    try:
        return step()
    except TimeoutError as error:
        raise GatewayTimeout(f"{connection.peer} did not answer within {timeout:.0f} s; try again") from error
    except ssl.SSLError as error:
        raise _tls_error(error, connection.peer) from error
    except OSError as error:
        raise BadGateway(f"the connection to {connection.peer} failed: {_reason(error)}; try again") from error


def _resolve(hop: _Hop) -> list[tuple[int, tuple[str, int]]]:
    # As bytes: a str goes through the idna codec, whose import costs 4 ms.
    name = hop.host.encode("ascii" if hop.host.isascii() else "idna")
    try:
        found = socket.getaddrinfo(name, hop.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise Unavailable(
            f"the host name {hop.host} cannot be resolved ({error.strerror}); check {hop.variable}"
        ) from error
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]


def _context(settings: Settings, ca_directory: str | None) -> ssl.SSLContext:
    path = settings.ca_file
    try:
        context = tls.light_client_context(insecure=settings.insecure, ca_file=path, ca_directory=ca_directory)
        directory = bare.ca_paths()[1]
        if path and directory:
            # As OpenSSL and Go have it: SSL_CERT_FILE takes the place of the system's file, not of its directory.
            context.load_verify_locations(capath=directory)
    except ssl.SSLError as error:
        raise ConfigError(f"SSL_CERT_FILE {path} has no PEM certificate; name the CA's file") from error
    except OSError as error:
        raise ConfigError(f"cannot read SSL_CERT_FILE {path}: {error.strerror}; name the CA's file") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _start(sock: socket.socket, address: tuple[str, int]) -> bool:
    sock.setblocking(False)
    try:
        sock.connect(address)
    except BlockingIOError:
        return False
    return True


def _finish(sock: socket.socket, connected: bool, deadline: float, watch: int | None) -> None:
    if connected:
        return
    _wait(sock, select.POLLOUT, deadline, watch)
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _open_tunnel(
    sock: socket.socket, proxy: Proxy, settings: Settings, deadline: float, watch: int | None
) -> bytes:
    """Have ``proxy`` connect us to the API host; return what it sent beyond its answer."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    authority = f"{host}:{settings.port}"
    _send_bytes(sock, proxy.request(authority), deadline, watch)
    answer = b""
    while (early := proxy.answered(answer, authority)) is None:
        _wait(sock, select.POLLIN, deadline, watch)
        more = sock.recv(BUFFER_SIZE)
        if not more:
            raise BadGateway(f"{proxy} closed the connection before it answered; check {proxy.variable}")
        answer += more
    return early


def _handshake(
    sock: socket.socket,
    context: ssl.SSLContext,
    settings: Settings,
    early: bytes,
    deadline: float,
    watch: int | None,
) -> Connection:
    # As bytes for the same reason as in _resolve.
    name = settings.host.encode("ascii" if settings.host.isascii() else "idna")
    engine = tls.TlsEngine(context, server_side=False, server_hostname=name)
    if early:
        engine.receive(early)
    try:
        while not engine.handshake():
            _send(sock, engine, deadline, watch)
            _wait(sock, select.POLLIN, deadline, watch)
            engine.receive(sock.recv(BUFFER_SIZE))
    except ssl.SSLError:
        try:
            sock.send(engine.outgoing())  # the alert that tells the server why
        except OSError:
            pass  # it has gone already; our own error is the one to raise
        raise
    _send(sock, engine, deadline, watch)
    return Connection(sock, engine, settings.authority)


def _receive_plain(connection: Connection, deadline: float, watch: int | None) -> bytes:
    while True:
        data = connection.engine.read()
        if data or connection.engine.eof:
            return data
        _send(connection.sock, connection.engine, deadline, watch)
        _wait(connection.sock, select.POLLIN, deadline, watch)
        connection.engine.receive(connection.sock.recv(BUFFER_SIZE))


def _send(sock: socket.socket, engine: tls.TlsEngine, deadline: float, watch: int | None) -> None:
    _send_bytes(sock, engine.outgoing(), deadline, watch)


def _send_bytes(sock: socket.socket, content: bytes, deadline: float, watch: int | None) -> None:
    data = memoryview(content)
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            _wait(sock, select.POLLOUT, deadline, watch)


def _wait(sock: socket.socket, event: int, deadline: float, watch: int | None) -> None:
    poll = select.poll()
    poll.register(sock, event)
    if watch is not None:
        poll.register(watch, 0)  # errors and hang-ups are reported unasked
    left = deadline - time.monotonic()
    ready = poll.poll(left * 1000) if left > 0 else []
    if not ready:
        raise TimeoutError
    if any(fd == watch for fd, _ in ready):
        raise Abandoned("the program that started ssh-proxy has exited")


def _connect_error(error: OSError, hop: _Hop, timeout: float) -> ArvSshError:
    if isinstance(error, TimeoutError) and error.errno is None:
        return GatewayTimeout(
            f"{hop.name} did not answer within {timeout:.0f} s; check {hop.variable} and the network, "
            "such as firewalls"
        )
    return Unavailable(f"cannot connect to {hop.name}: {_reason(error)}; check {hop.variable}, and {hop.up}")


def _tls_error(error: ssl.SSLError, peer: str) -> ArvSshError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return BadGateway(
            f"the TLS certificate of {peer} is not trusted ({error.verify_message.rstrip('.')}); set SSL_CERT_FILE to "
            "the file of its CA, or, for a test cluster only, ARVADOS_API_HOST_INSECURE to true"
        )
    if isinstance(error, ssl.SSLEOFError):
        return BadGateway(f"{peer} closed the connection in the middle of TLS; check that it is an Arvados controller")
    return BadGateway(f"{peer} does not speak proper TLS ({error.reason or error}); check ARVADOS_API_HOST")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or error.__class__.__name__).lower()
