"""The controller as a process: bind, serve until SIGTERM or SIGINT, leave."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import closing
from pathlib import Path

import uvloop

from arv_ssh import log
from arv_ssh.config import ClusterConfig
from arv_ssh.controller import private_socket
from arv_ssh.controller.peers import Peers, url_of
from arv_ssh.controller.server import Controller
from arv_ssh.listen import bind

logger = logging.getLogger(__name__)


def run(config: ClusterConfig, listen: tuple[str, int], run_dir: Path | None = None) -> None:
    """Serve ``config``'s cluster on ``listen`` until a signal asks to stop; ``run_dir`` comes before the config's."""
    log.configure()
    with closing(bind(*listen)) as listener:
        private = private_socket.enter(private_socket.directory(config, run_dir, os.environ))
        with closing(private), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            peers = Peers(private.path, url_of(listener.getsockname()[:2], config.internal_urls), config.internal_urls)
            runner.run(_serve(Controller(config, peers), listener, private.listener))


async def _serve(controller: Controller, listener: socket.socket, private: socket.socket) -> None:
    await controller.start(listener, private)
    host, port = listener.getsockname()[:2]
    log.event(logger, "controller is listening", cluster_id=controller.config.cluster_id, host=host, port=port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    log.event(logger, "controller is stopping")
    await controller.stop()
    sys.stderr.flush()
