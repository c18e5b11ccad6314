"""The section ContainerWebServices: stock's own examples, and mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from arv_ssh.config.web_services import WebServices, parse
from arv_ssh.errors import ConfigError

UUID = "zzzzz-dz642-abcdeabcdeabcde"


@pytest.mark.parametrize(
    ("section", "expected", "url"),
    [
        ({}, WebServices(), ""),
        ({"ExternalURL": ""}, WebServices(), ""),
        (
            {"ExternalURL": "https://*.containers.zzzzz.example.org"},
            WebServices("https", "*.containers.zzzzz.example.org", 443),
            f"https://{UUID}-80.containers.zzzzz.example.org/",
        ),
        (
            {"ExternalURL": "https://*--containers.zzzzz.example.org:8443/"},
            WebServices("https", "*--containers.zzzzz.example.org", 8443),
            f"https://{UUID}-80--containers.zzzzz.example.org:8443/",
        ),
        (
            {"ExternalURL": "https://zzzzz.example.org", "ExternalPortMin": 8000, "ExternalPortMax": 8100},
            WebServices("https", "zzzzz.example.org", 443, 8000, 8100),
            "https://zzzzz.example.org:8001/",
        ),
    ],
)
def test_sections(section: dict[str, Any], expected: WebServices, url: str) -> None:
    """Stock's forms are read, and give a port the address that stock gives it."""
    found = parse(section, "here")
    assert found == expected
    assert found.base_url(UUID, "80", 8001) == url


@pytest.mark.parametrize(
    "section",
    [
        {"ExternalURL": "https://containers*.example.org"},
        {"ExternalURL": "https://*.org*"},
        {"ExternalURL": "https://*"},
        {"ExternalURL": "ftp://*.containers.example.org"},
        {"ExternalURL": "*.containers.example.org"},
        {"ExternalURL": 8},
        {"ExternalURL": "https://example.org", "ExternalPortMin": "8000"},
        {"ExternalURL": "https://example.org", "ExternalPortMin": 8100, "ExternalPortMax": 8000},
        {"ExternalURL": "https://example.org", "ExternalPortMax": 65536},
        {"ExternalURL": "https://*.example.org"},
    ],
)
def test_mistakes(section: dict[str, Any]) -> None:
    """What is no such URL or port, or would take the controller's own address, is a sentence about the key."""
    with pytest.raises(ConfigError, match=r"^here\.External"):
        parse(section, "here", "https://zzzzz.example.org")
