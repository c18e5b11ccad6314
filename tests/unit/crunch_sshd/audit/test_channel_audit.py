"""What the audit tells of channels, seen in its file after real requests of a client."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import paramiko
import pytest
from paramiko.common import cMSG_CHANNEL_DATA

from arv_ssh.audit import trail
from arv_ssh.audit.chain_file import ChainFile
from arv_ssh.audit.trail import Trail
from arv_ssh.cli import main
from crunch_sshd.audit import channel_audit, sftp_audit
from crunch_sshd.audit.channel_audit import GatewayAudit
from crunch_sshd.forwarding.broker import BrokerError
from crunch_sshd.inside.sftp import wire
from crunch_sshd.runtimes import StartFailed
from tests.timing import wait_for
from tests.unit.crunch_sshd.conftest import Connect
from tests.unit.crunch_sshd.double import DEADLINE, Link, LocalBroker, MemoryRuntime, read_to_end
from tests.unit.crunch_sshd.inside.sftp.client import packet

FACTS = {"user_uuid": "zzzzz-tpzed-xurymjxw79nv3jz", "request_id": "req-1"}
Records = list[dict[str, Any]]


class Audited:
    """A connection whose channels are recorded in ``directory``."""

    def __init__(self, connect: Connect, mode: str, directory: Path, user: str) -> None:
        self.directory = directory
        self._audit = GatewayAudit(Trail(mode, directory, "gateway"))
        self.link: Link = connect(audit=self._audit.connection(**FACTS))
        with suppress(paramiko.AuthenticationException):
            self.link.client.auth_none(user)

    def now(self) -> Records:
        """Return the records of channels written so far."""
        lines = [line for path in self.directory.glob("*.jsonl") for line in path.read_text().splitlines()]
        return [one for one in map(json.loads, lines) if not one["event"].startswith("audit.")]

    def records(self) -> Records:
        """Return all records, after the gateway's end."""
        self._audit.close()
        return self.now()


@pytest.fixture
def audited(connect: Connect, tmp_path: Path) -> Iterator[Callable[..., Audited]]:
    made: list[Audited] = []

    def start(mode: str = "on", directory: Path = tmp_path / "audit", user: str = "_") -> Audited:
        made.append(Audited(connect, mode, directory, user))
        return made[-1]

    yield start
    for one in made:
        one.link.close()
        one.records()


def events(records: Records) -> list[str]:
    return [one["event"] for one in records]


def test_exec(audited: Callable[..., Audited], runtime: MemoryRuntime) -> None:
    """A command's channel has a beginning and an end, with who, what, status, and the bytes each way."""
    audit = audited()
    channel = audit.link.open("cat; exit 3")
    process = runtime.next()
    channel.sendall(b"four")
    process.until(lambda: process.stdin == b"four")
    process.say(b"sixsix")
    process.end(3)
    assert read_to_end(channel) == (b"sixsix", b"", 3)
    begin, end = audit.records()
    assert (begin["event"], end["event"]) == ("channel.begin", "channel.end")
    for one in (begin, end):
        assert one.items() >= FACTS.items()
        assert (one["type"], one["request"], one["command"]) == ("session", "exec", "cat; exit 3")
        assert (one["terminal"], one["agent"]) == (None, False)
    assert (end["bytes_from_client"], end["bytes_to_client"], end["exit_status"], end["reason"]) == (4, 6, 3, "")
    assert end["started"] <= end["time"] and end["seconds"] >= 0


def test_bytes_that_go_nowhere(audited: Callable[..., Audited], runtime: MemoryRuntime) -> None:
    """Data that the gateway discards, of the client's stderr or after its end of file, is not counted as input."""
    audit = audited()
    channel = audit.link.open("cat")
    process = runtime.next()
    channel.sendall(b"four")
    channel.sendall_stderr(b"nobody reads this")
    channel.shutdown_write()
    late = paramiko.Message()
    late.add_byte(cMSG_CHANNEL_DATA)
    late.add_int(channel.remote_chanid)
    late.add_string(b"too late")
    cast(Any, channel.transport)._send_user_message(late)
    audit.link.open()  # what was sent before it has arrived
    process.end()
    assert read_to_end(channel)[2] == 0
    end = next(one for one in audit.records() if one["event"] == "channel.end")
    assert (bytes(process.stdin), end["bytes_from_client"]) == (b"four", 4)


def test_text_forges_nothing(audited: Callable[..., Audited]) -> None:
    """Whatever a client's text holds, it is the text of one record, and the file is whole."""
    command = b'true\n{"event":"channel.end","command":"forged"}\r\xff\x00\xe2\x80\xa8'
    audit = audited()
    channel = audit.link.open(command)
    assert read_to_end(channel)[2] == 127  # no program can be given the NUL
    begin, end = audit.records()
    assert begin["command"] == end["command"] == command.decode("utf-8", "backslashreplace")
    assert main.main(["audit", "verify", str(audit.directory)]) == 0


def test_shell_of_a_client_that_left(audited: Callable[..., Audited], runtime: MemoryRuntime) -> None:
    """A shell on a terminal is told as one, and its end says that the client left."""
    audit = audited()
    channel = audit.link.open()
    channel.get_pty("vt100", 80, 24)
    channel.invoke_shell()
    runtime.next()
    channel.close()
    wait_for(lambda: len(audit.now()) == 2)
    _, end = audit.records()
    assert (end["request"], end["terminal"], end["reason"]) == ("shell", "vt100", "the client left")


def test_program_that_cannot_start(audited: Callable[..., Audited], runtime: MemoryRuntime) -> None:
    """A program that could not be started has the reason in its end."""
    runtime.error = StartFailed("no such shell", 127)
    audit = audited()
    assert read_to_end(audit.link.open("x"))[2] == 127
    assert audit.records()[-1]["reason"] == "no such shell"


def test_channel_without_a_program(audited: Callable[..., Audited]) -> None:
    """A channel that is closed before it ran anything, and a type that is not known, are refusals."""
    audit = audited()
    audit.link.open().close()
    with pytest.raises(paramiko.ChannelException):
        audit.link.client.open_channel("tun@openssh.com", timeout=DEADLINE)
    wait_for(lambda: len(audit.now()) == 2)
    assert [(one["type"], one["reason"]) for one in audit.records()] == [
        ("session", "the client asked for no program"),
        ("tun@openssh.com", "the channel type tun@openssh.com is not supported"),
    ]


def test_required_is_written_before(audited: Callable[..., Audited], runtime: MemoryRuntime) -> None:
    """Where records are required, the record is there when the program starts."""
    audit = audited("required")
    seen: list[list[str]] = []
    runtime.prepare = lambda process: seen.append(events(audit.now()))
    channel = audit.link.open("x")
    runtime.next().end()
    assert read_to_end(channel)[2] == 0
    assert seen == [["channel.begin"]]


def test_required_and_no_place(audited: Callable[..., Audited], runtime: MemoryRuntime, tmp_path: Path) -> None:
    """Where a required record cannot be written, nothing starts, and the client reads why."""
    (tmp_path / "file").touch()
    audit = audited("required", tmp_path / "file")
    _, said, status = read_to_end(audit.link.open("x"))
    assert (status, runtime.processes) == (255, [])
    assert b"this cluster records all sessions, but the record cannot be written (File exists)" in said


def sftp(link: Link) -> paramiko.Channel:
    channel = link.open()
    channel.invoke_subsystem("sftp")
    return channel


def test_sftp(audited: Callable[..., Audited], runtime: MemoryRuntime) -> None:
    """Operations on files are recorded with the facts of their channel; the data still passes as it was."""
    audit = audited()
    channel = sftp(audit.link)
    process = runtime.next()
    asked = packet(wire.INIT, 3) + packet(wire.REMOVE, 1, b"/etc/x")
    channel.sendall(asked)
    process.until(lambda: process.stdin == asked)
    answered = packet(wire.STATUS, 1, wire.OK, b"", b"")
    process.say(answered)
    process.end()
    assert read_to_end(channel)[0] == answered
    begin, remove, end = audit.records()
    assert (begin["subsystem"], remove["event"], remove["path"]) == ("sftp", "sftp.remove", "/etc/x")
    assert remove["channel"] == end["channel"] and remove.items() >= FACTS.items()


def test_sftp_required(
    audited: Callable[..., Audited], runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is asked for nothing before the record of it is written; when that fails, the session ends."""
    audit = audited("required")
    channel = sftp(audit.link)
    process = runtime.next()
    release, failing, waiting = threading.Event(), threading.Event(), threading.Event()
    real = ChainFile.write

    def write(file: ChainFile, records: Any, *, sync: bool) -> None:
        waiting.set()
        assert release.wait(DEADLINE)
        if failing.is_set():
            raise OSError(28, "No space left on device")
        real(file, records, sync=sync)

    monkeypatch.setattr(ChainFile, "write", write)
    first, second = packet(wire.REMOVE, 1, b"/one"), packet(wire.REMOVE, 2, b"/two")
    channel.sendall(packet(wire.INIT, 3))
    process.until(lambda: len(process.stdin) == 9)
    channel.sendall(first)
    assert waiting.wait(DEADLINE)
    assert process.stdin == packet(wire.INIT, 3), "the record is not written yet"
    release.set()
    process.until(lambda: process.stdin.endswith(first))
    assert [(one["operation"], one["path"]) for one in audit.now() if one["event"] == "sftp.request"] == [
        ("remove", "/one")
    ]
    failing.set()
    channel.sendall(second)
    assert process.stdin_closed.wait(DEADLINE), "the server gets the end of its input instead of the request"
    process.end()
    _, said, status = read_to_end(channel)
    assert (status, process.stdin.endswith(first)) == (255, True)
    assert b"No space left on device" in said


def test_login_that_fails(audited: Callable[..., Audited]) -> None:
    """A login that is not the session's is recorded."""
    audit = audited(user="root")
    assert [(one["event"], one["reason"]) for one in audit.records()] == [
        ("connection.refused", "the login as 'root' failed")
    ]


def test_forwarding(audited: Callable[..., Audited], broker: LocalBroker) -> None:
    """A forwarded connection has its target and bytes; one that cannot be made has the reason."""
    audit = audited()
    channel = audit.link.client.open_channel("direct-tcpip", ("db", 5432), ("127.0.0.1", 9), timeout=DEADLINE)
    channel.settimeout(DEADLINE)
    with broker.next() as far:
        far.sendall(b"hello")
        assert channel.recv(5) == b"hello"
        channel.sendall(b"abc")
        assert far.recv(3) == b"abc"
    channel.close()
    broker.error = BrokerError("Connection refused")
    with pytest.raises(paramiko.ChannelException):
        audit.link.client.open_channel("direct-tcpip", ("db", 1), ("127.0.0.1", 9), timeout=DEADLINE)
    wait_for(lambda: len(audit.now()) == 4)
    ends = {one["target"]: one for one in audit.records() if one["event"] == "channel.end"}
    made, failed = ends["db port 5432"], ends["db port 1"]
    assert (made["bytes_from_client"], made["bytes_to_client"], made["reason"]) == (3, 5, "")
    assert (failed["type"], failed["reason"]) == ("direct-tcpip", "Connection refused")


def test_forwarding_required(audited: Callable[..., Audited], broker: LocalBroker, tmp_path: Path) -> None:
    """Where the record cannot be written, nothing is connected to."""
    (tmp_path / "file").touch()
    audit = audited("required", tmp_path / "file")
    with pytest.raises(paramiko.ChannelException, match="Resource shortage"):
        audit.link.client.open_channel("direct-tcpip", ("db", 5432), ("127.0.0.1", 9), timeout=DEADLINE)
    assert broker.far.empty()


def test_end_of_the_gateway(
    audited: Callable[..., Audited], runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that is still open when the gateway stops has an end on record."""
    monkeypatch.setattr(channel_audit, "LAST_ENDS", 0.1)
    audit = audited()
    audit.link.open("sleep")
    runtime.next()
    wait_for(lambda: len(audit.now()) == 1)
    _, end = audit.records()
    assert (end["event"], end["reason"]) == ("channel.end", "the gateway stopped")


def test_sftp_required_in_time(
    audited: Callable[..., Audited], runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs in the middle of a record ends the session after a while; the server is asked for nothing."""
    audit = audited("required")
    channel = sftp(audit.link)
    process = runtime.next()
    monkeypatch.setattr(sftp_audit, "PATIENCE", 0.1)
    monkeypatch.setattr(trail, "PATIENCE", 0.1)
    release, real = threading.Event(), ChainFile.write

    def write(file: ChainFile, records: Any, *, sync: bool) -> None:
        assert release.wait(DEADLINE)
        real(file, records, sync=sync)

    monkeypatch.setattr(ChainFile, "write", write)
    channel.sendall(packet(wire.INIT, 3))
    process.until(lambda: len(process.stdin) == 9)
    channel.sendall(packet(wire.REMOVE, 1, b"/one"))
    assert process.stdin_closed.wait(DEADLINE)
    process.end()
    _, said, status = read_to_end(channel)
    release.set()
    assert (status, bytes(process.stdin)) == (255, packet(wire.INIT, 3))
    assert b"it takes more than" in said
