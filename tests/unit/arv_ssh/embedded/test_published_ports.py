"""Published ports of requests and containers, and the links that name them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from arv_ssh.config.web_services import WebServices
from arv_ssh.errors import Forbidden, NotFound, Unprocessable
from tests.unit.arv_ssh.embedded.cluster import Cluster

PRIVATE = {"access": "private", "label": "notebook", "initial_path": "/lab"}
PUBLIC = {"access": "public", "label": "page", "initial_path": ""}


def with_services(cluster: Cluster, services: WebServices) -> None:
    cluster.api._config = replace(cluster.api._config, web_services=services)


@pytest.mark.parametrize(
    ("ports", "sentence"),
    [
        ({"0": PRIVATE}, "'0', which is not a port"),
        ({"65536": PRIVATE}, "is not a port"),
        ({"http": PRIVATE}, "is not a port"),
        ({"80": "public"}, "must be an object"),
        ({"80": PRIVATE | {"external_port": 22}}, "must be an object with access, initial_path, label"),
        ({"80": PRIVATE | {"access": "secret"}}, "private or public"),
        ({"80": PRIVATE | {"label": ""}}, "label of published port 80"),
        ({"80": PRIVATE | {"initial_path": 1}}, "initial_path of published port 80"),
    ],
)
def test_mistakes(cluster: Cluster, ports: dict[str, Any], sentence: str) -> None:
    """What is no published port is a sentence that names it."""
    with pytest.raises(Unprocessable, match=sentence):
        cluster.submit(published_ports=ports)


def test_addresses_by_name(cluster: Cluster) -> None:
    """A container that begins to run has the addresses of its ports in its record, and nobody else writes them."""
    with_services(cluster, WebServices(host="*.c.example.org"))
    uuid = cluster.container("Running", published_ports={"8888": PRIVATE, "80": PUBLIC})
    ports = cluster.root.get("containers", uuid)["published_ports"]
    base = f"https://{uuid}-8888.c.example.org/"
    assert ports["8888"] == PRIVATE | {"base_url": base, "initial_url": f"{base}lab"}
    assert ports["80"]["initial_url"] == f"https://{uuid}-80.c.example.org/"
    with pytest.raises(Unprocessable):
        cluster.root.update("containers", uuid, {"published_ports": {}})


def test_addresses_by_port(cluster: Cluster) -> None:
    """Each port has a port of the one host while the container runs; without a free one it has no address."""
    with_services(cluster, WebServices(host="c.example.org", port_min=8000, port_max=8001))
    first = cluster.container("Running", published_ports={"80": PUBLIC, "81": PRIVATE})
    ports = cluster.root.get("containers", first)["published_ports"]
    assert sorted(entry["external_port"] for entry in ports.values()) == [8000, 8001]
    urls = sorted(entry["base_url"] for entry in ports.values())
    assert urls == ["https://c.example.org:8000/", "https://c.example.org:8001/"]
    second = cluster.container("Running", published_ports={"80": PUBLIC}, command=["sleep", "2"])
    assert cluster.root.get("containers", second)["published_ports"]["80"] == PUBLIC
    cluster.root.update("containers", first, {"state": "Complete", "exit_code": 0})
    third = cluster.container("Running", published_ports={"80": PUBLIC}, command=["sleep", "3"])
    assert cluster.root.get("containers", third)["published_ports"]["80"]["external_port"] in (8000, 8001)


def test_no_web_services(cluster: Cluster) -> None:
    """A cluster without web services keeps what was asked for, without addresses."""
    uuid = cluster.container("Running", published_ports={"80": PUBLIC})
    assert cluster.root.get("containers", uuid)["published_ports"] == {"80": PUBLIC}


def test_links(cluster: Cluster) -> None:
    """A name is a label of a host name, for a port of a request that the caller may change, and only once."""
    mine = cluster.submit()["uuid"]
    link = {"link_class": "published_port", "name": "my-notebook", "head_uuid": mine, "properties": {"port": 80}}
    made = cluster.active.create("links", link)
    other = cluster.submit(cluster.spectator)["uuid"]
    for wrong, kind, sentence in (
        (link, Unprocessable, "'my-notebook' is taken"),
        (link | {"name": "My_Notebook"}, Unprocessable, "label of a host name"),
        (link | {"name": mine}, Unprocessable, "label of a host name"),
        (link | {"name": "a", "head_uuid": cluster.container("Running")}, Unprocessable, "must be a container request"),
        (link | {"name": "a", "properties": {"port": "80"}}, Unprocessable, "must have a port"),
        (link | {"name": "a", "head_uuid": other}, (Forbidden, NotFound), other),
    ):
        with pytest.raises(kind, match=sentence):
            cluster.active.create("links", wrong)
    cluster.active.update("links", made["uuid"], {"name": "renamed"})
    with pytest.raises(Unprocessable):
        cluster.active.update("links", made["uuid"], {"name": "Renamed"})
