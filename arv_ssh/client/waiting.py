"""``--wait``: a session in a container that is still in the queue, as soon as it runs.

Owns when to look again and what ends the wait; :mod:`arv_ssh.client.messages` owns how progress is shown. The session
is requested first, so that users who may not enter find out at once.
"""

from __future__ import annotations

import select
import time

from arv_ssh import uuids
from arv_ssh.client.controller import AcceptedUpgrade, Controller
from arv_ssh.client.messages import Progress
from arv_ssh.client.targets import resolve
from arv_ssh.client.transport import Abandoned
from arv_ssh.errors import BadGateway, ContainerEnded, GatewayTimeout, Unavailable
from arv_ssh.net.upgrade import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SHORTEST, LONGEST = 0.5, 10.0
"""Seconds between two looks at a record: the first, and the most it grows to."""
GROWTH = 1.25
PATIENCE = 5
"""Failures in a row to reach the API that end a wait; a wait may last for hours, so one failure does not end it."""

_WAITING = ("Queued", "Locked")
_CONTAINER = quote('["uuid","state","priority","runtime_status"]')
_REQUEST = quote('["uuid","state","priority","container_uuid"]')


class Wait:
    """A wait for ``target``, a UUID or NAME.arv; it ends when what ``controller`` watches hangs up."""

    def __init__(self, controller: Controller, target: str) -> None:
        self._controller = controller
        self._target = target
        self._progress = Progress()
        self._pause = SHORTEST
        self._failures = 0

    def open_session(self, user: str, detach_keys: str) -> tuple[str, AcceptedUpgrade]:
        """Return the container and a session in it, once it runs; raise what ends the wait."""
        try:
            container, running = self._container(), False
            while True:
                try:
                    return container, self._controller.open_session(container, user, detach_keys)
                except Unavailable as error:
                    if running or "disabled" in str(error):  # so it is not that, or waiting would not help
                        raise
                try:
                    self._wait_until_running(container)
                    running = True
                except ContainerEnded:
                    ended, container = container, self._container()
                    if ended == container:  # else its request has been given another one
                        raise
        finally:
            self._progress.done()

    def _container(self) -> str:
        """Return the container of the target, waiting for a request to have one."""
        while True:
            try:
                return resolve(self._controller, self._target, waiting=True)
            except Unavailable:
                if not uuids.is_container_request(self._target):
                    raise
                path = f"container_requests/{self._target}?select={_REQUEST}"
                record = self._look(path, "container request", self._target)
                if record.get("state") != "Committed" or record.get("priority") == 0:
                    raise
                self._sleep(f"container request {self._target}", "has no container yet")

    def _wait_until_running(self, container: str) -> None:
        path = f"containers/{container}?select={_CONTAINER}"
        while (record := self._look(path, "container", container)).get("state") != "Running":
            state = record.get("state")
            if state not in _WAITING:
                raise ContainerEnded(_ending(container, record))
            if record.get("priority") == 0:
                raise ContainerEnded(f"container {container} is {state} with priority 0: its requests are cancelled")
            self._sleep(f"container {container}", f"is {state}")

    def _look(self, path: str, kind: str, uuid: str = "") -> dict[str, Any]:
        while True:
            try:
                record = self._controller.get(path, kind, uuid)
            except (Unavailable, BadGateway, GatewayTimeout) as error:
                self._failures += 1
                if self._failures >= PATIENCE:
                    raise
                self._sleep(f"{kind} {uuid}".rstrip(), str(error))
            else:
                self._failures = 0
                return record

    def _sleep(self, what: str, state: str) -> None:
        self._progress.show(f"waiting: {what} {state}", state)
        if self._controller.watch is None:
            time.sleep(self._pause)
        else:
            poll = select.poll()
            poll.register(self._controller.watch, 0)  # errors and hang-ups are reported unasked
            if poll.poll(self._pause * 1000):
                raise Abandoned("the program that started ssh-proxy has exited")
        self._pause = min(LONGEST, self._pause * GROWTH)


def _ending(container: str, record: dict[str, Any]) -> str:
    status = record.get("runtime_status")
    reason = status.get("error") if isinstance(status, dict) else None
    step = "submit it again" if record.get("state") == "Cancelled" else "it cannot be entered any more"
    return f"container {container} is {record.get('state')}{f': {reason}' if reason else ''}; {step}"
