"""A TCP relay before a controller, whose connections can be broken in each way in which networks break them."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SIZE = 256 * 1024


class _Pair:
    """A client's connection and the one behind it, relayed both ways until it is broken."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends = client, server
        self.silent = False
        self.garbled = False
        self.passed = [0, 0]
        for number, (source, sink) in enumerate(((client, server), (server, client))):
            threading.Thread(target=self._relay, args=(number, source, sink), daemon=True).start()

    def _relay(self, number: int, source: socket.socket, sink: socket.socket) -> None:
        try:
            while (data := source.recv(SIZE)) and not self.silent:
                sink.sendall(data[:-1] + bytes([data[-1] ^ 1]) if self.garbled else data)
                self.passed[number] += len(data)
            if not self.silent:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            if not self.silent:  # one end has reset it, which the other would not see otherwise
                self.reset()

    def reset(self) -> None:
        """Have both ends see a reset."""
        for end in self.ends:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # The thread that reads it would keep it open.
                end.shutdown(socket.SHUT_RD)
            end.close()

    def end(self) -> None:
        """Have both ends see an end of TCP, with none of TLS before it."""
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break it off somehow."""
        self.end()
        for end in self.ends:
            end.close()


class Breaker:
    """Listens at ``address``, and relays to ``target`` ("host:port" both), which may be changed."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.refuses = False
        self.silent = False
        self.connections = 0
        self._pairs: list[_Pair] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    self._begin(client)
                except OSError:
                    client.close()

    def _begin(self, client: socket.socket) -> None:
        if self.refuses:
            raise ConnectionRefusedError
        host, _, port = self.target.rpartition(":")
        pair = _Pair(client, socket.create_connection((host, int(port))))
        pair.silent = self.silent
        self._pairs.append(pair)
        self.connections += 1

    @property
    def passed(self) -> int:
        """Bytes that have passed in both directions."""
        return sum(sum(pair.passed) for pair in self._pairs)

    def reset(self) -> None:
        """Break all connections by RST."""
        self._break(_Pair.reset)

    def end(self) -> None:
        """Break all connections by FIN."""
        self._break(_Pair.end)

    def silence(self) -> None:
        """Let nothing pass any more on the present connections, which stay open."""
        for pair in self._pairs:
            pair.silent = True

    def garble(self) -> None:
        """Change single bytes of what passes from now on; TLS notices."""
        for pair in self._pairs:
            pair.garbled = True

    def _break(self, how: object) -> None:
        for pair in self._pairs:
            how(pair)  # type: ignore[operator]

    @contextmanager
    def down(self) -> Iterator[None]:
        """Break all connections, and refuse new ones until the end of the block."""
        self.refuses = True
        self.reset()
        try:
            yield
        finally:
            self.refuses = False

    def close(self) -> None:
        """Stop."""
        self._listener.close()
        self._break(_Pair.close)
