"""Sessions that a gateway holds without a connection: who may go on with them, and what becomes of them otherwise."""

from __future__ import annotations

import json
import os
import secrets
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from arv_ssh.config.session_options import SessionOptions
from arv_ssh.net.upgrade import UpgradeAnswer, request
from arv_ssh.resume.core import CONFIRM, ResumableStream
from arv_ssh.resume.negotiation import AUTHORIZATION_HEADER, HEADER, HELD_HEADER, Grant, beginning, read_grant
from arv_ssh.trust import credentials, session_claim
from arv_ssh.trust.session_claim import SessionClaim
from crunch_sshd.gateway import endpoint, held_sessions
from crunch_sshd.gateway.gateway import Gateway
from tests.timing import wait_for
from tests.unit.crunch_sshd.double import SECRET, MemoryRuntime
from tests.unit.crunch_sshd.gateway.test_gateway import UUID, connected

USER = "zzzzz-tpzed-xurymjxw79nv3jz"
OTHER = "zzzzz-tpzed-000000000000000"


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

    def begin(self, user: str = USER) -> tuple[Grant, ssl.SSLSocket]:
        """Begin a session; return what was granted, and the connection."""
        session = f"ses-{secrets.token_hex(10)}"
        answer, connection = self.ask(beginning(session), user=user)
        grant = read_grant(answer.headers.get(HEADER.lower(), ""))
        assert grant is not None and grant.session == session
        return grant, connection

    def wait(self, user: str = USER) -> Grant:
        """Begin a session, have it lose its connection, and return what was granted."""
        grant, connection = self.begin(user)
        connection.close()
        wait_for(lambda: self.state(grant) == "waiting")
        return grant

    def question(self, sessions: str, signed: str | None = None) -> UpgradeAnswer:
        """Return the answer to the question what has become of sessions; ``signed`` is signed in place of them."""
        connection = connected(self.address)
        proof = credentials.request_auth(SECRET, connection.getpeercert(binary_form=True) or b"")
        signature = credentials.held_auth(SECRET, proof, self.address, sessions if signed is None else signed)
        headers = [
            ("X-Arvados-Container-Gateway-Uuid", UUID), ("X-Arvados-Authorization", proof), (HELD_HEADER, signature)
        ]
        self.sent = request("POST", "/held", self.address, headers, {"sessions": sessions})
        answer, connection = self.send(connection, self.sent)
        connection.close()
        return answer

    def states(self, *grants: Grant) -> list[str]:
        """Return what the gateway says of sessions; "gone" for those that it does not have."""
        answer = self.question(" ".join(grant.session for grant in grants))
        assert answer.status == 200
        found = json.loads(answer.body)["sessions"]
        return [found.get(grant.session, {"state": "gone"})["state"] for grant in grants]

    def state(self, grant: Grant) -> str:
        """Return what the gateway says of a session."""
        return self.states(grant)[0]


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
    assert ask.refused(grant.request(1, 0), user=OTHER) == (403, "it is another user's session")
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
            assert answer.status == (403 if data is resumed else 401) and b"used before" in answer.body
    connection.close()
    new.close()


def test_going_on_again_and_again(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that goes on again and again takes no more of the memory against replays than one that begins."""
    monkeypatch.setattr(endpoint, "MAX_REMEMBERED", 10)
    grant, connection = ask.begin()
    for attempt in range(1, 21):
        connection.close()
        answer, connection = ask.ask(grant.request(attempt, 0), request_id="req-01234567890123456789")
        assert answer.status == 101
    connection.close()


def test_an_end_by_the_id(ask: Asker) -> None:
    """A session that went on with the request id of another one is the one that ends, and not the other."""
    (first, old), (second, other) = ask.begin(), ask.begin()
    wait_for(lambda: ask.states(first, second) == ["connected"] * 2)
    request_id = request_id_of(ask, second)
    answer, new = ask.ask(first.request(1, 0), request_id=request_id)
    assert answer.status == 101
    answer, end = ask.ask(beginning(first.session), path="/end", request_id=request_id)
    assert answer.status == 200
    wait_for(lambda: ask.states(first, second) == ["gone", "connected"])
    for one in (old, other, new, end):
        one.close()


def request_id_of(ask: Asker, grant: Grant) -> str:
    """Return the request id with which a session began."""
    held = ask.gateway._held.find(grant.session)
    assert held is not None
    return held.login.request_id


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
    status, sentence = ask.refused(grant.request(1, 0), user=OTHER)
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
        wait_for(lambda: not len(found.gateway._connections), "all to end")
        wait_for(lambda: threading.active_count() <= threads + 1, "their threads to end")
        wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before + 2, "their descriptors to be closed")
        assert "no connection for 2 s" in found.refused(sessions[0][0].request(1, 0))[1]


def test_questions(ask: Asker) -> None:
    """One question is about many sessions; its answer says which connection of each it is about."""
    (first, old), (second, connection) = ask.begin(), ask.begin()
    unknown = "ses-" + "0" * 20
    answer, new = ask.ask(first.request(3, 0))
    assert answer.status == 101
    found = json.loads(ask.question(f"{first.session} {unknown} {second.session}").body)["sessions"]
    assert found == {
        first.session: {"state": "connected", "attempt": 3}, second.session: {"state": "connected", "attempt": 0}
    }
    for one in (old, new, connection):
        one.close()


def test_questions_that_are_refused(ask: Asker) -> None:
    """A question that no controller signed, and one about more sessions than may wait, get no answer."""
    assert ask.question("ses-" + "1" * 20, signed="").status == 401
    answer = ask.question(" ".join(["ses-" + "1" * 20] * 501))
    assert answer.status == 400 and b"ask about 500 at once at most" in answer.body


def test_questions_cost_no_memory(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often controllers ask about waiting sessions, there is room to begin others, and to go on."""
    monkeypatch.setattr(endpoint, "MAX_REMEMBERED", 3)
    waiting = ask.wait()
    for _ in range(10):
        assert ask.state(waiting) == "waiting"
    _, connection = ask.begin()
    answer, again = ask.ask(waiting.request(1, 0))
    assert answer.status == 101
    connection.close()
    again.close()


def test_a_question_begins_nothing(ask: Asker) -> None:
    """What was recorded of a question is no request for a session."""
    ask.question("ses-" + "1" * 20)
    answer, connection = ask.send(connected(ask.address), ask.sent.replace(b"POST /held", b"POST /ssh"))
    connection.close()
    assert answer.status == 401


def test_confirmed_but_never_sent(ask: Asker) -> None:
    """Who claims to have what was never sent loses the connection, and nothing else: the session goes on."""
    grant, connection = ask.begin()
    connection.sendall(struct.pack(">IQ", CONFIRM << 24 | 8, 1 << 40))
    wait_for(lambda: ask.state(grant) == "waiting")
    connection.close()
    answer, new = ask.ask(grant.request(1, 0))
    assert greeting(new, ResumableStream(), answer.trailing) == b"SSH-2.0-OpenSSH_9.9 arv-ssh\r"
    new.close()


def test_too_many_wait(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more waiting sessions than there may be, those end that wait longest."""
    monkeypatch.setattr(held_sessions, "WAITING_SESSIONS", 2)
    grants = [ask.wait() for _ in range(4)]
    wait_for(lambda: ask.states(*grants) == ["gone", "gone", "waiting", "waiting"])


def test_nobody_pushes_out_another(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with many waiting sessions loses his own oldest, and not the older one of another user."""
    monkeypatch.setattr(held_sessions, "WAITING_SESSIONS", 3)
    theirs = ask.wait(OTHER)
    mine = [ask.wait() for _ in range(5)]
    wait_for(lambda: ask.states(theirs, *mine) == ["waiting", "gone", "gone", "gone", "waiting", "waiting"])
    assert "most of them of this user" in ask.refused(mine[0].request(1, 0))[1]


def test_nobody_takes_all_bytes(ask: Asker) -> None:
    """The sessions of who keeps most go first, and not the older one of another user."""
    theirs = ask.wait(OTHER)
    ask.gateway._held._bytes = 2 * kept(ask, theirs) + 1
    mine = [ask.wait() for _ in range(4)]
    wait_for(lambda: ask.states(theirs, *mine) == ["waiting", "gone", "gone", "gone", "waiting"])
    assert "most of it for this user" in ask.refused(mine[0].request(1, 0))[1]


def kept(ask: Asker, grant: Grant) -> int:
    """Return how many bytes the gateway keeps for a session."""
    held = ask.gateway._held.find(grant.session)
    assert held is not None
    return held.socket.kept


def test_too_much_is_kept(ask: Asker) -> None:
    """The sessions that wait keep no more than a bound together: who waits longest goes."""
    ask.gateway._held._bytes = 10  # less than one greeting
    grant, connection = ask.begin()
    connection.close()
    wait_for(lambda: ask.state(grant) == "gone")
