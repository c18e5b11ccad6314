"""The client's half of an HTTP/1.1 upgrade to SSH: the request as bytes, the answer as a state fed with bytes.

Owns the wire text of RFC 9110 §7.8 as ssh-proxy and the controller's dial of a gateway need it. Sans-I/O, and light: a
head of status 101 is read here in a few lines, because ssh-proxy pays for every import on every connection; any
other answer (an error with a body, perhaps chunked) goes to h11, imported only then.
"""

from __future__ import annotations

import re

from arv_ssh.errors import BadGateway, HttpError, from_status

TYPE_CHECKING = False  # type checkers know the name without typing, which takes 4 ms to import
if TYPE_CHECKING:
    import h11

HEAD_LIMIT = 16 * 1024
"""Bytes of a header block; a 101 of ours has some 500, and nginx and HAProxy stop at 8 and 16 KB."""

BODY_LIMIT = 64 * 1024
"""Bytes of an error's body that are kept; a sentence in JSON has some 200, a proxy's HTML page a few thousand."""

SAME_USERNAME = ("X-Arvados-Ssh-Username", "login_username")
"""The header by which our clients say that their SSH user name is the ``login_username`` they ask for, so that another
one is a mistake. Stock clients send the local user's name, whatever they ask for."""

_HEAD_END = b"\r\n\r\n"
_PREFIX = b"HTTP/1."
_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-9][0-9]{2})(?: (.*))?")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def quote(text: str) -> str:
    """Percent-encode ``text`` for a path, a query or a form (RFC 3986 §2.1); ``urllib.parse`` would cost 5 ms."""
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in text.encode())


def request(
    method: str, path: str, host: str, headers: list[tuple[str, str]], form: dict[str, str], *, protocol: str = "ssh"
) -> bytes:
    """Return the request that asks to go on as SSH (or another ``protocol``), with ``form`` as its body."""
    body = form_body(form)
    return _head(method, path, host, headers + form_headers(body, protocol)) + body


def form_body(form: dict[str, str]) -> bytes:
    """Return ``form`` as the body of a request."""
    return "&".join(f"{quote(name)}={quote(value)}" for name, value in form.items()).encode()


def form_headers(body: bytes, protocol: str) -> list[tuple[str, str]]:
    """Return the headers of a request with that form as its body, which asks to go on as ``protocol``."""
    return [
        ("Connection", "upgrade"),
        ("Upgrade", protocol),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Length", str(len(body))),
    ]


def plain_request(path: str, host: str, headers: list[tuple[str, str]]) -> bytes:
    """Return an ordinary GET without an upgrade; :class:`UpgradeAnswer` reads its answer too."""
    return _head("GET", path, host, [*headers, ("Connection", "close")])


def _head(method: str, path: str, host: str, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    # The value is not shown: it may be a token.
    if any("\r" in line or "\n" in line or "\0" in line for line in lines):
        raise ValueError("a line break in an HTTP header")
    return "\r\n".join(lines).encode() + _HEAD_END


class UpgradeAnswer:
    """The answer to :func:`request`, as it arrives.

    ``peer`` is how error sentences name the server. Until :meth:`receive` has returned True, ``status`` is 0.
    ``headers`` has lower-case keys, repeated ones joined with ", ". ``trailing`` holds the bytes after a 101's head:
    they belong to SSH, or to the ``protocol`` that the request asked for.
    """

    def __init__(self, peer: str = "the server", protocol: str = "ssh") -> None:
        self.status = 0
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.trailing = b""
        self._peer = peer
        self._protocol = protocol
        self._buffer = bytearray()
        self._reader: h11.Connection | None = None
        self._cut = False

    def receive(self, data: bytes | bytearray | memoryview) -> bool:
        """Store what arrived (empty means end of stream); say whether the whole answer is there.

        Raise :class:`BadGateway` when the answer is not HTTP, is over :data:`HEAD_LIMIT`, or ended inside its head.
        """
        if self._reader:
            return self._receive_body(bytes(data))
        searched = max(0, len(self._buffer) - len(_HEAD_END) + 1)
        self._buffer += data
        while True:
            self._check_prefix()
            end = self._buffer.find(_HEAD_END, searched)
            if end > HEAD_LIMIT or (end < 0 and len(self._buffer) > HEAD_LIMIT):
                raise BadGateway(f"{self._peer} answered with a header block of more than {HEAD_LIMIT} bytes")
            if end < 0:
                if not data:
                    raise BadGateway(f"{self._peer} closed the connection before it answered")
                return False
            head = self._buffer[:end].decode("latin-1")
            status, reason = self._status_line(head)
            if status >= 200:
                return self._start_body(status, reason, ended=not data)
            rest = bytes(self._buffer[end + len(_HEAD_END) :])
            if status == 101:
                self._finish_upgrade(head, rest, reason)
                return True
            # 100 Continue, 103 Early Hints: the answer proper is still to come (RFC 9110 §15.2).
            self._buffer[:] = rest
            searched = 0

    def error(self) -> HttpError:
        """Return the failure that an answer other than 101 means: the server's own sentence, or one made here."""
        return refusal(self._peer, self.status, self.reason, b"" if self._cut else self.body, self._protocol)

    def reason_given(self) -> str:
        """Return the server's own sentence about an error; empty when it gave none, or only part of it came."""
        return "" if self._cut else sentence_of(self.body)

    def _check_prefix(self) -> None:
        # At once, and not at the end of a head that never comes: an SSH or a mail server waits for us to speak.
        start = bytes(self._buffer[: len(_PREFIX)])
        if not _PREFIX.startswith(start):
            raise BadGateway(f"{self._peer} does not answer in HTTP; check its host and port")

    def _status_line(self, head: str) -> tuple[int, str]:
        found = _STATUS_LINE.fullmatch(head.split("\r\n", 1)[0])
        if not found:
            raise BadGateway(f"{self._peer} answered with a malformed HTTP status line")
        return int(found.group(1)), (found.group(2) or "").strip()

    def _finish_upgrade(self, head: str, rest: bytes, reason: str) -> None:
        for line in head.split("\r\n")[1:]:
            found = _HEADER.fullmatch(line)
            if not found:
                raise BadGateway(f"{self._peer} answered with a malformed HTTP header")
            self._add_header(found.group(1), found.group(2))
        if self.headers.get("upgrade", "").lower() != self._protocol:
            raise BadGateway(f"{self._peer} switched to a protocol other than {article(self._protocol)}")
        self.status, self.reason, self.trailing = 101, reason, rest

    def _add_header(self, name: str, value: str) -> None:
        name = name.lower()
        self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value

    def _start_body(self, status: int, reason: str, *, ended: bool) -> bool:
        import h11

        self._reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT + BODY_LIMIT)
        # h11 reads a response only after it has seen a request go out; any request will do for reading a body.
        self._reader.send(h11.Request(method="GET", target="/", headers=[("Host", "unused")]))
        self._reader.send(h11.EndOfMessage())
        self.status, self.reason = status, reason
        data, self._buffer = bytes(self._buffer), bytearray()
        return self._receive_body(data) or (ended and self._receive_body(b""))

    def _receive_body(self, data: bytes) -> bool:
        import h11

        assert self._reader is not None  # noqa: S101 - only called after _start_body
        try:
            self._reader.receive_data(data)
            while True:
                event = self._reader.next_event()
                if isinstance(event, h11.Response):
                    for name, value in event.headers:
                        self._add_header(name.decode("latin-1"), value.decode("latin-1"))
                elif isinstance(event, h11.Data):
                    self.body += event.data
                    if len(self.body) > BODY_LIMIT:
                        self._cut = True
                        self.body = self.body[:BODY_LIMIT]
                        return True
                else:
                    return isinstance(event, h11.EndOfMessage)
        except h11.RemoteProtocolError as error:
            if data or not self.headers:
                raise BadGateway(f"{self._peer} answered {self.status} in malformed HTTP ({error})") from error
            # The connection ended inside the body: the status still says what went wrong.
            self._cut = True
            return True


def refusal(peer: str, status: int, reason: str, body: bytes, protocol: str) -> HttpError:
    """Return the failure that ``peer``'s answer means: its own sentence, or one made here."""
    return from_status(status, sentence_of(body) or _unexplained(peer, status, reason, protocol))


def sentence_of(body: bytes) -> str:
    """Return the sentence in an error's body, ``{"errors": [...]}``; empty when there is none."""
    import json

    try:
        return "; ".join(" ".join(str(error).split()) for error in json.loads(body)["errors"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""


def article(protocol: str) -> str:
    """Return ``protocol`` as sentences name it."""
    return "SSH" if protocol == "ssh" else f"a {protocol}"


def _unexplained(peer: str, status: int, reason: str, protocol: str) -> str:
    what = f"{peer} answered {status} {reason}".rstrip()
    if status < 400:
        return f"{what} instead of switching to {article(protocol)}; is it an Arvados controller with shell access?"
    return f"{what} and gave no reason"
