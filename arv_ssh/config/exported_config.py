"""The part of a cluster's config that its API shows to anybody: ``GET /arvados/v1/config``. Pure.

Owns the table of what may be shown: a key that is not in it stays secret, whatever a later version of Arvados puts
there. What a site's file does not set is shown with the default that clients rely on.
"""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

_ALL = "*"
"""Stands for whatever names a site gives: its volumes, instance types, remote clusters."""


def _keys(*names: str) -> Json:
    return dict.fromkeys(names)


_SHOWN: Json = {
    "API": _keys("MaxItemsPerResponse", "MaxRequestSize", "RequestTimeout", "SendTimeout"),
    "Collections": _keys(
        "BlobSigning", "BlobSigningTTL", "CollectionVersioning", "DefaultReplication", "DefaultTrashLifetime",
        "ForwardSlashNameSubstitution", "PreserveVersionIfIdle", "S3FolderObjects", "TrustAllContent",
    ),
    "Containers": _keys(
        "AlwaysUsePreemptibleInstances", "DefaultKeepCacheRAM", "MaxRetryAttempts", "MaximumPriceFactor",
        "ReserveExtraRAM", "RuntimeEngine",
    ) | {"ShellAccess": _keys("Admin", "User"), "SupportedDockerImageFormats": {_ALL: {}}},
    "InstanceTypes": {
        _ALL: _keys("AddedScratch", "IncludedScratch", "Name", "Preemptible", "Price", "ProviderType", "RAM", "Scratch",
                    "VCPUs"),
    },
    "Login": _keys("LoginCluster"),
    "RemoteClusters": {_ALL: _keys("ActivateUsers", "Host", "Insecure", "Proxy", "Scheme")},
    "Services": {_ALL: _keys("ExternalURL")},
    "StorageClasses": {_ALL: _keys("Default", "Priority")},
    "Users": _keys("CanCreateRoleGroups", "SupportEmailAddress"),
    "Volumes": {
        _ALL: _keys("ReadOnly", "Replication")
        | {"AccessViaHosts": {_ALL: _keys("ReadOnly")}, "StorageClasses": {_ALL: None}},
    },
    "Workbench": _keys("ArvadosDocsite", "SiteName", "Theme"),
}  # fmt: skip
"""None shows a value that is no section; a table, the keys of a section."""

_DEFAULTS: Json = {
    "API": {"MaxItemsPerResponse": 1000, "RequestTimeout": "5m0s"},
    "Collections": {
        "BlobSigningTTL": "336h0m0s", "CollectionVersioning": False, "DefaultReplication": 2,
        "DefaultTrashLifetime": "336h0m0s", "ForwardSlashNameSubstitution": "", "S3FolderObjects": True,
        "TrustAllContent": False,
    },
    "Containers": {
        "DefaultKeepCacheRAM": 0, "ReserveExtraRAM": 576716800, "RuntimeEngine": "docker",
        "ShellAccess": {"Admin": False, "User": False}, "SupportedDockerImageFormats": {"v2": {}},
    },
    "InstanceTypes": {},
    "Login": {"LoginCluster": ""},
    "RemoteClusters": {},
    "Services": {name: {"ExternalURL": ""} for name in (
        "ContainerWebServices", "Controller", "Keepproxy", "Keepstore", "WebDAV", "WebDAVDownload", "Websocket",
        "Workbench1", "Workbench2",
    )},
    "StorageClasses": {"default": {"Default": True, "Priority": 20}},
    "Users": {"CanCreateRoleGroups": True, "SupportEmailAddress": ""},
    "Volumes": {},
    "Workbench": {"ArvadosDocsite": "https://doc.arvados.org/", "SiteName": "", "Theme": "default"},
}  # fmt: skip


def export(cluster_id: str, section: Json) -> Json:
    """Return what may be shown of a cluster's ``section``, as plain JSON."""
    shown = merged(_DEFAULTS, _chosen(section, _SHOWN)) | {"ClusterID": cluster_id}
    exported: Json = json.loads(json.dumps(shown, default=str))  # YAML also has dates
    return exported


def _chosen(section: Json, shown: Json) -> Json:
    """Return the keys of ``section`` that are in ``shown``; a value of another shape than expected is left out."""
    result = {}
    for key, value in section.items():
        below = shown.get(key, shown.get(_ALL, _keys)) if isinstance(key, str) else _keys
        if below is None and not isinstance(value, dict | list):
            result[key] = value
        elif isinstance(below, dict) and isinstance(value, dict):
            result[key] = _chosen(value, below)
    return result


def merged(below: Json, above: Json) -> Json:
    """Return ``below`` with the keys of ``above`` overriding its own, section by section."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result
