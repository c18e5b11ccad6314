"""What a container request may ask for: command, image, environment, mounts, constraints, priority.

Owns the checks that keep a request from becoming a container that no crunch-run can start, and the check of rights:
only an administrator can mount a directory of the host.
"""

from __future__ import annotations

import posixpath
from typing import Any

from arv_ssh.embedded import published_ports
from arv_ssh.embedded.call import Call
from arv_ssh.embedded.models import ContainerRequest
from arv_ssh.errors import Forbidden, Unprocessable

MAX_PRIORITY = 1000
MOUNT_KINDS = ("tmp", "bind")
_POSITIVE = ("vcpus", "ram", "keep_cache_ram", "keep_cache_disk")


def check_work(request: ContainerRequest, *, committed: bool) -> None:
    """Raise :class:`Unprocessable` naming the attribute that is wrong; a committed request must also be complete."""
    if not 0 <= request.priority <= MAX_PRIORITY:
        raise Unprocessable(f"priority must be an integer from 0 to {MAX_PRIORITY}, not {request.priority}")
    if request.output_ttl < 0 or request.container_count_max < 1:
        raise Unprocessable("output_ttl must be 0 or more, container_count_max 1 or more")
    if not all(isinstance(word, str) for word in request.command):
        raise Unprocessable("command must be a JSON array of strings")
    if committed and not (request.command and request.container_image and request.cwd):
        missing = [name for name in ("command", "container_image", "cwd") if not getattr(request, name)]
        raise Unprocessable(f"a container request is committed with {' and '.join(missing)} set")
    _check_environment(request.environment)
    for target, mount in request.mounts.items():
        _check_mount(target, mount)
    _check_constraints(request.runtime_constraints)
    published_ports.check(request)


def _check_environment(environment: dict[str, Any]) -> None:
    for name, value in environment.items():
        if not name or "=" in name or not isinstance(value, str):
            raise Unprocessable(f"environment has {name[:60]!r}, which is not a name with a string as its value")


def _check_mount(target: str, mount: Any) -> None:
    if not _is_plain_path(target) or target == "/":
        raise Unprocessable(f"mounts has {target!r}: a mount point is an absolute path without . and ..")
    kind = mount.get("kind") if isinstance(mount, dict) else None
    if kind not in MOUNT_KINDS:
        raise Unprocessable(f"the mount {target} is of kind {kind!r}; this cluster has {' and '.join(MOUNT_KINDS)}")
    if kind == "bind" and not _is_plain_path(mount.get("path")):
        raise Unprocessable(f"the bind mount {target} needs a path on the host: absolute, without . and ..")
    if not isinstance(mount.get("writable", False), bool):
        raise Unprocessable(f"writable of the mount {target} must be true or false")


def _is_plain_path(path: Any) -> bool:
    return isinstance(path, str) and path.startswith("/") and path == "/" + posixpath.normpath(path).lstrip("/")


def _check_constraints(constraints: dict[str, Any]) -> None:
    for name in _POSITIVE:
        value = constraints.get(name, 1)
        # 0 is Arvados' "none" for the two caches.
        if type(value) is not int or value < (0 if name.startswith("keep_") else 1):
            raise Unprocessable(f"{name} in runtime_constraints must be a positive integer, not {value!r}")
    hold = constraints.get("hold_on_failure", 0)
    if type(hold) not in (int, float) or not 0 <= hold < float("inf"):
        raise Unprocessable(f"hold_on_failure in runtime_constraints must be a number of seconds from 0, not {hold!r}")
    if not isinstance(constraints.get("shell_access", True), bool):
        raise Unprocessable("shell_access in runtime_constraints must be true or false")
    user = constraints.get("user", "-")
    if not isinstance(user, str) or not user:
        raise Unprocessable("user in runtime_constraints must be the name of a user in the container")


def check_mount_rights(call: Call, request: ContainerRequest) -> None:
    """Raise :class:`Forbidden` when a user without rights to the host asks for one of its directories."""
    if call.caller.is_admin:
        return
    for target, mount in request.mounts.items():
        if mount["kind"] == "bind":
            raise Forbidden(f"the mount {target} is of kind bind; only an administrator may mount host directories")
