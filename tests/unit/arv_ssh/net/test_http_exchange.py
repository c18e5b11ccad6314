"""The server's side of HTTP without I/O: the table of its states, and what is written in them."""

from __future__ import annotations

from itertools import product

import h11
import pytest

from arv_ssh.net.http_exchange import RECEIVING, TABLE, WORKING, ServerExchange, State, Step

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"


def read(exchange: ServerExchange) -> list[str]:
    """Return the kinds of all that has arrived."""
    found = []
    while (event := exchange.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        found.append(type(event).__name__)
    return found


def test_table() -> None:
    """Every state stands in the table and can be reached; a lost connection goes nowhere."""
    assert set(TABLE) == set(State)
    assert {state for steps in TABLE.values() for state in steps.values()} == set(State) - {State.FRESH}
    assert not TABLE[State.CLOSED]
    assert all(steps[Step.LOSE] is State.CLOSED for state, steps in TABLE.items() if state is not State.CLOSED)
    assert all(Step.ANSWERED in TABLE[state] for state in WORKING)
    assert not any(Step.ANSWERED in TABLE[state] for state in set(State) - WORKING)
    assert all(Step.BYTES in TABLE[state] for state in RECEIVING)


@pytest.mark.parametrize(("state", "step"), list(product(State, Step)), ids=str)
def test_steps(state: State, step: Step) -> None:
    """A step leads where the table says; one that is not there is a bug, and changes nothing."""
    exchange = ServerExchange()
    exchange.state = state
    if step in TABLE[state]:
        exchange.step(step)
        assert exchange.state is TABLE[state][step]
    else:
        with pytest.raises(RuntimeError, match=f"is {state.name} cannot {step.name}"):
            exchange.step(step)
        assert exchange.state is state


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_one_request_after_the_other(size: int) -> None:
    """Two requests in pieces are two exchanges, with nothing between them."""
    exchange = ServerExchange()
    for _ in range(2):
        for start in range(0, len(GET), size):
            exchange.receive(GET[start : start + size])
            assert exchange.state is State.READING
        assert read(exchange) == ["Request", "EndOfMessage"]
        exchange.step(Step.WHOLE)
        sent = exchange.answer(200, [("Content-Length", "2")], b"ok")
        assert sent.startswith(b"HTTP/1.1 200 OK\r\n") and sent.endswith(b"\r\n\r\nok")
        assert exchange.next_request() and exchange.state is State.IDLE


def test_requests_sent_together() -> None:
    """A client that did not wait for its answer is not between two requests."""
    exchange = ServerExchange()
    exchange.receive(GET + GET)
    read(exchange)
    exchange.step(Step.WHOLE)
    exchange.answer(200, [("Content-Length", "0")], b"")
    assert exchange.next_request() and exchange.state is State.READING


def test_connection_that_cannot_go_on() -> None:
    """After an answer to half a request, or one that closes, there is no next one."""
    for data, headers in ((PUT + b"a", []), (GET, [("Connection", "close")])):
        exchange = ServerExchange()
        exchange.receive(data)
        read(exchange)
        exchange.step(Step.WHOLE)
        exchange.answer(200, [("Content-Length", "0"), *headers], b"")
        assert not exchange.next_request()


def test_answer_before_the_end_of_the_body() -> None:
    """A handler that answers before a streamed body has ended leaves the connection lingering."""
    exchange = ServerExchange()
    exchange.receive(PUT + b"a")
    read(exchange)
    exchange.step(Step.STREAM)
    exchange.answer(413, [("Content-Length", "0")], b"")
    assert exchange.next_request() and exchange.state is State.LINGERING


def test_can_answer_once() -> None:
    """An answer can begin before, and not after, another one has."""
    exchange = ServerExchange()
    exchange.receive(PUT)
    assert exchange.can_answer
    read(exchange)
    exchange.begin_answer(200, b"", [(b"content-length", b"1")])
    assert not exchange.can_answer
    with pytest.raises(h11.LocalProtocolError):
        exchange.piece(b"too much")


def test_go_on() -> None:
    """A client that waits before its body is told to go on, once, and no other."""
    exchange = ServerExchange()
    exchange.receive(PUT.replace(b"Host", b"Expect: 100-continue\r\nHost"))
    read(exchange)
    assert exchange.go_on() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert exchange.go_on() == b""


def test_switch() -> None:
    """A 101 gives what followed the request to the new protocol."""
    exchange = ServerExchange()
    exchange.receive(GET.replace(b"Host", b"Upgrade: ssh\r\nHost") + b"SSH-2.0-x\r\n")
    read(exchange)
    exchange.step(Step.WHOLE)
    head, early = exchange.switch([("Upgrade", "ssh")])
    assert head.startswith(b"HTTP/1.1 101 ") and early == b"SSH-2.0-x\r\n" and exchange.state is State.SWITCHED


def test_unknown_status() -> None:
    """A status without a name is written without one."""
    exchange = ServerExchange()
    exchange.receive(GET)
    read(exchange)
    assert exchange.answer(499, [("Content-Length", "0")], b"").startswith(b"HTTP/1.1 499 \r\n")


def test_refusal_after_head() -> None:
    """What is not HTTP after an answer to HEAD is refused with a body: it is no answer to HEAD."""
    exchange = ServerExchange()
    exchange.receive(GET.replace(b"GET", b"HEAD"))
    assert read(exchange) == ["Request", "EndOfMessage"]
    exchange.step(Step.WHOLE)
    assert exchange.answer(200, [("Content-Length", "2")], b"ok").endswith(b"\r\n\r\n")
    assert exchange.next_request()
    exchange.receive(b"nonsense\r\n\r\n")
    with pytest.raises(h11.RemoteProtocolError):
        exchange.next_event()
    assert exchange.answer(400, [("Content-Length", "2")], b"no").endswith(b"\r\n\r\nno")
