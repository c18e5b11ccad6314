"""``arvados-client forward``: ports of this machine that lead into a container, until Ctrl-C.

Owns the command line and the end; the forwarding is :mod:`arv_ssh.client.forward`'s, which scripts use too.
"""

from __future__ import annotations

import argparse
import logging
import re
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from arv_ssh.errors import UsageError

if TYPE_CHECKING:
    from arv_ssh.client.forward import LocalForwarding

_PAIR = re.compile(r"([0-9]{1,5}):(.+)")


def run(options: argparse.Namespace) -> int:
    """Listen, print where, and wait for Ctrl-C, SIGTERM or the session's end."""
    texts = [_split(pair) for pair in options.pairs]
    # Late: paramiko takes 200 ms to import, and a wrong command line should not.
    from arv_ssh.client.forward import LocalForwarding, parse_remote

    pairs = [(local, parse_remote(remote)) for local, remote in texts]

    def show(ports: list[int]) -> None:
        for port, (_, (host, remote_port)) in zip(ports, pairs, strict=True):
            print(f"127.0.0.1:{port} forwards to {host}:{remote_port} of {options.uuid}", flush=True)

    forwarding = LocalForwarding(options.uuid, pairs, user=options.user, settings_file=options.settings)
    forward_until_interrupted(forwarding, show)
    return 0


def forward_until_interrupted(forwarding: LocalForwarding, show: Callable[[list[int]], None]) -> None:
    """Listen, ``show`` the local ports, and wait for Ctrl-C, SIGTERM or the session's end, which is raised."""
    _say_what_fails()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with forwarding as ways:
            show(ways.ports)
            ways.wait()
    except KeyboardInterrupt:
        pass  # the way such a command is meant to end


def _split(text: str) -> tuple[int, str]:
    found = _PAIR.fullmatch(text)
    if not found or int(found.group(1)) > 65535:
        raise UsageError(f"{text!r} is not LOCAL:REMOTE; give a local port (0 for any) and a port of the container")
    return int(found.group(1)), found.group(2)


def _say_what_fails() -> None:
    """Report a failed connection in one line of our own."""
    from arv_ssh.client.connect import silence_paramiko

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("arvados-client: %(message)s"))
    own = logging.getLogger("arv_ssh.client.forward")
    own.addHandler(handler)
    own.propagate = False
    silence_paramiko()
