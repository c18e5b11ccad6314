"""One end of a yamux connection, as transcripts of frames and as properties of two ends that talk to each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arv_ssh.yamux import core
from arv_ssh.yamux.core import (
    INITIAL_WINDOW,
    LARGEST_FRAME,
    Core,
    DataReceived,
    EofReceived,
    Event,
    GoneAway,
    PingAnswered,
    StreamAccepted,
    StreamOpened,
    StreamReset,
)
from arv_ssh.yamux.frames import Flag, FrameReader, GoAway, Header, LocalProtocolError, RemoteProtocolError, Type


def frame(kind: Type, flags: int, number: int, length: int = 0, payload: bytes = b"") -> bytes:
    return Header(kind, flags, number, length or len(payload)).encode() + payload


def data(number: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(Type.DATA, flags, number, payload=payload)


def update(number: int, flags: int = 0, size: int = 0) -> bytes:
    return frame(Type.WINDOW_UPDATE, flags, number, size)


def events(end: Core, wire: bytes = b"") -> list[Event]:
    """Return what ``wire`` means to ``end``."""
    end.receive_data(wire)
    return list(iter(end.next_event, None))


def sent(end: Core) -> bytes:
    """Return everything that ``end`` has to send now."""
    return b"".join(iter(end.data_to_send, b""))


def headers(wire: bytes) -> Iterator[Header]:
    reader = FrameReader()
    reader.receive(wire)
    return (part for part in reader if isinstance(part, Header))


def accepted(end: Core) -> int:
    """Open a stream and have it accepted; return its number."""
    number = end.open()
    sent(end)
    assert events(end, update(number, Flag.ACK)) == [StreamAccepted(number)]
    return number


def test_opening() -> None:
    """A stream begins with a window update, which says SYN and how much more than the first window it may take."""
    client, server = Core(client=True), Core(client=False)
    assert (client.open(), client.open(), server.open()) == (1, 3, 2)
    more = core.WINDOW - INITIAL_WINDOW
    assert sent(client) == update(1, Flag.SYN, more) + update(3, Flag.SYN, more)


def test_being_opened() -> None:
    """A stream of the peer's is accepted with ACK and our window."""
    server = Core(client=False)
    assert events(server, update(1, Flag.SYN)) == [StreamOpened(1)]
    assert sent(server) == update(1, Flag.ACK, core.WINDOW - INITIAL_WINDOW)


def test_data_with_the_first_frame() -> None:
    """A data frame may open a stream, and end it."""
    server = Core(client=False)
    wire = data(1, b"all of it", Flag.SYN | Flag.FIN)
    assert events(server, wire) == [StreamOpened(1), DataReceived(1, b"all of it"), EofReceived(1)]


def test_half_close() -> None:
    """The end of one direction leaves the other, and the stream is forgotten when both have ended."""
    server = Core(client=False)
    number = accepted(server)
    assert events(server, update(number, Flag.FIN)) == [EofReceived(number)]
    server.send(number, b"still")
    server.send_eof(number)
    assert server.is_open(number) and not server.eof_sent(number)
    assert sent(server) == data(number, b"still") + update(number, Flag.FIN)
    assert server.eof_sent(number) and not server.is_open(number)


def test_the_end_has_a_frame_of_its_own() -> None:
    """FIN never goes with payload: stock yamux may tell its reader of the end before the payload."""
    server = Core(client=False)
    number = accepted(server)
    server.send(number, b"last")
    server.send_eof(number)
    assert [(header.length, header.flags) for header in headers(sent(server))] == [(4, 0), (0, Flag.FIN)]


def test_the_peers_window() -> None:
    """No more is sent than the peer allows; the rest goes when it allows more, and the end after it."""
    server = Core(client=False)
    number = accepted(server)
    server.send(number, bytes(INITIAL_WINDOW + 10))
    server.send_eof(number)
    assert sum(header.length for header in headers(sent(server))) == INITIAL_WINDOW
    assert server.unsent(number) == 10 and not server.eof_sent(number)
    events(server, update(number, 0, 4))
    assert sent(server) == data(number, bytes(4))
    events(server, update(number, 0, 100))
    assert sent(server) == data(number, bytes(6)) + update(number, Flag.FIN)


def test_our_window() -> None:
    """Half a window taken is granted again; a peer that sends more than was granted is refused."""
    server = Core(client=False, window=INITIAL_WINDOW)
    events(server, update(1, Flag.SYN))
    sent(server)
    half = INITIAL_WINDOW // 2
    events(server, data(1, bytes(half)))
    server.consumed(1, half - 1)
    assert sent(server) == b""
    server.consumed(1, 1)
    assert sent(server) == update(1, 0, half)
    events(server, data(1, bytes(INITIAL_WINDOW)))
    with pytest.raises(RemoteProtocolError, match="stream 1 was sent 1 bytes with 0 left of its window"):
        events(server, data(1, b"x"))


def test_turns() -> None:
    """Streams with much to send take turns, frame by frame, and answers go before data."""
    server = Core(client=False)
    first, second = accepted(server), accepted(server)
    for number in (first, second):
        server.send(number, bytes(2 * LARGEST_FRAME))
    turns = [next(headers(server.data_to_send())).stream_id]
    events(server, frame(Type.PING, Flag.SYN, 0, 5))
    assert server.data_to_send() == frame(Type.PING, Flag.ACK, 0, 5)
    turns += [header.stream_id for header in headers(sent(server))]
    assert turns == [first, second, first, second]


def test_being_reset() -> None:
    """A reset ends a stream at once, and frames of it that come later, or that we had queued, are dropped."""
    server = Core(client=False)
    number = accepted(server)
    server.send(number, b"queued")
    assert events(server, data(number, b"lost", Flag.RST)) == [StreamReset(number)]
    assert sent(server) == b"" and server.eof_sent(number)
    assert events(server, data(number, b"late") + frame(Type.PING, Flag.ACK, 0, 9)) == [PingAnswered(9)]
    server.send(number, b"nobody")
    server.consumed(number, core.WINDOW)
    assert sent(server) == b""


def test_resetting() -> None:
    """A reset of ours drops what is queued, and what the peer sends until it knows."""
    server = Core(client=False)
    number = accepted(server)
    server.send(number, b"queued")
    server.reset(number)
    server.reset(number)
    assert sent(server) == update(number, Flag.RST)
    assert events(server, data(number, b"late")) == []


def test_too_many_streams() -> None:
    """A stream over the limit is reset and the others go on; one that ends makes room."""
    server = Core(client=False, max_streams=2)
    assert events(server, update(1, Flag.SYN) + update(3, Flag.SYN) + data(5, b"x", Flag.SYN)) == [
        StreamOpened(1),
        StreamOpened(3),
    ]
    assert sent(server)[-12:] == update(5, Flag.RST)
    events(server, update(1, Flag.RST))
    assert events(server, update(7, Flag.SYN)) == [StreamOpened(7)]


def test_ping() -> None:
    """Pings are answered with their own value, and ours are told from each other."""
    server = Core(client=False)
    events(server, frame(Type.PING, Flag.SYN, 0, 0xFFFFFFFF))
    assert sent(server) == frame(Type.PING, Flag.ACK, 0, 0xFFFFFFFF)
    first, second = server.ping(), server.ping()
    assert first != second
    assert events(server, frame(Type.PING, Flag.ACK, 0, second)) == [PingAnswered(second)]


def test_peer_goes_away() -> None:
    """After the peer's GO_AWAY open streams go on, and none can be opened."""
    server = Core(client=False)
    number = accepted(server)
    assert events(server, frame(Type.GO_AWAY, 0, 0, 0) + data(number, b"x")) == [
        GoneAway(GoAway.NORMAL),
        DataReceived(number, b"x"),
    ]
    with pytest.raises(LocalProtocolError, match="no more streams"):
        server.open()


def test_going_away() -> None:
    """After our GO_AWAY the peer's new streams are reset, and those that are open go on."""
    server = Core(client=False)
    events(server, update(1, Flag.SYN))
    server.go_away()
    server.go_away()
    sent(server)
    assert events(server, update(3, Flag.SYN) + data(1, b"x")) == [DataReceived(1, b"x")]
    assert sent(server) == update(3, Flag.RST)


@pytest.mark.parametrize(
    ("wire", "complaint"),
    [
        (update(2, Flag.SYN), "opened stream 2, a number that is this side's"),
        (update(1, Flag.SYN) * 2, "opened stream 1, which is open"),
        (update(1, Flag.SYN | Flag.FIN) + update(1, Flag.FIN), "stream 1 ended twice"),
        (update(1, Flag.SYN | Flag.FIN) + data(1, b"x"), "stream 1 has data after its end"),
        (update(1, Flag.SYN, 0xFFFFFFFF), "raised over"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "version 83"),
        (frame(Type.PING, Flag.SYN, 0, 1) * (core.MAX_CONTROL_FRAMES + 1), "does not read them"),
    ],
)
@pytest.mark.parametrize("size", [1, 10, 1 << 20])
def test_breaches(wire: bytes, complaint: str, size: int) -> None:
    """Each breach is the peer's fault and says which; it is told so, and nothing after it counts."""
    server = Core(client=False)
    with pytest.raises(RemoteProtocolError, match=complaint):
        for at in range(0, len(wire), size):
            events(server, wire[at : at + size])
    assert sent(server)[-12:] == frame(Type.GO_AWAY, 0, 0, GoAway.PROTOCOL_ERROR)
    assert events(server, frame(Type.PING, Flag.ACK, 0, 1)) == []


def test_our_own_fault() -> None:
    """What this side must not do is an error of its own, and nothing is sent."""
    server = Core(client=False)
    number = accepted(server)
    server.send_eof(number)
    with pytest.raises(LocalProtocolError, match="was ended"):
        server.send(number, b"x")
    with pytest.raises(LocalProtocolError, match="a window of 1 bytes"):
        Core(client=True, window=1)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "eof", "read"]), st.booleans(), st.integers(0, 2), st.integers(1, INITIAL_WINDOW)
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, cut=st.sampled_from([1000, 4096, 65536]))
def test_two_ends(steps: list[tuple[str, bool, int, int]], cut: int) -> None:
    """Whatever two ends send, end and read in whatever order, all arrives, in order, once, and never over a window."""
    ends = Core(client=True, window=INITIAL_WINDOW), Core(client=False, window=INITIAL_WINDOW)
    numbers = [ends[1].open() for _ in range(3)]
    written = {(side, number): bytearray() for side in (0, 1) for number in numbers}
    arrived = {key: bytearray() for key in written}
    taken = dict.fromkeys(written, 0)
    ended: set[tuple[int, int]] = set()
    eofs: set[tuple[int, int]] = set()

    def exchange() -> None:
        for side in (0, 1, 0, 1):
            wire = sent(ends[side])
            for at in range(0, len(wire), cut):
                for event in events(ends[1 - side], wire[at : at + cut]):
                    if isinstance(event, DataReceived):
                        arrived[1 - side, event.stream_id] += event.data
                    elif isinstance(event, EofReceived):
                        eofs.add((1 - side, event.stream_id))

    def read(side: int, number: int) -> None:
        key = side, number
        ends[side].consumed(number, len(arrived[key]) - taken[key])
        taken[key] = len(arrived[key])

    exchange()
    for what, far, which, size in steps:
        side, number = int(far), numbers[which]
        if what == "send" and (side, number) not in ended:
            payload = bytes([size % 251]) * size
            ends[side].send(number, payload)
            written[side, number] += payload
        elif what == "eof":
            ends[side].send_eof(number)
            ended.add((side, number))
        elif what == "read":
            read(side, number)
        exchange()
        for (reader, stream), got in arrived.items():
            assert len(got) - taken[reader, stream] <= INITIAL_WINDOW
    for key in written:
        ends[key[0]].send_eof(key[1])
    for _ in range(1 + sum(map(len, written.values())) // (INITIAL_WINDOW // 2)):
        for side, number in written:
            read(side, number)
        exchange()
    for (side, number), whole in written.items():
        assert arrived[1 - side, number] == whole
        assert (1 - side, number) in eofs
    assert not any(end.is_open(number) for end in ends for number in numbers)


@given(st.binary(max_size=400))
def test_any_bytes(wire: bytes) -> None:
    """Whatever comes, the core answers with events or the peer's fault, and nothing else."""
    server = Core(client=False)
    try:
        events(server, wire)
    except RemoteProtocolError:
        assert sent(server)[-12:] == frame(Type.GO_AWAY, 0, 0, GoAway.PROTOCOL_ERROR)
