"""Host headers of each form, and others."""

from __future__ import annotations

import pytest

from arv_ssh.config.web_services import WebServices
from arv_ssh.controller.web_services.names import Target, is_web_service, target
from arv_ssh.errors import BadRequest

UUID = "zzzzz-dz642-abcdeabcdeabcde"
REQUEST = "zzzzz-xvhdp-abcdeabcdeabcde"
DOTS = WebServices(host="*.c.example.org")
DASHES = WebServices(host="*--c.example.org", port=8443)
PORTS = WebServices(host="c.example.org", port_min=8000, port_max=8010)


@pytest.mark.parametrize(
    ("services", "host", "expected"),
    [
        (DOTS, f"{UUID}-8080.c.example.org", Target(UUID, 8080)),
        (DOTS, f"{UUID}-8080.C.Example.org:443", Target(UUID, 8080)),
        (DOTS, f"{REQUEST}-1.c.example.org", Target(REQUEST, 1)),
        (DOTS, "My-Notebook.c.example.org", Target(name="my-notebook")),
        (DASHES, f"{UUID}-8080--c.example.org:8443", Target(UUID, 8080)),
        (DASHES, "my-notebook--c.example.org:8443", Target(name="my-notebook")),
        (PORTS, "c.example.org:8000", Target(external_port=8000)),
        (PORTS, "c.example.org:8010", Target(external_port=8010)),
    ],
)
def test_names(services: WebServices, host: str, expected: Target) -> None:
    """Each form names a port of a container or request, a link, or a port of the one host."""
    assert is_web_service(services, host)
    assert target(services, host) == expected


@pytest.mark.parametrize(
    ("services", "host"),
    [
        (DOTS, "zzzzz.example.org"), (DOTS, ".c.example.org"), (DOTS, "c.example.org"), (DOTS, "a.c.example.org:8443"),
        (DOTS, ""), (DOTS, "a.c.example.org:x"), (DOTS, "[::1"), (DASHES, "a.c.example.org:8443"),
        (PORTS, "c.example.org"), (PORTS, "c.example.org:7999"), (PORTS, "c.example.org:8011"),
        (PORTS, "a.c.example.org:8000"), (WebServices(), f"{UUID}-8080.c.example.org"), (WebServices(), ""),
        (WebServices(host="c.example.org"), "c.example.org"),
    ],
)  # fmt: skip
def test_other_hosts(services: WebServices, host: str) -> None:
    """Any other host is not a container's."""
    assert not is_web_service(services, host)


@pytest.mark.parametrize("port", ["0", "65536", "x", "", "-1", "08080080", "\u0661"])
def test_impossible_ports(port: str) -> None:
    """A port that cannot be is a sentence that shows it."""
    with pytest.raises(BadRequest, match="not a port"):
        target(DOTS, f"{UUID}-{port}.c.example.org")
