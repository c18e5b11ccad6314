"""The embedded API's paths: which resource, which of its rules, which record.

Owns the tables of resources and of the paths beside the common methods (``users/current``, ``containers/…/lock``). Each
rule is in its resource's own module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from arv_ssh.embedded import (
    accounts,
    collections,
    containers,
    filters,
    params,
    permissions,
    records,
    requests,
    tokens,
)
from arv_ssh.embedded.call import Attributes, Call
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
from arv_ssh.errors import MethodNotAllowed, NotFound

PREFIX = "/arvados/v1/"
Fields = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """One resource's rules. ``update_level`` is the permission that a caller needs on a record to change it.

    ``show`` is for a resource whose records have other names beside their UUIDs.
    """

    model: type[Record]
    create: Callable[[Call, Attributes], Record | tuple[Record, str]]
    update: Callable[[Call, Any, Attributes], None]
    delete: Callable[[Call, Any], None]
    update_level: int = permissions.WRITE
    delete_level: int = permissions.MANAGE
    show: Callable[[Call, str], Fields] | None = None


RESOURCES = {
    resource.model.__tablename__: resource
    for resource in (
        Resource(User, accounts.create_user, accounts.update_user, accounts.delete_user),
        Resource(Group, accounts.create_group, accounts.update_group, accounts.delete_group, permissions.MANAGE),
        # Links and containers have rules of their own about who may change a readable record.
        Resource(Link, accounts.create_link, accounts.update_link, accounts.delete_link, permissions.READ,
                 permissions.READ),
        Resource(ApiClientAuthorization, tokens.create, tokens.update, tokens.delete),
        Resource(Container, containers.refuse_create, containers.update, containers.refuse_delete, permissions.READ,
                 permissions.READ),
        Resource(ContainerRequest, requests.create, requests.update, requests.delete),
        Resource(Collection, collections.create, collections.update, collections.trash, show=collections.show),
    )
}  # fmt: skip


@dataclass(frozen=True)
class ApiRequest:
    """One authenticated request on its way to a resource's rules."""

    call: Call
    method: str
    path: str
    fields: Fields
    is_form: bool

    def answer(self) -> Fields:
        """Return the answer's JSON, or raise the error to answer with."""
        parts = self.path.removeprefix(PREFIX).split("/") if self.path.startswith(PREFIX) else []
        resource = RESOURCES.get(parts[0]) if parts else None
        if resource is None or len(parts) > 3 or not all(parts):
            raise NotFound(f"no such path: {self.path[:200]}; this API has {', '.join(RESOURCES)}")
        if len(parts) == 1:
            return self._choose({"GET": self._list, "POST": self._create})(resource)
        special = SPECIAL.get((parts[0], len(parts), parts[-1]))
        if special is not None:
            allowed, answer = special
            return self._select(resource, self._choose({allowed: answer})(self.call, parts[1]))
        if len(parts) == 3:
            raise NotFound(f"no such path: {self.path[:200]}")
        one = self._choose({"GET": self._get, "PUT": self._update, "PATCH": self._update, "DELETE": self._delete})
        return one(resource, parts[1])

    def _choose(self, actions: dict[str, Callable[..., Fields]]) -> Callable[..., Fields]:
        action = actions.get(self.method)
        if action is None:
            raise MethodNotAllowed(f"{self.path[:200]} does not take {self.method}, only {', '.join(actions)}")
        return action

    def _select(self, resource: Resource, answer: Fields) -> Fields:
        shown = filters.selected(resource.model, self.fields)
        return answer if shown is None else {name: answer[name] for name in answer if name in shown or name == "kind"}

    def _attributes(self, resource: Resource) -> Attributes:
        raw = params.attributes(self.fields, records.singular(resource.model))
        return records.typed(resource.model, raw, is_form=self.is_form)

    def _list(self, resource: Resource) -> Fields:
        condition = permissions.readable(self.call, resource.model)
        return filters.answer(self.call.session, resource.model, condition, self.fields)

    def _create(self, resource: Resource) -> Fields:
        made = resource.create(self.call, self._attributes(resource))
        self.call.session.flush()
        if isinstance(made, tuple):
            return self._select(resource, records.render(made[0]) | {"api_token": made[1]})
        return self._select(resource, records.render(made))

    def _get(self, resource: Resource, uuid: str) -> Fields:
        if resource.show is not None:
            return self._select(resource, resource.show(self.call, uuid))
        return self._select(resource, records.render(permissions.find(self.call, resource.model, uuid)))

    def _update(self, resource: Resource, uuid: str) -> Fields:
        record = permissions.find(self.call, resource.model, uuid, resource.update_level)
        resource.update(self.call, record, self._attributes(resource))
        self.call.session.flush()
        return self._select(resource, records.render(record))

    def _delete(self, resource: Resource, uuid: str) -> Fields:
        record = permissions.find(self.call, resource.model, uuid, resource.delete_level)
        answer = records.render(record)
        resource.delete(self.call, record)
        return self._select(resource, answer)


def _current_user(call: Call, _: str) -> Fields:
    return records.render(call.caller.user)


def _current_token(call: Call, _: str) -> Fields:
    caller = call.caller
    if caller.secret is not None:
        token = call.session.get_one(ApiClientAuthorization, caller.token_uuid)
        return records.render(token) | {"api_token": caller.secret}
    root = ApiClientAuthorization(
        uuid=caller.token_uuid, owner_uuid=call.user_uuid, created_at=call.now, modified_at=call.now, scopes=["all"]
    )
    return records.render(root) | {"api_token": None}


def _current_container(call: Call, _: str) -> Fields:
    return records.render(containers.current(call))


def _secret_mounts(call: Call, uuid: str) -> Fields:
    containers.check_own(call, permissions.find(call, Container, uuid))
    return {"secret_mounts": {}}  # no request can have any: see arv_ssh.embedded.work


def _lock(call: Call, uuid: str) -> Fields:
    container = permissions.find(call, Container, uuid)
    containers.lock(call, container)
    return records.render(container)


def _unlock(call: Call, uuid: str) -> Fields:
    container = permissions.find(call, Container, uuid)
    containers.unlock(call, container)
    return records.render(container)


def _auth(call: Call, uuid: str) -> Fields:
    token, secret = containers.auth(call, permissions.find(call, Container, uuid))
    return records.render(token) | {"api_token": secret}


SPECIAL: dict[tuple[str, int, str], tuple[str, Callable[[Call, str], Fields]]] = {
    ("users", 2, "current"): ("GET", _current_user),
    ("api_client_authorizations", 2, "current"): ("GET", _current_token),
    ("containers", 2, "current"): ("GET", _current_container),
    ("containers", 3, "lock"): ("POST", _lock),
    ("containers", 3, "unlock"): ("POST", _unlock),
    ("containers", 3, "auth"): ("GET", _auth),
    ("containers", 3, "secret_mounts"): ("GET", _secret_mounts),
}
"""Paths beside the common methods, by resource, number of parts and last part: their method and their answer."""
