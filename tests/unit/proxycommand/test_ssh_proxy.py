"""ssh-proxy as the process that ssh starts: bytes both ways, ends both ways, and one line for every failure."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import proxycommand
from tests.unit.conftest import Run, Start
from tests.unit.controller_double import UNIT, Peer

ROOT = str(Path(proxycommand.__file__).parents[1])
UUID = "zzzzz-dz642-abcdeabcdeabcde"
REQUEST = "zzzzz-xvhdp-abcdeabcdeabcde"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHzRuz1gm+bq8f7NfO324HWsfsMuqngTO/enjG0NPpkF"
KEY_HEADER = f"X-Arvados-Ssh-Host-Key: {KEY}"


def echo(peer: Peer) -> None:
    """Send back what comes, and end when the client ends."""
    peer.switch(KEY_HEADER, glued=b"SSH-2.0-glued\r\n")
    while data := peer.recv():
        peer.send(data)
    peer.end()


def finish(process: subprocess.Popen[bytes], data: bytes = b"") -> tuple[bytes, str]:
    """Feed ``data``, wait for the end; return stdout and stderr."""
    out, err = process.communicate(data, timeout=UNIT)
    return out, err.decode()


def test_the_request(double: Start, client: Run) -> None:
    """The request names the container, carries the token, and asks for the login name; "_" is sent as none."""
    server = double(echo)
    for user, sent in (([], b"login_username=&"), (["--user", "_"], b"login_username=&"), (["--user=ann"], b"=ann&")):
        finish(client("ssh-proxy", *user, UUID, "--detach-keys", "ctrl-a,d", env=server.environment()))
        assert server.requests[-1].startswith(f"POST /arvados/v1/containers/{UUID}/ssh HTTP/1.1\r\n")
        assert "\r\nUpgrade: ssh" in server.requests[-1]
        assert "\r\nAuthorization: Bearer v2/" in server.requests[-1]
        assert sent in server.bodies[-1]
        assert server.bodies[-1].endswith(b"detach_keys=ctrl-a%2Cd")


def test_bytes_both_ways_and_the_glued_ones(double: Start, client: Run) -> None:
    """What is glued to the head comes first, then 20 MB come back as they went."""
    server = double(echo)
    data = os.urandom(1 << 20) * 20
    process = client("ssh-proxy", UUID, env=server.environment())
    out, err = finish(process, data)
    assert (process.returncode, err) == (0, "")
    assert out[:15] == b"SSH-2.0-glued\r\n"
    assert hashlib.sha256(out[15:]).digest() == hashlib.sha256(data).digest()


def test_stdin_ends_first(double: Start, client: Run) -> None:
    """EOF on stdin ends that direction only: what the far end says after it arrives."""

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER)
        sent = peer.recv_all()
        for _ in range(100):
            peer.send(b"late" * 1000 + sent)
        peer.end()

    process = client("ssh-proxy", UUID, env=double(script).environment())
    out, err = finish(process, b"!")
    assert (process.returncode, err) == (0, "")
    assert out == (b"late" * 1000 + b"!") * 100


@pytest.mark.parametrize("kind", ["pipes", "one socket"])
def test_far_end_ends_first(double: Start, client: Run, kind: str) -> None:
    """EOF of the far end ends stdout only: what stdin brings after it is passed on, on pipes and on a socket."""
    received = []

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"bye")
        peer.end()
        received.append(peer.recv_all())

    server = double(script)
    if kind == "pipes":
        process = client("ssh-proxy", UUID, env=server.environment())
        assert process.stdin and process.stdout
        assert process.stdout.read() == b"bye"  # up to EOF, with stdin still open
        process.stdin.write(b"afterwards")
        process.stdin.close()
    else:
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(UNIT)
            with theirs:
                process = client("ssh-proxy", UUID, env=server.environment(), stdin=theirs, stdout=theirs)
            assert b"".join(iter(lambda: ours.recv(100), b"")) == b"bye"
            ours.sendall(b"afterwards")
            ours.shutdown(socket.SHUT_WR)
            process.wait(UNIT)
    assert process.wait(UNIT) == 0
    server.close_threads()
    assert received == [b"afterwards"]


def test_slow_reader_stops_the_far_end(double: Start, client: Run) -> None:
    """While nobody reads stdout, the far end is held back instead of being buffered, and stdin still flows."""
    stuck, heard = threading.Event(), threading.Event()
    total = 64 << 20

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER)
        peer.sock.settimeout(0.5)
        peer.engine.write(bytes(total))
        left = memoryview(peer.engine.outgoing())
        while left:
            try:
                left = left[peer.sock.send(left) :]
            except TimeoutError:
                stuck.set()
                peer.sock.settimeout(UNIT)
                if not heard.is_set():
                    assert peer.recv() == b"still here"
                    heard.set()
        peer.end()
        peer.recv_all()  # to close with unread bytes is a reset, which would lose ours

    process = client("ssh-proxy", UUID, env=double(script).environment())
    assert process.stdin and process.stdout
    assert stuck.wait(UNIT)
    process.stdin.write(b"still here")
    process.stdin.flush()
    assert heard.wait(UNIT)
    memory = Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
    assert int(memory) < 60_000  # kB
    assert len(finish(process)[0]) == total


def test_waiting_costs_nothing(double: Start, client: Run) -> None:
    """With one direction ended and the other idle, the loop sleeps: no spinning at EOF."""
    release = threading.Event()

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"x")
        peer.recv_all()
        release.wait(UNIT)
        peer.end()

    process = client("ssh-proxy", UUID, env=double(script).environment())
    assert process.stdin and process.stdout
    process.stdin.close()
    process.stdin = None
    assert process.stdout.read(1) == b"x"

    def ticks() -> int:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before, end = ticks(), time.monotonic() + 1.0
    while time.monotonic() < end:
        release.wait(0.2)
    assert ticks() - before < 10  # of 100 a second
    release.set()
    assert process.wait(UNIT) == 0


def test_ends_when_ssh_dies(double: Start, client: Run) -> None:
    """When both pipes hang up, ssh-proxy ends, while the far end says nothing and keeps the line."""
    ended = threading.Event()

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"x")
        ended.wait(2 * UNIT)  # longer than the test waits

    process = client("ssh-proxy", UUID, env=double(script).environment())
    assert process.stdin and process.stdout
    assert process.stdout.read(1) == b"x"
    process.stdout.close()
    process.stdin.close()
    assert process.wait(UNIT) == 0
    ended.set()


def test_ends_when_ssh_dies_with_the_far_end_stuck(double: Start, client: Run) -> None:
    """The same while the far end reads nothing and stdin is full."""
    ended = threading.Event()

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"x")
        ended.wait(2 * UNIT)  # longer than the test waits

    process = client("ssh-proxy", UUID, env=double(script).environment())
    assert process.stdin and process.stdout
    assert process.stdout.read(1) == b"x"
    os.set_blocking(process.stdin.fileno(), False)
    full_since = time.monotonic()
    while time.monotonic() - full_since < 0.5:
        try:
            os.write(process.stdin.fileno(), bytes(65536))
            full_since = time.monotonic()
        except BlockingIOError:
            ended.wait(0.05)
    process.stdout.close()
    process.stdin.close()
    process.wait(UNIT)
    ended.set()


def test_ends_when_ssh_dies_before_the_answer(double: Start, client: Run) -> None:
    """When stdout hangs up while the controller is still thinking, nothing waits for its answer."""
    asked, ended = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        asked.set()
        ended.wait(UNIT)

    process = client("ssh-proxy", UUID, env=double(script).environment())
    assert process.stdin and process.stdout
    assert asked.wait(UNIT)
    process.stdout.close()
    process.stdin.close()
    assert process.wait(1.0) == 255
    ended.set()


def test_stdout_closed_early(double: Start, client: Run) -> None:
    """With nobody reading stdout, what comes down is dropped and stdin is passed on to its end."""
    received = []

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER)
        peer.send(bytes(1 << 20))
        received.append(peer.recv_all())

    server = double(script)
    process = client("ssh-proxy", UUID, env=server.environment())
    assert process.stdin and process.stdout
    process.stdin.write(b"first ")
    process.stdin.flush()
    process.stdout.read(1)
    process.stdout.close()
    process.stdin.write(b"last")
    process.stdin.close()
    process.wait(UNIT)
    server.close_threads()
    assert received == [b"first last"]


def test_standard_descriptors_closed_at_start(double: Start, client: Run, tmp_path: Path) -> None:
    """Started with 0 and 1 closed, no socket takes their numbers."""
    server = double(echo)
    script = f'exec "{sys.executable}" -m proxycommand ssh-proxy {UUID} <&- >&-'
    clean = {"HOME": str(tmp_path), **server.environment()}
    done = subprocess.run(["/bin/sh", "-c", script], env=clean, capture_output=True, timeout=UNIT)
    assert (done.returncode, done.stderr) == (0, b"")


def test_cut_connection(double: Start, client: Run) -> None:
    """A stream that is cut, not ended, is told as such."""

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"x")
        peer.sock.shutdown(socket.SHUT_RDWR)

    server = double(script)
    process = client("ssh-proxy", UUID, env=server.environment())
    assert process.stdout
    process.stdout.read()
    assert process.wait(UNIT) == 255
    assert process.stderr
    assert process.stderr.read().decode() == (
        f"arvados-client: the connection to {server.settings().authority} was cut; reconnect\n"
    )


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


def test_container_request(double: Start, client: Run, tmp_path: Path) -> None:
    """A container request's UUID leads to its container; the host key is filed under the name ssh was given."""

    def script(peer: Peer) -> None:
        if peer.request.startswith("GET"):
            return peer.refuse("200 OK", b'{"uuid": "%s", "container_uuid": "%s"}' % (REQUEST.encode(), UUID.encode()))
        return echo(peer)

    server = double(script)
    process = client("ssh-proxy", REQUEST, "--known-hosts-dir", str(tmp_path / "k"), env=server.environment())
    assert finish(process)[1] == ""
    assert server.requests[0].startswith(f"GET /arvados/v1/container_requests/{REQUEST}?select=%5B%22uuid%22")
    assert server.requests[1].startswith(f"POST /arvados/v1/containers/{UUID}/ssh ")
    assert (tmp_path / "k" / REQUEST).read_text().startswith(f"{REQUEST},[{REQUEST}]:* ssh-ed25519 ")


def test_ipv6(double: Start, client: Run) -> None:
    """An API host given as an IPv6 address with a port works, certificate check included."""
    process = client("ssh-proxy", UUID, env=double(echo, "::1").environment())
    assert finish(process, b"hi") == (b"SSH-2.0-glued\r\nhi", "")


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
    ("status", "body", "sentence"),
    [
        ("401 Unauthorized", b'{"errors": ["Not logged in"]}', "does not accept the token (Not logged in); set ARV"),
        ("401 Unauthorized", b"", "does not accept the token; set ARVADOS_API_TOKEN to a current token"),
        ("403 Forbidden", b'{"errors": ["no shell in %s: ask ann"]}' % UUID.encode(), f"no shell in {UUID}: ask ann"),
        ("404 Not Found", b'{"errors": ["no such thing"]}', f"container {UUID}: no such thing"),
        ("404 Not Found", b"<html>", f"{UUID}: HOST answered 404 Not Found and gave no reason; check the UUID"),
        ("410 Gone", b'{"errors": ["%s has ended"]}' % UUID.encode(), f"{UUID} has ended"),
        ("429 Too Many Requests", b"", f"{UUID}: HOST answered 429 Too Many Requests and gave no reason; close"),
        ("500 Oops", b"", f"container {UUID}: HOST answered 500 Oops and gave no reason; try again, and tell"),
        ("502 Bad Gateway", b'{"errors": ["it failed"]}', f"container {UUID}: it failed"),
        ("503 Service Unavailable", b'{"errors": ["is Queued"]}', f"container {UUID}: is Queued"),
        ("504 Gateway Timeout", b'{"errors": ["no\\nanswer"]}', f"container {UUID}: no answer"),
        ("200 OK", b"hello", "HOST answered 200 OK instead of switching to SSH; is it an Arvados controller"),
        ("302 Found", b"", "HOST answered 302 Found instead of switching to SSH; is it an Arvados controller"),
    ],
)
def test_refusals(double: Start, client: Run, status: str, body: bytes, sentence: str) -> None:
    """Each refusal of the controller is one line that names the thing, its state and the next step; exit 255."""
    server = double(lambda peer: peer.refuse(status, body))
    process = client("ssh-proxy", UUID, env=server.environment())
    out, err = finish(process)
    assert (process.returncode, out) == (255, b"")
    assert err.startswith("arvados-client: ")
    assert err.count("\n") == 1
    assert sentence.replace("HOST", server.settings().authority) in err
    assert "secretofactiveuser" not in err


def test_request_id(double: Start, client: Run) -> None:
    """One id of Arvados' shape goes with all requests of an ssh-proxy, and into an error that the server left bare."""

    def script(peer: Peer) -> None:
        if peer.request.startswith("GET"):
            return peer.refuse("200 OK", b'{"container_uuid": "%s"}' % UUID.encode())
        return peer.refuse("503 Service Unavailable", b"")

    server = double(script)
    seen = []
    for _ in range(2):
        _, err = finish(client("ssh-proxy", REQUEST, env=server.environment()))
        sent = {match for head in server.requests[-2:] for match in re.findall("\r\nX-Request-Id: (.*)\r", head)}
        assert len(sent) == 1
        seen.append(sent.pop())
        assert re.fullmatch("req-[0-9a-z]{20}", seen[-1])
        assert err.endswith(f"(request {seen[-1]})\n")
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        ("404 Not Found", b"", f"container request {REQUEST}: HOST answered 404 Not Found"),
        ("200 OK", b'{"state": "Uncommitted", "container_uuid": null}', "no container yet (Uncommitted); submit it"),
        ("200 OK", b'{"state": "Committed", "container_uuid": null}', "has no container yet (Committed); try again"),
        ("200 OK", b"<html>", "HOST answered without the container request; check ARVADOS"),
        ("200 OK", b"[]", "HOST answered without the container request; check ARVADOS"),
    ],
)
def test_request_without_a_container(double: Start, client: Run, status: str, body: bytes, sentence: str) -> None:
    """A container request that leads to no container says so."""
    server = double(lambda peer: peer.refuse(status, body))
    process = client("ssh-proxy", REQUEST, env=server.environment())
    _, err = finish(process)
    assert (process.returncode, err.count("\n")) == (255, 1)
    assert sentence.replace("HOST", server.settings().authority) in err


def environment(**values: str) -> dict[str, str]:
    """Return settings for a host that no test reaches."""
    return {"ARVADOS_API_HOST": "127.0.0.1:1", "ARVADOS_API_TOKEN": "x", **values}


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


def test_untrusted_certificate(double: Start, client: Run) -> None:
    """A certificate of an unknown CA is refused with the next step; with the insecure flag it is taken."""
    server = double(echo)
    env = {**server.environment(), "SSL_CERT_FILE": ""}
    process = client("ssh-proxy", UUID, env=env)
    _, err = finish(process)
    assert process.returncode == 255
    assert f"the TLS certificate of {server.settings().authority} is not trusted (self-signed certificate" in err
    process = client("ssh-proxy", UUID, env={**env, "ARVADOS_API_HOST_INSECURE": "Yes"})
    assert finish(process) == (b"SSH-2.0-glued\r\n", "")


def test_certificate_of_another_name(double: Start, client: Run) -> None:
    """A trusted certificate of another name is refused."""
    server = double(echo)
    env = {**server.environment(), "ARVADOS_API_HOST": f"127.0.0.2:{server.port}"}
    server_on_other_address = socket.create_server(("127.0.0.2", server.port))
    with server_on_other_address:
        relay = threading.Thread(target=_forward_once, args=(server_on_other_address, server.port), daemon=True)
        relay.start()
        process = client("ssh-proxy", UUID, env=env)
        _, err = finish(process)
        relay.join(UNIT)
    assert process.returncode == 255
    assert f"the TLS certificate of 127.0.0.2:{server.port} is not trusted (IP address mismatch" in err


def _forward_once(listener: socket.socket, port: int) -> None:
    incoming, _ = listener.accept()
    with incoming, socket.create_connection(("127.0.0.1", port)) as outgoing:
        outgoing.sendall(incoming.recv(65536))
        incoming.sendall(outgoing.recv(65536))
        incoming.recv(65536)  # the alert


@pytest.mark.parametrize(
    ("greeting", "sentence"),
    [(b"SSH-2.0-x\r\n", "does not speak proper TLS"), (b"", "closed the connection in the middle of TLS")],
)
def test_not_tls(client: Run, greeting: bytes, sentence: str) -> None:
    """A server that speaks no TLS is told as such."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        process = client("ssh-proxy", UUID, env=environment(ARVADOS_API_HOST=address))
        listener.settimeout(UNIT)
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(greeting)
            connection.shutdown(socket.SHUT_WR)
            _, err = finish(process)
    assert (process.returncode, err.count("\n")) == (255, 1)
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
