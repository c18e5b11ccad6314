"""A gateway's process for tests: does what ``SCRIPT`` says, one word a start, and then serves until it is told to stop.

The words: ``die`` before it is ready; ``fail`` then; ``refuse`` to serve; ``die-serving``; ``eat`` memory for ever;
``deaf`` to its end; ``entered`` by two sessions, then killed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

from crunch_sshd.gateway.control import Control

BLOCK = 4 << 20


def word() -> str:
    """Take the script's next word, "" at its end."""
    script = Path(os.environ["SCRIPT"])
    first, _, rest = script.read_text().partition("\n")
    script.write_text(rest)
    return first


def main() -> None:
    control = Control(socket.socket(fileno=int(sys.argv[1])))
    begin = control.receive()
    what = word()
    with open(os.environ["SCRIPT"] + ".log", "a", encoding="utf-8") as log:
        log.write(f"{os.getpid()} {what} {begin['container_uuid']} {begin['secret']}\n")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fail":
        control.send("failed", error="ConfigError", sentence="no such thing as paramiko")
        return
    control.send("ready")
    serve = control.receive()
    if serve.get("kind") != "serve":
        return
    if what == "refuse":
        control.send("failed", error="Unavailable", sentence=f"{serve['container']} is paused")
        return
    control.send("serving", address="")
    if begin["options"]["tunnel"]:
        control.send("moved", address=f"tunnel https://c{os.getpid()}/")
    if what == "entered":
        control.send("sessions", count=2)
    if what in ("die-serving", "entered"):
        os.kill(os.getpid(), signal.SIGKILL)
    eaten = []
    while what == "eat":
        eaten.append(b"x" * BLOCK)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    said = control.receive()
    with open(os.environ["SCRIPT"] + ".log", "a", encoding="utf-8") as log:
        log.write(f"{os.getpid()} stopped {said.get('reason')}\n")
    while what == "deaf":
        time.sleep(60)


if __name__ == "__main__":
    main()
