"""Subsystems: the table, and what SFTP is where the gateway may not enter the container."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace

import pytest

from arv_ssh.config.session_options import INTERNAL_SFTP
from crunch_sshd.runtimes import Command, Output, StartFailed
from crunch_sshd.runtimes.child_process import ChildProcess
from crunch_sshd.session import subsystems
from tests.children import piped
from tests.reading import read
from tests.timing import DEADLINE
from tests.unit.crunch_sshd.double import ROOT, MemoryRuntime


def started(line: str, command: Command) -> Command:
    """The command that a runtime without the right to enter is given."""
    runtime = MemoryRuntime()
    subsystems.start(line, command, runtime)
    return runtime.next().command


def test_command_of_the_table() -> None:
    """A command in the table runs by the user's shell, as sshd does it."""
    command = started("/opt/subsystem --serve", Command(["name"], ROOT))
    assert command.argv == [ROOT.shell, "-c", "/opt/subsystem --serve"]


def test_the_images_own_server() -> None:
    """Without the right to enter, the image's sftp-server is looked for at its known places."""
    command = started(INTERNAL_SFTP, Command(["name"], ROOT))
    assert list(command.argv[:2]) == ["/bin/sh", "-c"]
    assert all(server in command.argv[2] for server in subsystems.SERVERS)


def test_no_server_anywhere() -> None:
    """The script that looks for a server says in one line what is missing, and ends with 127."""
    script = subsystems.FALLBACK.replace("/usr/", "/nowhere/")
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, timeout=DEADLINE)
    assert done.returncode == 127
    assert done.stderr.startswith(b"arv-ssh: sftp needs an sftp-server in this container's image")
    assert done.stderr.count(b"\n") == 1


def test_no_shell_to_look_with() -> None:
    """An image without /bin/sh has no sftp-server either."""
    with pytest.raises(StartFailed, match="sftp needs an sftp-server") as failure:
        subsystems.start(INTERNAL_SFTP, Command(["name"], replace(ROOT, sh=None)), MemoryRuntime())
    assert failure.value.exit_status == 127


def child(code: str) -> ChildProcess:
    """A child that runs Python ``code``."""
    return ChildProcess(piped(code))


class TestChildProcess:
    """A child of the gateway as a process of a session."""

    def test_output_and_status(self) -> None:
        """Both outputs come apart, and the status after them."""
        process = child("import sys; sys.stdout.write(sys.stdin.read()); sys.stderr.write('err'); sys.exit(3)")
        assert process.write(b"in") == 2
        process.close_stdin()
        heard: dict[Output, bytes] = {}
        while (output := read(process)) is not None:
            heard[output[0]] = heard.get(output[0], b"") + output[1]
        assert (heard, process.wait()) == ({Output.STDOUT: b"in", Output.STDERR: b"err"}, 3)
        process.close()

    def test_hang_up(self) -> None:
        """Hanging up ends it, and the status tells by what."""
        process = child("import sys; print(flush=True); sys.stdin.read()")
        assert read(process) == (Output.STDOUT, b"\n")
        process.hang_up()
        assert process.wait() == 128 + signal.SIGHUP
        assert process.death_signal() == "HUP"
        process.close()

    def test_signal(self) -> None:
        """A client's signal reaches it, and not the gateway."""
        process = child("import sys; print(flush=True); sys.stdin.read()")
        assert read(process) == (Output.STDOUT, b"\n")
        process.signal("TERM")
        assert process.wait() == 128 + signal.SIGTERM
        process.close()
