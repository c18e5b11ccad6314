"""Sessions that a gateway holds without a connection: who may go on with them, and what becomes of them otherwise."""

from __future__ import annotations

import json
import os
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from arv_ssh.config.session_options import SessionOptions
from arv_ssh.net.upgrade import UpgradeAnswer, request
from arv_ssh.resume.core import ResumableStream
from arv_ssh.resume.negotiation import AUTHORIZATION_HEADER, HEADER, Grant, beginning, read_grant
from arv_ssh.trust import credentials, session_claim
from arv_ssh.trust.session_claim import SessionClaim
from crunch_sshd.gateway import held_sessions
from crunch_sshd.gateway.gateway import Gateway
from tests.timing import wait_for
from tests.unit.crunch_sshd.double import SECRET, MemoryRuntime
from tests.unit.crunch_sshd.gateway.test_gateway import UUID, connected

USER = "zzzzz-tpzed-xurymjxw79nv3jz"


class Asker:
    """A controller that asks a gateway; all of its requests are signed."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.address = gateway.start()

    def ask(
        self, resume: str, user: str = USER, path: str = "/ssh", request_id: str = "", signed: str | None = None,
        form: dict[str, str] | None = None,
    ) -> tuple[UpgradeAnswer, ssl.SSLSocket]:
        """Return the answer to a request, and its connection; ``signed`` is signed in place of ``resume``."""
        connection = connected(self.address)
        proof = credentials.request_auth(SECRET, connection.getpeercert(binary_form=True) or b"")
        request_id = request_id or f"req-{secrets.token_hex(10)}"
        text = session_claim.encode(SessionClaim(UUID, int(time.time()) + 60, "", request_id, user))
        signature = credentials.session_auth(SECRET, proof, self.address, text)
        headers = [
            ("X-Arvados-Container-Gateway-Uuid", UUID),
            ("X-Arvados-Authorization", proof),
            ("X-Arvados-Session", text),
            ("X-Arvados-Session-Authorization", signature),
        ]
        if resume:
            authorization = credentials.resume_auth(SECRET, signature, resume if signed is None else signed)
            headers += [(HEADER, resume), (AUTHORIZATION_HEADER, authorization)]
        self.sent = request("POST", path, self.address, headers, {"detach_keys": ""} | (form or {}))
        return self.send(connection, self.sent)

    @staticmethod
    def send(connection: ssl.SSLSocket, data: bytes) -> tuple[UpgradeAnswer, ssl.SSLSocket]:
        """Send a request; return the answer and the connection."""
        connection.sendall(data)
        answer = UpgradeAnswer()
        while not answer.receive(connection.recv(65536)):
            pass
        return answer, connection

    def refused(self, resume: str, **how: str) -> tuple[int, str]:
        """Return the status and the sentence with which a request is refused."""
        answer, connection = self.ask(resume, **how)  # type: ignore[arg-type]
        connection.close()
        assert answer.status != 101
        return answer.status, json.loads(answer.body)["errors"][0]

    def begin(self, request_id: str = "") -> tuple[Grant, ssl.SSLSocket]:
        """Begin a session; return what was granted, and the connection."""
        session = f"ses-{secrets.token_hex(10)}"
        answer, connection = self.ask(beginning(session), request_id=request_id)
        grant = read_grant(answer.headers.get(HEADER.lower(), ""))
        assert grant is not None and grant.session == session
        return grant, connection

    def state(self, grant: Grant) -> str:
        """Return what the gateway says of a session."""
        answer, connection = self.ask(beginning(grant.session), path="/held")
        connection.close()
        assert answer.status == 200
        return str(json.loads(answer.body)["state"])


@contextmanager
def asker(resume_for: int) -> Iterator[Asker]:
    options = SessionOptions(resume_for=resume_for)
    gateway = Gateway(container_uuid=UUID, secret=SECRET, runtime=MemoryRuntime(), options=options)
    try:
        yield Asker(gateway)
    finally:
        gateway.stop()


@pytest.fixture
def ask() -> Iterator[Asker]:
    """A gateway that holds sessions for long."""
    with asker(600) as found:
        yield found


def greeting(connection: ssl.SSLSocket, stream: ResumableStream, early: bytes = b"") -> bytes:
    """Return the gateway's first line."""
    arrived, got, room = bytearray(early), bytearray(), memoryview(bytearray(65536))

    def source(place: memoryview) -> int:
        size = min(len(place), len(arrived))
        place[:size] = arrived[:size]
        del arrived[:size]
        return size

    while b"\n" not in got:
        if not arrived:
            arrived += connection.recv(65536)
        got += room[: stream.take(source, room)]
    return bytes(got.partition(b"\n")[0])


def test_a_session_goes_on(ask: Asker) -> None:
    """Who proves to be the same ssh-proxy gets exactly what it lacks; the old connection is closed."""
    grant, old = ask.begin()
    answer, new = ask.ask(grant.request(1, 4))
    assert answer.status == 101
    assert grant.answered(answer.headers[HEADER.lower()], 1) == 0
    stream = ResumableStream()
    assert greeting(new, stream, answer.trailing) == b"2.0-OpenSSH_9.9 arv-ssh\r"
    while old.recv(65536):
        pass
    old.close()
    new.close()


def test_who_may_not(ask: Asker) -> None:
    """Another user, a wrong secret, a wrong offset, a recorded request: refused, and the owner goes on afterwards."""
    grant, connection = ask.begin()
    assert ask.refused(grant.request(1, 0), user="zzzzz-tpzed-000000000000000") == (403, "it is another user's session")
    forged = Grant(grant.session, "0" * 64, 600)
    assert "does not prove" in ask.refused(forged.request(1, 0))[1]
    assert "can not go on from there" in ask.refused(grant.request(1, 1 << 40))[1]
    other = Grant("ses-" + "0" * 20, grant.secret, 600)
    status, sentence = ask.refused(other.request(1, 0))
    assert status == 410 and "does not have this session" in sentence
    assert ask.refused(grant.request(1, 0), signed="1")[0] == 401
    assert ask.state(grant) == "connected"
    answer, new = ask.ask(grant.request(1, 0))
    assert answer.status == 101
    assert "used before" in ask.refused(grant.request(1, 0))[1]
    connection.close()
    new.close()


def test_recorded_requests(ask: Asker) -> None:
    """A recorded request opens nothing: as it was, nor with its resuming taken off, which would begin a session."""
    grant, connection = ask.begin()
    begun = ask.sent
    answer, new = ask.ask(grant.request(1, 0))
    assert answer.status == 101
    resumed = ask.sent
    for recorded in (begun, resumed):
        lines = recorded.split(b"\r\n")
        stripped = b"\r\n".join(line for line in lines if not line.startswith(HEADER.encode()))
        for data in (recorded, stripped):
            answer, again = ask.send(connected(ask.address), data)
            again.close()
            assert answer.status == 401 and b"used before" in answer.body
    connection.close()
    new.close()


def test_states(ask: Asker) -> None:
    """A controller learns whether a session has a connection, waits for one, or is gone; it can end it by its id."""
    grant, connection = ask.begin()
    assert ask.state(grant) == "connected"
    connection.close()
    wait_for(lambda: ask.state(grant) == "waiting")
    answer, end = ask.ask(beginning(grant.session), path="/end", form={"reason": "maintenance"})
    end.close()
    assert answer.status == 200
    wait_for(lambda: ask.state(grant) == "gone")
    assert ask.refused(grant.request(1, 0)) == (410, "maintenance")
    status, sentence = ask.refused(grant.request(1, 0), user="zzzzz-tpzed-000000000000000")
    assert status == 410 and "maintenance" not in sentence  # which is for its user


def test_switched_off() -> None:
    """With ResumeFor: 0, and for a client that does not ask, the stream is an ordinary one."""
    with asker(0) as found:
        answer, connection = found.ask(beginning("ses-" + "1" * 20))
        connection.close()
        assert answer.status == 101 and HEADER.lower() not in answer.headers
    with asker(600) as found:
        answer, connection = found.ask("")
        assert answer.status == 101 and HEADER.lower() not in answer.headers
        assert (answer.trailing or connection.recv(100)).startswith(b"SSH-2.0")
        connection.close()


def test_many_that_nobody_comes_back_to() -> None:
    """Two hundred sessions that lost their connections are gone after their time, with threads and descriptors."""
    with asker(2) as found:
        before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        sessions = [found.begin() for _ in range(200)]
        for _, connection in sessions:
            connection.close()
        wait_for(lambda: len(found.gateway._held.waiting) == 200, "all to wait")
        wait_for(lambda: not len(found.gateway._connections), "all to end")
        wait_for(lambda: threading.active_count() <= threads + 1, "their threads to end")
        wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before + 2, "their descriptors to be closed")
        assert "no connection for 2 s" in found.refused(sessions[0][0].request(1, 0))[1]


def test_too_many_wait(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more waiting sessions than there may be, those end that wait longest."""
    monkeypatch.setattr(held_sessions, "WAITING_SESSIONS", 2)
    grants = []
    for _ in range(4):
        grant, connection = ask.begin()
        grants.append(grant)
        connection.close()
        wait_for(lambda: ask.state(grants[-1]) == "waiting")
    wait_for(lambda: [ask.state(grant) for grant in grants] == ["gone", "gone", "waiting", "waiting"])


def test_too_much_is_kept(ask: Asker) -> None:
    """The sessions that wait keep no more than a bound together: who waits longest goes."""
    ask.gateway._held._bytes = 10  # less than one greeting
    grant, connection = ask.begin()
    connection.close()
    wait_for(lambda: ask.state(grant) == "gone")
