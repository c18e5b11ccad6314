"""The relay as transcripts: ``a >>`` is what arrives from a side, ``b <<`` what is sent to it."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
import uvloop

from arv_ssh.net.relay import Relay
from tests.unit.arv_ssh.streams import Peer, Wire

Ending = list[tuple[Relay, Exception | None]]


def joined(early_a: bytes = b"", early_b: bytes = b"") -> tuple[Wire, Wire, list[str], Ending]:
    """Return two joined sides, their common transcript from here on, and where the relay's end is noted."""
    log: list[str] = []
    ends: Ending = []
    a, b = Wire(log, "a"), Wire(log, "b")
    relay = Relay(a, early_a=early_a, early_b=early_b, done=lambda relay, error: ends.append((relay, error)))
    relay.join(b)
    return a, b, log, ends


def test_bytes_pass_both_ways() -> None:
    """What arrives from one side is sent to the other."""
    a, b, log, _ = joined()
    assert sorted(log) == ["a resume", "b resume"]
    log.clear()
    a.receive(b"to b")
    b.receive(b"to a")
    assert log == ["b << b'to b'", "a << b'to a'"]


def test_early_bytes_come_first() -> None:
    """Bytes glued to either handshake go out before anything is read from the sockets."""
    a, b, log, _ = joined(early_a=b"SSH-a", early_b=b"SSH-b")
    assert log.index("b << b'SSH-a'") < log.index("a resume")
    assert log.index("a << b'SSH-b'") < log.index("b resume")
    a.receive(b" more")
    assert b.written == b"SSH-a more" and a.written == b"SSH-b"


def test_early_bytes_wait_for_the_other_side() -> None:
    """Nothing is read or lost while the other side is still connecting."""
    a, b = Wire(), Wire()
    relay = Relay(a, early_a=b"early")
    assert a.log == [] and not a.reading
    b.set_protocol(relay.b)
    relay.b.connection_made(b)
    assert b.written == b"early" and a.reading and b.reading


@pytest.mark.parametrize("first", ["a", "b"])
def test_half_close(first: str) -> None:
    """EOF from one side ends that direction only; EOF from the other then closes both."""
    a, b, log, _ = joined()
    ending, other = (a, b) if first == "a" else (b, a)
    log.clear()
    assert ending.receive_eof(), "the transport must stay open for the other direction"
    other.receive(b"still")
    assert log == [f"{other.name}<< EOF", f"{ending.name}<< b'still'"]
    log.clear()
    other.receive_eof()
    assert log == [f"{ending.name}<< EOF", "a close", "b close"]


@pytest.mark.parametrize("slow", ["a", "b"])
def test_slow_reader(slow: str) -> None:
    """A side that takes no more pauses the reading of the other, and of the other only, until it does."""
    a, b, log, _ = joined()
    reader, writer = (a, b) if slow == "a" else (b, a)
    log.clear()
    reader.protocol.pause_writing()
    assert not writer.reading and reader.reading
    reader.receive(b"x")
    assert writer.written == b"x"
    reader.protocol.resume_writing()
    assert writer.reading


@pytest.mark.parametrize("dead", ["a", "b"])
def test_dead_peer(dead: str) -> None:
    """A side that is lost closes the other, and its error is the relay's, told once."""
    a, b, log, ends = joined()
    gone, other = (a, b) if dead == "a" else (b, a)
    error = ConnectionResetError("reset")
    gone.lose(error)
    assert other.is_closing() and ends == []
    other.lose(None)
    assert [end[1] for end in ends] == [error]


def test_orderly_end_has_no_error() -> None:
    """Two EOFs and two closed transports are an end without an error."""
    a, b, _, ends = joined()
    a.receive_eof()
    b.receive_eof()
    a.lose()
    b.lose()
    assert [end[1] for end in ends] == [None]


def test_close() -> None:
    """Closing the relay closes both sides, once."""
    a, b, log, ends = joined()
    relay = a.protocol._relay
    log.clear()
    relay.close()
    relay.close()
    a.lose()
    b.lose()
    assert log == ["a close", "b close"] and len(ends) == 1


def test_lost_before_the_other_side_came() -> None:
    """A client that leaves while the other side is connecting closes that side as soon as it is there."""
    ends: Ending = []
    a, b = Wire(), Wire()
    relay = Relay(a, early_a=b"early", done=lambda relay, error: ends.append((relay, error)))
    a.lose(None)
    relay.join(b)
    assert b.is_closing() and b.written == b""
    b.lose()
    assert len(ends) == 1


def test_counts() -> None:
    """Each side knows how many bytes came from it, the early ones included."""
    a, b, _, ends = joined(early_a=b"12345")
    a.receive(b"678")
    b.receive(b"9")
    a.lose()
    b.lose()
    relay = ends[0][0]
    assert (relay.a.received, relay.b.received) == (8, 1)


def test_sockets_with_a_slow_reader_and_both_ends() -> None:
    """Over real sockets 20 MB pass exactly to a reader that stops for a while, in bounded memory, after which the
    other direction still works."""
    data = os.urandom(1 << 20) * 20

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        left, a = socket.socketpair()
        right, b = socket.socketpair()
        holder = Peer()
        transport, _ = await loop.create_connection(lambda: holder, sock=a)
        transport.pause_reading()
        relay = Relay(transport, done=lambda relay, error: ended.set())
        await loop.create_connection(lambda: relay.b, sock=b)
        client, server = Peer(), Peer()
        await loop.create_connection(lambda: client, sock=left)
        await loop.create_connection(lambda: server, sock=right)
        server.transport.pause_reading()
        client.transport.set_write_buffer_limits(high=0)
        sent = 0
        while client.resumed.is_set():  # until everything on the way is full
            client.transport.write(data[sent : sent + 65536])
            sent += 65536
            for _ in range(10):
                await asyncio.sleep(0)
        waiting = relay.b.transport.get_write_buffer_size() if relay.b.transport else 0
        assert sent < 8 << 20 and waiting < 2 << 20
        server.transport.resume_reading()
        client.transport.write(data[sent:])
        client.transport.write_eof()
        await server.eof.wait()
        assert bytes(server.received) == data
        server.transport.write(b"answer after the end")
        assert await client.until(20) == b"answer after the end"
        server.transport.write_eof()
        await ended.wait()
        client.transport.close()
        server.transport.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), 30))
