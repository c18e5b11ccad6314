"""What an SSH client sends once it is let in, terminals, detach keys; and what the broker answers."""

from __future__ import annotations

import os
import pty
import socket
import termios
from typing import Any

import paramiko
from paramiko import common
from paramiko.message import Message

from arv_ssh.errors import BadRequest
from crunch_sshd.audit.channel_audit import ConnectionAudit
from crunch_sshd.forwarding import broker_answers
from crunch_sshd.forwarding.broker import Listening
from crunch_sshd.forwarding.broker_answers import Answer, BrokerError, Malformed
from crunch_sshd.forwarding.channel_relay import Relays
from crunch_sshd.forwarding.remote_forward import RemoteForwards
from crunch_sshd.gateway.connection import Connection, Login
from crunch_sshd.runtimes import Account, Command, Process, Runtime, StartFailed, Terminal, terminal_modes
from crunch_sshd.session import detach
from crunch_sshd.session.detach import DetachKeys
from tests.fuzz.harness import Choices, Target, pieces

ACCOUNT = Account("crunch", 1000, 1000, "/home", "/bin/sh", "crunch")


class _Runtime(Runtime):
    def account(self, login_username: str) -> Account:
        return ACCOUNT

    def host(self) -> None:
        return None

    def start(self, command: Command) -> Process:
        raise StartFailed("nothing is started here", 127)


SENT = {
    0: common.MSG_GLOBAL_REQUEST, 1: common.MSG_CHANNEL_OPEN, 2: common.MSG_CHANNEL_OPEN_SUCCESS,
    3: common.MSG_CHANNEL_OPEN_FAILURE, 4: common.MSG_CHANNEL_WINDOW_ADJUST, 5: common.MSG_CHANNEL_DATA,
    6: common.MSG_CHANNEL_EXTENDED_DATA, 7: common.MSG_CHANNEL_EOF, 8: common.MSG_CHANNEL_CLOSE,
    9: common.MSG_CHANNEL_REQUEST,
}  # fmt: skip
"""By what an input's byte, modulo their number, stands for."""


def channels(data: bytes) -> None:
    """A client may send any message of RFC 4254: it is answered once where an answer is due, or SSHException ends it.

    Each CHANNEL_OPEN has one answer, each global request that wants a reply one, each channel request that does one.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        login = Login("", ACCOUNT, "", b"", "req-1")
        connection = Connection(ours, "0" * 64, login, _Runtime(), lambda _: None)
        transport: Any = connection._transport
        transport.server_object, transport.active = connection, True
        sent: list[bytes] = []
        transport._send_user_message = lambda message: sent.append(message.asbytes()[:1])
        transport._replies._send = transport._send_user_message
        transport.send_on = lambda *_: None
        due = dict.fromkeys(("open", "global", "channel"), 0)
        choices = Choices(data)
        try:
            while choices:
                _deliver(transport, SENT[choices.byte() % len(SENT)], choices, due)
        except paramiko.SSHException:
            return  # the transport ends the connection
        finally:
            for channel in transport._channels.values():
                channel._unlink()
            transport.active = False
        opened = (common.cMSG_CHANNEL_OPEN_SUCCESS, common.cMSG_CHANNEL_OPEN_FAILURE)
        replied = (common.cMSG_REQUEST_SUCCESS, common.cMSG_REQUEST_FAILURE)
        answered = (common.cMSG_CHANNEL_SUCCESS, common.cMSG_CHANNEL_FAILURE)
        for kinds, name in ((opened, "open"), (replied, "global"), (answered, "channel")):
            assert sum(one in kinds for one in sent) == due[name], name


def _deliver(transport: Any, kind: int, choices: Choices, due: dict[str, int]) -> None:
    if kind == common.MSG_CHANNEL_OPEN:
        due["open"] += 1
        transport._parse_channel_open(Message(choices.string()))
    elif kind == common.MSG_GLOBAL_REQUEST:
        words = choices.string()
        message = Message(words)
        message.get_binary()
        due["global"] += message.get_boolean()
        transport._parse_global_request(Message(words))
    elif kind == common.MSG_CHANNEL_OPEN_SUCCESS:
        transport._parse_channel_open_success(Message(choices.string()))
    elif kind == common.MSG_CHANNEL_OPEN_FAILURE:
        transport._parse_channel_open_failure(Message(choices.string()))
    else:
        channel = transport._channels.get(choices.byte())
        words = choices.string()
        if channel is None:
            return
        if kind == common.MSG_CHANNEL_REQUEST:
            message = Message(words)
            message.get_binary()
            due["channel"] += message.get_boolean()
        transport._channel_handler_table[kind](channel, Message(words))


class _Broker:
    """Listens nowhere, and says no to every other name."""

    def listen(self, host: str, port: int) -> Listening:
        if len(host) % 2:
            raise BrokerError("Cannot assign requested address")
        return Listening(1, [], port=port or 40000)

    def listen_unix(self, path: str) -> Listening:
        return self.listen(path, 0)

    def remove(self, listening: Listening) -> None:
        """Remove nothing."""


def _noting(answered: list[int], number: int) -> Any:
    return lambda ok, values: answered.append(number)


def remote_forwards(data: bytes) -> None:
    """Each request to listen, or to listen no more, is answered once (in order: ``ssh.replies``); the thread ends."""
    transport: Any = None
    broker: Any = _Broker()
    forwards = RemoteForwards(transport, Relays(), broker, ConnectionAudit())
    kinds = tuple(RemoteForwards.KINDS)
    choices, asked, answered = Choices(data), 0, list[int]()
    while choices and asked < 200:
        kind = kinds[choices.byte() % len(kinds)]
        forwards.request(kind, Message(choices.string()), _noting(answered, asked))
        asked += 1
    forwards.close()
    if forwards._thread is not None:
        forwards._thread.join(60)
        assert not forwards._thread.is_alive()
    assert sorted(answered) == list(range(asked))


_master, _slave = pty.openpty()
_usual = termios.tcgetattr(_slave)


def terminal(data: bytes) -> None:
    """Any modes and sizes can be put on a terminal, and the characters among them are there afterwards."""
    choices = Choices(data)
    columns, rows, width, height = (choices.number() for _ in range(4))
    modes = choices.rest()
    termios.tcsetattr(_slave, termios.TCSANOW, _usual)
    terminal_modes.resize(_slave, Terminal("xterm", columns, rows, width, height))
    terminal_modes.apply(_slave, modes)
    found = termios.tcgetattr(_slave)
    for opcode, value in terminal_modes.decode(modes).items():
        if opcode in terminal_modes.CONTROL_CHARACTERS:
            index = getattr(termios, terminal_modes.CONTROL_CHARACTERS[opcode])
            wanted = b"\0" if value == 255 else bytes([value & 0xFF])
            assert found[6][index] in (wanted, wanted[0])


def detach_keys(data: bytes) -> None:
    """What passes is what was typed, up to the sequence; the sequence is found wherever it is, in any pieces."""
    choices = Choices(data)
    text = choices.string().decode("utf-8", "replace")
    try:
        detach.parse(text)
    except BadRequest:
        pass
    sequence = choices.take(1 + choices.byte() % 3)
    typed = choices.rest()
    if not sequence:
        return
    keys = DetachKeys(sequence)
    passed = b"".join(keys.feed(piece) for piece in pieces(typed, 1 + len(typed) % 5))
    at = typed.find(sequence)
    assert keys.complete == (at >= 0)
    if keys.complete:
        assert passed == typed[:at]
    else:
        assert typed.startswith(passed) and len(typed) - len(passed) < len(sequence)


def broker(data: bytes) -> None:
    """Whatever the process in the container says is an answer of the right form, a failure, or :class:`Malformed`.

    No descriptor that came along is left open.
    """
    before = len(os.listdir("/proc/self/fd"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    choices = Choices(data)
    with ours:
        with theirs, open(os.devnull, "rb") as other, socket.socket() as plain:
            try:
                while choices:
                    count, words = choices.byte(), choices.string() or b"{}"
                    descriptors = [plain.fileno(), other.fileno()][: count % 3]
                    socket.send_fds(theirs, [words], descriptors, socket.MSG_DONTWAIT)
            except OSError:
                pass
        try:
            while isinstance(said := broker_answers.receive(ours), Answer):
                _look_at(said)
        except Malformed:
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def _look_at(answer: Answer) -> None:
    assert type(answer.identifier) is int
    for look in (answer.check, answer.one_socket, answer.some_sockets, answer.addresses, answer.port, answer.path):
        try:
            look()
        except BrokerError as error:
            assert str(error).isprintable()
    answer.close()


TARGETS = (
    Target("ssh-channels", channels.__doc__ or "", channels),
    Target("ssh-remote-forwards", remote_forwards.__doc__ or "", remote_forwards),
    Target("terminal", terminal.__doc__ or "", terminal),
    Target("detach-keys", detach_keys.__doc__ or "", detach_keys),
    Target("broker-answers", broker.__doc__ or "", broker),
)
