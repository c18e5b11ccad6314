"""A session channel from the client's side: requests, streams, the end, over a container in memory."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable
from typing import Any, cast

import paramiko
import pytest
from paramiko import common
from paramiko.message import Message

from arv_ssh.errors import ArvSshError
from crunch_sshd.runtimes import Output, StartFailed
from crunch_sshd.session import profiles
from tests.unit.crunch_sshd.conftest import Connect
from tests.unit.crunch_sshd.double import DEADLINE, Link, MemoryRuntime, ScriptedProcess, read_to_end


def test_exec(link: Link, runtime: MemoryRuntime) -> None:
    """A command runs as the account's shell would run it; stdout, stderr and status arrive apart."""
    channel = link.open("echo a; exit 44")
    process = runtime.next()
    assert process.command.argv == ["/bin/sh", "-c", "echo a; exit 44"]
    assert process.command.terminal is None
    assert process.command.environment["HOME"] == "/root"
    process.say(b"out")
    process.say(b"err", Output.STDERR)
    process.say(b"more")
    process.end(44)
    assert read_to_end(channel) == (b"outmore", b"err", 44)


@pytest.mark.parametrize("status", [0, 1, 44, 126, 127, 130, 255])
def test_exit_status_after_all_output(link: Link, runtime: MemoryRuntime, status: int) -> None:
    """The exit status comes once all output has come, exactly as the process gave it."""
    channel = link.open("big")
    process = runtime.next()
    process.say(bytes(1_000_000))
    process.end(status)
    assert not channel.exit_status_ready(), "the output has not been read yet, and fills the window"
    received = 0
    while data := channel.recv(65536):
        received += len(data)
    assert received == 1_000_000 and channel.recv_exit_status() == status


def test_shell(link: Link, runtime: MemoryRuntime) -> None:
    """A shell request runs the account's login shell."""
    channel = link.open()
    channel.invoke_shell()
    process = runtime.next()
    assert process.command.argv == profiles.login_shell("/bin/sh")
    process.end(0)
    assert read_to_end(channel)[2] == 0


def test_data_before_the_program_starts(link: Link, runtime: MemoryRuntime) -> None:
    """What the client sends while the program starts reaches it, in order, and so does the end of it."""
    runtime.gate.clear()
    channel = link.open("cat")
    channel.sendall(b"first ")
    channel.sendall(b"second")
    channel.shutdown_write()
    runtime.gate.set()
    process = runtime.next()
    assert process.stdin_closed.wait(DEADLINE)
    assert process.stdin == b"first second"
    process.end(0)
    assert read_to_end(channel)[2] == 0


def test_eof_closes_stdin_and_nothing_else(link: Link, runtime: MemoryRuntime) -> None:
    """EOF from the client ends the process's stdin; its output still arrives after that."""
    channel = link.open("cat")
    process = runtime.next()
    channel.sendall(b"in")
    channel.shutdown_write()
    assert process.stdin_closed.wait(DEADLINE)
    assert process.stdin == b"in" and not process.hung_up.is_set()
    process.say(b"after")
    process.end(3)
    assert read_to_end(channel) == (b"after", b"", 3)


def test_end_with_stdin_open(link: Link, runtime: MemoryRuntime) -> None:
    """A program that ends while the client's stdin is open ends the session at once."""
    channel = link.open("true")
    runtime.next().end(0)
    assert read_to_end(channel)[2] == 0


def test_stuck_process_does_not_hold_up_another(link: Link, runtime: MemoryRuntime) -> None:
    """While one process takes none of its stdin, a neighbour's data passes; when it takes again, nothing is lost."""
    runtime.prepare = lambda process: process.allow(10 if process.command.argv[-1] == "stuck" else None)
    stuck, lively = link.open("stuck"), link.open("lively")
    processes = {process.command.argv[-1]: process for process in (runtime.next(), runtime.next())}
    data = bytes(range(256)) * 4000
    stuck.sendall(data)
    stuck.shutdown_write()
    lively.sendall(data)
    lively.shutdown_write()
    assert processes["lively"].stdin_closed.wait(DEADLINE)
    assert processes["lively"].stdin == data and processes["stuck"].stdin == data[:10]
    processes["stuck"].allow(100_000)
    processes["stuck"].until(lambda: len(processes["stuck"].stdin) == 100_010)
    assert not processes["stuck"].stdin_closed.is_set()
    processes["stuck"].allow(None)
    assert processes["stuck"].stdin_closed.wait(DEADLINE)
    assert processes["stuck"].stdin == data


def test_process_that_stopped_reading(link: Link, runtime: MemoryRuntime) -> None:
    """A client may send on to a program that reads no more, and still gets its status."""
    channel = link.open("head -1")
    process = runtime.next()
    process.broken = True
    channel.sendall(bytes(5_000_000))
    process.end(0)
    assert read_to_end(channel)[2] == 0


def test_second_program_is_refused(link: Link, runtime: MemoryRuntime) -> None:
    """A channel runs one program (RFC 4254 §6.5); the first is not disturbed by the wish for a second."""
    channel = link.open("sleep")
    process = runtime.next()
    with pytest.raises(paramiko.SSHException):
        channel.exec_command("second")
    assert len(runtime.processes) == 1
    process.end(0)


def test_terminal_after_the_start(link: Link, runtime: MemoryRuntime) -> None:
    """A terminal that is asked for after the program started is refused."""
    channel = link.open("sleep")
    runtime.next()
    with pytest.raises(paramiko.SSHException):
        channel.get_pty()


def test_environment(link: Link, runtime: MemoryRuntime) -> None:
    """Variables that sshd on Debian takes are set, and cannot replace those of the login."""
    channel = link.open()
    channel.set_environment_variable("LC_ALL", "C.UTF-8")
    channel.exec_command("env")
    environment = runtime.next().command.environment
    assert environment["LC_ALL"] == "C.UTF-8"
    assert (environment["USER"], environment["LOGNAME"], environment["SHELL"]) == ("root", "root", "/bin/sh")
    assert "TERM" not in environment


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PATH", "HOME", "lc_all", "XLANG"])
def test_refused_variable(link: Link, runtime: MemoryRuntime, name: str) -> None:
    """Other variables do not reach the program."""
    channel = link.open()
    channel.set_environment_variable(name, "client's")
    channel.exec_command("env")
    assert "client's" not in runtime.next().command.environment.values()


def test_terminal(link: Link, runtime: MemoryRuntime) -> None:
    """The terminal has the client's size and type when the program starts, and follows its changes."""
    channel = link.open()
    channel.get_pty("xterm-256color", 132, 43, 1000, 700)
    channel.invoke_shell()
    process = runtime.next()
    terminal = process.command.terminal
    assert terminal is not None
    assert (terminal.term, terminal.columns, terminal.rows) == ("xterm-256color", 132, 43)
    assert (terminal.width_px, terminal.height_px) == (1000, 700)
    assert process.command.environment["TERM"] == "xterm-256color"
    channel.resize_pty(90, 30)
    process.until(lambda: "resize 90x30" in process.calls)


def test_an_endless_terminal(link: Link, runtime: MemoryRuntime) -> None:
    """A type of terminal, or modes, longer than any terminal's are refused."""
    for term, modes in (("x" * 257, b""), ("xterm", bytes(1025))):
        channel = link.open()
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("pty-req")
        message.add_boolean(True)
        message.add_string(term)
        for number in (80, 24, 0, 0):
            message.add_int(number)
        message.add_string(modes)
        channel._event_pending()  # type: ignore[attr-defined]
        link.client._send_user_message(message)  # type: ignore[attr-defined]
        with pytest.raises(paramiko.SSHException):
            channel._wait_for_event()  # type: ignore[attr-defined]


def test_resize_while_the_program_starts(link: Link, runtime: MemoryRuntime) -> None:
    """A size that changes while the program starts is set as soon as it has."""
    runtime.gate.clear()
    channel = link.open()
    channel.get_pty("xterm", 80, 24)
    channel.invoke_shell()
    channel.resize_pty(100, 50)
    link.client.global_request("keepalive@openssh.com")  # its answer says that the resize has been read
    runtime.gate.set()
    process = runtime.next()
    process.until(lambda: process.calls == ["resize 100x50"])


def test_a_window_that_never_rests(link: Link, runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand sizes in a moment the first and the newest reach the terminal, and nothing else waits for them."""
    channel = link.open()
    channel.get_pty("xterm", 80, 24)
    channel.invoke_shell()
    process = runtime.next()
    later: list[Callable[[], None]] = []

    def timer(pause: float, work: Callable[[], None]) -> threading.Thread:
        later.append(work)
        return threading.Thread(target=int)

    monkeypatch.setattr(threading, "Timer", timer)
    for columns in range(100, 1100):
        channel.resize_pty(columns, 24)
    channel.sendall(b"key")
    process.until(lambda: bytes(process.stdin) == b"key")
    assert process.calls == ["resize 100x24"]
    (newest,) = later
    newest()
    assert process.calls == ["resize 100x24", "resize 1099x24"]


@pytest.mark.parametrize("when", ["while the program starts", "while it runs"])
def test_client_that_reads_no_more(link: Link, runtime: MemoryRuntime, when: str) -> None:
    """eow@openssh.com closes the program's stdout and nothing else: its stderr and its status still come."""
    if when == "while the program starts":
        runtime.gate.clear()
    channel = link.open("yes; echo over >&2")
    if when == "while it runs":
        process = runtime.next()
        process.say(bytes(5_000_000))  # fills the window, and keeps the program's thread in the middle of it
    end_of_write(link, channel)
    link.client.global_request("keepalive@openssh.com")  # its answer says that the request has been read
    runtime.gate.set()
    if when == "while the program starts":
        process = runtime.next()
    process.until(lambda: "close_output" in process.calls)
    process.say(b"dropped")
    process.end(3)
    while channel.recv(65536):
        pass  # what was sent before
    assert channel.recv_exit_status() == 3
    assert "hang_up" not in process.calls


def test_stderr_of_a_client_that_reads_no_more(link: Link, runtime: MemoryRuntime) -> None:
    """Only plain data is dropped."""
    channel = link.open("yes; echo over >&2")
    process = runtime.next()
    end_of_write(link, channel)
    process.until(lambda: "close_output" in process.calls)
    process.say(b"dropped")
    process.say(b"over", Output.STDERR)
    process.end(0)
    assert read_to_end(channel) == (b"", b"over", 0)


def end_of_write(link: Link, channel: paramiko.Channel) -> None:
    """Say what OpenSSH's client says when its stdout is closed."""
    message = Message()
    message.add_byte(common.cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("eow@openssh.com")
    message.add_boolean(False)
    cast(Any, link.client)._send_user_message(message)


def test_signal(link: Link, runtime: MemoryRuntime) -> None:
    """A signal request is handed to the process by its name."""
    channel = link.open("sleep")
    process = runtime.next()
    message = paramiko.Message()
    message.add_byte(b"\x62")
    message.add_int(channel.remote_chanid)
    message.add_string("signal")
    message.add_boolean(False)
    message.add_string("TERM")
    link.client._send_user_message(message)  # type: ignore[attr-defined]
    process.until(lambda: process.calls == ["signal TERM"])


def test_closed_channel_hangs_up(link: Link, runtime: MemoryRuntime) -> None:
    """Closing one channel hangs up what it runs, and only that."""
    one, _ = link.open("one"), link.open("two")
    first = runtime.next()
    second = runtime.next()
    mine, other = (first, second) if first.command.argv[-1] == "one" else (second, first)
    one.close()
    assert mine.hung_up.wait(DEADLINE)
    assert not other.hung_up.is_set()


def test_client_gone_while_the_program_starts(link: Link, runtime: MemoryRuntime) -> None:
    """A program whose client left before it had started is hung up all the same."""
    runtime.gate.clear()
    channel = link.open("sleep")
    channel.close()
    link.client.global_request("keepalive@openssh.com")
    runtime.gate.set()
    assert runtime.next().hung_up.wait(DEADLINE)


@pytest.mark.parametrize("attempt", range(10))
def test_client_gone_in_the_middle_of_output(connect: Connect, runtime: MemoryRuntime, attempt: int) -> None:
    """A client that vanishes while its program talks leaves no program behind, whichever thread notices first."""
    link = connect()
    link.client.auth_none("_")
    channel = link.open("yes")
    process = runtime.next()
    for _ in range(40):
        process.say(bytes(256 * 1024))
    channel.recv(1000)
    link.client.sock.close()
    assert process.hung_up.wait(DEADLINE)


def test_hang_up_that_fails_is_in_the_log(
    link: Link, runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When what a session ran cannot be ended, the log says so, and the process is let go of."""

    def fail(process: ScriptedProcess) -> None:
        raise ArvSshError("the engine does not answer")

    monkeypatch.setattr(ScriptedProcess, "hang_up", fail)
    channel = link.open("sleep")
    process = runtime.next()
    channel.close()
    assert process.closed.wait(DEADLINE)
    assert "may be left over" in caplog.text
    process.end(0)


def test_ended_program_is_not_hung_up(link: Link, runtime: MemoryRuntime) -> None:
    """What a program that ended by itself left running is its own affair."""
    channel = link.open("daemon &")
    process = runtime.next()
    process.end(0)
    assert read_to_end(channel)[2] == 0
    channel.close()
    link.client.close()
    assert link.ended.wait(DEADLINE) and not process.hung_up.is_set()


def test_start_failed(link: Link, runtime: MemoryRuntime) -> None:
    """A program that cannot start is a sentence on stderr and the status of a shell."""
    runtime.error = StartFailed("no such program", 127)
    out, err, status = read_to_end(link.open("x"))
    assert (out, err, status) == (b"", b"arv-ssh: no such program\r\n", 127)


def test_start_failed_while_reading(link: Link, runtime: MemoryRuntime) -> None:
    """The same when the runtime learns of it only from the stream."""
    channel = link.open("x")
    runtime.next().fail(StartFailed("not executable", 126))
    assert read_to_end(channel) == (b"", b"arv-ssh: not executable\r\n", 126)


def test_lost_output_is_never_success(link: Link, runtime: MemoryRuntime) -> None:
    """Output that was cut is a sentence and 255, after what had come before."""
    channel = link.open("x")
    process = runtime.next()
    process.say(b"half")
    process.fail(ArvSshError("the output was cut"))
    assert read_to_end(channel) == (b"half", b"arv-ssh: the output was cut\r\n", 255)


def test_unknown_request_is_refused(link: Link) -> None:
    """A request that is not known is refused, and the channel can still be used."""
    channel = link.open()
    with pytest.raises(paramiko.SSHException):
        channel.invoke_subsystem("netconf")


def test_two_threads_of_output_keep_their_order(link: Link, runtime: MemoryRuntime) -> None:
    """Two sessions that talk at once get each their own output, whole and in order."""
    channels = [link.open("a"), link.open("b")]
    data: dict[str, bytes] = {}
    for process in (runtime.next(), runtime.next()):
        name = process.command.argv[-1]
        data[name] = name.encode() * 1_500_000
        for start in range(0, 1_500_000, 100_000):
            process.say(data[name][start : start + 100_000])
        process.end(0)
    results: dict[int, bytes] = {}

    def read(index: int) -> None:
        results[index] = read_to_end(channels[index])[0]

    threads = [threading.Thread(target=read, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert (results[0], results[1]) == (data["a"], data["b"])


def test_no_room_for_a_thread(link: Link, runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host has no room for the session's thread the client gets an exit status, and its channel is closed."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "session":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert read_to_end(link.open("true")) == (b"", b"", 255)
    monkeypatch.undo()
    link.open("true")
    runtime.next().end(0)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("can't start new thread")])
def test_program_that_finds_no_room(link: Link, runtime: MemoryRuntime, error: Exception) -> None:
    """Where the host has no room for the program's process the user reads it, and the status is that of a loss."""
    runtime.error = error
    reason = error.strerror if isinstance(error, OSError) else str(error)
    said = f"arv-ssh: the gateway cannot start the program: {reason}\r\n".encode()
    assert read_to_end(link.open("true")) == (b"", said, 255)


def test_output_that_finds_no_memory(link: Link, runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no memory for a program's output none starts; the user reads why, and gets a status."""

    def refuse(descriptor: int, size: int) -> Any:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    channel = link.open()
    monkeypatch.setattr(mmap, "mmap", refuse)
    channel.exec_command("true")
    said = b"arv-ssh: the gateway cannot start the program: Cannot allocate memory\r\n"
    assert read_to_end(channel) == (b"", said, 255)
    assert runtime.started.empty()


@pytest.mark.parametrize(("word", "directory"), [("home", "/root"), ("container", None)])
def test_working_directory(link: Link, runtime: MemoryRuntime, word: str, directory: str | None) -> None:
    """ARV_CWD says where a program starts, whatever AcceptEnv says, and does not reach its environment."""
    channel = link.open()
    channel.set_environment_variable("ARV_CWD", word)
    channel.exec_command("pwd")
    process = runtime.next()
    assert process.command.directory == directory and "ARV_CWD" not in process.command.environment
    process.end(0)


def test_unknown_working_directory(link: Link) -> None:
    """A program does not start in a place that its user did not mean."""
    channel = link.open()
    channel.set_environment_variable("ARV_CWD", "hom" + 1000 * "e")
    channel.exec_command("pwd")
    out, err, status = read_to_end(channel)
    assert (out, status) == (b"", 2)
    assert b"ARV_CWD is 'home" in err and b"must be container or home" in err and len(err) < 200


def test_directory_that_is_gone(link: Link, runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program starts in / instead, and a sentence says so before anything else."""
    monkeypatch.setattr(MemoryRuntime, "obstacle", lambda self, directory, account: "No such file or directory")
    channel = link.open("pwd")
    process = runtime.next()
    assert process.command.directory == "/"
    process.end(0)
    _, err, _ = read_to_end(channel)
    assert err == b"arv-ssh: could not chdir to working directory /: No such file or directory; going on in /\r\n"
