"""``arv-ssh cluster run``: submit a container request as one of the users, and wait until its container runs.

Owns the request's attributes and the waiting. Says why a container did not get to Running.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from typing import Any

from arv_ssh.api.client import ApiClient
from arv_ssh.cli.cluster_dir import USERS, ClusterDir
from arv_ssh.cli.cluster_up import USER_UUIDS, root_client
from arv_ssh.config import cluster_config
from arv_ssh.errors import ArvSshError, UsageError

PRIORITY = 500
POLL = 0.1
"""Seconds between two looks at the record."""


def run(options: argparse.Namespace, command: list[str]) -> int:
    """Submit, wait, print; return the exit status. Ctrl-C and the time-out cancel the request."""
    directory = ClusterDir(options.dir)
    directory.check()
    api = root_client(directory, cluster_config.load(directory.config))
    # Ctrl-C between the API's doing it and our knowing of it would leave a request that is never cancelled.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    request = api.create("container_requests", attributes(options, command))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        container = _wait(api, request, options.timeout)
    except KeyboardInterrupt:
        api.update("container_requests", request["uuid"], {"priority": 0})
        print(f"arv-ssh: cancelled container request {request['uuid']}", file=sys.stderr)
        return 130
    print(json.dumps({"container_request_uuid": request["uuid"], "container_uuid": container["uuid"]}), flush=True)
    if container["state"] == "Running":
        return 0
    print(f"arv-ssh: {ending(container)}", file=sys.stderr)
    return 0 if container["state"] == "Complete" else 1


def attributes(options: argparse.Namespace, command: list[str]) -> dict[str, Any]:
    """Return the container request: submitted, for the API, by the user of ``--as`` (root may say so)."""
    if not command:
        raise UsageError("no command to run; put it after --, as in: … --image IMAGE -- sleep 600")
    user = _user(options.as_user)
    constraints: dict[str, Any] = {"vcpus": options.vcpus, "ram": options.ram}
    if options.user:
        constraints["user"] = options.user
    if options.hold_on_failure:
        constraints["hold_on_failure"] = options.hold_on_failure
    return {
        "name": "arv-ssh cluster run",
        "state": "Committed",
        "priority": PRIORITY,
        "owner_uuid": user,
        "modified_by_user_uuid": user,
        "container_image": options.image,
        "command": command,
        "cwd": options.cwd,
        "environment": dict(_pair(text) for text in options.env),
        "mounts": dict(_mount(text) for text in options.mount),
        "published_ports": dict(_published(text) for text in options.publish),
        "output_path": options.cwd,
        "runtime_constraints": constraints,
        "scheduling_parameters": {"partitions": options.partition} if options.partition else {},
        # A container of its own, once: who wants to share one says --reuse.
        "use_existing": options.reuse,
        "container_count_max": 1,
    }


def ending(container: dict[str, Any]) -> str:
    """Say in one sentence how a container ended."""
    uuid, state = container["uuid"], container["state"]
    reason = (container.get("runtime_status") or {}).get("error")
    if state == "Complete":
        return f"container {uuid} has ended (Complete, exit {container.get('exit_code')})"
    return f"container {uuid} was {state}: {reason or 'the request was cancelled'}"


def _wait(api: ApiClient, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Return the container once it is Running or has ended."""
    if not request["container_uuid"]:
        raise ArvSshError(f"container request {request['uuid']} got no container")
    deadline = time.monotonic() + timeout
    while True:
        container = api.get("containers", request["container_uuid"])
        if container["state"] not in ("Queued", "Locked"):
            return container
        if time.monotonic() > deadline:
            api.update("container_requests", request["uuid"], {"priority": 0})
            raise ArvSshError(
                f"container {container['uuid']} is still {container['state']} after {timeout:g} s, so its request is "
                "cancelled; the dispatcher's log may say why"
            )
        time.sleep(POLL)


def _user(text: str) -> str:
    if text in USER_UUIDS:
        return USER_UUIDS[text]
    if "-tpzed-" in text:
        return text
    raise UsageError(f"--as {text}: no such user; give one of {', '.join(USERS)} or a user's UUID")


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise UsageError(f"--env {text}: it must be NAME=VALUE")
    return name, value


def _published(text: str) -> tuple[str, dict[str, str]]:
    port, _, access = text.partition(":")
    if not port.isdecimal() or access not in ("", "private", "public"):
        raise UsageError(f"--publish {text}: it must be PORT or PORT:public")
    return port, {"access": access or "private", "label": f"port {port}", "initial_path": ""}


def _mount(text: str) -> tuple[str, dict[str, Any]]:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source.startswith("/") or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise UsageError(f"--mount {text}: it must be /SOURCE:/TARGET or /SOURCE:/TARGET:ro, with absolute paths")
    return target, {"kind": "bind", "path": source, "writable": mode != "ro"}
