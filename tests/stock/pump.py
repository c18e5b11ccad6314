"""Bytes between a TLS connection and two plain descriptors, by one thread: TLS must not be used by two at once."""

from __future__ import annotations

import os
import select
import ssl
from typing import Any


def pump(tls: ssl.SSLSocket, source: int, sink: int) -> None:
    """Copy ``source`` to ``tls`` and ``tls`` to ``sink`` until either ends, as Go's two io.Copy and a cancel do."""
    tls.settimeout(None)
    while True:
        both: list[Any] = [tls, source]
        ready = [tls] if tls.pending() else select.select(both, [], [])[0]
        if tls in ready:
            try:
                data = tls.recv(65536)
            except (ssl.SSLError, OSError):
                return
            if not data:
                return
            _write(sink, data)
        if source in ready:
            data = os.read(source, 65536)
            if not data:
                return
            tls.sendall(data)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
