"""Where names lead: links, and ports of the one host, which move from container to container."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.controller.web_services.names import Target
from arv_ssh.controller.web_services.ports import REFRESH, Ports, entry
from arv_ssh.errors import BadGateway, ContainerEnded, HttpError, NotFound, Unauthorized

ONE, OTHER = "zzzzz-dz642-000000000000001", "zzzzz-dz642-000000000000002"
REQUEST = "zzzzz-xvhdp-000000000000001"

Records = list[dict[str, Any]]


class Root:
    """The API as root: links, and running containers; it counts how often it was asked for those."""

    def __init__(self) -> None:
        self.links: Records = []
        self.running = [{"uuid": ONE, "published_ports": {"80": {"external_port": 8000}, "81": {}}}]
        self.looks = 0
        self.failure: HttpError | None = None

    def list(self, resource: str, **parameters: Any) -> dict[str, Any]:
        assert resource == "links" and ["link_class", "=", "published_port"] in parameters["filters"]
        return {"items": self.links}

    def list_all(self, resource: str, **parameters: Any) -> Records:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        return self.running


def test_uuid() -> None:
    """A UUID with its port needs no look."""
    assert Ports().find(Target(ONE, 80), cast(ApiClient, None)) == (ONE, 80)


def test_external_ports() -> None:
    """A port leads to the container that has it now; unknown ones do not ask the API each time."""
    now, root = [0.0], Root()
    ports, api = Ports(lambda: now[0]), cast(ApiClient, root)
    assert ports.find(Target(external_port=8000), api) == (ONE, 80)
    for _ in range(3):
        with pytest.raises(ContainerEnded, match="8001 leads to no container now"):
            ports.find(Target(external_port=8001), api)
    assert root.looks == 1
    root.running = [{"uuid": OTHER, "published_ports": {"80": {"external_port": 8000}}}]
    assert ports.find(Target(external_port=8000), api) == (ONE, 80)  # the record will show that it has moved
    ports.forget(8000)
    assert ports.find(Target(external_port=8000), api) == (OTHER, 80)
    now[0] += REFRESH
    root.failure = Unauthorized("no")
    with pytest.raises(BadGateway, match="does not accept this controller's SystemRootToken"):
        ports.find(Target(external_port=8002), api)


def test_links() -> None:
    """A link leads to the port in its properties."""
    root = Root()
    api = cast(ApiClient, root)
    with pytest.raises(NotFound, match="under the name 'nb'"):
        Ports().find(Target(name="nb"), api)
    for port in (80, 80.0):
        root.links = [{"uuid": "zzzzz-o0j2j-000000000000001", "head_uuid": REQUEST, "properties": {"port": port}}]
        assert Ports().find(Target(name="nb"), api) == (REQUEST, 80)
    for wrong in ("80", None, 0, 65536, 1.5):
        root.links[0]["properties"] = {"port": wrong}
        with pytest.raises(BadGateway, match="has no port in its properties"):
            Ports().find(Target(name="nb"), api)


def test_entry() -> None:
    """What is not an entry publishes nothing."""
    assert entry({"published_ports": {"80": {"access": "public"}}}, 80) == {"access": "public"}
    for record in ('null', '{}', '{"80": "public"}', '{"81": {}}'):
        assert entry({"published_ports": json.loads(record)}, 80) is None
