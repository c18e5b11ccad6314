"""Every failure a user can meet, in one hierarchy.

    ArvSshError
    ├── UsageError            the command line is wrong
    ├── ConfigError           settings or the cluster's config file are missing or wrong
    └── HttpError             an answer of section "Errors" of the wire description; carries its HTTP status
        ├── BadRequest 400       ├── Unauthorized 401   ├── Forbidden 403     ├── NotFound 404
        ├── MethodNotAllowed 405 ├── Gone 410           ├── Unprocessable 422 ├── TooManySessions 429
        ├── RequestTooLarge 431  │   ├── ContainerEnded ├── BadGateway 502    ├── Unavailable 503
        ├── ClientClosed 499     │   └── SessionEnded   └── GatewayTimeout 504

Owns what a user sees: the message is one sentence that names the thing, its state and the next step. It never holds a
token or a secret. This module must not know how a message reaches the user.
"""

from __future__ import annotations

from collections.abc import Sequence


class ArvSshError(Exception):
    """A failure with a sentence for the user.

    ``exit_code`` is what a command ends with; 255 is what ssh itself uses for "could not get in".
    """

    exit_code = 255


class UsageError(ArvSshError):
    """The command line is wrong."""

    exit_code = 2


class ConfigError(ArvSshError):
    """Settings are missing or wrong (sysexits.h EX_CONFIG)."""

    exit_code = 78


class HttpError(ArvSshError):
    """A failure that travels as an HTTP status and ``{"errors": [message]}``."""

    status = 500
    headers: Sequence[tuple[str, str]] = ()
    """Headers of the answer besides those of every answer, such as ``Allow``."""
    dial_failure = ""
    """Why a gateway could not be reached or trusted, in a word, where that is the failure; for those who count."""


class BadRequest(HttpError):
    """The request cannot be understood."""

    status = 400


class Unauthorized(HttpError):
    """No token, or not a valid one."""

    status = 401


class Forbidden(HttpError):
    """The user may see the thing but not do this to it; the message says why."""

    status = 403


class NotFound(HttpError):
    """There is no such thing, as far as this user may know."""

    status = 404


class MethodNotAllowed(HttpError):
    """The thing exists, and this HTTP method is not for it."""

    status = 405


class Gone(HttpError):
    """What is asked for was there once, and will never be again."""

    status = 410


class ContainerEnded(Gone):
    """The container is Complete or Cancelled. What 410 means where the status is all that is known."""


class SessionEnded(Gone):
    """The session that a client would go on with is over; the message is the reason."""


class Unprocessable(HttpError):
    """The API understood the request and its rules forbid it (an illegal state step, a bad attribute)."""

    status = 422


class TooManySessions(HttpError):
    """A limit on sessions is reached; the message says which."""

    status = 429


class RequestTooLarge(HttpError):
    """The header block is over the limit (RFC 6585 §5)."""

    status = 431


class ClientClosed(HttpError):
    """The client left before it had its answer; nobody is told but logs (the number is nginx's)."""

    status = 499


class BadGateway(HttpError):
    """The next hop refused, failed its proofs, or answered nonsense."""

    status = 502


class Unavailable(HttpError):
    """Not now: the container is not running yet, shell access is disabled, or the gateway cannot be reached."""

    status = 503


class GatewayTimeout(HttpError):
    """The next hop did not answer in time."""

    status = 504


_BY_STATUS: dict[int, type[HttpError]] = {
    cls.status: cls
    for cls in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, ContainerEnded, Unprocessable,
        TooManySessions, RequestTooLarge, ClientClosed, BadGateway, Unavailable, GatewayTimeout,
    )
}  # fmt: skip


def from_status(status: int, message: str) -> HttpError:
    """Return the error for the ``status`` another server answered with; an unknown one is that server's fault (502)."""
    return _BY_STATUS.get(status, BadGateway)(message)
