"""The discovery document: the API's methods, which a client library asks for before anything else.

Owns building it from the tables of routes and models, so that it describes exactly what is served. The form is that of
Google's API Discovery Service v1, limited to the part that Arvados' clients use. Does not use the database.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Column, Float, Integer

from arv_ssh.embedded import collections, filters, records
from arv_ssh.embedded.models import KINDS, Collection, Record, UtcDateTime
from arv_ssh.embedded.routes import PREFIX, RESOURCES, SPECIAL, Resource

PATH = "/discovery/v1/apis/arvados/v1/rest"
CONFIG_PATH = f"{PREFIX}config"
KEEP_SERVICES_PATH = f"{PREFIX}keep_services/accessible"

TRASH_LIFETIME = int(collections.TRASH_LIFETIME.total_seconds())

Json = dict[str, Any]

_UUID: Json = {"type": "string", "required": True, "location": "path", "description": "The record's UUID."}
_SELECT: Json = {"type": "array", "location": "query", "description": "Attributes to answer with, and no others."}
_LIST: Json = {
    "filters": {"type": "array", "location": "query", "description": "Conditions: [[attribute, operator, operand], …]"},
    "order": {"type": "array", "location": "query", "description": 'Such as ["created_at desc"].'},
    "select": _SELECT,
    "limit": {"type": "integer", "format": "int32", "default": str(filters.DEFAULT_LIMIT), "minimum": "0",
              "location": "query", "description": "Records in one answer at most."},
    "offset": {"type": "integer", "format": "int32", "default": "0", "minimum": "0", "location": "query",
               "description": "How many of the records that fit to leave out at the start."},
    "count": {"type": "string", "default": "exact", "enum": ["exact", "none"], "location": "query",
              "description": "Whether to answer with items_available."},
}  # fmt: skip
_TRASH: Json = {
    "include_trash": {"type": "boolean", "default": "false", "location": "query",
                      "description": "Whether what is in the trash is also there."},
}  # fmt: skip
_UNIQUE_NAME: Json = {
    "ensure_unique_name": {"type": "boolean", "default": "false", "location": "query",
                           "description": "Whether a collection whose name is taken gets another one."},
}  # fmt: skip
_COMMON: Json = {
    "cluster_id": {"type": "string", "location": "query", "description": "The cluster to ask; this API is of one."},
    "bypass_federation": {"type": "boolean", "location": "query", "description": "As cluster_id: of no effect here."},
}
_PUBLIC = (
    ("configs", "get", CONFIG_PATH, "Config"),
    ("keep_services", "accessible", KEEP_SERVICES_PATH, "KeepServiceList"),
)
"""What is no record: its resource and method, its path, and the name of its schema, without which a client library
gives its user the bytes."""
_VERBS = {"get": "GET", "list": "GET", "create": "POST", "update": "PATCH", "delete": "DELETE"}


def document(cluster_id: str, root_url: str) -> Json:
    """Return the document of the API at ``root_url`` ("https://zzzzz.example.org/", with the slash)."""
    return {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "arvados:v1",
        "name": "arvados",
        "version": "v1",
        "title": "Arvados API",
        "description": "The part of the Arvados API that arv-ssh's embedded cluster serves.",
        "protocol": "rest",
        "rootUrl": root_url,
        "servicePath": PREFIX.removeprefix("/"),
        "basePath": PREFIX,
        "baseUrl": root_url.rstrip("/") + PREFIX,
        "batchPath": "batch",
        "uuidPrefix": cluster_id,
        "maxItemsPerResponse": filters.MAX_LIMIT,
        "parameters": {"alt": {"type": "string", "default": "json", "enum": ["json"], "location": "query"}},
        "auth": {"oauth2": {"scopes": {}}},
        "defaultCollectionReplication": 2,
        "defaultTrashLifetime": TRASH_LIFETIME,
        "blobSignatureTtl": TRASH_LIFETIME,
        "remoteHosts": {},
        "remoteHostsViaDNS": False,
        "schemas": {name: schema for resource in RESOURCES.values() for name, schema in _schemas(resource.model)}
        | {answer: {"id": answer, "type": "object", "properties": {}} for _, _, _, answer in _PUBLIC},
        "resources": {name: {"methods": _methods(name, resource)} for name, resource in RESOURCES.items()}
        | {
            name: {"methods": {verb: _describe(name, verb, "GET", path.removeprefix(PREFIX), {}, answer)}}
            for name, verb, path, answer in _PUBLIC
        },
    }


def _methods(name: str, resource: Resource) -> Json:
    methods = {verb: _method(name, verb, resource.model) for verb in _VERBS}
    for (of, parts, action), (http_method, _) in SPECIAL.items():
        if of == name:
            path = f"{name}/{{uuid}}/{action}" if parts == 3 else f"{name}/{action}"
            parameters = {"select": _SELECT} | ({"uuid": _UUID} if parts == 3 else {})
            methods[action] = _describe(name, action, http_method, path, parameters, _schema_name(resource.model))
    return methods


def _method(name: str, verb: str, model: type[Record]) -> Json:
    one, schema = records.singular(model), _schema_name(model)
    own = {} if model is not Collection else _TRASH if verb in ("get", "list") else _TRASH | _UNIQUE_NAME
    if verb == "list":
        return _describe(name, verb, "GET", name, _LIST | own, f"{schema}List")
    on_one: Json = own if verb == "create" else own | {"uuid": _UUID}
    path = name if verb == "create" else f"{name}/{{uuid}}"
    method = _describe(name, verb, _VERBS[verb], path, on_one | {"select": _SELECT}, schema)
    if verb in ("create", "update"):
        method["request"] = {"required": True, "properties": {one: {"$ref": schema}}}
    return method


def _describe(name: str, verb: str, http_method: str, path: str, parameters: Json, answer: str) -> Json:
    return {
        "id": f"arvados.{name}.{verb}",
        "path": path,
        "httpMethod": http_method,
        "description": f"{verb.capitalize()} {name.replace('_', ' ')}.",
        "parameters": _COMMON | parameters,
        "response": {"$ref": answer},
        "scopes": [],
    }


def _schema_name(model: type[Record]) -> str:
    name = KINDS[model.UUID_TYPE].partition("#")[2]
    return name[0].upper() + name[1:]


def _schemas(model: type[Record]) -> list[tuple[str, Json]]:
    name = _schema_name(model)
    computed = {attribute: {"type": "string"} for attribute in ("kind", "etag", "href", *model().computed())}
    properties = {attribute: _property(column) for attribute, column in records.columns(model).items()}
    listing: Json = {
        "kind": {"type": "string"},
        "items": {"type": "array", "items": {"$ref": name}},
        **{count: {"type": "integer", "format": "int32"} for count in ("items_available", "limit", "offset")},
    }
    return [
        (name, {"id": name, "type": "object", "properties": computed | properties}),
        (f"{name}List", {"id": f"{name}List", "type": "object", "properties": listing}),
    ]


def _property(column: Column[Any]) -> Json:
    kind = column.type
    if isinstance(kind, JSON):
        return {"type": "object"} if column.info["shape"] is dict else {"type": "array", "items": {"type": "string"}}
    if isinstance(kind, Boolean):
        return {"type": "boolean"}
    if isinstance(kind, Integer):
        return {"type": "integer", "format": "int32"}
    if isinstance(kind, Float):
        return {"type": "number", "format": "double"}
    if isinstance(kind, UtcDateTime):
        return {"type": "string", "format": "date-time"}
    return {"type": "string"}
