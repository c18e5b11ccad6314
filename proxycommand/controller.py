"""What the client asks of the controller: which container a request has, and a session in one.

Owns the two requests and the sentences for their refusals. Knows nothing of descriptors, files or ssh.
"""

from __future__ import annotations

from arv_ssh import __version__, uuids
from arv_ssh.errors import HttpError, NotFound, Unavailable, from_status
from arv_ssh.upgrade import UpgradeAnswer, plain_request, quote, request
from proxycommand.settings import Settings
from proxycommand.transport import Connection, dial, exchange

DEFAULT_LOGIN = "_"
"""The login name that stands for the image's default user; ssh has no way to give none."""

HOST_KEY_HEADER = "x-arvados-ssh-host-key"

_NEXT_STEP = {
    401: "set ARVADOS_API_TOKEN to a current token",
    403: "ask who runs the container, or the cluster's administrator",
    404: "check the UUID, and that ARVADOS_API_HOST is a controller with shell access",
    429: "close a session, or try again later",
}


class Session:
    """An accepted session: the connection now carries SSH, beginning with ``first``.

    ``host_key`` is None when the controller cannot vouch for the gateway's key (a stock Arvados gateway).
    """

    def __init__(self, connection: Connection, answer: UpgradeAnswer) -> None:
        self.connection = connection
        self.host_key = answer.headers.get(HOST_KEY_HEADER)
        self.first = answer.trailing


def resolve(settings: Settings, target: str, watch: int | None = None) -> str:
    """Return the container UUID of ``target``, which is one, or a container request's.

    Raise :class:`arv_ssh.errors.UsageError` for any other text, :class:`NotFound` or :class:`Unavailable` for a request
    without a container.
    """
    if uuids.is_container(uuids.check_target(target)):
        return target
    import json

    # Only what is needed: a container request can have megabytes of mounts.
    select = quote('["uuid","state","container_uuid"]')
    path = f"/arvados/v1/container_requests/{target}?select={select}"
    connection = dial(settings, watch)
    try:
        answer = exchange(connection, plain_request(path, settings.authority, _headers(settings)), watch)
    finally:
        connection.close()
    if answer.status != 200:
        raise _refusal(answer, settings, f"container request {target}")
    try:
        record = json.loads(answer.body)
        container, state = record.get("container_uuid"), record.get("state")
    except (ValueError, AttributeError) as error:
        raise NotFound(f"{settings.authority} answered with no container request; check ARVADOS_API_HOST") from error
    if not isinstance(container, str) or not uuids.is_container(container):
        step = "submit it first" if state == "Uncommitted" else "try again when it runs"
        raise Unavailable(f"container request {target} has no container yet ({state}); {step}")
    return container


def open_session(
    settings: Settings, container: str, user: str, detach_keys: str, watch: int | None = None
) -> Session:
    """Open a session in ``container`` as ``user`` (:data:`DEFAULT_LOGIN` for the image's own).

    ``watch`` as in :func:`proxycommand.transport.dial`.
    """
    form = {"login_username": "" if user == DEFAULT_LOGIN else user, "detach_keys": detach_keys}
    path = f"/arvados/v1/containers/{container}/ssh"
    connection = dial(settings, watch)
    try:
        answer = exchange(connection, request("POST", path, settings.authority, _headers(settings), form), watch)
    except BaseException:
        connection.close()
        raise
    if answer.status != 101:
        connection.close()
        raise _refusal(answer, settings, f"container {container}")
    return Session(connection, answer)


def _headers(settings: Settings) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {settings.token}"), ("User-Agent", f"arvados-client/{__version__}")]


def _refusal(answer: UpgradeAnswer, settings: Settings, what: str) -> HttpError:
    """Say what was refused and what to do, where the server's own words may not."""
    reason = answer.reason_given()
    step = _NEXT_STEP.get(answer.status, "try again, and report it to the cluster's administrator if it lasts")
    if answer.status == 401:
        said = f" ({reason.rstrip('.')})" if reason else ""
        # A reason with a semicolon already says what to do.
        step = "" if ";" in reason else f"; {step}"
        return from_status(401, f"{settings.authority} does not accept the token{said}{step}")
    if reason:
        return from_status(answer.status, reason if what.split()[-1] in reason else f"{what}: {reason}")
    if answer.status < 400:
        return answer.error()
    said = f"{answer.status} {answer.reason}".rstrip()
    return from_status(answer.status, f"{what}: {settings.authority} answered {said} and gave no reason; {step}")
