"""What the tests of ssh-proxy as a process share: UUIDs, a key, a far end that echoes, and the end of the process."""

from __future__ import annotations

import subprocess

from tests.unit.controller_double import UNIT, Peer

UUID = "zzzzz-dz642-abcdeabcdeabcde"
REQUEST = "zzzzz-xvhdp-abcdeabcdeabcde"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHzRuz1gm+bq8f7NfO324HWsfsMuqngTO/enjG0NPpkF"
KEY_HEADER = f"X-Arvados-Ssh-Host-Key: {KEY}"


def echo(peer: Peer) -> None:
    """Send back what comes, and end when the client ends."""
    peer.switch(KEY_HEADER, glued=b"SSH-2.0-glued\r\n")
    while data := peer.recv():
        peer.send(data)
    peer.end()


def finish(process: subprocess.Popen[bytes], data: bytes = b"") -> tuple[bytes, str]:
    """Feed ``data``, wait for the end; return stdout and stderr."""
    out, err = process.communicate(data, timeout=UNIT)
    return out, err.decode()


def environment(**values: str) -> dict[str, str]:
    """Return settings for a host that no test reaches."""
    return {"ARVADOS_API_HOST": "127.0.0.1:1", "ARVADOS_API_TOKEN": "x", **values}
