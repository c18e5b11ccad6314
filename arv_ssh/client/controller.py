"""What the client asks of the controller: records that lead to a container, and a session in one.

Owns the requests and the sentences for their refusals. Knows nothing of descriptors, files or ssh, nor which records
lead to a container (:mod:`arv_ssh.client.targets`). All of the client speaks HTTP through this module, not through
``requests``: importing that costs ssh-proxy more than the whole connection, and ssh needs neither it nor paramiko.
"""

from __future__ import annotations

from arv_ssh import __version__, uuids
from arv_ssh.client import request_id
from arv_ssh.client.settings import Settings, cluster_file
from arv_ssh.client.transport import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Connection, dial, exchange
from arv_ssh.errors import ArvSshError, BadGateway, GatewayTimeout, HttpError, NotFound, from_status
from arv_ssh.net.upgrade import SAME_USERNAME, UpgradeAnswer, plain_request, request
from arv_ssh.resume import negotiation

TYPE_CHECKING = False  # type checkers know the name without typing, which takes 4 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DEFAULT_LOGIN = "_"
"""The login name that stands for the image's default user; ssh has no way to give none."""

HOST_KEY_HEADER = "x-arvados-ssh-host-key"
OTHER_HOST_KEYS_HEADER = "x-arvados-ssh-other-host-keys"
USER_CREDENTIAL_HEADER = "x-arvados-ssh-user-credential"
_REQUEST_ID_HEADER = "x-request-id"

_NEXT_STEP = {
    401: "set ARVADOS_API_TOKEN to a current token",
    403: "ask the user who submitted it, or the cluster's administrator",
    404: "check the UUID, and that ARVADOS_API_HOST is a controller with shell access",
    405: "check that ARVADOS_API_HOST is a controller with shell access",
    501: "check that ARVADOS_API_HOST is a controller with shell access",
    429: "close a session, or try again later",
}
_SERVERS_FAULT = (500, 502, 504)
"""What somebody may have to look up in a log: the request's id goes with it."""
_NEVER = (400, 401, 403, 404, 410)
"""Refusals that say that a session will not go on, however often it is tried."""


class SessionOver(ArvSshError):
    """A session that lost its connection can not go on; the message is the reason that the server gave."""


class AcceptedUpgrade:
    """An accepted session: the connection now carries SSH, beginning with ``first``.

    ``host_keys`` are the gateway's, Ed25519 first; none where the controller cannot vouch for the key (a stock Arvados
    gateway), and then ``user_credential``, the password of this one session for libraries that cannot log in without
    any, is None. ``timing`` is what took the controller how long, as the Server-Timing header has it; "" where it does
    not say. ``resume`` is what the answer says about resuming the session, "" where it can not be.
    """

    def __init__(self, connection: Connection, answer: UpgradeAnswer) -> None:
        self.connection = connection
        named = (answer.headers.get(name) for name in (HOST_KEY_HEADER, OTHER_HOST_KEYS_HEADER))
        self.host_keys = [key for text in named if text for key in text.split(", ")]
        self.user_credential = answer.headers.get(USER_CREDENTIAL_HEADER)
        self.first = answer.trailing
        self.timing = answer.headers.get("server-timing", "")
        self.resume = answer.headers.get(negotiation.HEADER.lower(), "")


class Controller:
    """The controller that ``settings`` lead to. All that one object asks has the same request id.

    ``watch`` as in :func:`arv_ssh.client.transport.dial`. Sessions are asked for as ``resumable`` ones, or as those
    that every gateway has. ``meanwhile`` is called while the answer to such a request is on its way.
    """

    def __init__(
        self,
        settings: Settings,
        watch: int | None = None,
        *,
        resumable: bool = False,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self.settings = settings
        self.resumable = resumable
        self.request_id = request_id.new()
        self.watch = watch
        self._meanwhile = meanwhile

    def get(self, path: str, kind: str, uuid: str = "") -> dict[str, Any]:
        """Return the JSON record at ``path`` of the API; ``kind`` and ``uuid`` are how a refusal names it."""
        import json

        request = plain_request(f"/arvados/v1/{path}", self.settings.authority, self.headers())
        connection = dial(self.settings, self.watch)
        try:
            answer = self._exchange(connection, request)
        finally:
            connection.close()
        if answer.status != 200:
            raise self._refusal(answer, f"{kind} {uuid}".rstrip())
        try:
            record = json.loads(answer.body)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise self.without(kind)
        return record

    def heads(self, path: str) -> dict[str, str]:
        """Return the headers of the answer to a GET of one byte at ``path`` of the API, whatever its status."""
        headers = [*self.headers(), ("Range", "bytes=0-0")]
        connection = dial(self.settings, self.watch)
        try:
            request = plain_request(f"/arvados/v1/{path}", self.settings.authority, headers)
            return self._exchange(connection, request).headers
        finally:
            connection.close()

    def open_session(self, container: str, user: str, detach_keys: str) -> AcceptedUpgrade:
        """Open a session in ``container`` as ``user`` (:data:`DEFAULT_LOGIN` for the image's own)."""
        connection, answer = self._ask_for_session(
            container, user, detach_keys, negotiation.VERSION if self.resumable else "", CONNECT_TIMEOUT, ANSWER_TIMEOUT
        )
        if answer.status != 101:
            connection.close()
            raise self._refusal(answer, f"container {container}")
        return AcceptedUpgrade(connection, answer)

    def resume_session(
        self, container: str, user: str, resume: str, connecting: float, answering: float
    ) -> AcceptedUpgrade:
        """Go on with a session by the header ``resume``; ``connecting`` and ``answering`` take so many seconds at most.

        Raise :class:`SessionOver` when an Arvados controller says that it can never go on.
        """
        connection, answer = self._ask_for_session(container, user, "", resume, connecting, answering)
        if answer.status == 101:
            return AcceptedUpgrade(connection, answer)
        connection.close()
        reason = answer.reason_given()
        if reason and answer.status in _NEVER:
            raise SessionOver(reason)
        raise answer.error()

    def _ask_for_session(
        self, container: str, user: str, detach_keys: str, resume: str, connecting: float, answering: float
    ) -> tuple[Connection, UpgradeAnswer]:
        form = {"login_username": "" if user == DEFAULT_LOGIN else user, "detach_keys": detach_keys}
        path = f"/arvados/v1/containers/{container}/ssh"
        headers = [*self.headers(), SAME_USERNAME, *([(negotiation.HEADER, resume)] if resume else [])]
        connection = dial(self.settings, self.watch, timeout=connecting)
        try:
            asked = request("POST", path, self.settings.authority, headers, form)
            return connection, self._exchange(connection, asked, answering, self._meanwhile)
        except BaseException:
            connection.close()
            raise

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers of every request: who asks, with what, and the request's id."""
        return [
            ("Authorization", f"Bearer {self.settings.token}"),
            ("User-Agent", f"arvados-client/{__version__}"),
            ("X-Request-Id", self.request_id),
        ]

    def _exchange(
        self,
        connection: Connection,
        data: bytes,
        timeout: float = ANSWER_TIMEOUT,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> UpgradeAnswer:
        try:
            return exchange(connection, data, self.watch, timeout, meanwhile)
        except (BadGateway, GatewayTimeout) as error:
            raise type(error)(f"{error} (request {self.request_id})") from error

    def without(self, what: str) -> NotFound:
        """Return the failure for an answer that lacks ``what``: something else than Arvados is listening."""
        return NotFound(f"{self.settings.authority} answered without the {what}; check ARVADOS_API_HOST")

    def _other_cluster(self, what: str) -> str:
        """Say what to do when ``what`` is of another cluster than the token, as their UUIDs have it; else ""."""
        wanted, (_, _, token) = what.rpartition(" ")[2][:5], self.settings.token[:8].partition("v2/")
        if uuids.kind(what.rpartition(" ")[2]) is None or not token or token == wanted:
            return ""
        return (
            f"{what} belongs to cluster {wanted}, but the token for {self.settings.authority} belongs to cluster "
            f"{token}; put the settings of {wanted} into {cluster_file(wanted)}"
        )

    def _refusal(self, answer: UpgradeAnswer, what: str) -> HttpError:
        """Say what was refused and what to do, where the server's own words may not."""
        host = self.settings.authority
        reason = answer.reason_given()
        step = _NEXT_STEP.get(answer.status, "try again, and tell the cluster's administrator if it persists")
        if answer.status == 401:
            said = f" ({reason.rstrip('.')})" if reason else ""
            # A reason with a semicolon already says what to do.
            step = "" if ";" in reason else f"; {step}"
            return from_status(401, f"{host} does not accept the token{said}{step}")
        found_by = f" (request {answer.headers.get(_REQUEST_ID_HEADER) or self.request_id})"
        if answer.status == 404 and (other := self._other_cluster(what)):
            return from_status(404, other)
        if reason:
            named = reason if what.rsplit(" ", 1)[-1] in reason else f"{what}: {reason}"
            if answer.status == 503 and "not running" in reason:
                named += " (--wait waits for it)"
            if answer.status == 410:
                named = f"{named.rstrip('.')}; submit it again to enter it"
            return from_status(answer.status, named + (found_by if answer.status in _SERVERS_FAULT else ""))
        if answer.status < 400:
            return answer.error()
        said = f"{answer.status} {answer.reason}".rstrip()
        return from_status(answer.status, f"{what}: {host} answered {said} and gave no reason; {step}{found_by}")


def unvouched(host: str) -> str:
    """Say what a session without a host key header means: nothing is written, so strict checking refuses."""
    return (
        f"the controller cannot vouch for the host key of {host} (its gateway is a stock Arvados one, or the "
        "controller is and does not show its log), so ssh refuses the connection; "
        "-o StrictHostKeyChecking=accept-new accepts the key it shows"
    )
