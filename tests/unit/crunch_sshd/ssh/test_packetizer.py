"""Packets under AES-GCM: the same bytes as paramiko's, through its private counters; a change of those fails here."""

from __future__ import annotations

import socket
import threading
from typing import Any

import paramiko
import pytest
from paramiko import common
from paramiko.message import Message

from crunch_sshd.runtimes import Output
from crunch_sshd.session.resizes import Resizes
from crunch_sshd.ssh.aes_gcm import GAP, MAX_PACKET
from crunch_sshd.ssh.channel import GatewayChannel
from crunch_sshd.ssh.packetizer import LAST_NUMBER, GatewayPacketizer, Packet
from tests.timing import wait_for
from tests.unit.crunch_sshd.conftest import Connect
from tests.unit.crunch_sshd.double import DEADLINE, Link, MemoryRuntime, read_to_end

GCM, CTR = "aes128-gcm@openssh.com", "aes128-ctr"
SEQUENCES = ("_Packetizer__sequence_number_in", "_Packetizer__sequence_number_out")


def exchange_keys(link: Link, cipher: str) -> None:
    """Have the client begin a key exchange that ends in ``cipher``."""
    link.client.get_security_options().ciphers = (cipher,)
    link.client.renegotiate_keys()
    link.client.global_request("keepalive@openssh.com")  # the exchange is over a moment after the client says so


@pytest.fixture
def link(connect: Connect) -> Link:
    """A connection, logged in, with the cipher that stock ssh prefers here; paramiko's client would prefer another."""
    one = connect()
    one.client.auth_none("_")
    exchange_keys(one, GCM)
    return one


def echo(link: Link, runtime: MemoryRuntime, data: bytes) -> None:
    """Send data both ways and compare it."""
    channel = link.open("cat")
    process = runtime.next()
    channel.sendall(data)
    process.until(lambda: process.stdin == data)
    process.say(data)
    process.end(0)
    assert read_to_end(channel) == (data, b"", 0)
    # Paramiko's client cannot answer the channel's close in a key exchange.
    wait_for(lambda: not link.transport._channels.values(), "the channel's end on both sides")


def test_fast_way_is_taken(link: Link) -> None:
    """With the cipher that stock ssh prefers here, both directions go the fast way."""
    packetizer = link.transport.packetizer
    assert isinstance(packetizer, GatewayPacketizer)
    assert link.transport.local_cipher == GCM
    assert packetizer._in is not None and packetizer._out is not None


def test_sequence_numbers_are_paramikos(link: Link, runtime: MemoryRuntime) -> None:
    """Every packet is counted where paramiko counts: both ends agree after data went both ways."""
    echo(link, runtime, bytes(1_000_000))
    link.client.global_request("keepalive@openssh.com")
    ours, theirs = link.transport.packetizer, link.client.packetizer
    for name, mirrored in (SEQUENCES, reversed(SEQUENCES)):
        assert getattr(ours, name) == getattr(theirs, mirrored) > 30


def test_sequence_number_begins_again(link: Link, runtime: MemoryRuntime) -> None:
    """0 follows the last sequence number, of data and of messages; in the first key exchange, that is an attack."""
    packetizer: Any = link.transport.packetizer
    for size in (1, 1_000_000):
        packetizer._Packetizer__sequence_number_out = LAST_NUMBER
        echo(link, runtime, bytes(size))
        assert packetizer._Packetizer__sequence_number_out < 1000
    packetizer._initial_kex_done = False
    packetizer._Packetizer__sequence_number_out = LAST_NUMBER
    with pytest.raises(paramiko.SSHException, match="rolled over"):
        packetizer.send_message(Packet(common.cMSG_IGNORE + bytes(4)))


def test_ciphers_change_in_mid_connection(link: Link, runtime: MemoryRuntime) -> None:
    """A key exchange may lead to a cipher that paramiko's own code serves, and back."""
    data = bytes(range(256)) * 2000
    for cipher in (CTR, GCM, CTR):
        exchange_keys(link, cipher)
        assert (link.transport.packetizer._out is not None) == (cipher == GCM)
        echo(link, runtime, data)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 32767, 32768, 32769, 300_001])
def test_sizes(link: Link, runtime: MemoryRuntime, size: int) -> None:
    """Data of any size arrives as it was, whatever padding its packets need."""
    echo(link, runtime, bytes(index * 7 % 251 for index in range(size)))


@pytest.mark.parametrize("piece", [1, 10, 50_001])
def test_packets_in_pieces(link: Link, runtime: MemoryRuntime, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets may arrive in any pieces: data, and what stands between, is as it was sent."""
    channel = link.open("cat")
    process = runtime.next()
    packetizer: Any = link.client.packetizer
    sent = bytearray()
    with monkeypatch.context() as collecting:
        collecting.setattr(packetizer, "write_all", sent.extend)
        data = bytes(range(251)) * (8 if piece < 100 else 4000)
        for start in range(0, len(data), 30_001):
            channel.sendall(data[start : start + 30_001])
            link.client.send_ignore(7)
    for start in range(0, len(sent), piece):
        packetizer.write_all(bytes(sent[start : start + piece]))
    process.until(lambda: process.stdin == data)
    channel.close()


@pytest.mark.parametrize("cipher", [GCM, CTR])
def test_extended_data(link: Link, runtime: MemoryRuntime, cipher: str) -> None:
    """Stderr of any size arrives as it was, by our code and by paramiko's."""
    exchange_keys(link, cipher)
    channel = link.open("big")
    process = runtime.next()
    data = bytes(index * 7 % 251 for index in range(600_001))
    process.say(data, Output.STDERR)
    process.say(b"out")
    process.end(0)
    assert read_to_end(channel) == (b"out", data, 0)


@pytest.mark.parametrize("stream", Output)
@pytest.mark.parametrize("cipher", [GCM, CTR])
def test_window_that_ends_anywhere(link: Link, runtime: MemoryRuntime, cipher: str, stream: Output) -> None:
    """However little the client takes at a time, what follows is sent as it was read."""
    exchange_keys(link, cipher)
    channel = link.open("cat")
    process = runtime.next()
    (server,) = link.transport._channels.values()
    data = bytes(index * 7 % 251 for index in range(150_000))
    server.out_window_size = 5
    process.say(data, stream)
    for size in (1, 20, 40, 32_760, 3, 70_000, 1, 100_000):
        wait_for(lambda: server.out_window_size == 0, "the window to be full")
        server.window_adjusted(size)
    process.end(3)
    assert read_to_end(channel) == ((data, b"", 3) if stream is Output.STDOUT else (b"", data, 3))


def test_client_that_takes_little_at_a_time(link: Link, runtime: MemoryRuntime) -> None:
    """What the socket takes only in part is sent to the end, in order."""
    sock = link.transport.sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    channel = link.open("big")
    process = runtime.next()
    data = bytes(range(251)) * 4000
    process.say(data)
    process.end(0)
    assert read_to_end(channel) == (data, b"", 0)


def test_one_system_call_for_many_packets(link: Link, runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large piece of output leaves with one call, not with one for each packet."""
    sock = link.transport.sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    calls: list[int] = []
    real = sock.send

    def counting(data: memoryview) -> int:
        calls.append(len(data))
        return int(real(data))

    monkeypatch.setattr(sock, "send", counting)
    channel = link.open("big")
    process = runtime.next()
    process.say(bytes(256 * 1024))
    process.end(0)
    assert read_to_end(channel)[2] == 0
    assert max(calls) == 8 * (32 * 1024 + GAP), "eight packets in a row"


def test_data_that_arrived_together_is_written_together(link: Link, runtime: MemoryRuntime) -> None:
    """Packets for one channel that wait in the buffer reach the process as one piece, those for two as they came."""
    first, second = link.open("cat"), link.open("cat")
    processes = runtime.next(), runtime.next()
    pieces: list[tuple[int, int]] = []
    reached, go_on = threading.Event(), threading.Event()
    sink = link.transport.packetizer._sink

    def noting(channel: int, data: memoryview) -> bool:
        pieces.append((channel, len(data)))
        reached.set()
        go_on.wait(DEADLINE)
        return bool(sink(channel, data))

    link.transport.packetizer._sink = noting
    first.sendall(b"a")
    assert reached.wait(DEADLINE)
    for channel in (first, first, second, first):
        channel.sendall(bytes(1000))
    go_on.set()
    # (Either of the programs may have been the first to start.)
    wait_for(lambda: sorted(len(process.stdin) for process in processes) == [1000, 3001], "all that was sent")
    ours = [channel.remote_chanid for channel in (first, second)]
    assert pieces == [(ours[0], 1), (ours[0], 2000), (ours[1], 1000), (ours[0], 1000)]
    first.close()
    second.close()


def _send_raw(link: Link, packet: bytes) -> None:
    """Send bytes as they are on the client's connection; the server must end it."""
    sock: Any = link.client.sock
    sock.sendall(packet)
    assert link.ended.wait(DEADLINE)


def test_packet_that_was_changed_on_the_way(link: Link) -> None:
    """A packet whose tag does not fit ends the connection."""
    _send_raw(link, (32).to_bytes(4, "big") + bytes(32 + 16))
    assert "not as it was sent" in str(link.transport.saved_exception)


@pytest.mark.parametrize("cut", [bytes(3), bytes(7) + b"\x05four"])
def test_data_message_that_is_cut(link: Link, cut: bytes) -> None:
    """A data message that is not as long as it says ends the connection; its padding is not read."""
    message = Message()
    message.add_byte(common.cMSG_CHANNEL_DATA)
    message.add_bytes(cut)
    link.client._send_user_message(message)  # type: ignore[attr-defined]
    assert link.ended.wait(DEADLINE)
    assert "not as long as it says" in str(link.transport.saved_exception)


@pytest.mark.parametrize("size", [0, 8, 17, MAX_PACKET + 16, 0xFFFFFFF0])
def test_impossible_length(link: Link, size: int) -> None:
    """A length that no packet has ends the connection at once: nothing is waited for, and no memory taken."""
    _send_raw(link, size.to_bytes(4, "big"))
    assert f"a packet of {size} bytes" in str(link.transport.saved_exception)


@pytest.mark.parametrize("kind", [common.MSG_CHANNEL_DATA, common.MSG_CHANNEL_WINDOW_ADJUST])
def test_data_where_a_key_exchange_goes_on(link: Link, runtime: MemoryRuntime, kind: int) -> None:
    """Data and window adjusts out of order are no exception: they end the connection, and reach nothing."""
    channel = link.open("cat")
    process = runtime.next()
    (server,) = link.transport._channels.values()
    before = server.out_window_size
    link.transport._expected_packet = (common.MSG_NEWKEYS,)
    message = Message()
    message.add_byte(bytes([kind]))
    message.add_int(channel.remote_chanid)
    message.add_bytes((4).to_bytes(4, "big") + (b"data" if kind == common.MSG_CHANNEL_DATA else b""))
    link.client._send_user_message(message)  # type: ignore[attr-defined]
    assert link.ended.wait(DEADLINE)
    assert f"got {kind}" in str(link.transport.saved_exception)
    assert process.stdin == b"" and server.out_window_size == before


def test_client_that_ignores_a_key_exchange(link: Link, runtime: MemoryRuntime) -> None:
    """A client that sends on and on after it was asked for new keys is disconnected."""
    table = dict(link.client._handler_table)  # type: ignore[attr-defined]
    table[20] = lambda message: None  # its answer to KEXINIT
    link.client._handler_table = table  # type: ignore[attr-defined]
    channel = link.open("cat")
    runtime.next()
    packetizer = link.transport.packetizer
    packetizer.REKEY_BYTES = 100_000
    packetizer.REKEY_BYTES_OVERFLOW_MAX = 1_000_000
    with pytest.raises((OSError, EOFError, paramiko.SSHException)):
        while True:
            channel.sendall(bytes(32_000))
    assert link.ended.wait(DEADLINE)
    assert "changing keys" in str(link.transport.saved_exception)


def test_window_changes_in_a_row(link: Link, runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the sizes that arrive together only the newest is worked on; what comes behind them is as it was sent."""
    seen: list[int] = []
    monkeypatch.setattr(Resizes, "put", lambda self, terminal: seen.append(terminal.columns))
    channel = link.client.open_session(timeout=DEADLINE)
    channel.get_pty()
    channel.invoke_shell()
    process = runtime.next()
    packetizer: Any = link.client.packetizer
    sent = bytearray()
    with monkeypatch.context() as collecting:
        collecting.setattr(packetizer, "write_all", sent.extend)
        for columns in range(100, 1100):
            channel.resize_pty(columns, 24)
        channel.send(b"key")
        channel.resize_pty(7, 24)
    packetizer.write_all(bytes(sent))
    process.until(lambda: process.stdin == b"key")
    link.client.global_request("keepalive@openssh.com")
    assert seen[-2:] == [1099, 7]
    assert len(seen) < 500


def test_window_adjusts(link: Link, runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's window adjusts let output go on, and do not go through paramiko's messages; odd ones do."""
    slow: list[int] = []
    real = GatewayChannel._window_adjust  # type: ignore[attr-defined]

    def noting(channel: GatewayChannel, message: Message) -> None:
        slow.append(channel.chanid)
        real(channel, message)

    monkeypatch.setattr(GatewayChannel, "_window_adjust", noting)
    channel = link.open("big")
    process = runtime.next()
    data = bytes(range(251)) * 40_000  # five times the client's window
    process.say(data)
    process.end(0)
    assert read_to_end(channel) == (data, b"", 0)
    assert not slow
    odd = link.open("cat")
    server = link.transport._channels.get(odd.remote_chanid)
    before = server.out_window_size
    message = Message()
    message.add_byte(common.cMSG_CHANNEL_WINDOW_ADJUST)
    message.add_int(odd.remote_chanid)
    message.add_int(1000)
    message.add_bytes(b"more")
    link.client._send_user_message(message)  # type: ignore[attr-defined]
    wait_for(lambda: server.out_window_size == before + 1000, "the adjust")
    assert slow
    odd.close()
