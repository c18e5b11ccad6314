"""When the runtime ``oci`` starts a program without the OCI runtime, and when it leaves it to that."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from arv_ssh.errors import Unavailable
from crunch_sshd.runtimes import Command, StartFailed, bundle, oci, program_start
from crunch_sshd.runtimes.oci import OciRuntime
from tests.conformance.engines import Engine
from tests.conformance.places import KINDS, Place, start_failure
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def place(engine: Callable[[str], Engine]) -> Iterator[Place]:
    """A container of Docker's."""
    docker = engine("docker")
    container = docker.run()
    yield Place(KINDS["oci"], docker, container)
    docker.remove(container)


@pytest.fixture
def by_runtime(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that were left to the OCI runtime."""
    seen: list[str] = []
    real = OciRuntime._start_by_runtime

    def noted(self: OciRuntime, command: Any) -> Any:
        seen.append(command.argv[0])
        return real(self, command)

    monkeypatch.setattr(OciRuntime, "_start_by_runtime", noted)
    return seen


def said(place: Place, *argv: str) -> bytes:
    result = place.start(*argv).result()
    assert (result.err, result.status) == (b"", 0)
    return result.out


def test_usually(place: Place, by_runtime: list[str]) -> None:
    """A program with a path in a plain container needs no OCI runtime."""
    assert said(place, "/bin/echo", "on") == b"on\n"
    assert by_runtime == []


def test_a_name(place: Place, by_runtime: list[str]) -> None:
    """A program's name is for the OCI runtime to find."""
    assert said(place, "echo", "on") == b"on\n"
    assert by_runtime == ["echo"]


def test_a_container_that_is_not_plain(place: Place, by_runtime: list[str]) -> None:
    """What no test could compare with the OCI runtime is left to it."""
    assert isinstance(place.runtime, OciRuntime)
    place.runtime._bundle = replace(place.runtime._bundle, is_plain=False)
    assert said(place, "/bin/echo", "on") == b"on\n"
    assert by_runtime == ["/bin/echo"]


def test_groups_whose_names_are_numbers(place: Place, by_runtime: list[str]) -> None:
    """The versions of runc do not agree on what a number means then."""
    assert said(place, "/bin/sh", "-c", "echo 77:x:78: >>/etc/group") == b""
    assert said(place, "/bin/echo", "on") == b"on\n"
    assert by_runtime == ["/bin/echo"]


def test_failures(place: Place, by_runtime: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be started is refused in the OCI runtime's own words, as before."""
    found = start_failure(place, "/no/such/program")
    assert by_runtime == ["/no/such/program"]
    monkeypatch.setattr(oci.OciRuntime, "_is_plain", lambda self, command: False)
    reference = start_failure(place, "/no/such/program")
    assert (str(found), found.exit_status) == (str(reference), reference.exit_status)


def test_a_container_that_just_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first process that is gone, of which the OCI runtime does not know yet: the user reads that, and no errno."""
    ended = subprocess.Popen(["/bin/true"])
    ended.wait(DEADLINE)
    known = bundle.find_state(place.container)
    assert known is not None
    stale = replace(known, facts=known.facts | {"pid": ended.pid})
    monkeypatch.setattr(bundle, "find_state", lambda container_id: stale)
    with pytest.raises(Unavailable, match="^container .* has ended: its first process is gone$"):
        oci.find(place.container, "zzzzz-dz642-xxxxxxxxxxxxxxx")


def test_a_host_that_refuses(place: Place, by_runtime: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this cannot be done for a reason of the host's, the OCI runtime does it."""

    def refuse(*arguments: object) -> None:
        raise StartFailed("cannot take on the seccomp filter: Operation not permitted", 126)

    monkeypatch.setattr(program_start, "start", refuse)
    assert said(place, "/bin/echo", "on") == b"on\n"
    assert by_runtime == ["/bin/echo"]


@pytest.mark.parametrize("name", ["pipe", "pidfd_open"])
def test_no_room_to_hold_it(place: Place, by_runtime: list[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A program that has begun, but that this host has no room to hold, is ended, and never begun a second time."""
    real, pids = program_start.start, []

    def start(*arguments: Any) -> Any:
        started = real(*arguments)
        pids.append(started.pid)
        monkeypatch.setattr(os, name, refuse)
        return started

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(program_start, "start", start)
    with pytest.raises(OSError, match="Too many open files"):
        place.runtime.start(Command(["/bin/sleep", "1000"], place.runtime.account("")))
    monkeypatch.undo()
    assert by_runtime == []
    wait_for(lambda: not os.path.exists(f"/proc/{pids[0]}"), "the program's end")
    assert os.listdir("/proc/self/fd") == before
