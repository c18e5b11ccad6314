"""The attacks, each a small program: what a client can send that something in the gateway might keep.

Each gets a client that has logged in, and ends when it has sent all or when the gateway has ended the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crunch_sshd.inside.sftp import wire
from tests.hostile.client import (
    CHANNEL_DATA,
    CHANNEL_OPEN,
    CHANNEL_REQUEST,
    DEBUG,
    FAST,
    GLOBAL_REQUEST,
    IGNORE,
    SLOW,
    WINDOW,
    HostileClient,
    Raw,
)
from tests.unit.crunch_sshd.inside.sftp.client import packet as sftp

KB, MB = 1 << 10, 1 << 20
LONG = b"x" * 200 * KB
"""A field almost as long as a packet may be."""
PIPE = MB
"""Bytes that the kernel keeps for a program that does not read."""
MANY_RESIZES = 87_000


def environment(client: HostileClient) -> None:
    """Variables without end, each of its own name."""
    channel = client.open()
    for number in range(500):
        client.send(CHANNEL_REQUEST, channel.remote_chanid, "env", False, f"LC_{number}", LONG)
    client.ping()


def single_bytes(client: HostileClient) -> None:
    """Packets of one byte for two programs in turn, neither of which reads."""
    channels = [client.open("sleep 1000") for _ in range(2)]
    for channel in channels:
        channel.sendall(bytes(PIPE + 100 * KB))
    packets = [client.message(CHANNEL_DATA, channel.remote_chanid, b"x") for channel in channels]
    for _ in range(100_000):
        for packet in packets:
            client.send_again(packet)
    client.ping()


def small_and_large(client: HostileClient) -> None:
    """Packets of one byte and of some thousands in turn, so that no two small ones follow each other."""
    channel = client.open("sleep 1000")
    channel.sendall(bytes(PIPE))
    for _ in range((WINDOW - PIPE) // 4200):
        channel.sendall(b"x")
        channel.sendall(bytes(4190))
    client.ping()


def long_packets_of_little(client: HostileClient) -> None:
    """Data messages with far more behind the data."""
    channel = client.open("sleep 1000")
    channel.sendall(bytes(PIPE + 100 * KB))
    packet = client.message(CHANNEL_DATA, channel.remote_chanid, bytes(4096), Raw(LONG))
    for _ in range(200):
        client.send_again(packet)
    client.ping()


def forward_requests(client: HostileClient) -> None:
    """Places to listen at, with names that no system has."""
    for number in range(1000):
        client.send(GLOBAL_REQUEST, "tcpip-forward", True, b"h" * 60 * KB, number)
    client.ping()


def cancellations(client: HostileClient) -> None:
    """Cancelling what was never asked for, without wanting a reply."""
    client.send(GLOBAL_REQUEST, "tcpip-forward", False, b"localhost", 0)
    for number in range(1000):
        client.send(GLOBAL_REQUEST, "cancel-tcpip-forward", False, b"h" * 60 * KB, number)
    client.ping()


def sockets(client: HostileClient) -> None:
    """Unix sockets to listen at, with paths that no system has."""
    for _ in range(1000):
        client.send(GLOBAL_REQUEST, "streamlocal-forward@openssh.com", True, b"/" + b"p" * 60 * KB)
    client.ping()


def replies_not_read(client: HostileClient) -> None:
    """Requests that want replies, of which none is read."""
    client.stop_reading()
    packet = client.message(GLOBAL_REQUEST, "keepalive@openssh.com", True)
    for _ in range(60_000):
        client.send_again(packet)


def channel_replies_not_read(client: HostileClient) -> None:
    """Channel requests that want replies, of which none is read."""
    channel = client.open()
    client.stop_reading()
    packet = client.message(CHANNEL_REQUEST, channel.remote_chanid, "nonsense", True)
    for _ in range(60_000):
        client.send_again(packet)


def refusals_not_read(client: HostileClient) -> None:
    """Channels of types with long names, whose refusals are not read."""
    client.stop_reading()
    packet = client.message(CHANNEL_OPEN, LONG, 1, WINDOW, 32 * KB)
    for _ in range(400):
        client.send_again(packet)


def unknown_messages(client: HostileClient) -> None:
    """Messages of a type that SSH does not have; what answers them is not read."""
    client.stop_reading()
    packet = client.message(bytes([199]), LONG)
    for _ in range(400):
        client.send_again(packet)


def connections(client: HostileClient) -> None:
    """More connections than may be open, each asked for with a long address of the client's own."""
    for number in range(500):
        client.send(CHANNEL_OPEN, "direct-tcpip", number, WINDOW, 32 * KB, "192.0.2.1", 9, LONG, 1)
    client.ping()


def connecting(client: HostileClient) -> None:
    """Connections to where nothing answers, more than may be open."""
    for number in range(500):
        client.send(CHANNEL_OPEN, "direct-tcpip", number, WINDOW, 32 * KB, "192.0.2.1", 9, "127.0.0.1", 1)
    client.ping()


def names(client: HostileClient) -> None:
    """Connections to hosts with long names."""
    for number in range(400):
        client.send(CHANNEL_OPEN, "direct-tcpip", number, WINDOW, 32 * KB, LONG, 9, "127.0.0.1", 1)
    client.ping()


def sessions(client: HostileClient) -> None:
    """Sessions opened and closed again without a program."""
    for _ in range(3000):
        client.open().close()


def resizes(client: HostileClient) -> None:
    """A window that never rests."""
    channel = client.transport.open_session()
    channel.get_pty()
    channel.exec_command("sleep 1000")
    for number in range(MANY_RESIZES):
        client.send(CHANNEL_REQUEST, channel.remote_chanid, "window-change", False, 80 + number % 2, 24, 0, 0)
    client.ping()


def signals(client: HostileClient) -> None:
    """Signals by the thousand."""
    channel = client.open("sleep 1000")
    packet = client.message(CHANNEL_REQUEST, channel.remote_chanid, "signal", False, "USR1")
    for _ in range(2000):
        client.send_again(packet)
    client.ping()


def nothing(client: HostileClient) -> None:
    """Messages to be ignored, of all sizes."""
    small, large = client.message(IGNORE, b""), client.message(IGNORE, LONG)
    for _ in range(20_000):
        client.send_again(small)
    for _ in range(200):
        client.send_again(large)
    client.ping()


def remarks(client: HostileClient) -> None:
    """Debug messages of letters, and of bytes that no log shows as they are."""
    for text in (LONG, b"\xff" * 200 * KB):
        packet = client.message(DEBUG, True, text, "")
        for _ in range(100):
            client.send_again(packet)
    client.ping()


def long_commands(client: HostileClient) -> None:
    """Programs whose commands, types of terminal and modes are as long as a packet may be."""
    for number in range(10):
        channel = client.open()
        if number % 2:
            client.send(CHANNEL_REQUEST, channel.remote_chanid, "pty-req", False, LONG, 80, 24, 0, 0, LONG)
        client.send(CHANNEL_REQUEST, channel.remote_chanid, "exec", False, b"sleep 1000 #" + b"\xff" * 230 * KB)
    client.ping()


def sftp_unanswered(client: HostileClient) -> None:
    """Requests as short as can be, behind one that the file server waits on."""
    flood_sftp(client, sftp(wire.STAT, 7) * 190_000)


def sftp_names(client: HostileClient) -> None:
    """Requests with names that grow when a record escapes them, behind one that the file server waits on."""
    flood_sftp(client, sftp(wire.MKDIR, 7, b"\xff" * 4080 + "\U0001f600".encode(), 0) * 420)


def flood_sftp(client: HostileClient, data: bytes) -> None:
    """Send ``data``, less than a window, on each of four file transfers whose server is held up."""
    client.open("rm -f /tmp/held; mkfifo /tmp/held").recv_exit_status()
    channels = [client.open() for _ in range(4)]
    for channel in channels:
        channel.invoke_subsystem("sftp")
        channel.sendall(sftp(wire.INIT, wire.VERSION))
        channel.recv(4 * KB)
        channel.sendall(sftp(wire.OPEN, 1, b"/tmp/held", 1, 0))
    for channel in channels:
        channel.sendall(data)
    client.ping()


def terminal(client: HostileClient) -> None:
    """Output without end on a terminal that is recorded."""
    channel = client.open()
    channel.get_pty()
    channel.exec_command("yes | head -c 10000000")
    while channel.recv(64 * KB):
        pass


def commands(client: HostileClient) -> None:
    """Commands as long as Linux starts them, each recorded."""
    for _ in range(20):
        client.open("true " + "x" * 100 * KB).recv_exit_status()


@dataclass(frozen=True)
class Attack:
    """An attack, how many channels' windows it fills, whose content comes on top of the limit, and the ciphers."""

    run: Callable[[HostileClient], None]
    windows: int = 0
    ciphers: tuple[str, ...] = (FAST,)


ATTACKS = [
    Attack(environment), Attack(single_bytes, 2, (FAST, SLOW)), Attack(small_and_large, 1),
    Attack(long_packets_of_little, 1, (FAST, SLOW)),
    Attack(forward_requests), Attack(cancellations), Attack(sockets), Attack(replies_not_read),
    Attack(channel_replies_not_read), Attack(refusals_not_read), Attack(unknown_messages), Attack(connections),
    Attack(connecting), Attack(names), Attack(sessions), Attack(resizes), Attack(signals), Attack(nothing),
    Attack(remarks), Attack(long_commands), Attack(commands), Attack(sftp_unanswered, 4), Attack(sftp_names, 4),
    Attack(terminal),
]  # fmt: skip
