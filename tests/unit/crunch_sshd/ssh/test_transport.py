"""The departures from paramiko, each seen by paramiko's own client; a change of paramiko's insides fails here."""

from __future__ import annotations

import socket
import threading
from typing import Any

import paramiko
import pytest
from paramiko import common
from paramiko.message import Message

from arv_ssh.config.session_options import SessionOptions
from crunch_sshd.gateway.connection import IDENTIFICATION, Connection
from crunch_sshd.gateway.memory_limit import MemoryLimit
from crunch_sshd.ssh import transport
from crunch_sshd.ssh.buffered_socket import BufferedSocket
from crunch_sshd.ssh.channel import PACKET_SIZE, GatewayChannel
from crunch_sshd.ssh.limits import WINDOW_SIZE
from crunch_sshd.ssh.transport import ChannelOpen
from tests.unit.crunch_sshd.conftest import Connect
from tests.unit.crunch_sshd.double import DEADLINE, Link, MemoryRuntime, read_to_end

# 1. Channel messages go to the channel's own methods.


def test_a_channel_is_not_seen_before_it_has_a_handler(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is ended while a channel is made meets no channel that has nobody to be told."""
    seen: list[object] = []
    make = link.server._new_session

    def watch(channel: GatewayChannel) -> Any:
        seen.append(link.transport._channels.get(channel.chanid))
        return make(channel)

    monkeypatch.setattr(link.server, "_new_session", watch)
    link.open().close()
    assert seen == [None]


def test_data_is_written_by_the_transport_thread(link: Link, runtime: MemoryRuntime) -> None:
    """Data goes to the process on the transport thread itself: no buffer, no hand-over."""
    writers: list[threading.Thread] = []

    def watch(process: Any) -> None:
        write = process.write

        def noting(data: bytes) -> int:
            writers.append(threading.current_thread())
            return int(write(data))

        process.write = noting

    runtime.prepare = watch
    channel = link.open("cat")
    process = runtime.next()
    channel.sendall(b"first")
    process.until(lambda: process.stdin == b"first")
    channel.sendall(b"second")
    process.until(lambda: process.stdin == b"firstsecond")
    assert writers[-1] is link.transport
    channel.close()


def test_paramikos_own_buffer_stays_empty(link: Link, runtime: MemoryRuntime) -> None:
    """Nothing of the client's data lands in the buffer that paramiko's channel would keep."""
    channel = link.open("cat")
    process = runtime.next()
    channel.sendall(b"data")
    process.until(lambda: process.stdin == b"data")
    (server_channel,) = link.transport._channels.values()
    assert isinstance(server_channel, GatewayChannel)
    assert len(server_channel.in_buffer) == 0
    channel.close()


def test_extended_data_of_a_client_uses_and_frees_the_window(link: Link, runtime: MemoryRuntime) -> None:
    """A client's extended data is dropped, and the window it used is given back."""
    channel = link.open("cat")
    process = runtime.next()
    for _ in range(WINDOW_SIZE // 30_000 * 2):
        channel.send_stderr(bytes(30_000))
    channel.sendall(b"after")
    process.until(lambda: process.stdin == b"after")
    channel.close()


def test_client_over_the_window_is_disconnected(link: Link, runtime: MemoryRuntime) -> None:
    """A client that sends more than the window allows loses its connection instead of our memory."""
    runtime.prepare = lambda process: process.allow(0)
    channel = link.open("sleep")
    process = runtime.next()
    (server,) = link.transport._channels.values()
    with channel.lock:
        channel.out_window_size = 1 << 30
    with pytest.raises((OSError, EOFError)):
        while True:
            channel.sendall(bytes(32_000))
    assert link.ended.wait(DEADLINE)
    assert process.hung_up.wait(DEADLINE)
    assert server.received <= WINDOW_SIZE, "what was too much is not counted as input"


def test_window_is_reopened_only_by_what_was_taken(link: Link, runtime: MemoryRuntime) -> None:
    """While the process takes nothing the client may send one window and no more; what is taken may be sent again."""
    runtime.prepare = lambda process: process.allow(0)
    channel = link.open("sleep")
    process = runtime.next()
    channel.sendall(bytes(WINDOW_SIZE))
    channel.setblocking(False)
    with pytest.raises(socket.timeout):
        channel.send(b"x")
    channel.settimeout(DEADLINE)
    process.allow(WINDOW_SIZE // 2)
    channel.sendall(b"x")
    process.allow(None)
    process.until(lambda: len(process.stdin) == WINDOW_SIZE + 1)
    assert process.stdin.endswith(b"\0x")
    channel.close()


# 2. A channel-open message is handed on whole, and may be answered later.


def test_open_is_answered_later_from_another_thread(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel may be refused by another thread, later, with a reason and a sentence; the transport goes on."""
    wishes: list[ChannelOpen] = []
    asked = threading.Event()

    def open_channel(self: Connection, wish: ChannelOpen) -> None:
        wishes.append(wish)
        asked.set()

    monkeypatch.setattr(Connection, "open_channel", open_channel)
    link = connect()
    link.client.auth_none("_")
    failures: list[Exception] = []

    def client() -> None:
        try:
            link.client.open_channel("direct-tcpip", ("db", 5432), ("127.0.0.1", 9), timeout=DEADLINE)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    assert asked.wait(DEADLINE)
    assert link.client.global_request("keepalive@openssh.com") is None, "the transport must not wait for the answer"
    message = wishes[0].message
    assert wishes[0].kind == "direct-tcpip"
    assert (message.get_text(), message.get_int()) == ("db", 5432)
    assert (message.get_text(), message.get_int()) == ("127.0.0.1", 9)
    wishes[0].refuse(transport.OPEN_CONNECT_FAILED, "connection refused")
    thread.join(DEADLINE)
    (failure,) = failures
    assert isinstance(failure, paramiko.ChannelException)
    assert (failure.code, failure.text) == (transport.OPEN_CONNECT_FAILED, "Connect failed")


def _open_failure(link: Link, kind: str) -> tuple[int, str]:
    """Return the code and the sentence with which a channel is refused; paramiko keeps the sentence to itself."""
    seen: list[tuple[int, str]] = []
    table = dict(link.client._handler_table)  # type: ignore[attr-defined]
    real = table[common.MSG_CHANNEL_OPEN_FAILURE]

    def failed(message: Message) -> None:
        message.get_int()
        seen.append((message.get_int(), message.get_text()))
        message.rewind()
        real(message)

    table[common.MSG_CHANNEL_OPEN_FAILURE] = failed
    link.client._handler_table = table  # type: ignore[attr-defined]
    source = ("127.0.0.1", 1) if kind == "x11" else None
    with pytest.raises(paramiko.ChannelException):
        link.client.open_channel(kind, src_addr=source, timeout=DEADLINE)
    return seen[0]


def test_unknown_channel_type(link: Link) -> None:
    """A type that is not served is refused by its name, with the code for that."""
    code, text = _open_failure(link, "x11")
    assert code == transport.OPEN_UNKNOWN_TYPE and "x11" in text


def test_too_many_sessions(link: Link, runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session over the limit is refused with the limit in words; when one ends there is room again."""
    monkeypatch.setattr(link.server, "_options", SessionOptions(max_sessions=2))
    channels = [link.open("sleep"), link.open("sleep")]
    code, text = _open_failure(link, "session")
    assert code == transport.OPEN_RESOURCE_SHORTAGE and text == "this connection has 2 sessions open, its limit"
    process = runtime.next()
    process.end(0)
    over = next(channel for channel in channels if _ends(channel))
    assert over.recv_exit_status() == 0
    link.open("sleep").close()


def test_no_memory_for_a_session(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway without memory for another session says so, and the connection goes on."""
    monkeypatch.setattr(link.server, "_memory", MemoryLimit(1, "c"))
    code, text = _open_failure(link, "session")
    assert code == transport.OPEN_RESOURCE_SHORTAGE
    assert text.startswith("the gateway of container c has no memory for another session")
    monkeypatch.undo()
    link.open("sleep").close()


def _ends(channel: paramiko.Channel) -> bool:
    return channel.status_event.wait(0.5)


# 3. What the transport thread says during a key exchange waits for its end.


@pytest.mark.parametrize("side", ["server", "client"])
def test_replies_during_a_key_exchange_in_mid_transfer(link: Link, runtime: MemoryRuntime, side: str) -> None:
    """Channel requests and window adjustments that meet a key exchange are answered after it, while data flows both
    ways: nothing is lost, and no thread waits for itself."""
    channel = link.open("cat")
    process = runtime.next()
    size, piece = 6_000_000, bytes(range(250)) * 100
    done = threading.Event()
    errors: list[BaseException] = []

    def guarded(work: Any) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def upload() -> None:
        for _ in range(0, size, len(piece)):
            channel.sendall(piece)

    def download() -> None:
        received = 0
        while received < size:
            received += len(channel.recv(65536))

    def ask() -> None:
        while not done.is_set():
            channel._event_pending()  # type: ignore[attr-defined]
            link.client._send_user_message(_request(channel, "signal", "USR1"))  # type: ignore[attr-defined]
            assert channel.event.wait(DEADLINE), "a channel request was not answered"

    for _ in range(size // len(piece)):
        process.say(piece)
    transfers = [guarded(upload), guarded(download)]
    asking = guarded(ask)
    exchanges = _count(link.client, common.MSG_NEWKEYS)
    renewing = link.transport if side == "server" else link.client
    renewing.packetizer.REKEY_BYTES = 1 << 20
    try:
        for thread in transfers:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "the transfer is stuck"
    finally:
        done.set()
    asking.join(DEADLINE)
    assert not errors
    process.until(lambda: len(process.stdin) == size)
    assert process.stdin == piece * (size // len(piece))
    assert exchanges, "no key was exchanged in mid-transfer"
    channel.close()


def _count(client: paramiko.Transport, kind: int) -> list[int]:
    """Note each message of a kind that the client receives."""
    seen: list[int] = []
    table = dict(client._handler_table)  # type: ignore[attr-defined]
    real = table[kind]

    def noting(message: Message) -> None:
        real(message)
        seen.append(kind)

    table[kind] = noting
    client._handler_table = table  # type: ignore[attr-defined]
    return seen


def _request(channel: paramiko.Channel, kind: str, *texts: str) -> Message:
    message = Message()
    message.add_byte(common.cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string(kind)
    message.add_boolean(True)
    for text in texts:
        message.add_string(text)
    return message


def test_reply_is_deferred_and_then_sent(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that falls into a key exchange is kept, in order, and sent as soon as the exchange is over."""
    answered = threading.Event()
    real = link.client._parse_request_failure  # type: ignore[attr-defined]

    def failed(message: Message) -> None:
        real(message)
        answered.set()

    table = dict(link.client._handler_table)  # type: ignore[attr-defined]
    table[common.MSG_REQUEST_FAILURE] = failed
    link.client._handler_table = table  # type: ignore[attr-defined]
    deferred: list[int] = []
    server = link.transport
    parse = server._parse_global_request

    def during_exchange(message: Message) -> None:
        # As if the server's own KEXINIT had gone out just before this request was read.
        server._send_kex_init()
        parse(message)
        deferred.append(len(server._deferred))

    table = dict(server._handler_table)
    table[common.MSG_GLOBAL_REQUEST] = during_exchange
    server._handler_table = table
    message = Message()
    message.add_byte(common.cMSG_GLOBAL_REQUEST)
    message.add_string("keepalive@openssh.com")
    message.add_boolean(True)
    link.client._send_user_message(message)  # type: ignore[attr-defined]
    assert answered.wait(DEADLINE)
    assert deferred == [1] and not server._deferred


# 4. The socket is read in large pieces.


class _Counting:
    """A socket that counts its system calls."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.calls = 0

    def recv_into(self, buffer: bytearray) -> int:
        self.calls += 1
        return self._sock.recv_into(buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_small_reads_cost_no_system_call() -> None:
    """Many small reads are served from one large one, in order, to the end of the stream."""
    near, far = socket.socketpair()
    with near, far:
        counting = _Counting(far)
        buffered = BufferedSocket(counting)  # type: ignore[arg-type]
        data = bytes(range(256)) * 100
        near.sendall(data)
        near.close()
        pieces = []
        while piece := buffered.recv(100):
            assert len(piece) <= 100
            pieces.append(piece)
        assert b"".join(pieces) == data and len(pieces) >= 256
        assert counting.calls <= 4


def test_transport_reads_through_the_buffer(link: Link) -> None:
    """The transport's packets are read through that buffer."""
    assert isinstance(link.transport.sock, BufferedSocket)
    reader = link.transport.packetizer._Packetizer__socket
    assert isinstance(reader, BufferedSocket)


def test_close_wakes_the_reader() -> None:
    """Closing wakes a thread that waits in recv."""
    near, far = socket.socketpair()
    with near:
        buffered = BufferedSocket(far)
        reading = threading.Event()

        def read() -> None:
            reading.set()
            try:
                buffered.recv(10)
            except OSError:
                pass  # the close was there first

        thread = threading.Thread(target=read)
        thread.start()
        assert reading.wait(DEADLINE)
        buffered.close()
        thread.join(DEADLINE)
        assert not thread.is_alive()


# Nothing is sent on a channel after its close.


def test_nothing_follows_the_close(link: Link, runtime: MemoryRuntime) -> None:
    """What a session's thread was about to say when the client closed the channel is not said: ssh would end."""
    channel = link.open("cat")
    runtime.next()
    (server_channel,) = link.transport._channels.values()
    kinds: list[int] = []
    real = link.transport.packetizer.send_message

    def noting(message: Any) -> None:
        kinds.append(message.asbytes()[0])
        real(message)

    link.transport.packetizer.send_message = noting
    turn = link.transport._take_turn

    def closed_first() -> bool:
        server_channel.closed = True  # as the transport thread does it, just before it sends the close
        return bool(turn())

    link.transport._take_turn = closed_first
    server_channel.send_data(b"late")
    server_channel.closed = False
    server_channel.send_request("exit-status", 0)
    server_channel.closed = False
    server_channel.shutdown_write()
    assert kinds == []
    link.transport._take_turn = turn
    channel.close()


# What the tables and constants promise to a client.


def test_offers(link: Link) -> None:
    """Window and packet are OpenSSH's, and the ciphers and exchanges the lists of the connection."""
    channel = link.open()
    assert channel.out_window_size == WINDOW_SIZE == 2 << 20
    assert channel.out_max_packet_size == PACKET_SIZE == 32 << 10
    assert link.client.remote_version == IDENTIFICATION
    assert link.transport.remote_cipher == link.transport.local_cipher
    assert link.client.host_key is not None and link.client.host_key.get_name() == "ssh-ed25519"
    channel.close()


def test_output_arrives_in_packets_of_the_clients_size(link: Link, runtime: MemoryRuntime) -> None:
    """A large output is sent in packets and in the order said, stdout and stderr apart."""
    channel = link.open("big")
    process = runtime.next()
    data = bytes(range(251)) * 8000
    for start in range(0, len(data), 256 * 1024):
        process.say(data[start : start + 256 * 1024])
    process.end(0)
    assert read_to_end(channel) == (data, b"", 0)
