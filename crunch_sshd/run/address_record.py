"""``gateway_address`` on the container's record, kept current while a tunnel moves from controller to controller.

Owns a thread for this, since the record's API blocks: neither the gateway's event loop nor the main thread may wait.
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue

from arv_ssh.errors import HttpError
from arv_ssh.log import event
from crunch_sshd.run.container_record import ContainerRecord

logger = logging.getLogger(__name__)


class AddressRecord:
    """Updates ``record`` with the addresses passed to :meth:`moved`, from :meth:`start` to :meth:`stop`."""

    def __init__(self, record: ContainerRecord) -> None:
        self._stopped = threading.Event()
        self._record = record.with_pause(lambda seconds: not self._stopped.wait(seconds))
        self._addresses: SimpleQueue[str] = SimpleQueue()
        self._recorded = ""

    def moved(self, address: str) -> None:
        """Note where the gateway is now. Any thread; returns at once."""
        self._addresses.put(address)

    def start(self, recorded: str) -> None:
        """Begin to record; ``recorded`` is the address already on the record."""
        self._recorded = recorded
        threading.Thread(target=self._run, name="address-record", daemon=True).start()

    def stop(self) -> None:
        """Stop recording: the container is about to end."""
        self._stopped.set()
        self._addresses.put("")

    def _run(self) -> None:
        while True:
            address = self._addresses.get()
            while not self._addresses.empty():  # only the newest counts
                address = self._addresses.get()
            if self._stopped.is_set():
                return
            if address != self._recorded:
                self._update(address)

    def _update(self, address: str) -> None:
        try:
            self._record.update({"gateway_address": address})
        except HttpError as error:
            event(logger, "the gateway's address is not recorded", level=logging.WARNING, gateway_address=address,
                  error=str(error))  # fmt: skip
            return
        self._recorded = address
        event(logger, "gateway address recorded", gateway_address=address)
