from typing import Any

import pytest

from arv_ssh.errors import Unprocessable
from crunch_sshd.run.container_options import Bind, from_record

RECORD: dict[str, Any] = {"uuid": "zzzzz-dz642-abcdeabcdeabcde", "container_image": "image:tag", "command": ["true"]}


def test_the_least_record() -> None:
    """What a record does not say is left to the image and the engine."""
    options = from_record(RECORD | {"environment": None, "mounts": None, "runtime_constraints": None, "cwd": None})
    assert (options.image, options.command) == ("image:tag", ("true",))
    assert (options.directory, options.user, options.memory, options.cpus) == (None, "", 0, 0.0)
    assert (options.scratch, options.binds, options.environment) == ((), (), {})


@pytest.mark.parametrize(("cwd", "directory"), [("", None), (".", None), ("/data", "/data"), ("sub", "sub")])
def test_cwd(cwd: str, directory: str | None) -> None:
    """An empty cwd and "." are the image's working directory."""
    assert from_record(RECORD | {"cwd": cwd}).directory == directory


def test_runtime_constraints() -> None:
    """ram is in bytes, vcpus in cores, user is the user the command runs as."""
    options = from_record(RECORD | {"runtime_constraints": {"ram": 1 << 30, "vcpus": 2, "user": "crunch"}})
    assert (options.memory, options.cpus, options.user) == (1 << 30, 2.0, "crunch")
    assert options.hold == 0.0
    assert from_record(RECORD | {"runtime_constraints": {"hold_on_failure": 60}}).hold == 60.0


def test_mounts() -> None:
    """tmp mounts are scratch directories, bind mounts are read-only unless they say writable."""
    mounts = {
        "/scratch": {"kind": "tmp", "capacity": 100},
        "/in": {"kind": "bind", "path": "/host/in"},
        "/out": {"kind": "bind", "path": "/host/out", "writable": True},
    }
    options = from_record(RECORD | {"mounts": mounts})
    assert options.scratch == ("/scratch",)
    assert options.binds == (Bind("/host/in", "/in", False), Bind("/host/out", "/out", True))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"container_image": ""}, "names no container_image"),
        ({"mounts": {"/k": {"kind": "collection"}}}, "the mount at /k is of kind collection"),
        ({"mounts": {"k": {"kind": "tmp"}}}, "'k' is not an absolute path"),
        ({"mounts": {"/k": {"kind": "bind", "path": "relative"}}}, "no absolute path of the host"),
        ({"runtime_constraints": {"ram": "much"}}, "runtime_constraints.ram is 'much'"),
        ({"runtime_constraints": {"vcpus": -1}}, "runtime_constraints.vcpus is -1"),
        ({"runtime_constraints": {"hold_on_failure": "1h"}}, "runtime_constraints.hold_on_failure is '1h'"),
        ({"runtime_constraints": {"hold_on_failure": float("nan")}}, "runtime_constraints.hold_on_failure is nan"),
    ],
)
def test_what_cannot_be_honoured_is_named(change: dict[str, Any], sentence: str) -> None:
    """A record that asks for something impossible is refused with a sentence naming the attribute."""
    with pytest.raises(Unprocessable, match=sentence):
        from_record(RECORD | change)
