"""``socket`` and ``ssl`` without the halves of them that are written in Python, whose import takes as long as a login.

ssh-proxy starts on every connection, and needs a TCP socket, a TLS context and some errors. CPython has all of these
in C, in ``_socket`` and ``_ssl``: the very classes that ``socket`` and ``ssl`` dress up. What the dress adds and
ssh-proxy needs (the default CAs, ALPN, ``wrap_bio``) is little, and done here in the same way. These modules are
private, so they are used only in versions of CPython in which the tests of this module have found no difference; in
any other, ``socket`` and ``ssl`` here are those of the standard library.

Owns which of the two it is. Knows nothing of what is done with them.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # type checkers know the name without typing, which takes 4 ms to import
if TYPE_CHECKING:
    import socket as socket
    import ssl as ssl
    from typing import Any

COMPARED = ((3, 11), (3, 12), (3, 13))
"""The versions of CPython in which tests/unit/arv_ssh/net/test_bare.py finds both to be the same."""
IS_BARE = sys.implementation.name == "cpython" and sys.version_info[:2] in COMPARED

if not TYPE_CHECKING:
    if IS_BARE:
        import _socket as socket
        import _ssl as ssl
    else:
        import socket as socket
        import ssl as ssl


def client_context() -> ssl.SSLContext:
    """Return a new context of a client that checks the server's certificate and name, and trusts no CA yet."""
    made: Any = _bare_context() if IS_BARE else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not made.check_hostname or made.verify_mode != ssl.CERT_REQUIRED:
        raise AssertionError("a new TLS context does not check the server")
    return made  # type: ignore[no-any-return]


def ca_paths() -> tuple[str | None, str | None]:
    """Return the file and the directory of the system's CAs, by SSL_CERT_FILE and SSL_CERT_DIR, or OpenSSL's own.

    None stands for what does not exist.
    """
    if not IS_BARE:
        paths = ssl.get_default_verify_paths()
        return paths.cafile, paths.capath
    private: Any = ssl
    file_variable, file, directory_variable, directory = private.get_default_verify_paths()
    file, directory = os.environ.get(file_variable, file), os.environ.get(directory_variable, directory)
    return file if os.path.isfile(file) else None, directory if os.path.isdir(directory) else None


def _bare_context() -> Any:
    private: Any = ssl

    class Context(private._SSLContext):  # type: ignore[misc]
        """What ``ssl.SSLContext`` adds, as far as it is used."""

        def load_default_certs(self) -> None:
            self.set_default_verify_paths()

        def set_alpn_protocols(self, names: list[str]) -> None:
            self._set_alpn_protocols(b"".join(bytes([len(name)]) + name.encode("ascii") for name in names))

        def wrap_bio(
            self, incoming: Any, outgoing: Any, *, server_side: bool, server_hostname: str | bytes | None
        ) -> _Stream:
            if self.check_hostname and not server_hostname:
                raise ValueError("a TLS server without a name cannot be checked")
            name = server_hostname.decode("ascii") if isinstance(server_hostname, bytes) else server_hostname
            return _Stream(self._wrap_bio(incoming, outgoing, server_side, name, owner=None, session=None))

    return Context(private.PROTOCOL_TLS_CLIENT)


class _Stream:
    """What ``ssl.SSLObject`` is, as far as :class:`arv_ssh.net.tls.TlsEngine` uses it."""

    def __init__(self, tls: Any) -> None:
        self.do_handshake = tls.do_handshake
        self.read = tls.read
        self.write = tls.write
        self.pending = tls.pending
        self.unwrap = tls.shutdown
        self._tls = tls

    def getpeercert(self, *, binary_form: bool) -> Any:
        return self._tls.getpeercert(binary_form)
