"""What the embedded API tells anybody, without a token: the discovery document, the config, the keepstores.

Owns these paths. Uses neither the database nor the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.config.exported_config import merged
from arv_ssh.embedded import discovery, filters
from arv_ssh.errors import MethodNotAllowed
from arv_ssh.net.http_server import MAX_RECORD_BODY

Fields = dict[str, Any]

FACTS: Fields = {
    "API": {"MaxItemsPerResponse": filters.MAX_LIMIT, "MaxRequestSize": MAX_RECORD_BODY},
    "Collections": {"BlobSigning": False, "CollectionVersioning": False},
}
"""What is so with this API, whatever the config says."""


def answer(method: str, path: str, config: ClusterConfig, headers: Mapping[str, str]) -> Fields | None:
    """Return what is at ``path``, None when it is not public."""
    found = _PATHS.get(path)
    if found is not None and method != "GET":
        raise MethodNotAllowed(f"{path} does not take {method}, only GET")
    return found and found(config, headers)


def _discovery(config: ClusterConfig, headers: Mapping[str, str]) -> Fields:
    url = config.controller_url or f"https://{headers.get('host', 'localhost')}"
    return discovery.document(config.cluster_id, f"{url}/")


def _config(config: ClusterConfig, _: Mapping[str, str]) -> Fields:
    return merged(config.exported, FACTS)


def _keep_services(config: ClusterConfig, headers: Mapping[str, str]) -> Fields:
    """List the keepstores for a client inside the cluster's network, else the proxies."""
    outside = headers.get("x-external-client") == "1"
    urls = config.keepproxies if outside else config.keepstores
    items = [_keep_service(config.cluster_id, number, url, outside) for number, url in enumerate(urls)]
    return {"kind": "arvados#keepServiceList", "etag": "", "self_link": "", "offset": 0, "limit": len(items),
            "items": items, "items_available": len(items)}  # fmt: skip


def _keep_service(cluster_id: str, number: int, url: str, outside: bool) -> Fields:
    parts = urlsplit(url)
    return {
        "kind": "arvados#keepService", "uuid": f"{cluster_id}-bi6l4-{number:015d}", "service_host": parts.hostname,
        "service_port": parts.port or (443 if parts.scheme == "https" else 80),
        "service_ssl_flag": parts.scheme == "https", "service_type": "proxy" if outside else "disk", "read_only": False,
    }  # fmt: skip


_PATHS: dict[str, Callable[[ClusterConfig, Mapping[str, str]], Fields]] = {
    discovery.PATH: _discovery,
    discovery.CONFIG_PATH: _config,
    discovery.KEEP_SERVICES_PATH: _keep_services,
}
