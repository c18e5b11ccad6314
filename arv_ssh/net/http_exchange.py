"""The server's side of an HTTP/1.1 connection without I/O: its state, and the bytes of its answers, on h11.

Owns the states that a connection goes through, with one table of the steps allowed in each, and how answers are
written. Knows no transport, no time-outs, and nothing of what requests mean.
"""

from __future__ import annotations

from enum import Enum, auto
from http import HTTPStatus

import h11

MAX_HEAD = 32 * 1024
"""Bytes of request line and headers: four times what browsers' and proxies' longest tokens need."""

Headers = list[tuple[str, str]] | list[tuple[bytes, bytes]]


class State(Enum):
    """Where a connection stands."""

    FRESH = auto()
    """No bytes have come yet."""
    READING = auto()
    """A request is arriving."""
    STREAMING = auto()
    """Its handler works already, while the body still arrives."""
    ANSWERING = auto()
    """As much of the request is here as will ever come; its handler works, or the answer is on its way."""
    IDLE = auto()
    """An answer was given, and no byte of another request has come."""
    LINGERING = auto()
    """The answer was given before the body's end; the rest of the body is dropped."""
    SWITCHED = auto()
    """The connection belongs to another protocol."""
    CLOSED = auto()
    """The connection is lost."""


class Step(Enum):
    """The steps that take a connection from one state to another."""

    BYTES = auto()
    """The client sent something."""
    STREAM = auto()
    """A head is complete, and its handler takes the body as it comes."""
    WHOLE = auto()
    """The body is complete, or broken and will never be."""
    ANSWERED = auto()
    """The answer is written."""
    SWITCH = auto()
    """A 101 is written."""
    LOSE = auto()
    """The transport reports the end."""


TABLE: dict[State, dict[Step, State]] = {
    State.FRESH: {Step.BYTES: State.READING, Step.LOSE: State.CLOSED},
    State.READING: {
        Step.BYTES: State.READING, Step.STREAM: State.STREAMING, Step.WHOLE: State.ANSWERING, Step.LOSE: State.CLOSED,
    },
    State.STREAMING: {
        Step.BYTES: State.STREAMING, Step.WHOLE: State.ANSWERING, Step.ANSWERED: State.LINGERING,
        Step.SWITCH: State.SWITCHED, Step.LOSE: State.CLOSED,
    },
    State.ANSWERING: {
        Step.BYTES: State.ANSWERING, Step.ANSWERED: State.IDLE, Step.SWITCH: State.SWITCHED, Step.LOSE: State.CLOSED,
    },
    State.IDLE: {Step.BYTES: State.READING, Step.LOSE: State.CLOSED},
    State.LINGERING: {Step.BYTES: State.LINGERING, Step.LOSE: State.CLOSED},
    State.SWITCHED: {Step.LOSE: State.CLOSED},
    State.CLOSED: {},
}  # fmt: skip
"""The state that each step leads to; steps not listed cannot happen."""

RECEIVING = frozenset({State.FRESH, State.READING, State.STREAMING, State.IDLE})
"""The states in which arrived bytes are processed; in the others they wait."""
WORKING = frozenset({State.STREAMING, State.ANSWERING})
"""The states in which a handler works."""


class ServerExchange:
    """One connection: :attr:`state`, the requests that have come, and the bytes of the answers."""

    def __init__(self) -> None:
        self.state = State.FRESH
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._method = b""

    def step(self, step: Step) -> None:
        """Go to the next state; raise :class:`RuntimeError` for a step not allowed in this one."""
        following = TABLE[self.state].get(step)
        if following is None:
            raise RuntimeError(f"an HTTP connection that is {self.state.name} cannot {step.name}")
        self.state = following

    def receive(self, data: bytes) -> None:
        """Store what arrived; empty means that the client's direction ended."""
        if data:
            self.step(Step.BYTES)
        self._http.receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event, as h11 does; raise h11's RemoteProtocolError for anything that is not HTTP."""
        event = self._http.next_event()
        if isinstance(event, h11.Request):
            self._method = event.method
        return event

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> bytes:
        """Return a whole answer; ``headers`` give the length of ``body``, which is left out of an answer to HEAD."""
        sent = b"" if self._method == b"HEAD" else body
        return self.begin_answer(status, _phrase(status), headers) + self.piece(sent) + self.end_answer()

    def begin_answer(self, status: int, reason: bytes, headers: Headers) -> bytes:
        """Return the head of an answer whose body follows."""
        return self._http.send(h11.Response(status_code=status, reason=reason, headers=headers)) or b""

    def piece(self, data: bytes) -> bytes:
        """Return the bytes that send a piece of the answer's body; raise h11's LocalProtocolError for one too many."""
        return self._http.send(h11.Data(data=data)) or b""

    def end_answer(self) -> bytes:
        """Return the bytes that end the answer's body; raise h11's LocalProtocolError if the length is wrong."""
        return self._http.send(h11.EndOfMessage()) or b""

    def go_on(self) -> bytes:
        """Return the 100 that a client waits for before it sends a body; empty when it does not wait."""
        if not self._http.they_are_waiting_for_100_continue:
            return b""
        return self._http.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")) or b""

    def switch(self, headers: Headers) -> tuple[bytes, bytes]:
        """Return the head of a 101, and the bytes after the request, which belong to the new protocol."""
        head = h11.InformationalResponse(status_code=101, headers=headers, reason=b"Switching Protocols")
        sent = self._http.send(head) or b""
        self.step(Step.SWITCH)
        return sent, self._http.trailing_data[0]

    @property
    def can_answer(self) -> bool:
        """Say whether no answer has begun."""
        return self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def next_request(self) -> bool:
        """Note that an answer is written; say whether the connection can go on, with another request or lingering."""
        self.step(Step.ANSWERED)
        if self.state is State.LINGERING:
            return True
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self._method = b""  # a later refusal does not answer the HEAD
        if self._http.trailing_data[0]:  # the client did not wait for the answer
            self.step(Step.BYTES)
        return True


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
