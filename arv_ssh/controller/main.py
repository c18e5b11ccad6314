"""The controller as a process: bind, serve until SIGTERM or SIGINT, leave."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys

import uvloop

from arv_ssh import log
from arv_ssh.config import ClusterConfig
from arv_ssh.controller.server import Controller
from arv_ssh.listen import bind

logger = logging.getLogger(__name__)


def run(config: ClusterConfig, listen: tuple[str, int]) -> None:
    """Serve ``config``'s cluster on ``listen`` until a signal asks to stop."""
    log.configure()
    listener = bind(*listen)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, listener))


async def _serve(config: ClusterConfig, listener: socket.socket) -> None:
    controller = Controller(config)
    await controller.start(listener)
    host, port = listener.getsockname()[:2]
    log.event(logger, "controller is listening", cluster_id=config.cluster_id, host=host, port=port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    log.event(logger, "controller is stopping")
    await controller.stop()
    sys.stderr.flush()
