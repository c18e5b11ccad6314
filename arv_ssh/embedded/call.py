"""One call of the embedded API: its transaction, its caller, and the cluster it is on.

Owns only what is passed to every rule of the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from arv_ssh import uuids
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.embedded import params
from arv_ssh.embedded.models import User

ROOT_SUFFIX = "000000000000000"
Attributes = dict[str, Any]


@dataclass(frozen=True)
class Caller:
    """The caller and the token. ``secret`` is the one presented, or None for the SystemRootToken."""

    user: User
    token_uuid: str
    scopes: tuple[str, ...]
    secret: str | None = field(repr=False)

    @property
    def is_root(self) -> bool:
        """Say whether the call came with the SystemRootToken."""
        return self.secret is None

    @property
    def is_admin(self) -> bool:
        """Say whether the caller is an administrator; a token for part of the API never is one."""
        return self.user.is_admin and "all" in self.scopes


@dataclass
class Call:
    """One call. ``parameters`` are those beside a record's attributes, such as ``include_trash``.

    ``levels`` is the cache of :func:`arv_ssh.embedded.permissions.levels`.
    """

    session: Session
    caller: Caller
    config: ClusterConfig
    parameters: Mapping[str, Any] = field(default_factory=dict)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    levels: dict[str, int] | None = None

    @property
    def user_uuid(self) -> str:
        """Return the UUID of the calling user."""
        return self.caller.user.uuid

    @property
    def include_trash(self) -> bool:
        """Say whether the caller also asks for what is in the trash."""
        return params.flag(self.parameters, "include_trash")


def root_user_uuid(cluster_id: str) -> str:
    """Return the UUID of the user who owns what belongs to the cluster itself."""
    return f"{cluster_id}-{uuids.USER}-{ROOT_SUFFIX}"


def root_token_uuid(cluster_id: str) -> str:
    """Return the UUID that stands for the SystemRootToken, e.g. in ``locked_by_uuid``."""
    return f"{cluster_id}-{uuids.TOKEN}-{ROOT_SUFFIX}"
