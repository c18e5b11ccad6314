"""The proof that replaces a token between controllers: good for one request, to one controller, once, for a minute.

Owns the headers that carry it, and the memory of proofs already seen. :mod:`arv_ssh.trust.credentials` makes the proof;
each endpoint decides what a proven request may ask for. Knows no sockets.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

from arv_ssh.errors import Unauthorized, Unavailable
from arv_ssh.net.http_messages import Request
from arv_ssh.trust import credentials
from arv_ssh.trust.credentials import CLOCK_SKEW

MAX_REMEMBERED = 10_000
"""At most this many nonces are kept, some 1.5 MB. Only a holder of the SystemRootToken can add one, and an
administrator's command makes one for each controller; beyond this number, requests are refused rather than nonces
forgotten."""
RECIPIENT, TIME, NONCE = (f"X-Arvados-Controller-{name}" for name in ("Recipient", "Time", "Nonce"))
_NONCE = re.compile(r"[0-9a-f]{32}")


def prove(system_root_token: str, recipient: str, method: str, target: str, body: bytes) -> tuple[str, dict[str, str]]:
    """Return the proof for one request to the controller at ``recipient``, and the headers that go with it."""
    moment, nonce = str(int(time.time())), secrets.token_hex(16)
    proof = credentials.controller_auth(system_root_token, recipient, method, target, moment, nonce, body)
    return proof, {RECIPIENT: recipient, TIME: moment, NONCE: nonce}


class Verifier:
    """Checks proofs and remembers those seen, in this process: each worker of a controller has a memory of its own."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}

    def check(self, system_root_token: str, own_name: str, request: Request) -> None:
        """Raise :class:`Unauthorized` unless a controller made ``request`` for ``own_name``, just now; it passes once.

        A controller that does not know its own name ("") accepts a proof meant for any.
        """
        recipient, moment, nonce = (request.headers.get(name.lower(), "") for name in (RECIPIENT, TIME, NONCE))
        target = f"{request.path}?{request.query}"
        expected = credentials.controller_auth(
            system_root_token, recipient, request.method, target, moment, nonce, request.body
        )
        if not credentials.matches(request.token(), expected) or not _NONCE.fullmatch(nonce):
            raise Unauthorized("the proof of a controller is wrong; are all controllers of the same version?")
        if own_name and recipient != own_name:
            raise Unauthorized(f"the proof of a controller is for another one ({recipient[:200]!r})")
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
