"""The process that keeps the container's record for the sidecar, and keeps it right whatever becomes of that one.

Owns the API's tokens, the search for the container, and ``gateway_address``: the sidecar's once that one serves,
stock's again if the sidecar is gone before the job. Only if both die at once does the record lead nowhere.

They talk by :mod:`crunch_sshd.gateway.control`. ``begin`` has the container and the dispatcher's token, which is traded
for the container's own and forgotten; ``stock`` has the pid of stock's process. ``found`` answers with the container
and the address of stock's gateway. ``address`` is then to be recorded, each time it changes; ``recorded`` says that it
is. ``stop`` means that the job is over.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from queue import Empty, SimpleQueue
from typing import Any

from arv_ssh import log
from arv_ssh.api.client import ApiClient
from arv_ssh.errors import ArvSshError
from arv_ssh.log import event
from arv_ssh.processes import core_dumps
from crunch_sshd.beside.container_search import Search, search
from crunch_sshd.gateway import control
from crunch_sshd.gateway.control import Control
from crunch_sshd.run.container_record import ContainerRecord, api_client, patiently
from crunch_sshd.runtimes import engine_over_ssh

logger = logging.getLogger(__name__)

MODULE = "crunch_sshd.beside.record_keeper"
FIRST_LOOK, LONGEST_LOOK = 0.2, 3.0
"""Seconds between looks for the container, doubling: the engine's event may be missed, and namespaces have none."""
FOREVER = float("inf")
GIVE_BACK_PATIENCE = 60.0
"""Seconds for which stock's address is tried to be written back: a job may go on for days, but this process ends."""
LOOK = {"kind": "look"}


class SidecarEnded(Exception):
    """The sidecar has said its last word, or died without one (``orderly`` is False)."""

    def __init__(self, orderly: bool) -> None:
        super().__init__()
        self.orderly = orderly


class Inbox:
    """The sidecar's messages; a thread of its own receives them."""

    def __init__(self, received: Control) -> None:
        self._control = received
        self._messages: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._over = threading.Event()
        threading.Thread(target=self._receive, name="control", daemon=True).start()

    def _receive(self) -> None:
        while (message := self._control.receive()).get("kind") not in (None, "stop"):
            self._messages.put(message)
        self._messages.put(message)
        self._over.set()

    def wake(self) -> None:
        """Have :meth:`take` return soon. Any thread."""
        self._messages.put(LOOK)

    def pause(self, seconds: float) -> bool:
        """Wait; False once the sidecar has ended."""
        return not self._over.wait(seconds)

    def take(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message, :data:`LOOK` when the time is up. Raises :class:`SidecarEnded`."""
        try:
            message = self._messages.get(timeout=timeout)
        except Empty:
            return LOOK
        if message.get("kind") in (None, "stop"):
            raise SidecarEnded(orderly=bool(message))
        return message

    def wait_for(self, kind: str) -> dict[str, Any]:
        """Return the next message of that kind; others before it mean nothing."""
        while (message := self.take())["kind"] != kind:
            pass
        return message


class RecordKeeper:
    """Keeps the record of the container ``uuid``."""

    def __init__(self, uuid: str, record: ContainerRecord, sidecar: Control, inbox: Inbox) -> None:
        self._uuid = uuid
        self._record = record
        self._sidecar = sidecar
        self._inbox = inbox
        self._inner = ""
        self._recorded = ""

    def run(self, engine: str) -> None:
        """Work until the sidecar has ended. Raises the API's refusal."""
        try:
            stock = self._inbox.wait_for("stock")["pid"]
            self._announce(search(engine, self._uuid, stock))
            while True:
                self._update(self._inbox.wait_for("address")["address"])
        except SidecarEnded as ended:
            if not ended.orderly and self._recorded:
                self._give_back()

    def _announce(self, container: Search) -> None:
        """Wait until the container runs and stock has recorded its gateway; tell the sidecar of both."""
        container.watch(self._inbox.wake)
        seconds = FIRST_LOOK
        while True:
            found = container.find()
            if found and (inner := self._stocks_address()):
                break
            self._inbox.take(seconds)
            seconds = min(2 * seconds, LONGEST_LOOK)
        self._inner = inner
        event(logger, "the container runs", container_uuid=self._uuid, container=found, inner_address=inner)
        self._sidecar.send("found", container=found, inner=inner)

    def _stocks_address(self) -> str:
        """Return the address that stock has recorded for this attempt, "" while it has not."""
        record = patiently(self._record.get, "read the record", self._inbox.pause, FOREVER)
        return record["gateway_address"] or "" if record["state"] == "Running" else ""

    def _update(self, address: str) -> None:
        if address == self._recorded:
            return
        self._record.update({"gateway_address": address}, FOREVER)
        self._recorded = address
        event(logger, "gateway address recorded", container_uuid=self._uuid, gateway_address=address)
        self._sidecar.send("recorded")

    def _give_back(self) -> None:
        """Record stock's gateway again, which served the container before us."""
        record = self._record.with_pause(_sleep)
        record.update({"gateway_address": self._inner}, GIVE_BACK_PATIENCE)
        event(logger, "the sidecar is gone; sessions go to stock's gateway", level=logging.WARNING,
              container_uuid=self._uuid, gateway_address=self._inner)  # fmt: skip


def _sleep(seconds: float) -> bool:
    return not threading.Event().wait(seconds)


def main() -> int:
    """Keep the record of one container; return 1 when the API refuses that."""
    log.configure()
    core_dumps.forbid()
    engine_over_ssh.spare()
    sidecar = Control(control.passed(int(sys.argv[1])))
    begin = sidecar.receive()
    if not begin:
        return 0
    from setproctitle import setproctitle

    setproctitle(f"crunch-run-beside record of {begin['uuid']}")
    inbox = Inbox(sidecar)
    try:
        api = _containers_own(begin["uuid"], begin.pop("token"), inbox)
        record = ContainerRecord(api, begin["uuid"], inbox.pause)
        RecordKeeper(begin["uuid"], record, sidecar, inbox).run(begin["engine"])
        return 0
    except (ArvSshError, OSError) as error:
        event(logger, "the record cannot be kept", level=logging.ERROR, container_uuid=begin["uuid"], error=str(error))
        return 1


def _containers_own(uuid: str, token: str, inbox: Inbox) -> ApiClient:
    """Trade the token that locked the container for the container's own, which may change this record alone."""
    dispatchers = api_client({**os.environ, "ARVADOS_API_TOKEN": token})
    try:
        found = patiently(lambda: dispatchers.container_auth(uuid), "get the container's token", inbox.pause, FOREVER)
    finally:
        dispatchers.close()
    own = f"v2/{found['uuid']}/{found['api_token']}"
    return api_client({**os.environ, "ARVADOS_API_TOKEN": own})


if __name__ == "__main__":
    sys.exit(main())
