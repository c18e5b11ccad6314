"""A session is what the engine's own exec is: the same user, privileges, limits, place and environment."""

from __future__ import annotations

import re

import pytest

from arv_ssh.errors import Forbidden
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
    "home": ("--env", "HOME=/m/h"),
    "empty home": ("--env", "HOME=", "--user", "crunch"),
    "home of a bare uid": ("--user", "4711:4711", "--env", "HOME=/m/h"),
    "no capabilities": ("--cap-drop", "ALL"),
    "one capability": ("--cap-drop", "ALL", "--cap-add", "NET_RAW", "--user", "crunch"),
    "no new privileges": ("--security-opt", "no-new-privileges"),
    "no new privileges for crunch": ("--security-opt", "no-new-privileges", "--user", "crunch"),
    "read-only": ("--read-only",),
    "more capabilities": ("--cap-add", "SYS_PTRACE", "--cap-add", "NET_ADMIN"),
    "place": ("--workdir", "/home/crunch", "--env", "WHAT=a b", "--env", "EMPTY=", "--memory", "64m",
              "--ulimit", "nofile=100:200", "--ulimit", "nproc=500:600", "--oom-score-adj", "300"),
}  # fmt: skip
GROUPS = "root:x:0:\nstaff:x:50:root,crunch\ncrunch:x:1000:\n77:x:78:crunch\nnumber:x:79:4711"
GROUPED = ("--hostname", "grouped"), ("--hostname", "grouped", "--group-add", "2000")
USERS = (
    "root", "crunch", "0", "1000", "01000", "crunch:", "crunch:staff", "crunch:50", "crunch:77", "1000:staff", "1000:5",
    "4711", "4711:4711", "4711:staff", "0:crunch", "root:5", "2147483647:2147483647",
)  # fmt: skip


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_as_the_engines_exec(start_place: StartPlace, options: tuple[str, ...]) -> None:
    """The image's default user gets just what the engine's exec gives."""
    same(start_place(*options), "")


@pytest.mark.parametrize(
    "options", [(), VARIANTS["no capabilities"], VARIANTS["no new privileges"], VARIANTS["home"]],
    ids=["plain", "no capabilities", "no new privileges", "home"],
)  # fmt: skip
def test_another_user(start_place: StartPlace, kind: str, options: tuple[str, ...]) -> None:
    """So does another user of the image, where the runtime lets another in."""
    if kind == "namespace":
        options = (*options, "--user", "crunch")  # it lets in the contained user only, by name too
    same(start_place(*options), "crunch")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("options", GROUPED, ids=["plain", "groups added"])
def test_users_and_groups(start_place: StartPlace, kind: str, options: tuple[str, ...], user: str) -> None:
    """A user may be named as with the engine's exec: by name or number, with a group by name or number, or without."""
    if kind == "namespace":
        return  # refused: test_conformance.py
    place = start_place(*options)
    place.engine.exec("--user", "0", place.container, "sh", "-c", f"echo '{GROUPS}' >/etc/group")
    same(place, user)


@pytest.mark.parametrize(
    "user", ["nobody-here", "crunch:no-group", "4711:no-group", "2147483648", "1:2147483648", "-1"]
)
def test_unknown_users(start_place: StartPlace, user: str) -> None:
    """Whom the engine's exec refuses, we refuse."""
    place = start_place()
    with pytest.raises(Forbidden, match="has no (user|group) "):
        place.runtime.account(user)
    with pytest.raises(AssertionError):
        place.engine.exec("--user", user, place.container, "true")


@pytest.mark.parametrize("options", [VARIANTS["crunch"], (*VARIANTS["crunch"], *VARIANTS["home"])],
                         ids=["root in crunch's", "with a home"])  # fmt: skip
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
    assert f"HOME={account.home}" in theirs  # it is the home of files and agents too
    assert (ours - theirs, theirs - ours) == (set(), set())


def facts(text: str) -> set[str]:
    """Return the lines, each with what it follows: the order of the environment's says nothing."""
    before, _, environment = text.partition("ENVIRONMENT\n")
    # runc before 1.1.13 may lose a race for the soft limit of open files against Go's own raising of it.
    before = re.sub(r"(Max open files +)\d+", r"\1", before)
    # Podman gives HOSTNAME to a container's program, and so has the OCI runtime it, but not to what it executes itself.
    variables = {line for line in environment.splitlines() if not line.startswith("HOSTNAME=")}
    return {f"{number}: {line}" for number, line in enumerate(before.splitlines())} | variables
