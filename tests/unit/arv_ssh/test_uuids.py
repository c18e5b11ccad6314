"""Arvados UUIDs: what is one, and what a user reads who gave something else."""

from __future__ import annotations

import pytest

from arv_ssh import uuids
from arv_ssh.errors import UsageError

CONTAINER = "zzzzz-dz642-abcdeabcdeabcde"


@pytest.mark.parametrize(
    "text",
    ["", "zzzzz", CONTAINER + "e", CONTAINER[:-1], CONTAINER.upper(), CONTAINER + "\n", " " + CONTAINER,
     "zzzzz_dz642_abcdeabcdeabcde", "zzzzz-dz642-abcdeabcdeabcdé", "../../etc/passwd"],
)  # fmt: skip
def test_malformed(text: str) -> None:
    """What is not exactly a UUID has no kind, and the refusal shows what one looks like."""
    assert uuids.kind(text) is None
    assert not uuids.is_container(text) and not uuids.is_container_request(text)
    with pytest.raises(UsageError, match="should look like zzzzz-dz642-") as caught:
        uuids.check_target(text)
    assert repr(text) in str(caught.value) and caught.value.exit_code == 2


def test_targets() -> None:
    """Containers and container requests are targets, and are told apart."""
    request = CONTAINER.replace("dz642", "xvhdp")
    assert uuids.check_target(CONTAINER) == CONTAINER and uuids.check_target(request) == request
    assert uuids.is_container(CONTAINER) and not uuids.is_container(request)
    assert uuids.is_container_request(request) and not uuids.is_container_request(CONTAINER)


def test_other_type() -> None:
    """Another type of UUID is refused by a sentence that names the type."""
    with pytest.raises(UsageError, match="4zz18 is another type"):
        uuids.check_target("zzzzz-4zz18-abcdeabcdeabcde")


def test_new() -> None:
    """A fresh UUID has the cluster and type asked for, and is not given twice."""
    made = {uuids.new("abcde", uuids.CONTAINER) for _ in range(100)}
    assert len(made) == 100
    assert all(one.startswith("abcde-dz642-") and uuids.is_container(one) for one in made)
