"""Arvados UUIDs: ``CLUSTER-TYPE-RANDOM``, e.g. ``zzzzz-dz642-abcdeabcdeabcde``. Pure."""

from __future__ import annotations

import re

from arv_ssh.errors import UsageError

CONTAINER = "dz642"
CONTAINER_REQUEST = "xvhdp"
USER = "tpzed"
TOKEN = "gj3su"  # noqa: S105 - the type field of an api_client_authorization's uuid, not a secret
LINK = "o0j2j"
GROUP = "j7d0g"
COLLECTION = "4zz18"

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_UUID = re.compile(r"[0-9a-z]{5}-([0-9a-z]{5})-[0-9a-z]{15}")


def kind(text: str) -> str | None:
    """Return the type field of ``text``, or None when it is no UUID."""
    found = _UUID.fullmatch(text)
    return found.group(1) if found else None


def is_container(text: str) -> bool:
    """Say whether ``text`` is the UUID of a container."""
    return kind(text) == CONTAINER


def is_container_request(text: str) -> bool:
    """Say whether ``text`` is the UUID of a container request."""
    return kind(text) == CONTAINER_REQUEST


def check_target(text: str) -> str:
    """Return ``text`` when it names a container or a container request; raise :class:`UsageError` saying why not."""
    found = kind(text)
    if found in (CONTAINER, CONTAINER_REQUEST):
        return text
    if found is None:
        raise UsageError(
            f"{text!r} is not a container UUID: it should look like zzzzz-dz642-abcdeabcdeabcde "
            "(copy it from the container's or the container request's page)"
        )
    raise UsageError(f"{text} is not a container or container request ({found} is another type); give one of those")


def new(cluster_id: str, type_: str) -> str:
    """Return a fresh UUID of the given type on the given cluster."""
    import secrets  # 5 ms that ssh-proxy, which only reads UUIDs, need not spend

    return f"{cluster_id}-{type_}-{''.join(secrets.choice(_ALPHABET) for _ in range(15))}"
