"""yamux: frames, one core against any peer, and two cores against each other."""

from __future__ import annotations

from arv_ssh.yamux.core import MAX_STREAMS, Core, DataReceived, EofReceived, GoneAway, StreamOpened, StreamReset
from arv_ssh.yamux.frames import FrameReader, Header, RemoteProtocolError, decode
from tests.fuzz.harness import Choices, Target, pieces


def frames(data: bytes) -> None:
    """Frames in pieces are the frames of the whole; a header is what its bytes were; only RemoteProtocolError."""
    assert _frames([data]) == _frames(list(pieces(data, 1 + len(data) % 13)))
    try:
        if len(data) >= 12:
            assert decode(data[:12]).encode() == data[:12]
    except RemoteProtocolError:
        pass


def _frames(parts: list[bytes]) -> list[Header | bytes]:
    reader, found, payload = FrameReader(), list[Header | bytes](), b""
    try:
        for part in parts:
            reader.receive(part)
            for one in reader:
                if isinstance(one, Header):
                    found += [payload, one]
                    payload = b""
                else:
                    payload += bytes(one)
    except RemoteProtocolError:
        found.append(b"broken")
    return [*found, payload]


def core(data: bytes) -> None:
    """A peer may send anything: it is followed or ended with a GO_AWAY; streams, windows and answers stay bounded."""
    choices = Choices(data)
    ours = Core(client=bool(choices.byte() & 1))
    number = ours.open()
    ours.send(number, bytes(choices.byte()) * 100)
    opened: set[int] = set()
    while choices:
        ours.receive_data(choices.take(1 + choices.byte()))
        try:
            while event := ours.next_event():
                if isinstance(event, StreamOpened):
                    opened.add(event.stream_id)
                elif isinstance(event, StreamReset):
                    opened.discard(event.stream_id)
                elif isinstance(event, DataReceived):
                    ours.consumed(event.stream_id, len(event.data))
                elif isinstance(event, EofReceived):
                    ours.send_eof(event.stream_id)
        except RemoteProtocolError:
            assert ours.next_event() is None
            assert ours.data_to_send().endswith(b"\0\3\0\0\0\0\0\0\0\0\0\1")
            return
        assert sum(ours.is_open(one) for one in opened) <= MAX_STREAMS
        while ours.data_to_send():
            pass


def pair(data: bytes) -> None:
    """Between two of ours each byte arrives once and in order, and neither calls the other broken."""
    choices = Choices(data)
    ends = (Core(client=True), Core(client=False))
    sent: dict[tuple[int, int], bytes] = {}
    got: dict[tuple[int, int], bytes] = {}
    numbers, over = list[int](), set[tuple[int, int]]()
    while choices:
        act, end = choices.byte(), choices.byte() & 1
        if act < 40 and len(numbers) < 8:
            numbers.append(ends[end].open())
        elif numbers:
            key = end, numbers[act % len(numbers)]
            if act < 180 and key not in over and ends[end].is_open(key[1]):
                words = choices.string() * 50
                sent[key] = sent.get(key, b"") + words
                ends[end].send(key[1], words)
            elif act < 200:
                over.add(key)
                ends[end].send_eof(key[1])
        if act % 3 == 0:
            _exchange(ends, got)
    _exchange(ends, got)
    assert {key: value for key, value in got.items() if value} == {key: value for key, value in sent.items() if value}


def _exchange(ends: tuple[Core, Core], got: dict[tuple[int, int], bytes]) -> None:
    moved = True
    while moved:
        moved = False
        for end in (0, 1):
            while data := ends[end].data_to_send():
                moved = True
                ends[1 - end].receive_data(data)
                while event := ends[1 - end].next_event():
                    assert not isinstance(event, GoneAway)
                    if isinstance(event, DataReceived):
                        key = end, event.stream_id
                        got[key] = got.get(key, b"") + event.data
                        ends[1 - end].consumed(event.stream_id, len(event.data))


TARGETS = (
    Target("yamux-frames", frames.__doc__ or "", frames),
    Target("yamux-core", core.__doc__ or "", core),
    Target("yamux-pair", pair.__doc__ or "", pair),
)
