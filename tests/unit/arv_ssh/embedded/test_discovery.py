"""The discovery document: it says what the API has, and what it says is served."""

from __future__ import annotations

from typing import Any

import pytest

from arv_ssh.embedded import discovery, records
from arv_ssh.embedded.routes import RESOURCES
from tests.unit.arv_ssh.embedded.cluster import Cluster

DOCUMENT = discovery.document("zzzzz", "https://zzzzz.example.org/")


def test_served_to_everybody(cluster: Cluster) -> None:
    """A client without a token gets it, with the host it asked as the address where the config names none."""
    status, answer = cluster.call("GET", discovery.PATH, token="", headers={"host": "zzzzz.example.org:8443"})
    assert status == 200
    assert answer == discovery.document("zzzzz", "https://zzzzz.example.org:8443/")
    status, answer = cluster.call("POST", discovery.PATH, token="")
    assert status == 405 and "only GET" in answer["errors"][0]


def test_every_resource_and_attribute(cluster: Cluster) -> None:
    """Each resource has its methods, and the schema of its records names what a record has."""
    assert DOCUMENT["resources"].keys() == RESOURCES.keys() | {"configs", "keep_services"}
    made = cluster.submit()
    shown = {"containers": cluster.root.get("containers", made["container_uuid"]), "container_requests": made}
    for name, record in shown.items():
        methods = DOCUMENT["resources"][name]["methods"]
        assert {"get", "list", "create", "update", "delete"} <= methods.keys()
        schema = DOCUMENT["schemas"][methods["get"]["response"]["$ref"]]
        assert schema["properties"].keys() == record.keys()
        request = methods["update"]["request"]["properties"]
        assert request == {records.singular(RESOURCES[name].model): methods["get"]["response"]}


@pytest.mark.parametrize(
    ("resource", "method", "path"),
    [
        ("containers", "lock", "containers/{uuid}/lock"),
        ("containers", "unlock", "containers/{uuid}/unlock"),
        ("containers", "auth", "containers/{uuid}/auth"),
        ("containers", "current", "containers/current"),
        ("users", "current", "users/current"),
        ("api_client_authorizations", "current", "api_client_authorizations/current"),
    ],
)
def test_methods_beside_the_common_ones(resource: str, method: str, path: str) -> None:
    """What Arvados has beside get, list, create, update and delete stands under Arvados' names."""
    assert DOCUMENT["resources"][resource]["methods"][method]["path"] == path


def test_every_method_is_there(cluster: Cluster) -> None:
    """No method of the document is answered with 405 or as a path that the API does not have."""
    refused: list[Any] = []
    for resource in DOCUMENT["resources"].values():
        for method in resource["methods"].values():
            path = DOCUMENT["basePath"] + method["path"].format(uuid="zzzzz-aaaaa-000000000000000")
            status, answer = cluster.call(method["httpMethod"], path, body={} if "request" in method else None)
            if status == 405 or "no such path" in str(answer.get("errors")):
                refused.append((method["id"], status, answer))
    assert not refused
