"""Requests that a controller sent to a gateway, recorded and sent again: to the same, to another, changed."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from arv_ssh.controller.gateways import dial
from arv_ssh.controller.gateways.dial import Target
from arv_ssh.errors import BadGateway
from arv_ssh.net import upgrade
from arv_ssh.net.upgrade import UpgradeAnswer
from arv_ssh.net.upgraded import UpgradeRequest
from arv_ssh.trust import credentials, session_claim
from arv_ssh.trust.session_claim import SessionClaim
from crunch_sshd.gateway.gateway import Gateway
from tests.security.conftest import Site
from tests.security.wire import connect, send
from tests.unit.crunch_sshd.double import MemoryRuntime

USER = "zzzzz-tpzed-xurymjxw79nv3jz"


@dataclass(frozen=True)
class Recorded:
    """A request that a gateway has answered with 101, and where that gateway is."""

    request: bytes
    address: str


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All that the controller's own code sends to gateways from here on."""
    found: list[bytes] = []
    make = dial._request

    def note(one: Target, proof: str, path: str, form: dict[str, str]) -> UpgradeRequest:
        request = make(one, proof, path, form)
        found.append(upgrade.request("POST", request.path, request.host, request.headers, request.form))
        return request

    monkeypatch.setattr(dial, "_request", note)
    return found


def target(site: Site) -> Target:
    """Return what a controller dials for a new session in the busybox container."""
    uuid = site.busybox
    claim = SessionClaim(uuid, int(time.time()) + session_claim.LIFETIME, "", f"req-{secrets.token_hex(10)}", USER)
    return Target(site.secret(uuid), site.address(uuid), claim, "")


@pytest.fixture
def recorded(site: Site, sent: list[bytes]) -> Recorded:
    """A request for a session that the gateway of the busybox container has granted."""
    one = target(site)

    async def scenario() -> None:
        connection = await dial.connect(one)
        connection.transport.abort()

    asyncio.run(scenario())
    return Recorded(sent[0], one.gateway_address)


@pytest.fixture
def second_node(site: Site) -> Iterator[str]:
    """The address of another gateway with the same container's secret: an earlier attempt's, on another node."""
    gateway = Gateway(container_uuid=site.busybox, secret=site.secret(site.busybox), runtime=MemoryRuntime())
    yield gateway.start()
    gateway.stop()


def refused(answer: UpgradeAnswer, status: int, words: str, *, proven: bool = False) -> None:
    """Check a refusal; only who has ``proven`` to know the secret, over this very certificate, is given the response.

    That response is of no use elsewhere: it is made of that proof.
    """
    assert (answer.status, words in str(answer.error())) == (status, True), answer.error()
    assert ("x-arvados-authorization-response" in answer.headers) == proven


def test_to_the_same_gateway(recorded: Recorded) -> None:
    """A session is good once: the recorded request opens nothing a second time."""
    refused(send(recorded.address, recorded.request), 401, "used before", proven=True)


def test_the_end_of_a_session(site: Site, sent: list[bytes]) -> None:
    """The proofs of a request to end a session begin none."""
    one = target(site)
    with pytest.raises(BadGateway, match="has no session"):
        asyncio.run(dial.end(one, "a test's"))
    refused(send(one.gateway_address, sent[0].replace(b"POST /end ", b"POST /ssh ")), 401, "used before", proven=True)


def test_to_another_gateway(site: Site, recorded: Recorded) -> None:
    """Another container's gateway refuses it, also when it names that container."""
    other = site.address(site.debian)
    refused(send(other, recorded.request), 502, f"the gateway of {site.debian}")
    renamed = recorded.request.replace(site.busybox.encode(), site.debian.encode())
    refused(send(other, renamed), 401, "X-Arvados-Authorization is wrong")


def test_to_another_node_with_the_same_secret(recorded: Recorded, second_node: str) -> None:
    """The certificate is part of the proof, so a gateway of the very same container refuses it too."""
    refused(send(second_node, recorded.request), 401, "X-Arvados-Authorization is wrong")


@pytest.mark.parametrize("mine", [True, False], ids=["recorded address", "another's address"])
def test_a_session_for_another_address(site: Site, second_node: str, mine: bool) -> None:
    """Fresh proofs for a session that is signed for the address on the record are no good at another address."""
    uuid = site.busybox
    secret = site.secret(uuid)
    text = session_claim.encode(SessionClaim(uuid, int(time.time()) + 60, "", "req-other", USER))
    with connect(second_node) as connection:
        certificate = connection.getpeercert(binary_form=True)
        assert certificate is not None
        proof = credentials.request_auth(secret, certificate)
        signed_for = second_node if mine else site.address(uuid)
        lines = [
            "POST /ssh HTTP/1.1", "Host: x", "Upgrade: ssh", "Content-Length: 0",
            f"X-Arvados-Container-Gateway-Uuid: {uuid}", f"X-Arvados-Authorization: {proof}",
            f"X-Arvados-Session: {text}",
            f"X-Arvados-Session-Authorization: {credentials.session_auth(secret, proof, signed_for, text)}",
        ]  # fmt: skip
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = UpgradeAnswer("the gateway")
        while not answer.receive(connection.recv(65536)):
            pass
    if mine:
        assert answer.status == 101
    else:
        refused(answer, 401, "X-Arvados-Session-Authorization is wrong", proven=True)
