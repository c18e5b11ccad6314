"""A Docker engine of a cell's own, with its own data, state and socket: the machine's engine is never touched."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults import processes
from tests.timing import DEADLINE, wait_for

IMAGE = "arv-ssh/busybox:test"


class Engine:
    """The engine in ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = f"unix://{root}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        root = self._root
        (root / "pid").unlink(missing_ok=True)
        words = ["--data-root", f"{root}/data", "--exec-root", f"{root}/exec", "-H", self.url, "-p", f"{root}/pid"]
        with (root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # In a network namespace of its own: an engine without a bridge removes the one of the machine's engine.
                ["unshare", "--net", "dockerd", *words, "--bridge", "none", "--iptables=false", "--ip-forward=false"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: self._answers() or not self.runs(), "the engine to answer")
        if not self.runs():
            self.start()  # a containerd that was about to die with its engine was taken for alive

    def load(self) -> None:
        """Give it the image from the machine's engine."""
        with subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE) as saved:
            subprocess.run(
                ["docker", "-H", self.url, "load"], stdin=saved.stdout, check=True, capture_output=True,
                timeout=DEADLINE,
            )  # fmt: skip

    def runs(self) -> bool:
        """Say whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def pids(self) -> list[int]:
        """Return dockerd's pid and its containerd's."""
        assert self._process is not None
        return [self._process.pid, *processes.children(self._process.pid)]

    def stop(self) -> None:
        """Stop it, and its containers with it."""
        if not self.runs():
            self.start()  # so that what it left ends too
        assert self._process is not None
        self._process.terminate()
        self._process.wait(DEADLINE)
        # A killed engine leaves its data mounted on itself; nothing to do where it does not.
        subprocess.run(["umount", "-l", f"{self._root}/data"], capture_output=True, timeout=DEADLINE)

    def _answers(self) -> bool:
        asked = subprocess.run(["docker", "-H", self.url, "info"], capture_output=True, timeout=DEADLINE)
        return asked.returncode == 0


@contextmanager
def own_engine(root: Path) -> Iterator[Engine]:
    """Run an engine until the end of the block."""
    root.mkdir(mode=0o700)
    one = Engine(root)
    try:
        one.start()
        one.load()
        yield one
    finally:
        one.stop()
