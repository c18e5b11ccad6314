"""Sessions through stock ssh into real containers: what a user is promised."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import FOREVER, Ssh
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE, SECOND, wait_for

BULK = 200 * 1000 * 1000
"""Bytes of the transfers: more than any buffer on the way."""


def text(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return a successful command's stdout, without the last line break; nothing may be on stderr."""
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().removesuffix("\n")


class TestCommands:
    """One command a session, without a terminal."""

    def test_stdout_and_stderr_are_apart(self, ssh: Ssh, container: str) -> None:
        """What a command writes to stderr arrives on stderr, and nothing else does."""
        done = ssh(container, "echo out; echo err >&2")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"err\n")

    @pytest.mark.parametrize("code", [0, 1, 44, 255])
    def test_exit_code(self, ssh: Ssh, container: str, code: int) -> None:
        """ssh ends with the command's exit code."""
        assert ssh(container, f"exit {code}").returncode == code

    def test_exit_status_comes_after_all_output(self, ssh: Ssh, container: str) -> None:
        """A command that writes much and ends at once loses none of it, nor its exit code."""
        done = ssh(container, "head -c 5000000 /dev/zero; exit 3")
        assert (done.returncode, len(done.stdout)) == (3, 5_000_000)

    def test_pipeline(self, ssh: Ssh, container: str) -> None:
        """The command is the shell's: a pipeline works."""
        assert text(ssh(container, "echo a | tr a b")) == "b"

    def test_quoting(self, ssh: Ssh, container: str) -> None:
        """Quotes, dollars and line breaks reach the remote shell as ssh sent them."""
        assert text(ssh(container, "printf '%s|' \"a  b\" 'c$d' \"e\nf\"")) == "a  b|c$d|e\nf|"

    def test_standard_input(self, ssh: Ssh, container: str) -> None:
        """Input arrives whole, and its end is the command's end of file."""
        assert text(ssh(container, "wc -c", input=b"x")).strip() == "1"

    def test_end_of_input_closes_nothing_else(self, ssh: Ssh, container: str) -> None:
        """A command goes on writing after its input has ended."""
        assert text(ssh(container, "cat; sleep 1; echo later", input=b"first\n")) == "first\nlater"

    def test_standard_input_left_open(self, ssh: Ssh, container: str) -> None:
        """A command that ends while the client's stdin is open ends the session at once."""
        with ssh.start(container, "echo done") as process:
            assert process.stdout and process.stdout.readline() == b"done\n"
            assert process.wait(2 * SECOND) == 0

    def test_no_such_command(self, ssh: Ssh, container: str) -> None:
        """A command that is not there is the shell's business: 127."""
        done = ssh(container, "no-such-command")
        assert done.returncode == 127
        assert b"not found" in done.stderr

    def test_death_by_signal_is_no_success(self, ssh: Ssh, container: str) -> None:
        """A command killed by a signal never looks like one that succeeded."""
        assert ssh(container, "kill -KILL $$").returncode != 0

    def test_two_sessions_at_once(self, ssh: Ssh, container: str) -> None:
        """Sessions in one container do not wait for one another."""
        with ssh.start(container, "echo first; cat") as first:
            assert first.stdout and first.stdin
            assert first.stdout.readline() == b"first\n"
            assert text(ssh(container, "echo second")) == "second"
            first.stdin.close()
            assert first.wait(DEADLINE) == 0


class TestBulk:
    """Transfers of many megabytes are exact to the byte."""

    def test_download(self, ssh: Ssh, container: str) -> None:
        """200 MB out of the container have the checksum they have in there."""
        wanted = text(ssh(container, f"head -c {BULK} /dev/urandom >/tmp/bulk && sha256sum </tmp/bulk")).split()[0]
        digest, size = hashlib.sha256(), 0
        with ssh.start(container, "cat /tmp/bulk; rm /tmp/bulk", stdin=subprocess.DEVNULL) as process:
            assert process.stdout
            while data := process.stdout.read(1 << 20):
                digest.update(data)
                size += len(data)
            assert process.wait(DEADLINE) == 0
        assert (size, digest.hexdigest()) == (BULK, wanted)

    def test_upload(self, ssh: Ssh, container: str, tmp_path: Path) -> None:
        """200 MB into the container have the checksum they have out here."""
        source = tmp_path / "bulk"
        with open("/dev/urandom", "rb") as random, source.open("wb") as file:
            for _ in range(BULK // 1_000_000):
                file.write(random.read(1_000_000))
        with source.open("rb") as file:
            wanted = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            command = ssh.command(container, "sha256sum")
            done = subprocess.run(command, stdin=file, capture_output=True, timeout=DEADLINE)
        source.unlink()
        assert text(done).split()[0] == wanted

    def test_both_ways_at_once(self, ssh: Ssh, container: str) -> None:
        """A command that echoes its input echoes all of it."""
        data = bytes(range(256)) * 80_000
        assert ssh(container, "cat", input=data).stdout == data


class TestTerminal:
    """Sessions on a terminal."""

    def test_size_at_first_paint(self, ssh: Ssh, container: str) -> None:
        """The first thing a program sees is the client's size."""
        with ssh.on_terminal("-tt", container, "stty size", size=(37, 101)) as terminal:
            terminal.expect("37 101")
            assert terminal.wait() == 0

    def test_resize(self, ssh: Ssh, container: str) -> None:
        """A program on the terminal gets SIGWINCH and the new size."""
        program = "trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.1; done"
        with ssh.on_terminal("-tt", container, program) as terminal:
            terminal.expect("ready")
            terminal.resize(50, 132)
            terminal.expect("50 132")
            assert terminal.wait() == 7

    def test_ctrl_c_ends_a_command(self, ssh: Ssh, container: str) -> None:
        """Ctrl-C interrupts the command that runs, and its shell says so with its exit code."""
        program = "trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done"
        with ssh.on_terminal("-tt", container, program) as terminal:
            terminal.expect("ready")
            terminal.type("\x03")
            assert terminal.wait() == 9

    def test_interactive_shell(self, ssh: Ssh, container: str) -> None:
        """Without a command there is a shell with a prompt; Ctrl-C ends a program in it and not the shell."""
        with ssh.on_terminal(container) as terminal:
            # In pieces, so that the echo of what is typed is not taken for the answer.
            terminal.type("PS1='rea''dy> '\r")
            terminal.expect("ready> ")
            # The program itself says that it runs: a Ctrl-C before it has the terminal would be the shell's.
            terminal.type("sh -c 'echo o\"\"n; exec sleep 600'\r")
            terminal.expect("on\r\n")
            terminal.type("\x03")
            terminal.expect("ready> ")
            terminal.type("echo $((6 * 7)); exit 5\r")
            terminal.expect("42\r\n")
            assert terminal.wait() == 5

    def test_ctrl_p_is_passed_on(self, ssh: Ssh, container: str) -> None:
        """Ctrl-P and Ctrl-Q, by which docker detaches, are keys like any other here."""
        with ssh.on_terminal("-tt", container, "stty raw -echo; echo ready; head -c 3 | od -An -tx1") as terminal:
            terminal.expect("ready")
            terminal.type("\x10\x11x")
            terminal.expect("10 11 78")
            assert terminal.wait() == 0

    def test_term(self, ssh: Ssh, container: str) -> None:
        """TERM is the client's."""
        command = ["env", "TERM=vt220", *ssh.command("-tt", container, "echo TERM is $TERM")]
        done = subprocess.run(command, capture_output=True, timeout=DEADLINE, stdin=subprocess.DEVNULL)
        assert b"TERM is vt220" in done.stdout


class TestGoneClient:
    """What a client that goes away leaves behind."""

    @pytest.mark.parametrize("options", [(), ("-tt",)], ids=["pipes", "terminal"])
    def test_killed_ssh_ends_the_remote_process(self, ssh: Ssh, container: str, options: tuple[str, ...]) -> None:
        """Within 10 s all that the session started has ended, except what left it with setsid."""
        program = "setsid sleep 4455 >/dev/null 2>&1 </dev/null & echo ready; sleep 3344; echo over"
        with ssh.start(*options, container, program) as process:
            assert process.stdout and process.stdout.readline().strip() == b"ready"
            spared = wait_for(lambda: _pids(ssh, container, "sleep 4455"), "the spared process to start")
            wait_for(lambda: _pids(ssh, container, "sleep 3344"), "the other one to start")
            process.kill()
        wait_for(lambda: not _pids(ssh, container, "sleep 3344"), "its end", 10 * SECOND)
        assert _pids(ssh, container, "sleep 4455") == spared
        ssh(container, f"kill {' '.join(spared)}")

    def test_what_does_not_end_is_killed(self, ssh: Ssh, container: str) -> None:
        """A program that catches SIGHUP and ignores SIGTERM is killed."""
        program = "trap '' TERM; trap : HUP; echo ready; while :; do sleep 5566; done"
        with ssh.start(container, program) as process:
            assert process.stdout and process.stdout.readline() == b"ready\n"
            wait_for(lambda: _pids(ssh, container, "sleep 5566"), "its child to start")
            process.kill()
        wait_for(lambda: not _pids(ssh, container, "sleep 5566"), "its end", 10 * SECOND)


def _pids(ssh: Ssh, uuid: str, command_line: str) -> list[str]:
    """Return the container's processes with exactly this command line; busybox has no pgrep."""
    listed = ssh(uuid, "cd /proc; for p in [0-9]*; do echo $p $(tr '\\0' ' ' <$p/cmdline); done").stdout.decode()
    return [pid for pid, _, words in (line.partition(" ") for line in listed.splitlines()) if words == command_line]


class TestLogin:
    """Who a session is in the container, and with which environment."""

    @pytest.mark.parametrize("name", ["root", "crunch"])
    def test_login_name(self, ssh: Ssh, container: str, name: str) -> None:
        """ssh's user name is the login name, with the home of the container's own passwd."""
        home = "/root" if name == "root" else "/home/crunch"
        seen = text(ssh(f"{name}@{container}", 'echo "$(id -un) $USER $LOGNAME $HOME"'))
        assert seen == f"{name} {name} {name} {home}"
        assert text(ssh("-l", name, container, "id -un")) == name

    def test_default_user(self, ssh: Ssh, container: str) -> None:
        """Without a name, a session is the image's default user."""
        assert text(ssh(container, "id -u; echo $USER")) == "0\nroot"

    def test_unknown_login_name(self, ssh: Ssh, container: str) -> None:
        """A name that the container does not have is refused with a sentence that names it."""
        done = ssh(f"mallory@{container}", "true")
        assert done.returncode == 255
        assert b"mallory" in done.stderr.splitlines()[0]
        assert b"Traceback" not in done.stderr

    def test_shell_of_passwd(self, ssh: Ssh, busybox: str, debian: str) -> None:
        """Commands run in the login user's own shell, and SHELL names it."""
        assert text(ssh(debian, 'echo $SHELL; [ -n "$BASH_VERSION" ] && echo bash')) == "/bin/bash\nbash"
        assert text(ssh(busybox, "echo $SHELL")) == "/bin/sh"

    def test_login_shell(self, ssh: Ssh, debian: str) -> None:
        """A session without a command is a login shell; one with a command is not."""
        question = b"shopt -q login_shell && echo login || echo plain\n"
        assert text(ssh("-T", debian, input=question)) == "login"
        assert text(ssh(debian, question.decode())) == "plain"

    def test_environment_of_the_client(self, ssh: Ssh, container: str) -> None:
        """Variables that ssh sends are set."""
        assert text(ssh("-o", "SetEnv=LC_FLAVOUR=vanilla", container, "echo $LC_FLAVOUR")) == "vanilla"

    def test_ends_of_the_connection(self, ssh: Ssh, container: str) -> None:
        """SSH_CLIENT and SSH_CONNECTION name the user's machine as the controller sees it, and the gateway."""
        client, connection = text(ssh(container, "echo $SSH_CLIENT; echo $SSH_CONNECTION")).splitlines()
        assert re.fullmatch(r"127\.0\.0\.1 65535 \d+", client)
        assert connection == client.replace(" 65535 ", " 65535 127.0.0.1 ")

    def test_orphans_are_reaped(self, ssh: Ssh, container: str) -> None:
        """What a session leaves behind is gone when it ends, although the container's own program waits for nothing."""
        text(ssh(container, "(sleep 0.1234 </dev/null >/dev/null 2>&1 &)"))
        zombies = "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l"
        sleeps = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'ep 0.12[3]4'"
        wait_for(lambda: text(ssh(container, f"{zombies}; {sleeps}; true")) == "0\n0", "the end of what was left")

    def test_environment_and_directory_of_the_container(self, ssh: Ssh, cluster: EmbeddedCluster) -> None:
        """The container's own environment and working directory are the session's."""
        uuid = cluster.run(*FOREVER, options=("--env", "COLOUR=deep blue", "--cwd", "/var"))
        seen = text(ssh(uuid, "echo $COLOUR; pwd; echo $PATH | grep -o /usr/local/bin"))
        assert seen == "deep blue\n/var\n/usr/local/bin"

    def test_user_of_the_container(self, ssh: Ssh, cluster: EmbeddedCluster) -> None:
        """A container whose command runs as another user has that one as its default."""
        uuid = cluster.run(*FOREVER, options=("--user", "crunch"))
        assert text(ssh(uuid, "id -un; echo $HOME")) == "crunch\n/home/crunch"


class TestNoShell:
    """An image with one static program and no shell."""

    def test_words_are_executed_directly(self, ssh: Ssh, scratch: str) -> None:
        """The command's words are a program and its arguments."""
        assert text(ssh(scratch, "busybox echo 'one word' two")) == "one word two"

    @pytest.mark.parametrize(("program", "code"), [("true", 0), ("false", 1)])
    def test_exit_code(self, ssh: Ssh, scratch: str, program: str, code: int) -> None:
        """The program's exit code is ssh's."""
        assert ssh(scratch, f"busybox {program}").returncode == code

    def test_input(self, ssh: Ssh, scratch: str) -> None:
        """Input reaches the program."""
        assert text(ssh(scratch, "busybox wc -c", input=b"12345")) == "5"

    def test_size_at_first_paint(self, ssh: Ssh, scratch: str) -> None:
        """The terminal has the client's size although there is no shell to set it."""
        with ssh.on_terminal("-tt", scratch, "busybox stty size", size=(37, 101)) as terminal:
            terminal.expect("37 101")
            assert terminal.wait() == 0

    def test_no_such_program(self, ssh: Ssh, scratch: str) -> None:
        """A program that the image does not have is named, and the exit code is a shell's."""
        done = ssh(scratch, "no-such-program --flag")
        assert done.returncode == 127
        assert b"no-such-program" in done.stderr and done.stderr.count(b"\n") == 1

    def test_shell(self, ssh: Ssh, scratch: str) -> None:
        """Asking for a shell says clearly that the image has none."""
        done = ssh("-T", scratch)
        assert done.returncode not in (0, -1)
        assert b"shell" in done.stderr and done.stderr.count(b"\n") == 1

    def test_killed_ssh_ends_the_remote_process(self, ssh: Ssh, scratch: str) -> None:
        """Within 10 s the program has ended, although there is nothing in the image to signal it with."""
        with ssh.start(scratch, "busybox sleep 6677") as process:
            wait_for(lambda: b"sleep 6677" in ssh(scratch, "busybox ps").stdout, "the program to start")
            process.kill()
        wait_for(lambda: b"sleep 6677" not in ssh(scratch, "busybox ps").stdout, "its end", 10 * SECOND)
