"""``shell`` and the generated ssh_config with the real ssh, against the double with an SSH server behind it."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxycommand import shell, ssh_config
from tests.integration.terminal import TerminalSession
from tests.unit.conftest import Run, Start
from tests.unit.controller_double import UNIT, Double, Peer
from tests.unit.ssh_server import EchoServer

UUID = "zzzzz-dz642-abcdeabcdeabcde"
REQUEST = "zzzzz-xvhdp-abcdeabcdeabcde"


def new_key() -> paramiko.Ed25519Key:
    """Return a fresh Ed25519 host key."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return paramiko.Ed25519Key(file_obj=io.StringIO(pem.decode()))


KEY = new_key()


def gateway(key: paramiko.PKey | None = KEY) -> Callable[[Peer], None]:
    """Return a script: 101 with ``key`` vouched for (None: with no key header), then SSH with :data:`KEY`."""

    def script(peer: Peer) -> None:
        if peer.request.startswith("GET"):
            return peer.refuse("200 OK", b'{"container_uuid": "%s"}' % UUID.encode())
        peer.switch(*([f"X-Arvados-Ssh-Host-Key: {key.get_name()} {key.get_base64()}"] if key else []))
        return EchoServer(KEY).serve(peer)

    return script


def write_config(server: Double, directory: Path, control_dir: str = "") -> Path:
    """Write settings and ssh_config as for a cluster, and return the latter's path."""
    directory.mkdir(exist_ok=True)
    (directory / "env").write_text("".join(f"export {k}='{v}'\n" for k, v in server.environment().items()))
    text = ssh_config.block(str(directory / "env"), str(directory / "known hosts"), control_dir=control_dir)
    (directory / "config").write_text(text)
    return directory / "config"


def ssh(config: Path, *arguments: str, data: bytes = b"") -> tuple[int, bytes, str]:
    """Run the real ssh; return its exit code, stdout and stderr."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("ARVADOS_", "SSL_", "XDG_", "SSH_"))}
    done = subprocess.run(
        ["ssh", "-F", str(config), *arguments], input=data, capture_output=True, timeout=3 * UNIT, env=env
    )
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize("name", ["plain", "space 100%h 'quo\"ted"])
def test_ssh_with_the_generated_config(double: Start, tmp_path: Path, name: str) -> None:
    """Stock ssh gets in without a prompt or a warning, stdin and the exit code pass, whatever the paths are called."""
    config = write_config(double(gateway()), tmp_path / name)
    assert ssh(config, UUID, "say it", data=b"in") == (7, b"_: say it\nin", "")
    assert ssh(config, f"ann@{REQUEST}", "x")[:2] == (7, b"ann: x\n")
    assert ssh(config, "-p", "2222", UUID, "x") == (7, b"_: x\n", "")


def test_wrong_host_key_is_refused(double: Start, tmp_path: Path) -> None:
    """A gateway with another key than the controller vouches for is refused, and gets no session."""
    config = write_config(double(gateway(new_key())), tmp_path)
    code, out, err = ssh(config, UUID, "x")
    assert (code, out) == (255, b"")
    assert "Host key verification failed." in err


def test_stock_gateway_is_refused_until_accepted(double: Start, tmp_path: Path) -> None:
    """Without a vouched-for key ssh refuses, after one line that says what to do; and that line is right."""
    config = write_config(double(gateway(None)), tmp_path)
    code, out, err = ssh(config, UUID, "x")
    assert (code, out) == (255, b"")
    assert err.startswith(f"arvados-client: the controller cannot vouch for the host key of {UUID}")
    assert "Host key verification failed." in err
    (tmp_path / "known hosts").mkdir()
    code, out, err = ssh(config, "-o", "StrictHostKeyChecking=accept-new", UUID, "x")
    assert (code, out) == (7, b"_: x\n")


@pytest.mark.parametrize("stderr", ["a pipe", "a file", "a socket", "a terminal"])
@pytest.mark.parametrize("shared", [False, True])
def test_refusal_is_told_by_ssh_proxy(double: Start, tmp_path: Path, stderr: str, shared: bool) -> None:
    """The reason is the line before ssh's own, wherever stderr leads, and also where ssh hides its ProxyCommand's."""
    server = double(lambda peer: peer.refuse("410 Gone", b'{"errors": ["container %s has ended"]}' % UUID.encode()))
    with tempfile.TemporaryDirectory(prefix="s") as short:
        config = write_config(server, tmp_path, short if shared else "")
        command = ["ssh", "-F", str(config), UUID, "x"]
        if stderr == "a terminal":
            with TerminalSession(command) as session:
                code, said = session.wait(), session.seen
        elif stderr == "a pipe":
            done = subprocess.run(command, stderr=subprocess.PIPE, timeout=3 * UNIT)
            code, said = done.returncode, done.stderr
        elif stderr == "a file":
            with open(tmp_path / "said", "w+b") as file:
                code = subprocess.run(command, stderr=file, timeout=3 * UNIT).returncode
                file.seek(0)
                said = file.read()
        else:
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    code = subprocess.run(command, stderr=theirs.fileno(), timeout=3 * UNIT).returncode
                said = ours.recv(10000)
    assert code == 255
    lines = [line for line in said.decode().splitlines() if line]
    assert lines[0] == f"arvados-client: container {UUID} has ended; submit it again to enter it"
    assert lines[-1].startswith("Connection closed by UNKNOWN")


def test_nothing_is_held_open(double: Start, tmp_path: Path) -> None:
    """Who reads ssh's stdout and stderr to their ends is not kept by the shared connection that goes on."""
    with tempfile.TemporaryDirectory(prefix="s") as short:
        config = write_config(double(gateway()), tmp_path, f"{short}/made")
        assert ssh(config, UUID, "x")[1] == b"_: x\n"  # reads both to their ends, within its time-out
        check = subprocess.run(["ssh", "-F", str(config), "-O", "check", UUID], capture_output=True, timeout=UNIT)
        assert b"Master running" in check.stderr
        assert ssh(config, "-O", "exit", UUID)[0] == 0


def test_null_is_respected(double: Start, client: Run, capfd: pytest.CaptureFixture[str]) -> None:
    """Who redirects ssh-proxy's stderr to /dev/null by hand gets what was asked for, not a line on its own stderr."""
    server = double(lambda peer: peer.refuse("410 Gone", b""))
    process = client("ssh-proxy", UUID, env=server.environment(), stderr=subprocess.DEVNULL)
    assert process.wait(UNIT) == 255
    assert capfd.readouterr().err == ""


def test_parallel_sessions(double: Start, tmp_path: Path) -> None:
    """Connections to the same host at the same time all get in."""
    config = write_config(double(gateway()), tmp_path)
    command = ["ssh", "-F", str(config), UUID, "x"]
    started = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for _ in range(6)]
    assert [process.communicate(timeout=3 * UNIT)[0] for process in started] == [b"_: x\n"] * 6
    assert os.listdir(tmp_path / "known hosts") == [UUID]


def test_shell_becomes_ssh(double: Start, client: Run, tmp_path: Path) -> None:
    """shell needs no config file: it resolves, tries, and becomes ssh with the login name and the command."""
    server = double(gateway())
    words = ["--detach-keys", "ctrl-a,d", f"ann@{REQUEST}", "-T", "echo", "-n"]
    process = client("shell", *words, env=server.environment())
    out, err = process.communicate(b"in", timeout=3 * UNIT)
    assert (process.returncode, out, err) == (7, b"ann: echo -n\nin", b"")
    posts = [body for request, body in zip(server.requests, server.bodies, strict=True) if request.startswith("POST")]
    assert posts == [b"login_username=ann&detach_keys=ctrl-a%2Cd"] * 2
    assert (tmp_path / ".cache/arvados/known_hosts" / UUID).exists()


def test_shell_with_a_settings_file(double: Start, client: Run, tmp_path: Path) -> None:
    """--settings reaches the ProxyCommand too, and the default login name is the image's."""
    server = double(gateway())
    write_config(server, tmp_path / "a b")
    process = client("shell", "--settings", str(tmp_path / "a b" / "env"), UUID, "x")
    out, err = process.communicate(timeout=3 * UNIT)
    assert (process.returncode, out, err) == (7, b"_: x\n", b"")


def test_shell_tells_the_reason_alone(double: Start, client: Run) -> None:
    """When the way is closed, the reason is the only line, and ssh is not started."""
    server = double(lambda peer: peer.refuse("503 Not now", b'{"errors": ["container %s is Queued"]}' % UUID.encode()))
    process = client("shell", UUID, env=server.environment())
    _, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err.decode()) == (255, f"arvados-client: container {UUID} is Queued\n")
    assert len(server.requests) == 1


def test_shell_cannot_write_the_host_key(double: Start, client: Run) -> None:
    """Where the host key cannot be written, that is the only line, and ssh is not started."""
    process = client("shell", "--known-hosts-dir", "/dev/null/x", UUID, env=double(gateway()).environment())
    _, err = process.communicate(timeout=UNIT)
    assert process.returncode == 255
    assert err.decode() == (
        f"arvados-client: cannot write the host key file /dev/null/x/{UUID}: Not a directory; "
        "name a directory with --known-hosts-dir\n"
    )


def test_shell_refuses_a_stock_gateway(double: Start, client: Run, tmp_path: Path) -> None:
    """Without a vouched-for key the sentence comes alone; with the option it names, the session opens."""
    server = double(gateway(None))
    process = client("shell", UUID, "x", env=server.environment())
    _, err = process.communicate(timeout=UNIT)
    assert process.returncode == 255
    assert err.decode().startswith(f"arvados-client: the controller cannot vouch for the host key of {UUID}")
    assert err.count(b"\n") == 1
    process = client("shell", UUID, "-o", "StrictHostKeyChecking=no", "x", env=server.environment())
    assert process.communicate(timeout=3 * UNIT)[0] == b"_: x\n"


def test_shell_without_ssh(double: Start, client: Run, tmp_path: Path) -> None:
    """A machine without ssh is told so."""
    process = client("shell", UUID, env={**double(gateway()).environment(), "PATH": str(tmp_path)})
    _, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err.decode()) == (
        255,
        "arvados-client: no ssh program on the PATH; install the OpenSSH client\n",
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "shell needs a container's UUID; see arvados-client shell --help"),
        (["--user", "a", f"b@{UUID}"], "--user a and b@ name two login names; give one"),
        (["zzzzz-dz642-short"], "'zzzzz-dz642-short' is not a container UUID"),
        (["-v", UUID], "unknown option -v; see arvados-client shell --help"),
    ],
)
def test_shell_bad_arguments(client: Run, arguments: list[str], sentence: str) -> None:
    """A wrong command line is one line and exit 255."""
    env = {"ARVADOS_API_HOST": "127.0.0.1:1", "ARVADOS_API_TOKEN": "x"}
    process = client("shell", *arguments, env=env)
    _, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err.count(b"\n")) == (255, 1)
    assert sentence in err.decode()


@pytest.mark.parametrize(
    ("words", "options", "command"),
    [
        ([], [], []),
        (["ls", "-l"], [], ["ls", "-l"]),
        (["-v", "-L", "80:a:80", "ls"], ["-v", "-L", "80:a:80"], ["ls"]),
        (["-L80:a:80", "ls"], ["-L80:a:80"], ["ls"]),
        (["-tto", "A=b", "top", "-b"], ["-tto", "A=b"], ["top", "-b"]),
        (["-N", "--", "-odd"], ["-N"], ["-odd"]),
        (["-N", "-L"], ["-N", "-L"], []),
    ],
)
def test_split(words: list[str], options: list[str], command: list[str]) -> None:
    """Options of ssh are told from the command's own, values included."""
    assert shell.split(words) == (options, command)


def test_the_users_options_come_first() -> None:
    """ssh takes the first value of each option, so the user's own win; a command like an option stays a command."""
    command = shell.ssh_command("Host x\n  # no\n  User _\n", UUID, "ann", ["-o", "User=bob"], ["-odd"])
    assert command == ["ssh", "-o", "User=bob", "-l", "ann", "-o", "User _", "--", UUID, "-odd"]
