"""API tokens of the embedded API: who is presenting one, and who may make, change or revoke one.

Owns authentication. The database holds only a keyed digest of a token's secret, so a copy of the database opens
nothing; a container's token is derived from the SystemRootToken when it is asked for again.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from arv_ssh import uuids
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.embedded import records
from arv_ssh.embedded.call import Attributes, Call, Caller, root_token_uuid, root_user_uuid
from arv_ssh.embedded.models import ApiClientAuthorization, Container, User
from arv_ssh.errors import Forbidden, Unauthorized, Unprocessable
from arv_ssh.trust import credentials

SECRET_LENGTH = 50
"""Characters of a token's secret in base 36, as Arvados makes them: 258 bits."""
_ALPHABET = string.digits + string.ascii_lowercase


def authenticate(session: Session, config: ClusterConfig, headers: Mapping[str, str]) -> Caller:
    """Return the caller whom the Authorization header identifies; raise :class:`Unauthorized` with the reason."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip()
    if not token or scheme.lower() not in ("bearer", "oauth2"):
        raise Unauthorized("no API token was sent; set ARVADOS_API_TOKEN to a token of this cluster")
    uuid, secret = _parse(token)
    root_uuid = root_token_uuid(config.cluster_id)
    if uuid in (None, root_uuid) and credentials.matches(secret, config.system_root_token):
        root = session.get_one(User, root_user_uuid(config.cluster_id))
        return Caller(root, root_uuid, ("all",), secret=None)
    found = _look_up(session, config, uuid, secret)
    user = session.get_one(User, found.owner_uuid)
    return Caller(user, found.uuid, tuple(found.scopes), secret)


def _parse(token: str) -> tuple[str | None, str]:
    """Return the UUID (None in a bare token) and the secret; a container's UUID may follow ``v2/UUID/SECRET``."""
    parts = token.split("/")
    if parts[0] != "v2":
        return None, token
    if len(parts) not in (3, 4) or uuids.kind(parts[1]) != uuids.TOKEN or not parts[2]:
        raise Unauthorized("the API token is cut or garbled: it should be v2/UUID/SECRET; copy it again")
    return parts[1], parts[2]


def _look_up(session: Session, config: ClusterConfig, uuid: str | None, secret: str) -> ApiClientAuthorization:
    digest = credentials.token_digest(config.system_root_token, secret)
    wanted = ApiClientAuthorization.digest == digest if uuid is None else ApiClientAuthorization.uuid == uuid
    found = session.scalar(select(ApiClientAuthorization).where(wanted))
    if found is None or not credentials.matches(digest, found.digest):
        raise Unauthorized(
            f"the API token is not valid on cluster {config.cluster_id}: it was revoked, or it is another cluster's; "
            "get a new one"
        )
    return found


def check_usable(call: Call, method: str, path: str) -> None:
    """Raise unless the caller's token is still good, covers this request, and belongs to an active user."""
    caller = call.caller
    if caller.is_root:
        return
    token = call.session.get_one(ApiClientAuthorization, caller.token_uuid)
    if token.expires_at is not None and token.expires_at <= call.now:
        raise Unauthorized(f"the API token expired at {records.timestamp(token.expires_at)}; get a new one")
    if not any(_covers(scope, method, path) for scope in caller.scopes):
        raise Forbidden(f"API token {token.uuid} is limited to part of the API: {method} {path} is not in its scopes")
    if not caller.user.is_active and not path.endswith("/current") and _container_of(call, token.uuid) is None:
        raise Forbidden(f"user {call.user_uuid} is not active; an administrator must activate it first")


def _covers(scope: str, method: str, path: str) -> bool:
    """Say whether a scope allows a request: ``all``, ``GET /path``, or ``GET /path/`` for all below it."""
    allowed_method, _, allowed_path = scope.partition(" ")
    if scope == "all" or (allowed_method == method and allowed_path == path):
        return True
    return allowed_method == method and allowed_path.endswith("/") and path.startswith(allowed_path)


def _container_of(call: Call, token_uuid: str) -> str | None:
    return call.session.scalar(select(Container.uuid).where(Container.auth_uuid == token_uuid))


def create(call: Call, attributes: Attributes) -> tuple[ApiClientAuthorization, str]:
    """Make a token, for another user only as an administrator; return it and its secret, which is not shown again."""
    _check_unlimited(call)
    token = records.new(call, ApiClientAuthorization, attributes, {"owner_uuid", "expires_at", "scopes"})
    _check_scopes(token)
    if token.owner_uuid != call.user_uuid and not call.caller.is_admin:
        raise Forbidden("only an administrator may make tokens for another user")
    if call.session.get(User, token.owner_uuid) is None:
        raise Unprocessable(f"owner_uuid {token.owner_uuid!r} is not a user of this cluster")
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_LENGTH))
    token.digest = credentials.token_digest(call.config.system_root_token, secret)
    call.session.add(token)
    return token, secret


def create_for_container(call: Call, container: Container, user_uuid: str) -> ApiClientAuthorization:
    """Make the token with which a crunch-run keeps ``container``'s record, and reads and makes its user's collections.

    A stock crunch-run also gives it to arv-mount and, if asked for, to the container itself. In a real Arvados it does
    whatever the user may do.
    """
    token = records.new(call, ApiClientAuthorization, {}, ())
    own = f"/arvados/v1/containers/{container.uuid}"
    token.owner_uuid = user_uuid
    token.scopes = [
        *(f"{method} {own}" for method in ("GET", "PATCH", "PUT")),
        f"GET {own}/secret_mounts",
        *(f"{method} /arvados/v1/collections" for method in ("GET", "POST")),
        "GET /arvados/v1/collections/",
        "GET /arvados/v1/containers/current",
        "GET /arvados/v1/users/current",
        "GET /arvados/v1/api_client_authorizations/current",
    ]
    secret = container_secret(call.config, token.uuid)
    token.digest = credentials.token_digest(call.config.system_root_token, secret)
    call.session.add(token)
    return token


def container_secret(config: ClusterConfig, auth_uuid: str) -> str:
    """Return the secret of a token that :func:`create_for_container` made."""
    return credentials.container_token(config.system_root_token, auth_uuid)


def update(call: Call, token: ApiClientAuthorization, attributes: Attributes) -> None:
    """Change a token's expiry or scopes."""
    _check_unlimited(call)
    changed = records.changes(token, attributes)
    _refuse_container_token(call, token)
    records.refuse(token, changed, {"expires_at", "scopes"}, "(only expires_at and scopes can)")
    records.apply(call, token, changed)
    _check_scopes(token)


def delete(call: Call, token: ApiClientAuthorization) -> None:
    """Revoke a token."""
    _refuse_container_token(call, token)
    call.session.delete(token)


def _refuse_container_token(call: Call, token: ApiClientAuthorization) -> None:
    container_uuid = _container_of(call, token.uuid)
    if container_uuid is not None:
        raise Unprocessable(
            f"API token {token.uuid} keeps container {container_uuid} and ends with it; cancel the container instead"
        )


def _check_unlimited(call: Call) -> None:
    """Raise for a token of limited scopes: by making or changing a token it could exceed its own scopes."""
    if "all" not in call.caller.scopes:
        raise Forbidden(f"API token {call.caller.token_uuid} is limited to part of the API: it cannot make or change "
                        "tokens; use a token of scope all")  # fmt: skip


def _check_scopes(token: ApiClientAuthorization) -> None:
    if not token.scopes or not all(isinstance(scope, str) and scope for scope in token.scopes):
        raise Unprocessable('scopes must be a JSON array of strings such as ["all"]')
