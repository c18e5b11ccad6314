"""TLS as a sans-I/O engine with half-close, and the house's TLS contexts.

Owns: ciphertext in, plaintext out, and back. Knows no socket and no event loop; its imports are ssh-proxy's start-up
time. One thread (or one event loop) at a time may use an engine.

Why not ``asyncio``'s or ``SSLSocket``'s own: neither lets one direction end before the other, which TLS 1.3 allows
(RFC 8446 §6.1) and a relay must.
"""

from __future__ import annotations

from arv_ssh.net import bare
from arv_ssh.net.bare import ssl

READ_SIZE = 112 * 1024
"""Bytes of plaintext handed on at a time: seven full TLS records. Encrypted again they have less than 128 KB; larger
pieces the C library maps anew each time."""
TLS_1_2 = 0x0303
"""``ssl.TLSVersion.TLSv1_2``, which is in its Python half."""


class TlsEngine:
    """One TLS connection: ciphertext on one side (``receive``, ``outgoing``), plaintext on the other.

    Every method may leave ciphertext to send: call :meth:`outgoing` after each. ``ssl.SSLError`` (a failed handshake, a
    bad certificate, a corrupted record) is raised to the caller; the alert for the peer is then in :meth:`outgoing`.
    ``buffer`` is where plaintext is decrypted to before it is handed on; engines of one thread may share it,
    and one that goes to another thread is given its own.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | bytes | None = None,
        buffer: memoryview | None = None,
    ) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=server_hostname)
        # Without one, each record of 16 KB would come in a new object of the full size asked for.
        self.buffer = buffer if buffer is not None else memoryview(bytearray(READ_SIZE))
        self._unread = b""
        self.more = True
        """Whether a read may find plaintext, the end or a failure before anything else is received."""
        self.handshaken = False
        self._peer_closed = False
        self._broken = False
        self.close_sent = False

    def receive(self, ciphertext: bytes | bytearray | memoryview) -> None:
        """Store what arrived; empty means that the transport below ended."""
        self.more = True
        if ciphertext:
            self._in.write(ciphertext)
        else:
            self._in.write_eof()

    def handshake(self) -> bool:
        """Go on with the handshake as far as the stored bytes allow; say whether it is complete."""
        if not self.handshaken:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            self.handshaken = True
        return True

    @property
    def eof(self) -> bool:
        """Say whether the peer has sent close_notify and everything before it was read."""
        return self._peer_closed and not self._unread

    def read(self) -> bytes:
        """Return the available plaintext, at most a buffer's worth; empty when there is none (see ``eof``).

        A transport that ended without a close_notify raises ``ssl.SSLError``: the stream was cut, not ended.
        """
        return bytes(self.buffer[: self.read_into(self.buffer)])

    def read_into(self, buffer: memoryview) -> int:
        """Put the available plaintext into ``buffer`` and return how many bytes; otherwise behave like :meth:`read`."""
        if not self._unread:
            return self._decrypt(buffer)
        size = min(len(self._unread), len(buffer))
        buffer[:size], self._unread = self._unread[:size], self._unread[size:]
        try:
            return size + self._decrypt(buffer[size:])
        except ssl.SSLError:
            if size:
                return size  # the next read fails again
            raise

    def _decrypt(self, buffer: memoryview) -> int:
        tls, stored, limit, size = self._tls, self._in, len(buffer), 0
        self.more = True
        # Asked only while there is something to go on with: the answer that more is needed is an exception each time.
        while size < limit and not self._peer_closed and (
            stored.pending or tls.pending() or stored.eof or self._broken
        ):
            try:
                got: int = tls.read(limit - size, buffer[size:])  # type: ignore[assignment]
            except ssl.SSLZeroReturnError:
                got = 0
            except ssl.SSLError as error:
                if isinstance(error, ssl.SSLWantReadError):
                    break
                self._broken = True
                if size:
                    break  # bytes from before a failure are delivered; the next read fails again
                raise
            if not got:
                self._peer_closed = True
            size += got
        self.more = size == limit or self._peer_closed or self._broken or stored.eof
        return size

    def write(self, plaintext: bytes | bytearray | memoryview) -> None:
        """Encrypt all of ``plaintext``."""
        if plaintext:
            self._tls.write(plaintext)

    def write_eof(self) -> None:
        """Send close_notify: this direction ends, the other goes on."""
        if self.close_sent:
            return
        # OpenSSL takes unread application data for an error in its shutdown, so take that out first.
        while size := self._decrypt(self.buffer):
            self._unread += self.buffer[:size]
        self.more = self.close_sent = True
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # our close_notify is written; OpenSSL would now wait for the peer's

    def outgoing(self) -> bytes:
        """Return and forget the ciphertext to send."""
        return self._out.read()

    def peer_certificate(self) -> bytes:
        """Return the peer's certificate in DER; empty when the peer has none. Only after the handshake."""
        return self._tls.getpeercert(binary_form=True) or b""


def client_context(*, insecure: bool = False, ca_file: str | None = None) -> ssl.SSLContext:
    """Return the context of a client that checks the server by the system's CAs, or by those in ``ca_file``.

    ``insecure`` checks nothing (ARVADOS_API_HOST_INSECURE; and gateways, whose proofs take the CA's place).
    """
    import ssl  # the whole of it: asyncio asks for its context

    return _set_up(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), insecure, ca_file)


def light_client_context(
    *, insecure: bool = False, ca_file: str | None = None, ca_directory: str | None = None
) -> ssl.SSLContext:
    """Return the same for ssh-proxy, whose start it delays less: of all that a context can do, what an engine uses.

    The CAs in ``ca_directory``, by the hashes of their names, are read only when they are needed.
    """
    return _set_up(bare.client_context(), insecure, ca_file, ca_directory)


def _set_up(
    context: ssl.SSLContext, insecure: bool, ca_file: str | None, ca_directory: str | None = None
) -> ssl.SSLContext:
    context.minimum_version = TLS_1_2  # type: ignore[assignment]
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file or ca_directory:
        context.load_verify_locations(ca_file, ca_directory)
    else:
        context.load_default_certs()
    return context


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return the context of a server with the PEM files ``certificate`` and ``key``."""
    import ssl  # as above

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    # Session tickets would be the only bytes a TLS 1.3 server sends unasked, and no client here resumes sessions.
    context.num_tickets = 0
    return context
