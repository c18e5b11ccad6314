"""A session is what the engine's own exec is: the same user, privileges, limits, place and environment."""

from __future__ import annotations

import re

import pytest

from tests.conformance.conftest import StartPlace
from tests.conformance.places import Place

pytestmark = pytest.mark.timeout(300)
"""The first test of an engine waits for its start and for its image."""

STATUS = "Uid Gid CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Umask SigBlk SigIgn".split()
PROBE = (
    f"id -u; id -g; id -G | tr ' ' '\\n' | sort -u; pwd; "
    f"grep -E '^({'|'.join(STATUS)}):' /proc/self/status; cat /proc/self/cgroup; cat /proc/self/limits; "
    "cat /proc/self/oom_score_adj; touch /probe 2>&1 && rm /probe; ls -l /proc/self/ns | sed 's/.*-> //'; "
    "echo ENVIRONMENT; env"
)
VARIANTS = {
    "plain": (),
    "crunch": ("--user", "crunch"),
    "groups": ("--user", "crunch", "--group-add", "2000"),
    "bare uid": ("--user", "1234:4321"),
    "no capabilities": ("--cap-drop", "ALL"),
    "one capability": ("--cap-drop", "ALL", "--cap-add", "NET_RAW", "--user", "crunch"),
    "no new privileges": ("--security-opt", "no-new-privileges"),
    "no new privileges for crunch": ("--security-opt", "no-new-privileges", "--user", "crunch"),
    "read-only": ("--read-only",),
    "more capabilities": ("--cap-add", "SYS_PTRACE", "--cap-add", "NET_ADMIN"),
    "place": ("--workdir", "/home/crunch", "--env", "WHAT=a b", "--env", "EMPTY=", "--memory", "64m",
              "--ulimit", "nofile=100:200", "--ulimit", "nproc=500:600", "--oom-score-adj", "300"),
}  # fmt: skip


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_as_the_engines_exec(start_place: StartPlace, options: tuple[str, ...]) -> None:
    """The image's default user gets just what the engine's exec gives."""
    same(start_place(*options), "")


@pytest.mark.parametrize("options", [(), VARIANTS["no capabilities"], VARIANTS["no new privileges"]],
                         ids=["plain", "no capabilities", "no new privileges"])  # fmt: skip
def test_another_user(start_place: StartPlace, kind: str, options: tuple[str, ...]) -> None:
    """So does another user of the image, where the runtime lets another in."""
    if kind == "namespace":
        options = (*options, "--user", "crunch")  # it lets in the contained user only, by name too
    same(start_place(*options), "crunch")


@pytest.mark.parametrize("options", [VARIANTS["crunch"]], ids=["root in crunch's"])
def test_root_in_a_users_container(start_place: StartPlace, kind: str, options: tuple[str, ...]) -> None:
    """Root in a container that was started as another user is as much as the engine's exec makes of it."""
    if kind == "namespace":
        return  # refused: test_conformance.py
    same(start_place(*options), "root")


def same(place: Place, user: str) -> None:
    account = place.runtime.account(user)
    result = place.shell(PROBE, account=account).result()
    assert (result.err, result.status) == (b"", 0)
    reference = place.engine.exec(*(("--user", user) if user else ()), place.container, "/bin/sh", "-c", PROBE)
    ours, theirs = facts(result.out.decode()), facts(reference)
    assert (ours - theirs, theirs - ours) == (set(), set())


def facts(text: str) -> set[str]:
    """Return the lines, each with what it follows: the order of the environment's says nothing."""
    before, _, environment = text.partition("ENVIRONMENT\n")
    # runc before 1.1.13 may lose a race for the soft limit of open files against Go's own raising of it.
    before = re.sub(r"(Max open files +)\d+", r"\1", before)
    # Podman gives HOSTNAME to a container's program, and so has the OCI runtime it, but not to what it executes itself.
    variables = {line for line in environment.splitlines() if not line.startswith("HOSTNAME=")}
    return {f"{number}: {line}" for number, line in enumerate(before.splitlines())} | variables
