"""Lists of records by the API's list methods, all pages of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from arv_ssh.net.upgrade import quote

if TYPE_CHECKING:
    from arv_ssh.client.controller import Controller

PAGE = 50
"""Records asked for at once: of each some fields only, so that a page stays far below what the client keeps (64 KB)."""


def page(controller: Controller, resource: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return one answer of a list method; a parameter that is not text goes as JSON."""
    parameters |= {"count": "none"}
    query = "&".join(
        f"{key}={quote(value if isinstance(value, str) else json.dumps(value, separators=(',', ':')))}"
        for key, value in parameters.items()
    )
    items = controller.get(f"{resource}?{query}", f"list of {resource.replace('_', ' ')}").get("items")
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def list_all(
    controller: Controller, resource: str, filters: list[list[Any]], select: list[str]
) -> list[dict[str, Any]]:
    """Return all records that fit, in the order of their UUIDs, however many pages that takes."""
    found: list[dict[str, Any]] = []
    after: list[list[Any]] = []
    while True:
        items = page(
            controller, resource, filters=[*filters, *after], select=select, order=["uuid"], limit=PAGE
        )
        found += items
        if len(items) < PAGE:
            return found
        after = [["uuid", ">", items[-1]["uuid"]]]
