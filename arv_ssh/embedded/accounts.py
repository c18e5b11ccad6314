"""Users, groups and links of the embedded API: who exists, and who gives whom a permission.

Owns the rules for these three resources. The effect of a permission belongs to :mod:`arv_ssh.embedded.permissions`.
"""

from __future__ import annotations

from sqlalchemy import or_, select

from arv_ssh import uuids
from arv_ssh.embedded import permissions, published_ports, records
from arv_ssh.embedded.call import Attributes, Call, root_user_uuid
from arv_ssh.embedded.models import (
    ApiClientAuthorization,
    Collection,
    Container,
    ContainerRequest,
    Group,
    Link,
    Record,
    User,
)
from arv_ssh.errors import Forbidden, Unprocessable

OWN_PROFILE = frozenset({"first_name", "last_name", "prefs"})
"""The attributes that users may change on their own records."""
ACCOUNT = OWN_PROFILE | {"username", "email", "identity_url", "is_active", "is_admin"}
GROUP_CLASSES = ("role", "project")
_MODELS: dict[str, type[Record]] = {
    model.UUID_TYPE: model
    for model in (User, Group, Link, ApiClientAuthorization, Container, ContainerRequest, Collection)
}


def create_user(call: Call, attributes: Attributes) -> User:
    """Make a user, active unless said otherwise; for administrators."""
    _check_admin(call)
    user = records.new(call, User, attributes, ACCOUNT)
    user.owner_uuid = root_user_uuid(call.config.cluster_id)
    _check_username(call, user)
    call.session.add(user)
    return user


def update_user(call: Call, user: User, attributes: Attributes) -> None:
    """Change a user: administrators all of it, users their own name and preferences."""
    changed = records.changes(user, attributes)
    if not call.caller.is_admin:
        records.refuse(user, changed, OWN_PROFILE, "by anyone but an administrator")
    if user.uuid == root_user_uuid(call.config.cluster_id):
        records.refuse(user, changed, OWN_PROFILE, "since it is the cluster's own")
    records.refuse(user, changed, ACCOUNT, "once the user exists")
    records.apply(call, user, changed)
    _check_username(call, user)


def delete_user(call: Call, user: User) -> None:
    """Raise: a user's actions stay attributed to that user."""
    raise Forbidden(f"{records.label(user)} cannot be deleted; set is_active to false to shut the user out")


def _check_admin(call: Call) -> None:
    if not call.caller.is_admin:
        raise Forbidden("only an administrator may make users")


def _check_username(call: Call, user: User) -> None:
    if user.username is None:
        return
    with call.session.no_autoflush:
        other = call.session.scalar(select(User.uuid).where(User.username == user.username, User.uuid != user.uuid))
    if other is not None:
        raise Unprocessable(f"username {user.username!r} is already taken")


def create_group(call: Call, attributes: Attributes) -> Group:
    """Make a group that the caller, or another owner, manages."""
    group = records.new(call, Group, attributes, {"owner_uuid", "name", "description", "group_class", "properties"})
    permissions.check_owner(call, group.owner_uuid)
    if group.group_class not in GROUP_CLASSES:
        raise Unprocessable(f"group_class must be {' or '.join(GROUP_CLASSES)}, not {group.group_class!r}")
    call.session.add(group)
    return group


def update_group(call: Call, group: Group, attributes: Attributes) -> None:
    """Change a group's owner or description."""
    changed = records.changes(group, attributes)
    records.refuse(group, changed, {"owner_uuid", "name", "description", "properties"}, "once the group exists")
    records.apply(call, group, changed)
    if "owner_uuid" in changed:
        permissions.check_owner(call, group.owner_uuid)


def delete_group(call: Call, group: Group) -> None:
    """Delete a group that owns nothing, and the permissions that it gave."""
    for model in (Collection, ContainerRequest, Group, Link):
        if call.session.scalar(select(model.uuid).where(model.owner_uuid == group.uuid).limit(1)):
            raise Unprocessable(f"{records.label(group)} still owns {model.__tablename__}; give them away first")
    about = or_(Link.tail_uuid == group.uuid, Link.head_uuid == group.uuid)
    for link in call.session.scalars(select(Link).where(about)):
        call.session.delete(link)
    call.session.delete(group)


def create_link(call: Call, attributes: Attributes) -> Link:
    """Make a link; only an administrator or someone who manages the thing can make a permission."""
    names = {"owner_uuid", "link_class", "name", "tail_uuid", "head_uuid", "properties"}
    link = records.new(call, Link, attributes, names)
    permissions.check_owner(call, link.owner_uuid)
    if not link.link_class:
        raise Unprocessable("a link needs a link_class, such as permission")
    _check_link(call, link)
    call.session.add(link)
    return link


def update_link(call: Call, link: Link, attributes: Attributes) -> None:
    """Change a link's name (can_read to can_write, say) or properties."""
    _check_may_end(call, link)
    changed = records.changes(link, attributes)
    records.refuse(link, changed, {"name", "properties"}, "once the link exists")
    records.apply(call, link, changed)
    _check_link(call, link)


def delete_link(call: Call, link: Link) -> None:
    """Take a permission back."""
    _check_may_end(call, link)
    call.session.delete(link)


def _check_link(call: Call, link: Link) -> None:
    if link.link_class == "permission":
        _check_permission(call, link)
    elif link.link_class == published_ports.LINK:
        published_ports.check_link(call, link)


def _check_permission(call: Call, link: Link) -> None:
    if link.name not in permissions.LEVELS:
        raise Unprocessable(f"a permission's name must be one of {', '.join(permissions.LEVELS)}, not {link.name!r}")
    tail, head = link.tail_uuid or "", link.head_uuid or ""
    if uuids.kind(tail) not in (uuids.USER, uuids.GROUP) or call.session.get(_model(tail), tail) is None:
        raise Unprocessable(f"tail_uuid {tail!r} of a permission must be a user or group of this cluster")
    if uuids.kind(head) not in _MODELS or uuids.kind(head) in (uuids.LINK, uuids.TOKEN):
        raise Unprocessable(
            f"head_uuid {head!r} of a permission must be a collection, container request, container, group or user"
        )
    permissions.find(call, _model(head), head, permissions.MANAGE)


def _check_may_end(call: Call, link: Link) -> None:
    """Raise unless the caller made the link or manages what it is about."""
    if permissions.level(call, link) == permissions.MANAGE:
        return
    head = link.head_uuid or ""
    if uuids.kind(head) not in _MODELS:
        raise Forbidden(f"user {call.user_uuid} may read {records.label(link)} but not manage it")
    permissions.find(call, _model(head), head, permissions.MANAGE)


def _model(uuid: str) -> type[Record]:
    return _MODELS[uuids.kind(uuid) or ""]
