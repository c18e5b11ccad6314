"""How a session is ended before its user ends it: the gateway gives the client the reason, or the relay is cut.

Owns the order of these steps and their time-outs. Knows nothing of the causes.
"""

from __future__ import annotations

import asyncio
import logging
import time

from arv_ssh.controller.gateways import dial
from arv_ssh.controller.shell.sessions import LiveConnection
from arv_ssh.errors import HttpError
from arv_ssh.log import event
from arv_ssh.resume import negotiation
from arv_ssh.trust import credentials, session_claim
from arv_ssh.trust.session_claim import SessionClaim

logger = logging.getLogger(__name__)

GATEWAY_PATIENCE = 4.0
"""Seconds for the gateway to agree to end a session; a stock Arvados gateway refuses at once."""
CLIENT_PATIENCE = 4.0
"""Seconds for both sides to close once the gateway has informed the client, and again once the relay is closed."""


async def end(session: LiveConnection, reason: str, sentence: str, system_root_token: str) -> None:
    """End ``session`` for ``reason`` (one of ``sessions.REASONS``); the client shows ``sentence`` where it can.

    Returns when both sides are closed, which takes some seconds at most. A second call for a session does nothing.
    """
    if session.reason:
        return
    session.reason = f"{reason}: {sentence}"
    try:
        async with asyncio.timeout(GATEWAY_PATIENCE):
            await dial.end(target(session, system_root_token), sentence)
        if session.waiting_since is None:
            await _wait_closed(session)
    except (HttpError, TimeoutError) as error:
        event(logger, "the gateway did not end a session, so it is cut", request_id=session.request_id,
              session_id=session.id, error=str(error) or "no answer in time")  # fmt: skip
    finally:
        await _close(session)


async def _close(session: LiveConnection) -> None:
    """Close anything still open, whether or not the gateway kept its word."""
    if session.closed.is_set():
        return
    session.end(session.reason)
    try:
        await _wait_closed(session)
    except TimeoutError:
        session.cut()


async def _wait_closed(session: LiveConnection) -> None:
    async with asyncio.timeout(CLIENT_PATIENCE):
        await session.closed.wait()


def target(session: LiveConnection, system_root_token: str) -> dial.Target:
    """Return how the gateway of an open session is asked about it."""
    proof = SessionClaim(
        container_uuid=session.container_uuid,
        exp=int(time.time()) + session_claim.LIFETIME,
        login_username=session.login_username,
        request_id=session.request_id,
        user_uuid=session.user_uuid,
    )
    secret = credentials.container_secret(system_root_token, session.container_uuid)
    resume = negotiation.beginning(session.id) if session.hold else ""
    return dial.Target(secret, session.gateway_address, proof, "", dialer=session.dialer, resume=resume)
