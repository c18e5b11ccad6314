"""From an OCI process description to what a process is held to (capabilities(7), runtime-spec config.md)."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from crunch_sshd.runtimes import confinement

ALL = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]
MASK = 1 << 0 | 1 << 5 | 1 << 13
NONE = dict.fromkeys(confinement.CAPABILITY_SETS, 0)


def process(uid: int = 0, **more: Any) -> dict[str, Any]:
    return {"user": {"uid": uid, "gid": 0}, **more}


def test_root_gains_what_is_bounding() -> None:
    """A program of root has the bounding set; of another user nothing, but for what is ambient."""
    described = process(capabilities={"bounding": ALL, "inheritable": [], "effective": ALL, "permitted": ALL})
    root = {**NONE, "CapBnd": MASK, "CapPrm": MASK, "CapEff": MASK}
    assert confinement.capabilities(described, 0) == root
    assert confinement.capabilities(described, 1000) == {**NONE, "CapBnd": MASK}
    described["capabilities"] |= {"inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    assert confinement.capabilities(described, 1000) == {
        "CapInh": 32, "CapPrm": 32, "CapEff": 32, "CapBnd": MASK, "CapAmb": 32,
    }  # fmt: skip


def test_capabilities_of_tomorrow() -> None:
    """A capability that this program does not know is left out: less, never more, and no failure."""
    described = process(capabilities={"bounding": [*ALL, "CAP_OF_TOMORROW"]})
    assert confinement.capabilities(described, 1)["CapBnd"] == MASK
    assert confinement.capabilities(process(), 0) == NONE


@pytest.mark.parametrize(("uid", "kept"), [(0, True), (1000, True), (1234, False)])
def test_another_user_has_the_bounding_set_only(uid: int, kept: bool) -> None:
    """The container's own user and root keep the description; another user is left with what bounds."""
    described = process(1000, capabilities={"bounding": ALL, "ambient": ALL})
    found = confinement.without_more_than_bounding(described, uid)
    assert found["capabilities"] == (described["capabilities"] if kept else {"bounding": ALL})


def test_limits() -> None:
    """The description's limits come before the inherited ones; its highest number is none."""
    described = process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 2**64 - 1}])
    inherited = [(resource.RLIMIT_NOFILE, 5, 6), (resource.RLIMIT_CORE, 0, -1)]
    assert sorted(confinement.limits(described, inherited)) == sorted(
        [(resource.RLIMIT_NOFILE, 100, -1), (resource.RLIMIT_CORE, 0, -1)]
    )


@pytest.mark.parametrize(("described", "label"), [
    ({}, ""), ({"apparmorProfile": "docker-default"}, "docker-default"), ({"apparmorProfile": "unconfined"}, ""),
    ({"selinuxLabel": "system_u:system_r:container_t:s0:c1,c2"}, "system_u:system_r:container_t:s0:c1,c2"),
])  # fmt: skip
def test_label(described: dict[str, Any], label: str) -> None:
    """The label is AppArmor's or SELinux's; unconfined is none."""
    assert confinement.label(process(**described)) == label
