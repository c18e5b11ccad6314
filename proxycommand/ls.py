"""``arvados-client ls``: the containers that run or wait and that this user can see, and whether they can be entered.

Owns the table and the JSON. A container's details come from its record; whether it may be entered is up to the
controller, which is asked about each: a client cannot see all requests of a container, so it would have to guess.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from arv_ssh.client.controller import Controller
from arv_ssh.client.listing import list_all
from arv_ssh.client.messages import printable
from arv_ssh.client.settings import load
from arv_ssh.errors import (
    BadRequest,
    ContainerEnded,
    Forbidden,
    HttpError,
    MethodNotAllowed,
    NotFound,
    Unavailable,
)
from proxycommand import host_names

ASKED_AT_ONCE = 8
"""Questions to the controller that are under way together; each is a connection of its own."""

_STATES = ["Running", "Locked", "Queued"]
_CONTAINER = ["uuid", "state", "priority", "started_at", "created_at", "gateway_address"]
_REQUEST = ["uuid", "name", "container_uuid", "created_at"]

Row = dict[str, Any]


def run(options: argparse.Namespace) -> int:
    """Print a line for each container, or JSON, or the UUIDs of those that can be entered."""
    controller = Controller(load(options.settings, cluster=options.cluster))
    listed = rows(controller)
    if options.json:
        print(json.dumps(listed, indent=2))
    elif options.uuids:
        print("".join(f"{row['uuid']}\n" for row in listed if row["shell"] == "allowed"), end="")
    elif listed:
        _print_table(listed)
    else:
        print(f"you can see no running or waiting container on {controller.settings.authority}")
    return 0


def rows(controller: Controller) -> list[Row]:
    """Return the listed containers in the form of --json, and let shells complete them from now on."""
    containers = list_all(controller, "containers", [["state", "in", _STATES], ["priority", ">", 0]], _CONTAINER)
    requests = _newest_requests(controller, [container["uuid"] for container in containers])
    answers = _ask(controller, containers)
    found = [
        _row(container, requests.get(container["uuid"], {}), *answer)
        for container, answer in zip(containers, answers, strict=True)
        if answer[0] != "ended"
    ]
    # Running ones first, and within each state the youngest first: the ones just started.
    found.sort(key=lambda row: row["since"] or "", reverse=True)
    found.sort(key=lambda row: _STATES.index(row["state"]))
    host_names.remember(controller.settings.authority, found)
    return found


def _newest_requests(controller: Controller, containers: list[str]) -> dict[str, Row]:
    """Return the newest request of each container, of those that this user can see."""
    found: dict[str, Row] = {}
    for start in range(0, len(containers), 50):  # 50 UUIDs make a query of 2 KB, which every proxy lets through
        filters = [["container_uuid", "in", containers[start : start + 50]]]
        for request in list_all(controller, "container_requests", filters, _REQUEST):
            before = found.get(request["container_uuid"])
            if before is None or before["created_at"] < request["created_at"]:
                found[request["container_uuid"]] = request
    return found


def _ask(controller: Controller, containers: list[Row]) -> list[tuple[str, str | None]]:
    """Ask for each container whether it may be entered. Ctrl-C hangs up the pipe that pending ones watch."""
    controller.watch, hang_up = os.pipe()
    try:
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            try:
                return list(pool.map(lambda container: _may_enter(controller, container), containers))
            finally:
                os.close(hang_up)
    finally:
        os.close(controller.watch)
        controller.watch = None


def _may_enter(controller: Controller, container: Row) -> tuple[str, str | None]:
    """Return "allowed"; or "refused", "not yet" or "unknown", and the reason; or "ended", for one that just has."""
    uuid = container["uuid"]
    try:
        controller.get(f"containers/{uuid}/ssh", "container", uuid)
    except ContainerEnded:
        return "ended", None
    except (BadRequest, MethodNotAllowed, NotFound):
        # A stock Arvados controller, or one of ours before this question existed, has no GET there.
        return "unknown", "this controller cannot say in advance; try"
    except Unavailable as error:
        # The same status also means that shell access is disabled.
        return "not yet" if "not running" in str(error) else "refused", str(error)
    except Forbidden as error:
        return "refused", str(error)
    except HttpError as error:
        return "unknown", str(error)
    return "allowed", None


def _row(container: Row, request: Row, shell: str, reason: str | None) -> Row:
    running = container["state"] == "Running"
    return {
        "uuid": container["uuid"],
        "container_request_uuid": request.get("uuid"),
        "name": request.get("name"),
        "state": container["state"],
        "since": (container.get("started_at") if running else None) or container.get("created_at"),
        "node": (container.get("gateway_address") or "").rpartition(":")[0].strip("[]") or None,
        "shell": shell,
        "reason": reason,
    }


def _print_table(listed: list[Row]) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 80
    now = datetime.now(UTC)
    shown = [("UUID", "STATE", "SINCE", "SHELL", "NODE", "NAME")]
    words = {"allowed": "yes", "refused": "no", "not yet": "later", "unknown": "?"}
    shown += [
        (
            row["uuid"], row["state"], _age(row["since"], now), words[row["shell"]], printable(row["node"] or "-"),
            printable(row["name"] or "-"),
        )
        for row in listed
    ]  # fmt: skip
    node = min(max(len(line[4]) for line in shown), 15)
    for line, row in zip(shown, [None, *listed], strict=True):
        text = f"{line[0]:27}  {line[1]:7}  {line[2]:6}  {line[3]:5}  {_cut(line[4], node):{node}}  {line[5]}"
        print(_cut(text, width).rstrip())
        if row and row["reason"] and row["shell"] != "not yet":
            reason = f"{words[row['shell']]}: {row['reason']}".replace(f"container {row['uuid']}", "it")
            print(textwrap.fill(printable(reason), width, initial_indent="    ", subsequent_indent="    "))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _age(since: str | None, now: datetime) -> str:
    if not since:
        return "-"
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
