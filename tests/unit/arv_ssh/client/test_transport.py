"""The way to the controller, through ssh-proxy: addresses, TLS and its certificates, and one line for each failure."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from arv_ssh.client import transport
from arv_ssh.client.settings import Settings
from arv_ssh.errors import BadGateway
from arv_ssh.net import bare
from tests.unit.conftest import Run, Start
from tests.unit.controller_double import UNIT, Peer
from tests.unit.ssh_proxy import UUID, echo, environment, finish


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


def test_ipv6(double: Start, client: Run) -> None:
    """An API host given as an IPv6 address with a port works, certificate check included."""
    process = client("ssh-proxy", UUID, env=double(echo, "::1").environment())
    assert finish(process, b"hi") == (b"SSH-2.0-glued\r\nhi", "")


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


def name_hash(certificate: Path) -> str:
    """The name under which OpenSSL looks for a CA in a directory, without its number."""
    command = ["openssl", "x509", "-noout", "-hash", "-in", str(certificate)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=UNIT).stdout.strip()


@pytest.mark.parametrize(("where", "handshakes"), [("directory", 1), ("file", 2), ("nowhere", 2)])
def test_system_cas(
    double: Start, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, handshakes: int
) -> None:
    """Of the system's CAs only the needed one is read; but one that is in the file alone is trusted too."""
    ca, file = certificates / "ca.pem", tmp_path / "ca-certificates.crt"
    file.write_bytes(ca.read_bytes() if where == "file" else b"")
    (tmp_path / f"{name_hash(ca) if where == 'directory' else '00000000'}.0").symlink_to(ca)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert bare.ca_paths() == (str(file), str(tmp_path))
    context, begun = transport._context, []

    def counted(settings: Settings, ca_directory: str | None) -> ssl.SSLContext:
        begun.append(ca_directory)
        return context(settings, ca_directory)

    monkeypatch.setattr(transport, "_context", counted)
    steps: list[str] = []
    server = double(lambda peer: None)
    settings = Settings("127.0.0.1", server.port, "token")
    if where == "nowhere":
        with pytest.raises(BadGateway, match="is not trusted"):
            transport.dial(settings, passed=lambda step, detail: steps.append(step))
    else:
        transport.dial(settings, passed=lambda step, detail: steps.append(step)).close()
    assert len(begun) == handshakes
    assert steps == ["DNS", "TCP"] + ["TLS"] * (where != "nowhere")


def test_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at all CAs after the directory's takes none of the time again that the user was told."""
    deadlines: list[float] = []
    before = time.monotonic()

    def refused(settings: Settings, ca_directory: str | None, watch: object, passed: object, *times: float) -> None:
        deadlines.append(times[0])
        raise BadGateway("not trusted") from ssl.SSLCertVerificationError()

    monkeypatch.setattr(transport, "_ca_directory", lambda settings: "/certs")
    monkeypatch.setattr(transport, "_dial", refused)
    with pytest.raises(BadGateway):
        transport.dial(Settings("h", 1, "t"))
    first, second = deadlines
    assert before <= first - transport.CONNECT_TIMEOUT <= time.monotonic()
    assert second == first


@pytest.mark.parametrize("spoiled", ["another directory", "no hashes", "own file", "insecure"])
def test_no_lazy_cas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str) -> None:
    """A directory that does not seem to have all CAs takes nobody's place; nor where others were named."""
    file = tmp_path / ("elsewhere" if spoiled == "another directory" else "certs") / "all.pem"
    file.parent.mkdir()
    file.touch()
    directory = tmp_path / "certs"
    directory.mkdir(exist_ok=True)
    (directory / ("ca.pem" if spoiled == "no hashes" else "00000000.0")).touch()
    monkeypatch.setattr(bare, "ca_paths", lambda: (str(file), str(directory)))
    own = str(file) if spoiled == "own file" else None
    assert transport._ca_directory(Settings("h", 1, "t", insecure=spoiled == "insecure", ca_file=own)) is None
    (directory / "00000000.0").touch()
    monkeypatch.setattr(bare, "ca_paths", lambda: (str(directory / "00000000.0"), str(directory)))
    assert transport._ca_directory(Settings("h", 1, "t")) == str(directory)


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
