"""The server as a process: batches, floods, broken clients, errors in words, and what it imports."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crunch_sshd.inside import enter
from crunch_sshd.inside.sftp import __main__ as sftp
from crunch_sshd.inside.sftp import wire
from crunch_sshd.inside.sftp.operations import Operations
from crunch_sshd.inside.sftp.wire import Answers, Malformed, Packets
from tests.timing import DEADLINE
from tests.unit.crunch_sshd.inside.sftp.client import OURS, Client, answers, do, packet

READ, WRITE, CREAT = 1, 2, 8
BEGIN = packet(wire.INIT, wire.VERSION)
OPEN, FIRST = packet(wire.OPEN, 1, b"/dev/null", READ | WRITE, 0), wire.number(1)
"""A request, and the handle that it gets if it comes first."""


def test_pipelined(tmp_path: Path) -> None:
    """Many requests sent at once are answered in their order."""
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    with Client(OURS, tmp_path) as client:
        handle = client.open(b"file")
        client.send(b"".join(packet(wire.READ, 1000 + n, handle, (n * 1024,), 1024) for n in range(1024)))
        got = [client.receive() for _ in range(1024)]
    assert [one.request_id for one in got] == [1000 + n for n in range(1024)]
    assert b"".join(one.text for one in got) == (tmp_path / "file").read_bytes()


def test_flood_is_bounded(tmp_path: Path) -> None:
    """A client that asks for much and reads nothing is not read any more, and then gets all it asked for."""
    (tmp_path / "file").write_bytes(bytes(wire.MAX_DATA))
    with Client(OURS, tmp_path) as client:
        handle = client.open(b"file")
        request = packet(wire.READ, 7, handle, (0,), wire.MAX_DATA)
        descriptor = client.process.stdin.fileno()
        os.set_blocking(descriptor, False)
        sent = 0
        while select.select([], [descriptor], [], 1)[1]:
            sent += os.write(descriptor, request * (select.PIPE_BUF // len(request)))
        assert sent < 4 * wire.BUFFER
        memory = int(Path(f"/proc/{client.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        assert memory < 64 * 1024 * 1024
        for _ in range(sent // len(request)):
            assert len(client.receive().text) == wire.MAX_DATA


@pytest.mark.parametrize(
    "data",
    [
        packet(wire.STAT, 1, b"."),
        BEGIN + wire.number(0),
        BEGIN + wire.number(wire.MAX_PACKET + 1),
        BEGIN + packet(wire.STAT, 1, 1000),
        BEGIN + packet(wire.STAT),
        BEGIN + wire.text(b"\x11"),
        BEGIN + packet(wire.CLOSE, 1, 1000),
        BEGIN + OPEN + packet(wire.READ, 1, FIRST, (0,)),
        BEGIN + OPEN + packet(wire.WRITE, 1, FIRST, (0,)),
        BEGIN + OPEN + packet(wire.WRITE, 1, FIRST, (0,), 1),
        BEGIN + OPEN + packet(wire.FSETSTAT, 1, FIRST),
        BEGIN + OPEN + packet(wire.FSETSTAT, 1, FIRST, 1, 0),
        BEGIN + packet(wire.EXTENDED, 1, b"users-groups-by-id@openssh.com", b"abc", b""),
    ],
)
def test_broken_packet(data: bytes, tmp_path: Path) -> None:
    """A broken packet ends the session with one sentence."""
    done = subprocess.run(OURS, input=data, cwd=tmp_path, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 11
    assert done.stderr.startswith(b"arv-ssh: the sftp client broke the protocol: ")
    assert done.stderr.count(b"\n") == 1


def test_answers_before_a_broken_packet(tmp_path: Path) -> None:
    """What was asked before the broken packet is answered."""
    data = BEGIN + packet(wire.STAT, 1, b".") + wire.number(0)
    done = subprocess.run(OURS, input=data, cwd=tmp_path, capture_output=True, timeout=DEADLINE)
    assert [one.request_id for one in answers(done.stdout)] == [wire.VERSION, 1]


def test_reader_gone(tmp_path: Path) -> None:
    """A client that goes away while answers are written is no failure."""
    with Client(OURS, tmp_path) as client:
        client.process.stdout.close()
        client.send(packet(wire.STAT, 1, b"."))
        assert client.process.wait(DEADLINE) == 0


# Of names that exist nowhere: what is made up must find nothing to change.
FIELD = st.one_of(st.integers(0, 2**32 - 1), st.binary(max_size=30).map(lambda name: b"/nowhere/at/all/" + name))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.integers(0, 255), fields=st.lists(FIELD, max_size=6), cut=st.integers(0, 20))
def test_any_packet(kind: int, fields: list[int | bytes], cut: int) -> None:
    """Whatever a packet holds, it is answered once or ends the session, and never does anything else."""
    made = Answers()
    operations = Operations(made, b"/", 10)
    packets = Packets()
    data = packet(wire.INIT, 3) + packet(kind, 1, *fields)[: -cut or None]
    packets.space[0][: len(data)] = data
    try:
        for request in packets.received(len(data)):
            operations.handle(*request)
            assert len(answers(bytes(made.take()))) == 1
    except Malformed:
        pass


class Calls:
    """Counts the functions that are called, Python's and the interpreter's own, in a ``with`` block."""

    def __enter__(self) -> Calls:
        self.count = 0
        self._before = sys.getprofile()
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)

    def _called(self, _frame: object, event: str, _argument: object) -> None:
        self.count += event in ("call", "c_call")


def test_calls_for_a_small_file(tmp_path: Path) -> None:
    """A request of a small file calls few functions: it once took three times as many.

    A client waits for each request, while other work empties the processor's caches; so every other function is more
    memory to wait for, which no benchmark with warm caches shows.
    """
    operations, packets, path = Operations(Answers(), b"/", 10), Packets(), os.fsencode(tmp_path / "file")
    requests = [
        (packet(wire.OPEN, 1, path, READ | WRITE | CREAT, 4, 0o644), 32),
        (packet(wire.WRITE, 2, FIRST, (0,), b"x" * 1024), 20),
        (packet(wire.FSETSTAT, 3, FIRST, 1, (1024,)), 20),
        (packet(wire.READ, 4, FIRST, (0,), 4096), 20),
        (packet(wire.READ, 5, FIRST, (1024,), 4096), 20),
        (packet(wire.FSTAT, 6, FIRST), 20),
        (packet(wire.CLOSE, 7, FIRST), 20),
        (packet(wire.STAT, 8, path), 20),
    ]
    do(operations, BEGIN)
    for data, most in requests:
        packets.space[0][: len(data)] = data
        with Calls() as calls:
            for request in packets.received(len(data)):
                operations.handle(*request)
        assert calls.count <= most, data
    assert (tmp_path / "file").read_bytes() == b"x" * 1024


class TestWords:
    """What a client is told when something fails."""

    def test_missing(self, tmp_path: Path) -> None:
        """The status' text is the kernel's."""
        with Client(OURS, tmp_path) as client:
            answer = client.ask(wire.STAT, b"missing")
        assert (answer.code, answer.text) == (wire.NO_SUCH_FILE, b"No such file or directory")

    def test_not_a_directory(self, tmp_path: Path) -> None:
        """A path through a file says so."""
        (tmp_path / "file").touch()
        with Client(OURS, tmp_path) as client:
            answer = client.ask(wire.OPENDIR, b"file")
        assert (answer.code, answer.text) == (wire.NO_SUCH_FILE, b"Not a directory")

    def test_no_space(self, tmp_path: Path) -> None:
        """A full device says so."""
        with Client(OURS, tmp_path) as client:
            handle = client.open(b"/dev/full", WRITE)
            answer = client.ask(wire.WRITE, handle, (0,), b"x")
        assert (answer.code, answer.text) == (wire.FAILURE, b"No space left on device")

    @pytest.mark.parametrize("offset", [1 << 63, (1 << 64) - 1])
    def test_impossible_offset(self, tmp_path: Path, offset: int) -> None:
        """An offset that the kernel cannot count to is refused."""
        (tmp_path / "file").touch()
        with Client(OURS, tmp_path) as client:
            assert client.ask(wire.READ, client.open(b"file"), (offset,), 1).code == wire.BAD_MESSAGE

    def test_nul_in_a_name(self, tmp_path: Path) -> None:
        """No file has a NUL in its name."""
        with Client(OURS, tmp_path) as client:
            assert client.ask(wire.STAT, b"a\0b").code == wire.BAD_MESSAGE

    def test_too_many_handles(self, tmp_path: Path) -> None:
        """One more than the limit is refused, and room comes back with a close."""
        (tmp_path / "file").touch()
        with Client(OURS, tmp_path) as client:
            limit = int.from_bytes(client.extended(b"limits@openssh.com").content[24:32], "big")
            handles = [client.open(b"file") for _ in range(limit)]
            answer = client.ask(wire.OPEN, b"file", READ, 0)
            assert (answer.code, answer.text) == (wire.FAILURE, b"Too many open files")
            assert client.ask(wire.CLOSE, handles[0]).code == wire.OK
            assert client.open(b"file") not in handles


def test_names_of_any_bytes(tmp_path: Path) -> None:
    """Names are bytes: spaces, line breaks, and what is no UTF-8 come back as they were."""
    names = [b"a b", b"a\nb", b"\xff\xfe", bytes(range(1, 47)), "ü".encode(), b"-", b"x" * 255]
    with Client(OURS, tmp_path) as client:
        for name in names:
            client.ask(wire.CLOSE, client.open(name, WRITE | CREAT))
        handle = client.ask(wire.OPENDIR, b".").text
        found = [name for name, _, _ in client.ask(wire.READDIR, handle).names()]
    assert sorted(found) == sorted([b".", b"..", *names])


def test_imports_only_the_standard_library() -> None:
    """The child starts without installed packages, and without the parts of the library that are slow to import."""
    code = (
        f"import sys; sys.path.append({str(Path(__file__).parents[5])!r}); import crunch_sshd.inside.sftp.__main__; "
        "print(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=DEADLINE)
    loaded = set(done.stdout.split())
    assert "crunch_sshd.inside.sftp.operations" in loaded, done.stderr
    assert not loaded & {"paramiko", "json", "re", "typing", "dataclasses", "subprocess", "socket", "threading"}


def test_no_memory(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Where the container's own limits leave no memory for it, the user reads that, and no more."""

    def refuse(*_: object) -> None:
        raise MemoryError

    for where, name in ((enter, "enter"), (sftp, "serve")):
        with monkeypatch.context() as patch:
            patch.setattr(enter, "enter", lambda job: None)
            patch.setattr(where, name, refuse)
            patch.chdir("/")
            assert sftp.main({"arguments": ["/", "/"]}) == 1
        assert capfd.readouterr().err == (
            "arv-ssh: sftp needs more memory than a process may have in this container (RLIMIT_DATA, RLIMIT_AS)\n"
        )
