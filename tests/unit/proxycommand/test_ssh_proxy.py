"""ssh-proxy as the process that ssh starts: its command line, the host key, its signals and what it imports."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import proxycommand
from tests.unit.conftest import Run, Start
from tests.unit.controller_double import UNIT, Peer
from tests.unit.ssh_proxy import KEY, KEY_HEADER, UUID, echo, environment, finish

ROOT = str(Path(proxycommand.__file__).parents[1])


def test_standard_descriptors_closed_at_start(double: Start, client: Run, tmp_path: Path) -> None:
    """Started with 0 and 1 closed, no socket takes their numbers."""
    server = double(echo)
    script = f'exec "{sys.executable}" -m proxycommand ssh-proxy {UUID} <&- >&-'
    clean = {"HOME": str(tmp_path), **server.environment()}
    done = subprocess.run(["/bin/sh", "-c", script], env=clean, capture_output=True, timeout=UNIT)
    assert (done.returncode, done.stderr) == (0, b"")


def test_host_key_is_written_before_the_first_byte(double: Start, client: Run, tmp_path: Path) -> None:
    """When the first byte arrives, the file of the host is there, in a directory nobody else can look into."""
    hold = threading.Event()

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"S")
        hold.wait(UNIT)
        peer.end()

    directory = tmp_path / "deep" / "hosts"
    process = client("ssh-proxy", UUID, "--known-hosts-dir", str(directory), env=double(script).environment())
    assert process.stdout and process.stdout.read(1) == b"S"
    assert (directory / UUID).read_text() == f"{UUID},[{UUID}]:* {KEY}\n"
    assert directory.stat().st_mode & 0o777 == 0o700
    hold.set()


def test_every_host_key_is_written(double: Start, client: Run, tmp_path: Path) -> None:
    """The file has a line for each key that the controller vouches for."""
    other = "ecdsa-sha2-nistp256 BBBB"

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, f"X-Arvados-Ssh-Other-Host-Keys: {other}", glued=b"S")
        peer.recv_all()
        peer.end()

    finish(client("ssh-proxy", UUID, "--known-hosts-dir", str(tmp_path), env=double(script).environment()))
    assert (tmp_path / UUID).read_text().splitlines() == [f"{UUID},[{UUID}]:* {key}" for key in (KEY, other)]


def test_no_host_key_from_a_stock_gateway(double: Start, client: Run, tmp_path: Path) -> None:
    """Without a host key header nothing is written, the bytes flow, and one line says what ssh will do."""

    def script(peer: Peer) -> None:
        peer.switch(glued=b"SSH-2.0-Go\r\n")
        peer.recv_all()
        peer.end()

    process = client("ssh-proxy", UUID, "--known-hosts-dir", str(tmp_path / "k"), env=double(script).environment())
    out, err = finish(process)
    assert out == b"SSH-2.0-Go\r\n"
    assert err.startswith(f"arvados-client: the controller cannot vouch for the host key of {UUID}")
    assert err.count("\n") == 1
    assert not (tmp_path / "k").exists()


def test_a_key_that_ssh_knows(double: Start, client: Run, tmp_path: Path) -> None:
    """Nothing is said, nor asked a second time, of a key that ssh knows already: its user has accepted it."""

    def script(peer: Peer) -> None:
        peer.switch(glued=b"SSH-2.0-Go\r\n")
        peer.recv_all()
        peer.end()

    accepted = f"{UUID} ssh-rsa AAAA\n"
    (tmp_path / UUID).write_text(accepted)
    server = double(script)
    out, err = finish(client("ssh-proxy", UUID, "--known-hosts-dir", str(tmp_path), env=server.environment()))
    assert (out, err, len(server.requests)) == (b"SSH-2.0-Go\r\n", "", 1)
    assert (tmp_path / UUID).read_text() == accepted


def test_key_from_the_log(double: Start, client: Run, tmp_path: Path) -> None:
    """Behind a stock controller, our gateway's key comes with the answer for the container's log, and is written."""
    request = UUID.replace("dz642", "xvhdp")

    def script(peer: Peer) -> None:
        if "/log/" in peer.request:
            peer.send(f"HTTP/1.1 404 Not Found\r\n{KEY_HEADER}\r\nContent-Length: 0\r\n\r\n".encode())
        elif peer.request.startswith("GET "):
            body = f'{{"items": [{{"uuid": "{request}"}}]}}'
            peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        else:
            peer.switch(glued=b"SSH-2.0-x\r\n")
            peer.recv_all()
            peer.end()

    server = double(script)
    out, err = finish(client("ssh-proxy", UUID, "--known-hosts-dir", str(tmp_path), env=server.environment()))
    assert (out, err) == (b"SSH-2.0-x\r\n", "")
    assert (tmp_path / UUID).read_text() == f"{UUID},[{UUID}]:* {KEY}\n"


def test_probe_only(double: Start, client: Run, tmp_path: Path) -> None:
    """--probe-only ends with 0 as soon as the session is accepted, and reads and writes nothing."""

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"SSH-2.0-x\r\n")
        peer.recv_all()

    process = client("ssh-proxy", "--probe-only", UUID, env=double(script).environment(), stdin=subprocess.DEVNULL)
    assert (process.wait(UNIT), process.stdout and process.stdout.read()) == (0, b"")
    assert not (tmp_path / ".cache").exists()


def test_hang_up_signal(double: Start, client: Run) -> None:
    """SIGHUP, which ssh sends its ProxyCommand at the end, ends it without a word, and TLS in order."""

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"x")
        assert peer.recv_all() == b""  # raises when the stream is cut

    server = double(script)
    process = client("ssh-proxy", UUID, env=server.environment())
    assert process.stdout and process.stderr and process.stdout.read(1) == b"x"
    process.send_signal(signal.SIGHUP)
    assert process.wait(1.0) == 128 + signal.SIGHUP
    assert process.stderr.read() == b""
    server.close_threads()
    assert not server.failures


@pytest.mark.parametrize(
    ("arguments", "env", "sentence"),
    [
        ([], environment(), "ssh-proxy needs one HOST, not 0; see arvados-client ssh-proxy --help"),
        ([UUID, UUID], environment(), "ssh-proxy needs one HOST, not 2; see arvados-client ssh-proxy --help"),
        (["--nope", UUID], environment(), "unknown option --nope; see arvados-client ssh-proxy --help"),
        ([UUID, "--user"], environment(), "the option --user needs a value; see arvados-client ssh-proxy --help"),
        (["--wait=1", UUID], environment(), "the option --wait takes no value; see arvados-client ssh-proxy --help"),
        (["example.org"], environment(), "'example.org' is not a container UUID"),
        (["zzzzz-tpzed-xurymjxw79nv3jz"], environment(), "is not a container or container request"),
        ([UUID], {}, "ARVADOS_API_HOST is not set"),
        ([UUID], environment(ARVADOS_API_TOKEN=""), "ARVADOS_API_TOKEN is empty"),
        ([UUID, "--settings", "/nonexistent/env"], {}, "cannot read the settings file /nonexistent/env: No such file"),
        ([UUID], environment(), "cannot connect to 127.0.0.1:1: connection refused; check ARVADOS_API_HOST"),
        ([UUID], environment(ARVADOS_API_HOST="no-such-host.invalid"), "the host name no-such-host.invalid cannot be"),
        ([UUID], environment(SSL_CERT_FILE="/nonexistent.pem"), "cannot read SSL_CERT_FILE /nonexistent.pem: No such"),
        ([UUID], environment(SSL_CERT_FILE="/dev/null"), "SSL_CERT_FILE /dev/null has no PEM certificate"),
    ],
)
def test_bad_input(client: Run, arguments: list[str], env: dict[str, str], sentence: str) -> None:
    """Bad arguments, settings or an unreachable host: one line, exit 255, no traceback."""
    process = client("ssh-proxy", *arguments, env=env)
    out, err = finish(process)
    assert (process.returncode, out, err.count("\n")) == (255, b"", 1)
    assert err.startswith("arvados-client: ")
    assert sentence in err


def test_start_up_imports_little() -> None:
    """The way to the first byte imports no HTTP library, paramiko or asyncio, and nothing slow of Python's own."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import proxycommand.__main__, proxycommand.ssh_proxy"
    code += "; print(*sys.modules)"
    done = subprocess.run(
        # Without site: an editable install has a .pth file that imports pathlib and more.
        [sys.executable, "-I", "-S", "-c", code, ROOT], capture_output=True, text=True, check=True, timeout=UNIT
    )
    heavy = {"requests", "paramiko", "asyncio", "h11", "argparse", "json", "typing", "dataclasses", "pathlib"}
    heavy |= {"urllib.parse", "tempfile", "secrets", "logging", "threading", "subprocess", "shlex", "encodings.idna"}
    assert not heavy & set(done.stdout.split())
