"""The proof in a token's place between controllers: good for one request, to one controller, once, for a minute.

Owns the headers that carry it, and the memory of what was seen. What is proven is :mod:`arv_ssh.credentials`'s; what a
proven request may ask for is its endpoint's. Knows no sockets.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable

from arv_ssh import credentials
from arv_ssh.errors import Unauthorized, Unavailable
from arv_ssh.http_server import Request

CLOCK_SKEW = 60
"""Seconds that the clocks of two controllers may differ."""
MAX_REMEMBERED = 10_000
"""Nonces kept at most, some 1.5 MB. Only who has the SystemRootToken can add one, and an administrator's command makes
one for each controller; beyond it requests are refused rather than nonces forgotten."""
TIME, NONCE = "X-Arvados-Controller-Time", "X-Arvados-Controller-Nonce"
_NONCE = re.compile(r"[0-9a-f]{32}")


def prove(system_root_token: str, recipient: str, method: str, target: str, body: bytes) -> tuple[str, dict[str, str]]:
    """Return the proof for one request to the controller at ``recipient``, and the headers that go with it."""
    moment, nonce = str(int(time.time())), secrets.token_hex(16)
    proof = credentials.controller_auth(system_root_token, recipient, method, target, moment, nonce, body)
    return proof, {TIME: moment, NONCE: nonce}


class Verifier:
    """Checks proofs and remembers those seen, in this process: each worker of a controller has a memory of its own."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}

    def check(self, system_root_token: str, recipients: Iterable[str], request: Request) -> None:
        """Raise :class:`Unauthorized` unless a controller made ``request`` for one of ``recipients``, just now.

        It passes once only.
        """
        moment, nonce = request.headers.get(TIME.lower(), ""), request.headers.get(NONCE.lower(), "")
        target = f"{request.path}?{request.query}"
        expected = [
            credentials.controller_auth(
                system_root_token, recipient, request.method, target, moment, nonce, request.body
            )
            for recipient in recipients
        ]
        if not any(credentials.matches(request.token(), proof) for proof in expected) or not _NONCE.fullmatch(nonce):
            raise Unauthorized("the proof of a controller is wrong; are all controllers of the same version?")
        now = self._clock()
        if not moment.isdecimal() or abs(int(moment) - now) > CLOCK_SKEW:
            raise Unauthorized("the proof of a controller is too old; check the clocks of the controllers' hosts")
        self._remember(nonce, now, int(moment) + CLOCK_SKEW)

    def _remember(self, nonce: str, now: float, until: float) -> None:
        if nonce in self._seen:
            raise Unauthorized("the proof of a controller was used before; ask again")
        if len(self._seen) >= MAX_REMEMBERED:
            self._seen = {seen: end for seen, end in self._seen.items() if end >= now}
        if len(self._seen) >= MAX_REMEMBERED:
            raise Unavailable("other controllers ask this one too often; try again in a minute")
        self._seen[nonce] = until
