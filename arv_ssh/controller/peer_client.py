"""One request to another controller process of this host, over its private socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import h11

TIMEOUT = 2.0
"""Seconds for the whole exchange: the other process is on this host, and answers from memory."""
READ_SIZE = 64 * 1024


async def get(socket_path: Path, target: str, token: str) -> tuple[int, bytes]:
    """Return status and body of the answer to GET ``target``.

    Raises OSError (TimeoutError among it) or h11.RemoteProtocolError when there is no whole answer.
    """
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_unix_connection(socket_path)
        try:
            return await _exchange(reader, writer, target, token)
        finally:
            writer.close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, token: str
) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT)
    headers = [("Host", "localhost"), ("Authorization", f"Bearer {token}"), ("Connection", "close")]
    writer.write(http.send(h11.Request(method="GET", target=target, headers=headers)) or b"")
    writer.write(http.send(h11.EndOfMessage()) or b"")
    status, body = 0, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(READ_SIZE))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            return status, body
