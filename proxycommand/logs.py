"""``arvados-client logs``: what a container has logged so far, or with -f all of it until the container ends.

Owns the looks at the container's record, how a line is printed, and the exit code: the container's own.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from arv_ssh import uuids
from arv_ssh.client import settings
from arv_ssh.client.container_logs import ContainerLog
from arv_ssh.client.controller import Controller
from arv_ssh.client.listing import page
from arv_ssh.client.messages import tell
from arv_ssh.client.targets import resolve
from arv_ssh.errors import BadGateway, ContainerEnded, GatewayTimeout, NotFound, Unavailable
from arv_ssh.net.upgrade import quote

POLL = 1.0
"""Seconds between two looks."""
PATIENCE = 30
"""Looks in a row that may fail: a controller that restarts is back by then."""
_ENDED = ("Complete", "Cancelled")
_CONTAINER = quote('["uuid","state","exit_code","runtime_status"]')


def run(options: argparse.Namespace) -> int:
    """Print the log; return the container's exit code once it has ended, else 0."""
    controller = Controller(settings.load(options.settings, target=options.uuid))
    request, container = _find(controller, options.uuid)
    while True:
        record = _print(controller, request, container, follow=options.follow)
        following = _container_of(controller, options.uuid) if options.follow else container
        if following == container:
            return _exit_code(record)
        tell(f"container {container} was cancelled; container {following} runs in its place")
        container = following


def _find(controller: Controller, target: str) -> tuple[str, str]:
    """Return a container request through which the log can be read, and the container."""
    container = resolve(controller, target, waiting=True)
    if uuids.is_container_request(target):
        return target, container
    filters = [["container_uuid", "=", container]]
    requests = page(controller, "container_requests", filters=filters, select=["uuid"], limit=1)
    if not requests:
        raise NotFound(f"you can see no container request of container {container}, so not its log either")
    return str(requests[0]["uuid"]), container


def _container_of(controller: Controller, target: str) -> str:
    """Return the container that runs for a request now: a cancelled one may have been replaced."""
    return resolve(controller, target) if uuids.is_container_request(target) else target


def _print(controller: Controller, request: str, container: str, *, follow: bool) -> dict[str, Any]:
    """Print what there is, with ``follow`` until the container has ended; return its record."""
    log = ContainerLog(controller, request, container)
    failures = 0
    while True:
        try:
            # The record first: what an ended container has logged is complete.
            record = controller.get(f"containers/{container}?select={_CONTAINER}", "container", container)
            final = record.get("state") in _ENDED
            _print_new(log, final=final or not follow)
        except (Unavailable, BadGateway, GatewayTimeout):
            failures += 1
            if not follow or failures > PATIENCE:
                raise
        else:
            failures = 0
            if final or not follow:
                return record
        time.sleep(POLL)


def _print_new(log: ContainerLog, *, final: bool) -> None:
    output = sys.stdout.buffer
    for line in log.new_lines(final=final):
        output.write(b"%-14s %s\n" % (line.file.encode(), line.text))
    output.flush()


def _exit_code(record: dict[str, Any]) -> int:
    state, code = record.get("state"), record.get("exit_code")
    if state == "Cancelled":
        status = record.get("runtime_status")
        reason = " ".join(str(status.get("error") or "").split()) if isinstance(status, dict) else ""
        raise ContainerEnded(f"container {record.get('uuid')} was cancelled{f': {reason}' if reason else ''}")
    return int(code) if state == "Complete" and code is not None else 0
