"""Proofs between controllers: for one request to one controller, once, and not for long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arv_ssh.controller.peers import peer_proofs
from arv_ssh.controller.peers.peer_proofs import MAX_REMEMBERED, Verifier, prove
from arv_ssh.errors import Unauthorized, Unavailable
from arv_ssh.net.http_messages import Request
from arv_ssh.trust.credentials import CLOCK_SKEW

ROOT = "roottoken"
HERE = "http://here:1"
NOW = 1_800_000_000


class Clock:
    """The time, at will."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the time by which proofs are made and checked."""
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


@pytest.fixture
def verifier(clock: Clock) -> Verifier:
    return Verifier(clock)


def request(recipient: str = HERE, root_token: str = ROOT) -> Request:
    """Return a proven request."""
    proof, headers = prove(root_token, recipient, "POST", "/kill?scope=host", b"body")
    sent = {"authorization": f"Bearer {proof}"} | {name.lower(): value for name, value in headers.items()}
    return Request("POST", "/kill", "scope=host", sent, b"body", "192.0.2.1", "req-1")


def test_a_proof_is_good_once(verifier: Verifier) -> None:
    """The first request with a proof is taken, the same again is not, another one is."""
    one = request()
    verifier.check(ROOT, HERE, one)
    with pytest.raises(Unauthorized, match="was used before"):
        verifier.check(ROOT, HERE, one)
    verifier.check(ROOT, HERE, request())


@pytest.mark.parametrize(
    "change",
    [{"method": "GET"}, {"path": "/other"}, {"query": "scope=process"}, {"body": b"other"}, {"body": b""}],
    ids=str,
)
def test_each_part_is_proven(verifier: Verifier, change: dict[str, str | bytes]) -> None:
    """A request that differs from the proven one in any part is refused, and the proven one still taken."""
    one = request()
    with pytest.raises(Unauthorized, match="is wrong"):
        verifier.check(ROOT, HERE, replace(one, **change))  # type: ignore[arg-type]
    verifier.check(ROOT, HERE, one)


@pytest.mark.parametrize("name", [peer_proofs.RECIPIENT, peer_proofs.TIME, peer_proofs.NONCE, "Authorization"])
@pytest.mark.parametrize("value", [None, "", "1", "f" * 32, "²", "Bearer "])
def test_each_header_is_proven(verifier: Verifier, name: str, value: str | None) -> None:
    """A request without the time, the nonce or the proof, or with another one, is refused."""
    one = request()
    headers = {key: text for key, text in one.headers.items() if key != name.lower()}
    changed = headers if value is None else headers | {name.lower(): value}
    with pytest.raises(Unauthorized, match="is wrong"):
        verifier.check(ROOT, HERE, replace(one, headers=changed))


def test_for_this_controller_only(verifier: Verifier) -> None:
    """A proof for another controller, or of another cluster, is none here."""
    with pytest.raises(Unauthorized, match="is for another one .'http://there:2'."):
        verifier.check(ROOT, HERE, request(recipient="http://there:2"))
    with pytest.raises(Unauthorized, match="is wrong"):
        verifier.check(ROOT, HERE, request(root_token="another"))
    verifier.check(ROOT, "", request(recipient="http://there:2"))  # who does not know its own name


@pytest.mark.parametrize("late", [-CLOCK_SKEW - 1, CLOCK_SKEW + 1])
def test_not_for_long(verifier: Verifier, clock: Clock, late: int) -> None:
    """A proof of another time is refused."""
    one = request()
    clock.now += late
    with pytest.raises(Unauthorized, match="too old"):
        verifier.check(ROOT, HERE, one)


@pytest.mark.parametrize("fast", [0, CLOCK_SKEW])
def test_a_nonce_is_remembered_as_long_as_its_proof_is_good(verifier: Verifier, clock: Clock, fast: int) -> None:
    """There is no moment at which a proof is still good and its nonce forgotten; the sender's clock may be fast."""
    clock.now += fast
    one = request()
    clock.now -= fast
    verifier.check(ROOT, HERE, one)
    for _ in range(MAX_REMEMBERED - 1):
        verifier._remember(str(len(verifier._seen)), clock.now, clock.now)  # room is made of these
    clock.now += CLOCK_SKEW + fast
    verifier.check(ROOT, HERE, request())
    with pytest.raises(Unauthorized, match="was used before"):
        verifier.check(ROOT, HERE, one)


def test_the_memory_is_bounded(verifier: Verifier, clock: Clock) -> None:
    """With as many proofs as are remembered in a minute the next is refused, and a minute later taken."""
    for number in range(MAX_REMEMBERED):
        verifier._remember(str(number), clock.now, clock.now + CLOCK_SKEW)
    with pytest.raises(Unavailable, match="too often"):
        verifier.check(ROOT, HERE, request())
    clock.now += CLOCK_SKEW + 1
    verifier.check(ROOT, HERE, request())
    assert len(verifier._seen) == 1
