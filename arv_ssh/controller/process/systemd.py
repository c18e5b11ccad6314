"""Reports a service's state to systemd (sd_notify(3)); silent when something else started the service."""

from __future__ import annotations

import logging
import os
import socket

from arv_ssh.log import event

logger = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send ``state`` such as ``READY=1``. A failure is only logged."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # a name in the abstract namespace (unix(7))
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect(address)
            channel.send(state.encode())
    except OSError as error:
        event(logger, "cannot notify systemd", level=logging.WARNING, error=error.strerror or str(error))
