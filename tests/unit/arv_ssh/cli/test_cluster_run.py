from typing import Any

import pytest

from arv_ssh.cli import cluster_run
from arv_ssh.cli.main import parser
from arv_ssh.errors import UsageError

ACTIVE = "zzzzz-tpzed-xurymjxw79nv3jz"


def attributes(*arguments: str) -> dict[str, Any]:
    """Return the container request of a command line."""
    options = parser().parse_args(["cluster", "run", "--dir", "d", "--image", "image:tag", *arguments])
    return cluster_run.attributes(options, ["sleep", "600"])


def test_defaults() -> None:
    """Without options: submitted by the active user, in a container of its own, with the image's directory and user."""
    request = attributes()
    assert (request["owner_uuid"], request["modified_by_user_uuid"]) == (ACTIVE, ACTIVE)
    assert (request["state"], request["container_image"], request["command"]) == (
        "Committed",
        "image:tag",
        ["sleep", "600"],
    )
    assert (request["use_existing"], request["container_count_max"], request["cwd"]) == (False, 1, ".")
    assert "user" not in request["runtime_constraints"]


def test_options() -> None:
    """Each option of design section 5 becomes the attribute it names."""
    request = attributes(
        *("--as", "admin", "--user", "crunch", "--cwd", "/data", "--reuse"),
        *("--env", "A=b=c", "--env", "E=", "--mount", "/src:/dst", "--mount", "/ro:/mnt:ro"),
    )
    assert request["modified_by_user_uuid"] == "zzzzz-tpzed-d9tiejq69daie8f"
    assert request["runtime_constraints"]["user"] == "crunch"
    assert (request["cwd"], request["use_existing"]) == ("/data", True)
    assert request["environment"] == {"A": "b=c", "E": ""}
    assert request["mounts"] == {
        "/dst": {"kind": "bind", "path": "/src", "writable": True},
        "/mnt": {"kind": "bind", "path": "/ro", "writable": False},
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--as", "nobody"], "--as nobody: no such user"),
        (["--env", "A"], "--env A: it must be NAME=VALUE"),
        (["--mount", "/src"], "--mount /src: it must be"),
        (["--mount", "src:/dst"], "--mount src:/dst: it must be"),
        (["--mount", "/src:/dst:xx"], "--mount /src:/dst:xx: it must be"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], sentence: str) -> None:
    """A value that cannot be used is refused with a sentence that shows it."""
    with pytest.raises(UsageError, match=sentence):
        attributes(*arguments)


def test_no_command() -> None:
    """A request without a command is refused before anything is submitted."""
    options = parser().parse_args(["cluster", "run", "--dir", "d", "--image", "image:tag"])
    with pytest.raises(UsageError, match="no command to run"):
        cluster_run.attributes(options, [])


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"state": "Complete", "exit_code": 3}, "has ended (Complete, exit 3)"),
        ({"state": "Cancelled", "runtime_status": {"error": "no image"}}, "was Cancelled: no image"),
        ({"state": "Cancelled", "runtime_status": {}}, "was Cancelled: the request was cancelled"),
    ],
)
def test_ending(record: dict[str, Any], sentence: str) -> None:
    """A container that is not Running is told with its state and reason."""
    assert cluster_run.ending({"uuid": "U"} | record) == f"container U {sentence}"
