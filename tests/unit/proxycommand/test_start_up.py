"""How long ssh-proxy takes until it connects: it is on the way of every ssh, scp and git fetch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.unit.controller_double import UNIT

REFERENCE = [sys.executable, "-I", "-c", "import ssl, socket, selectors"]
"""What any program in Python that speaks TLS takes."""
AT_MOST = 1.5
"""Times the reference."""
ROUNDS = 12


def test_start_up(tmp_path: Path) -> None:
    """Up to its connection ssh-proxy takes at most 1.5 times what importing ssl, socket and selectors takes.

    The fastest of some rounds each, in turns: what slows a machine down for a moment slows one of many down.
    """
    program = Path(sys.executable).with_name("arvados-client")
    command = [str(program), "ssh-proxy", "zzzzz-dz642-abcdeabcdeabcde"]
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(UNIT)
        where = {"ARVADOS_API_HOST": f"127.0.0.1:{listener.getsockname()[1]}", "ARVADOS_API_TOKEN": "x"}
        environment = clean | where | {"HOME": str(tmp_path)}

        def connect() -> float:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            started = time.perf_counter()
            with subprocess.Popen(command, env=environment, **pipes) as process:  # type: ignore[call-overload]
                connection, _ = listener.accept()
                taken = time.perf_counter() - started
                connection.close()
                process.kill()
            return taken

        def refer() -> float:
            started = time.perf_counter()
            subprocess.run(REFERENCE, env=environment, check=True, timeout=UNIT)
            return time.perf_counter() - started

        times = [(refer(), connect()) for _ in range(ROUNDS)]
    reference, own = (min(column) for column in zip(*times, strict=True))
    assert own <= AT_MOST * reference, f"{own * 1000:.0f} ms, {own / reference:.2f} times {reference * 1000:.0f} ms"
