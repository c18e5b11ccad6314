"""Collections of the embedded API: the manifests that a crunch-run saves of outputs and logs.

Owns what of a collection can be set, its trash, its name, and how many a user may have. The blocks of data are in the
cluster's keepstores, if it has any: this API neither signs locators nor checks their signatures.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import Any

from sqlalchemy import delete, func, select

from arv_ssh.embedded import manifests, params, permissions, records
from arv_ssh.embedded.call import Attributes, Call
from arv_ssh.embedded.models import Collection
from arv_ssh.errors import Forbidden, NotFound, Unprocessable

ATTRIBUTES = frozenset({
    "delete_at", "description", "is_trashed", "manifest_text", "name", "owner_uuid", "portable_data_hash", "properties",
    "replication_desired", "storage_classes_desired", "trash_at",
})  # fmt: skip
TRASH_LIFETIME = timedelta(days=14)
"""How long a collection stays in the trash: the default of Arvados' Collections.DefaultTrashLifetime."""
MOST = 100_000
"""Collections of one owner that API calls may make; a container of one's own makes two or three."""
MOST_BYTES = 4 << 30
"""Characters of manifests that one owner may have in all of them."""


def create(call: Call, attributes: Attributes) -> Collection:
    """Make a collection of what its manifest lists."""
    collection = records.new(call, Collection, attributes, ATTRIBUTES)
    permissions.check_owner(call, collection.owner_uuid)
    _settle(call, collection, attributes | {"manifest_text": collection.manifest_text})
    _sweep(call)
    call.session.add(collection)
    return collection


def update(call: Call, collection: Collection, attributes: Attributes) -> None:
    """Change a collection; with ``include_trash`` also one that is in the trash."""
    collection.is_trashed = collection.computed()["is_trashed"]
    changed = records.changes(collection, attributes)
    records.refuse(collection, changed, ATTRIBUTES, "once it exists")
    if "owner_uuid" in changed:
        _check_new_owner(call, collection, changed["owner_uuid"])
    records.apply(call, collection, changed)
    _settle(call, collection, changed)


def _check_new_owner(call: Call, collection: Collection, owner_uuid: str) -> None:
    if permissions.level(call, collection) < permissions.MANAGE:
        raise Forbidden(
            f"user {call.user_uuid} may change {records.label(collection)} but not give it to another owner; "
            "ask its owner to do so"
        )
    permissions.check_owner(call, owner_uuid)


def trash(call: Call, collection: Collection) -> None:
    """Put a collection into the trash, from where it can be taken back until it is deleted."""
    update(call, collection, {"is_trashed": True})


def _settle(call: Call, collection: Collection, changed: Attributes) -> None:
    """Bring the attributes that follow from the ``changed`` ones up to date."""
    _settle_trash(call, collection, changed)
    if changed.keys() & {"manifest_text", "portable_data_hash"}:
        _settle_manifest(collection, changed.get("portable_data_hash"))
        _check_room(call, collection)
    _settle_name(call, collection, anyhow=params.flag(call.parameters, "ensure_unique_name"))


def _settle_manifest(collection: Collection, said: str | None) -> None:
    """Set what follows from the manifest; ``said`` is the hash that the client expects it to have."""
    found = manifests.read(collection.manifest_text)
    if said is not None and said.partition("+")[0] != found.portable_data_hash.partition("+")[0]:
        raise Unprocessable(
            f"portable_data_hash {said[:60]!r} is not that of manifest_text, which is {found.portable_data_hash}"
        )
    collection.manifest_text, collection.manifest_size = found.text, len(found.text)
    collection.portable_data_hash = found.portable_data_hash
    collection.file_count, collection.file_size_total = found.file_count, found.file_size_total


def _settle_trash(call: Call, collection: Collection, changed: Attributes) -> None:
    """Make trash_at and delete_at agree with what was changed: a time counts before ``is_trashed``."""
    if "trash_at" not in changed and "is_trashed" in changed:
        collection.trash_at = call.now if collection.is_trashed else None
    if collection.trash_at is None:
        collection.delete_at = None
        return
    if collection.delete_at is None or (changed.keys() & {"trash_at", "is_trashed"} and "delete_at" not in changed):
        collection.delete_at = collection.trash_at + TRASH_LIFETIME
    if collection.delete_at < collection.trash_at:
        raise Unprocessable(f"delete_at of {records.label(collection)} is before its trash_at")


def _settle_name(call: Call, collection: Collection, *, anyhow: bool) -> None:
    """Refuse a name that the owner has given to another collection, or make one of it that is free."""
    collection.name = name = collection.name or None
    if name is None or not _is_taken(call, collection, name):
        return
    if not anyhow:
        raise Unprocessable(f"{collection.owner_uuid} has another collection of the name {name[:60]!r}; choose another "
                            "name, or set ensure_unique_name")  # fmt: skip
    stamped = f"{name} ({records.timestamp(call.now)})"
    names = (stamped if number == 1 else f"{stamped} ({number})" for number in count(1))
    collection.name = next(name for name in names if not _is_taken(call, collection, name))


def _is_taken(call: Call, collection: Collection, name: str) -> bool:
    others = select(Collection.uuid).where(
        Collection.owner_uuid == collection.owner_uuid, Collection.name == name, Collection.uuid != collection.uuid,
        permissions.not_in_trash(call),
    )  # fmt: skip
    with call.session.no_autoflush:
        return call.session.scalar(others.limit(1)) is not None


def _check_room(call: Call, collection: Collection) -> None:
    owned = select(func.count(), func.coalesce(func.sum(Collection.manifest_size), 0)).where(
        Collection.owner_uuid == collection.owner_uuid, Collection.uuid != collection.uuid
    )
    with call.session.no_autoflush:
        number, size = call.session.execute(owned).one()
    if number >= MOST or size + collection.manifest_size > MOST_BYTES:
        raise Unprocessable(
            f"{collection.owner_uuid} has {number} collections with {size} bytes of manifests; {MOST} and {MOST_BYTES} "
            "is the most, so delete some first"
        )


def _sweep(call: Call) -> None:
    """Delete what has been in the trash for its time."""
    call.session.execute(
        delete(Collection).where(Collection.delete_at <= call.now), execution_options={"synchronize_session": False}
    )


def show(call: Call, name: str) -> dict[str, Any]:
    """Return the collection with the UUID ``name``; for a portable data hash, what is the same for all that have it."""
    wanted = manifests.without_hints(name)
    if not wanted:
        return records.render(permissions.find(call, Collection, name))
    found = readable_content(call, wanted, trashed=call.include_trash)
    if found is None:
        raise NotFound(
            f"no collection with the portable data hash {wanted} was found among what user {call.user_uuid} may read "
            f"on cluster {call.config.cluster_id}"
        )
    trash_at = records.timestamp(found.trash_at) if found.trash_at else None
    same = {"uuid": wanted, "portable_data_hash": wanted, "manifest_text": found.manifest_text, "trash_at": trash_at}
    return {"kind": records.render(found)["kind"]} | same


def readable_content(call: Call, portable_data_hash: str, *, trashed: bool = True) -> Collection | None:
    """Return a collection with this content that the caller may read, the one that lasts longest, if there is any."""
    condition = permissions.readable(call, Collection, trashed=trashed)
    found = select(Collection).where(Collection.portable_data_hash == portable_data_hash, condition)
    longest = (Collection.trash_at.is_(None).desc(), Collection.trash_at.desc())
    return call.session.scalar(found.order_by(*longest).limit(1))


def content(call: Call, portable_data_hash: str) -> Collection | None:
    """Return any collection with this content: for what the cluster itself copies."""
    found = select(Collection).where(Collection.portable_data_hash == portable_data_hash)
    return call.session.scalar(found.limit(1))


def keep(call: Call, uuid: str | None, attributes: Attributes) -> Collection:
    """Make a collection, or change the one called ``uuid`` if it still exists, for the cluster itself.

    The name is made a free one.
    """
    collection = call.session.get(Collection, uuid) if uuid else None
    if collection is None:
        collection = records.new(call, Collection, attributes, ATTRIBUTES)
        call.session.add(collection)
    else:
        records.apply(call, collection, {name: attributes[name] for name in attributes.keys() - {"name", "owner_uuid"}})
    _settle_manifest(collection, None)
    _settle_trash(call, collection, attributes)
    _settle_name(call, collection, anyhow=True)
    return collection
