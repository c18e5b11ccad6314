"""The tables of the embedded API: one class a resource, with the attributes that Arvados gives it.

Owns names and types of attributes, and which of them are computed or never shown. Knows no rules about who may change
what; portable over SQLAlchemy's databases. A change here needs a step in :mod:`arv_ssh.embedded.migrations`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, ForeignKey, Index, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from arv_ssh import uuids

QUEUED, LOCKED, RUNNING, COMPLETE, CANCELLED = "Queued", "Locked", "Running", "Complete", "Cancelled"
ENDED = (COMPLETE, CANCELLED)
"""The states of a container."""
UNCOMMITTED, COMMITTED, FINAL = "Uncommitted", "Committed", "Final"
"""The states of a container request."""

KINDS = {
    uuids.USER: "arvados#user",
    uuids.GROUP: "arvados#group",
    uuids.LINK: "arvados#link",
    uuids.TOKEN: "arvados#apiClientAuthorization",
    uuids.CONTAINER: "arvados#container",
    uuids.CONTAINER_REQUEST: "arvados#containerRequest",
    uuids.COLLECTION: "arvados#collection",
}
"""A record's ``kind`` by the type field of its UUID."""


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time; UTC in the database, aware in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _dict(**options: Any) -> Mapped[dict[str, Any]]:
    return mapped_column(JSON, default=dict, info={"shape": dict}, **options)


def _list(*items: str) -> Mapped[list[Any]]:
    return mapped_column(JSON, default=lambda: list(items), info={"shape": list})


class Base(DeclarativeBase):
    """The base of all tables."""

    type_annotation_map = {
        # Sorted and compared by code point in every database, whatever the server's locale.
        str: Text().with_variant(Text(collation="C"), "postgresql"),
        datetime: UtcDateTime,
    }


class Record(Base):
    """The common attributes. ``HIDDEN`` columns never leave the database; ``UNLISTED`` ones only when selected."""

    __abstract__ = True
    UUID_TYPE: ClassVar[str]
    HIDDEN: ClassVar[frozenset[str]] = frozenset()
    UNLISTED: ClassVar[frozenset[str]] = frozenset()

    uuid: Mapped[str] = mapped_column(primary_key=True)
    owner_uuid: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[datetime]
    modified_at: Mapped[datetime]
    modified_by_user_uuid: Mapped[str | None]

    def computed(self) -> dict[str, Any]:
        """Return the attributes derived from others."""
        return {}


class User(Record):
    """A user: a person or program that has tokens."""

    __tablename__ = "users"
    UUID_TYPE = uuids.USER

    username: Mapped[str | None] = mapped_column(unique=True)
    email: Mapped[str | None]
    first_name: Mapped[str] = mapped_column(default="")
    last_name: Mapped[str] = mapped_column(default="")
    identity_url: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(default=True)
    is_admin: Mapped[bool] = mapped_column(default=False)
    prefs: Mapped[dict[str, Any]] = _dict()

    def computed(self) -> dict[str, Any]:
        return {"full_name": f"{self.first_name} {self.last_name}".strip(), "is_invited": self.is_active}


class Group(Record):
    """A role (permissions flow through it) or a project (it owns records)."""

    __tablename__ = "groups"
    UUID_TYPE = uuids.GROUP

    name: Mapped[str | None]
    description: Mapped[str | None]
    group_class: Mapped[str] = mapped_column(default="role")
    properties: Mapped[dict[str, Any]] = _dict()


class Link(Record):
    """A permission: ``tail_uuid`` may read, write or manage ``head_uuid``, as ``name`` says; or a user's note."""

    __tablename__ = "links"
    UUID_TYPE = uuids.LINK

    link_class: Mapped[str]
    name: Mapped[str | None]
    tail_uuid: Mapped[str | None] = mapped_column(index=True)
    head_uuid: Mapped[str | None] = mapped_column(index=True)
    properties: Mapped[dict[str, Any]] = _dict()

    def computed(self) -> dict[str, Any]:
        return {
            "head_kind": KINDS.get(uuids.kind(self.head_uuid or "") or ""),
            "tail_kind": KINDS.get(uuids.kind(self.tail_uuid or "") or ""),
        }


class ApiClientAuthorization(Record):
    """A token. Only a keyed digest of the secret is stored here."""

    __tablename__ = "api_client_authorizations"
    UUID_TYPE = uuids.TOKEN
    HIDDEN = frozenset({"digest"})

    owner_uuid: Mapped[str] = mapped_column(ForeignKey("users.uuid"), index=True)
    digest: Mapped[str] = mapped_column(unique=True)
    expires_at: Mapped[datetime | None]
    scopes: Mapped[list[str]] = _list("all")

    def computed(self) -> dict[str, Any]:
        return dict.fromkeys(("created_by_ip_address", "last_used_at", "last_used_by_ip_address"))


class Container(Record):
    """Work for a dispatcher. ``reuse_key`` stands for everything that must match for a second request to share it."""

    __tablename__ = "containers"
    UUID_TYPE = uuids.CONTAINER
    HIDDEN = frozenset({"reuse_key"})

    auth_uuid: Mapped[str | None] = mapped_column(ForeignKey("api_client_authorizations.uuid"), index=True)
    command: Mapped[list[str]] = _list()
    container_image: Mapped[str]
    cost: Mapped[float] = mapped_column(default=0.0)
    cwd: Mapped[str]
    environment: Mapped[dict[str, Any]] = _dict()
    exit_code: Mapped[int | None]
    finished_at: Mapped[datetime | None]
    gateway_address: Mapped[str | None]
    interactive_session_started: Mapped[bool] = mapped_column(default=False)
    lock_count: Mapped[int] = mapped_column(default=0)
    locked_by_uuid: Mapped[str | None]
    log: Mapped[str | None]
    mounts: Mapped[dict[str, Any]] = _dict()
    output: Mapped[str | None]
    output_path: Mapped[str]
    output_properties: Mapped[dict[str, Any]] = _dict()
    output_storage_classes: Mapped[list[str]] = _list("default")
    priority: Mapped[int] = mapped_column(default=0)
    progress: Mapped[float | None]
    properties: Mapped[dict[str, Any]] = _dict(server_default=text("'{}'"))
    published_ports: Mapped[dict[str, Any]] = _dict(server_default=text("'{}'"))
    runtime_constraints: Mapped[dict[str, Any]] = _dict()
    runtime_status: Mapped[dict[str, Any]] = _dict()
    runtime_user_uuid: Mapped[str | None]
    scheduling_parameters: Mapped[dict[str, Any]] = _dict()
    started_at: Mapped[datetime | None]
    state: Mapped[str] = mapped_column(default=QUEUED)
    subrequests_cost: Mapped[float] = mapped_column(default=0.0, server_default=text("0"))
    reuse_key: Mapped[str] = mapped_column(index=True)

    __table_args__ = (Index("containers_by_state_and_priority", "state", "priority"),)


class ContainerRequest(Record):
    """What a user submits; once committed it has a container, and a submitter whom no later change replaces."""

    __tablename__ = "container_requests"
    UUID_TYPE = uuids.CONTAINER_REQUEST

    command: Mapped[list[str]] = _list()
    container_count: Mapped[int] = mapped_column(default=0)
    container_count_max: Mapped[int] = mapped_column(default=1)
    container_image: Mapped[str | None]
    container_uuid: Mapped[str | None] = mapped_column(ForeignKey("containers.uuid"), index=True)
    cumulative_cost: Mapped[float] = mapped_column(default=0.0)
    cwd: Mapped[str] = mapped_column(default=".")
    description: Mapped[str | None]
    environment: Mapped[dict[str, Any]] = _dict()
    expires_at: Mapped[datetime | None]
    filters: Mapped[list[Any]] = _list()
    log_uuid: Mapped[str | None]
    mounts: Mapped[dict[str, Any]] = _dict()
    name: Mapped[str | None]
    output_name: Mapped[str | None]
    output_path: Mapped[str] = mapped_column(default="")
    output_properties: Mapped[dict[str, Any]] = _dict()
    output_storage_classes: Mapped[list[str]] = _list("default")
    output_ttl: Mapped[int] = mapped_column(default=0)
    output_uuid: Mapped[str | None]
    priority: Mapped[int] = mapped_column(default=0)
    properties: Mapped[dict[str, Any]] = _dict()
    published_ports: Mapped[dict[str, Any]] = _dict(server_default=text("'{}'"))
    requesting_container_uuid: Mapped[str | None]
    runtime_constraints: Mapped[dict[str, Any]] = _dict()
    scheduling_parameters: Mapped[dict[str, Any]] = _dict()
    state: Mapped[str] = mapped_column(default=UNCOMMITTED)
    submitted_by_user_uuid: Mapped[str | None]
    use_existing: Mapped[bool] = mapped_column(default=True)


class Collection(Record):
    """Files in Keep, by their blocks. ``is_trashed`` is the user's word; in the trash it is from ``trash_at`` on."""

    __tablename__ = "collections"
    UUID_TYPE = uuids.COLLECTION
    HIDDEN = frozenset({"manifest_size"})
    UNLISTED = frozenset({"manifest_text"})

    delete_at: Mapped[datetime | None] = mapped_column(index=True)
    description: Mapped[str | None]
    file_count: Mapped[int] = mapped_column(default=0)
    file_size_total: Mapped[int] = mapped_column(BigInteger, default=0)
    is_trashed: Mapped[bool] = mapped_column(default=False)
    manifest_size: Mapped[int] = mapped_column(default=0)
    manifest_text: Mapped[str] = mapped_column(default="")
    name: Mapped[str | None]
    portable_data_hash: Mapped[str] = mapped_column(index=True)
    properties: Mapped[dict[str, Any]] = _dict()
    replication_desired: Mapped[int | None]
    storage_classes_desired: Mapped[list[str]] = _list("default")
    trash_at: Mapped[datetime | None]

    def computed(self) -> dict[str, Any]:
        constant: dict[str, Any] = {
            "current_version_uuid": self.uuid, "preserve_version": False, "replication_confirmed": None,
            "replication_confirmed_at": None, "storage_classes_confirmed": [], "storage_classes_confirmed_at": None,
            "version": 1,
        }  # fmt: skip
        return constant | {"is_trashed": self.trash_at is not None and self.trash_at <= datetime.now(UTC)}
