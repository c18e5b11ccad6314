"""What hashicorp/yamux itself put on the wire, read by either end of ours (see record.go and stock.txt)."""

from __future__ import annotations

from pathlib import Path

import pytest

from arv_ssh.yamux.core import (
    Core,
    DataReceived,
    EofReceived,
    Event,
    GoneAway,
    PingAnswered,
    StreamAccepted,
    StreamOpened,
)
from arv_ssh.yamux.frames import Flag, GoAway, Header, Type

RECORDING = Path(__file__).with_name("stock.txt").read_text(encoding="utf-8").splitlines()


def said_by(end: str) -> bytes:
    """Return all that one end wrote."""
    wire = b""
    for line in RECORDING:
        who, _, what = line.partition(" ")
        if who == end:
            wire += bytes(int(what.split()[1])) if what.startswith("zeros") else bytes.fromhex(what)
    return wire


def heard(end: Core, wire: bytes, size: int) -> list[Event]:
    """Return the events of ``wire`` fed ``size`` bytes at a time, the pieces of one payload joined."""
    found: list[Event] = []
    for at in range(0, len(wire), size):
        end.receive_data(wire[at : at + size])
        while (event := end.next_event()) is not None:
            last = found[-1] if found else None
            if isinstance(event, DataReceived) and isinstance(last, DataReceived):
                assert event.stream_id == last.stream_id
                found[-1] = DataReceived(event.stream_id, last.data + event.data)
            else:
                found.append(event)
    return found


@pytest.mark.parametrize("size", [10, 1000, 1 << 20])
def test_a_stock_crunch_run(size: int) -> None:
    """A controller of ours opens a stream to a stock crunch-run, and understands all that this one says."""
    controller = Core(client=False)
    assert controller.open() == 2
    assert heard(controller, said_by("client"), size) == [
        StreamAccepted(2),
        DataReceived(2, b"answer to requestafter your end"),
        EofReceived(2),
        StreamOpened(1),
        DataReceived(1, bytes(160 * 1024)),
        EofReceived(1),
        PingAnswered(0),
        GoneAway(GoAway.NORMAL),
    ]
    assert b"".join(iter(controller.data_to_send, b""))[-12:] == Header(Type.PING, Flag.ACK, 0, 0).encode()


@pytest.mark.parametrize("size", [1, 10, 1 << 20])
def test_a_stock_controller(size: int) -> None:
    """A crunch-run of ours accepts a stock controller's stream, and understands all that this one says."""
    crunch_run = Core(client=True)
    assert crunch_run.open() == 1
    crunch_run.send(1, bytes(256 * 1024 + 1))
    while crunch_run.data_to_send():
        pass
    assert heard(crunch_run, said_by("server"), size) == [
        StreamOpened(2),
        DataReceived(2, b"request"),
        EofReceived(2),
        StreamAccepted(1),
        EofReceived(1),
        PingAnswered(0),
    ]
    assert crunch_run.unsent(1) == 0 or crunch_run.data_to_send(), "what the first window held back may go"
