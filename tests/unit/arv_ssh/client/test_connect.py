"""arv_ssh.connect() and arv_ssh.forward() against the double: what the controller vouches for is what counts."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import paramiko
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paramiko import common

import arv_ssh
from arv_ssh.client.stream import open_stream
from arv_ssh.errors import ArvSshError, BadGateway
from tests.unit.conftest import Start
from tests.unit.controller_double import UNIT, Double, Peer
from tests.unit.ssh_server import EchoServer

UUID = "zzzzz-dz642-abcdeabcdeabcde"
CREDENTIAL = "the password of this session"
Enter = Callable[[], None]


class PasswordServer(EchoServer):
    """Takes the session's credential as the password, and nothing else."""

    def check_auth_none(self, username: str) -> int:
        return common.AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        self._user = username
        return common.AUTH_SUCCESSFUL if password == CREDENTIAL else common.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "password"


@pytest.fixture(scope="module")
def key() -> paramiko.PKey:
    """The gateway's host key."""
    return paramiko.ECDSAKey.generate()


def ed25519() -> paramiko.PKey:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return paramiko.Ed25519Key(file_obj=io.StringIO(pem.decode()))


def line(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.get_base64()}"


def gateway(double: Start, key: paramiko.PKey, *headers: str) -> Double:
    """Start a controller that answers with ``headers``, and a gateway with ``key`` behind it."""

    def script(peer: Peer) -> None:
        peer.switch(*headers)
        PasswordServer(key).serve(peer)

    return double(script)


def settings(server: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


def connect() -> None:
    with arv_ssh.connect(UUID):
        pass


def forward() -> None:
    with arv_ssh.forward(UUID, 80):
        pass


def test_the_credential_logs_in(double: Start, key: paramiko.PKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the right key and the credential of the answer, commands run."""
    headers = f"X-Arvados-Ssh-Host-Key: {line(key)}", f"X-Arvados-Ssh-User-Credential: {CREDENTIAL}"
    settings(gateway(double, key, *headers), monkeypatch)
    with arv_ssh.connect(UUID, user="ann") as client:
        stdin, stdout, _ = client.exec_command("date")
        stdin.channel.shutdown_write()
        assert stdout.read() == b"ann: date\n"


def vouched(*keys: paramiko.PKey) -> tuple[str, ...]:
    """Return the headers of a controller that vouches for ``keys``."""
    first, *others = map(line, keys)
    return (
        f"X-Arvados-Ssh-Host-Key: {first}",
        f"X-Arvados-Ssh-Other-Host-Keys: {', '.join(others)}",
        f"X-Arvados-Ssh-User-Credential: {CREDENTIAL}",
    )


@pytest.mark.parametrize("enter", [connect, forward])
def test_the_second_key(
    double: Start, key: paramiko.PKey, monkeypatch: pytest.MonkeyPatch, enter: Enter
) -> None:
    """Where this machine may not use Ed25519, as under FIPS 140, the gateway proves itself by its other key."""
    headers = vouched(ed25519(), key)
    settings(gateway(double, key, *headers), monkeypatch)

    def refuse(self: object, *arguments: object, **named: object) -> None:
        raise UnsupportedAlgorithm("not approved")

    monkeypatch.setattr(paramiko.Ed25519Key, "__init__", refuse)
    enter()


def test_the_kind_of_the_host_key(double: Start, key: paramiko.PKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client says which of the keys it was shown."""
    settings(gateway(double, key, *vouched(key)), monkeypatch)
    with arv_ssh.connect(UUID) as client:
        assert client.host_key_kind == "ecdsa-sha2-nistp256"


@pytest.mark.parametrize("enter", [connect, forward])
def test_no_key_that_may_be_used(
    double: Start, key: paramiko.PKey, monkeypatch: pytest.MonkeyPatch, enter: Enter
) -> None:
    """Where no key is left, nothing is sent to the gateway, and the sentence names the kinds there are."""
    headers = f"X-Arvados-Ssh-Host-Key: {line(ed25519())}", f"X-Arvados-Ssh-User-Credential: {CREDENTIAL}"
    settings(gateway(double, key, *headers), monkeypatch)

    def refuse(self: object, *arguments: object, **named: object) -> None:
        raise UnsupportedAlgorithm("not approved")

    monkeypatch.setattr(paramiko.Ed25519Key, "__init__", refuse)
    with pytest.raises(BadGateway, match=f"of {UUID} are of kinds that this machine may not use: ssh-ed25519; ask"):
        enter()


@pytest.mark.parametrize("enter", [connect, forward])
def test_another_host_key(
    double: Start, key: paramiko.PKey, monkeypatch: pytest.MonkeyPatch, enter: Enter
) -> None:
    """A gateway with another key than the controller vouches for gets no password, and no thread is left."""
    headers = (
        f"X-Arvados-Ssh-Host-Key: {line(paramiko.ECDSAKey.generate())}",
        f"X-Arvados-Ssh-User-Credential: {CREDENTIAL}",
    )
    settings(gateway(double, key, *headers), monkeypatch)
    with pytest.raises(BadGateway, match=f"SSH handshake with container {UUID} failed: .*[Kk]ey"):
        enter()
    left = [thread for thread in threading.enumerate() if thread.name.startswith(("arv-ssh ", "Srv-"))]
    assert left == []


@pytest.mark.parametrize("enter", [connect, forward])
def test_another_credential(
    double: Start, key: paramiko.PKey, monkeypatch: pytest.MonkeyPatch, enter: Enter
) -> None:
    """A credential that the gateway does not take is a failed handshake, and is not shown."""
    headers = f"X-Arvados-Ssh-Host-Key: {line(key)}", "X-Arvados-Ssh-User-Credential: wrong secret"
    settings(gateway(double, key, *headers), monkeypatch)
    with pytest.raises(ArvSshError, match=f"container {UUID}") as caught:
        enter()
    assert "wrong secret" not in str(caught.value)


@pytest.mark.parametrize("enter", [connect, forward])
@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ((), "cannot vouch for the host key"),
        (("X-Arvados-Ssh-Host-Key: nonsense", "X-Arvados-Ssh-User-Credential: x"), "malformed host key"),
    ],
)
def test_no_key_to_check(
    double: Start, key: paramiko.PKey, monkeypatch: pytest.MonkeyPatch,
    enter: Enter, headers: tuple[str, ...], words: str,
) -> None:  # fmt: skip
    """Without a host key that can be checked nothing is sent to the gateway."""
    settings(gateway(double, key, *headers), monkeypatch)
    with pytest.raises(ArvSshError, match=words):
        enter()


def test_the_stream_says_what_cut_it(double: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the connection is cut in the middle, the stream ends with the reason; closing twice is nothing."""
    headers = "X-Arvados-Ssh-Host-Key: x y", "X-Arvados-Ssh-User-Credential: z"
    settings(double(lambda peer: (peer.switch(*headers), peer.sock.close())), monkeypatch)
    stream = open_stream(UUID)
    assert stream.ended.wait(UNIT)
    assert isinstance(stream.failure, BadGateway) and "was cut" in str(stream.failure)
    stream.close()
    stream.close()
