"""arv_ssh.connect() and arv_ssh.forward() against the double: what the controller vouches for is what counts."""

from __future__ import annotations

import threading
from collections.abc import Callable

import paramiko
import pytest
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
    arv_ssh.connect(UUID)


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
