"""A ProxyCommand that holds ssh in its handshake: ``gate.py DIRECTORY COMMAND``, where COMMAND is the real one.

Both sides' identifications pass (RFC 4253 4.2), which makes ``DIRECTORY/reached``; ssh's keys follow once
``DIRECTORY/open`` is there.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path


def main(directory: Path, command: str) -> int:
    """Run COMMAND behind the gate; return its status."""
    proxy = subprocess.Popen(["sh", "-c", f"exec {command}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert proxy.stdin is not None and proxy.stdout is not None
    threading.Thread(target=_outwards, args=(proxy.stdout.fileno(), directory), daemon=True).start()
    passed = False
    while proxy.poll() is None:
        if passed and not (directory / "open").exists():
            time.sleep(0.05)
            continue
        if not select.select([0], [], [], 0.2)[0]:
            continue
        data = os.read(0, 65536)
        if not data:
            break
        try:
            proxy.stdin.write(data)
            proxy.stdin.flush()
        except OSError:
            break
        passed = True
    try:
        proxy.stdin.close()
    except OSError:
        pass  # it is gone already
    return proxy.wait()


def _outwards(source: int, directory: Path) -> None:
    """Pass on what comes from the gateway; its first bytes are its identification."""
    while data := os.read(source, 65536):
        try:
            os.write(1, data)
        except BrokenPipeError:
            return  # ssh has ended
        (directory / "reached").touch()
    os.close(1)  # ssh must see the end


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
