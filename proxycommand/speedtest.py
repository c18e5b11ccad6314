"""``arvados-client speedtest``: how fast the way into one container is, measured through the ssh that users use.

Owns the measurements and how they are shown. The commands in the container need only /bin/sh: where cat is missing, the
shell itself sends and swallows, and the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from arv_ssh.client import controller, settings
from arv_ssh.client.targets import resolve
from arv_ssh.errors import ArvSshError
from proxycommand import known_hosts, ssh_config
from proxycommand.shell import ssh_command

_CONNECTS = 3
_SIZE = 256 * 1024
_ANSWER_TIMEOUT = 60.0
"""Seconds that ssh may take beyond a measurement's intended time; after that the way is considered broken."""

_READY = b"ready\r\n"
_ECHO = "echo ready; read line"
"""The terminal echoes the keystrokes, so the shell only has to wait."""
_PATTERN = "x" * 4096
_CAT = "command -v cat >/dev/null && { echo cat; exec cat "
_DOWN = f"{_CAT} /dev/zero; }}; echo sh; while echo {_PATTERN}; do :; done"
_UP = f"{_CAT} >/dev/null; }}; echo sh; while read -r line; do :; done"

Show = Callable[[str, float, str], None]
"""Shows a measurement: its name, how much of it is done (0 to 1), and its result so far."""


def run(options: argparse.Namespace) -> int:
    """Measure, and print the results on stdout; the progress goes to stderr."""
    site = settings.load(options.settings, target=options.uuid)
    container = resolve(controller.Controller(site), options.uuid)
    directory = options.known_hosts_dir or known_hosts.default_dir()
    block = ssh_config.block(options.settings, directory)
    user = options.user or controller.DEFAULT_LOGIN
    # A shared connection would distort the measurement.
    alone = ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
    progress = Progress()
    test = SpeedTest(lambda more, command: ssh_command(block, container, user, alone + more, [command]))
    try:
        result = {
            "container": container,
            **test.connect(progress.show),
            **test.echo(options.keystrokes, progress.show),
            **test.down(options.seconds, progress.show),
            **test.up(options.seconds, progress.show),
        }
    finally:
        progress.done()  # so that the error begins a line of its own
    print(json.dumps(result, indent=2) if options.json else _table(result))
    return 0


class SpeedTest:
    """The measurements; ``command`` makes ssh's argument list from more options and a command for the container."""

    def __init__(self, command: Callable[[list[str], str], list[str]]) -> None:
        self._command = command

    def connect(self, show: Show) -> dict[str, float]:
        """Measure the time from ssh's start to a command's first output, several times; return the median in ms."""
        times = []
        for number in range(_CONNECTS):
            started = time.perf_counter()
            with self._ssh("echo ready") as ssh:
                _expect(ssh, b"ready\n")
                times.append(time.perf_counter() - started)
            show("connect", (number + 1) / _CONNECTS, f"{times[-1] * 1000:.0f} ms")
        return {"connect_ms": round(statistics.median(times) * 1000, 1)}

    def echo(self, keystrokes: int, show: Show) -> dict[str, float]:
        """Type one letter after the other on a terminal, each when the one before has been echoed; return ms."""
        times = []
        with self._ssh(_ECHO, "-tt") as ssh:
            _expect(ssh, _READY)
            for number in range(keystrokes):
                started = time.perf_counter()
                _write(ssh, b"x")
                _expect(ssh, b"x")
                times.append((time.perf_counter() - started) * 1000)
                show("echo", (number + 1) / keystrokes, f"{times[-1]:.1f} ms")
            _write(ssh, b"\n")
        ordered = sorted(times)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        return {"echo_median_ms": round(statistics.median(times), 2), "echo_p99_ms": round(p99, 2)}

    def down(self, seconds: float, show: Show) -> dict[str, float | str]:
        """Receive for a while; return MB/s and the name of the sending program."""
        with self._ssh(_DOWN, seconds=seconds) as ssh:
            by = _expect_sender(ssh)
            count, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds:
                count += len(_read(ssh))
                show("down", elapsed / seconds, _rate(count, elapsed))
        show("down", 1, _rate(count, elapsed))
        return {"down_mb_per_s": round(count / elapsed / 1e6, 2), "down_by": by}

    def up(self, seconds: float, show: Show) -> dict[str, float | str]:
        """Send for a while, and wait until all of it has arrived; return MB/s and the name of the receiving program."""
        # Lines, for a shell that has to read them itself.
        data = (_PATTERN[:-1] + "\n").encode() * (_SIZE // len(_PATTERN))
        with self._ssh(_UP, seconds=seconds) as ssh:
            by = _expect_sender(ssh)
            assert ssh.stdin  # noqa: S101 - a pipe was asked for
            count, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds:
                _write(ssh, data)
                count += len(data)
                show("up", elapsed / seconds, _rate(count, elapsed))
            ssh.stdin.close()
            _read(ssh)  # the end: the receiving program has ended
            elapsed = time.perf_counter() - started
        show("up", 1, _rate(count, elapsed))
        return {"up_mb_per_s": round(count / elapsed / 1e6, 2), "up_by": by}

    @contextmanager
    def _ssh(self, command: str, *options: str, seconds: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
        """Run ssh with pipes; it is killed at the end, and when it takes much longer than ``seconds``."""
        words = self._command(list(options), command)
        try:
            ssh = subprocess.Popen(  # noqa: S603 - the user's own ssh, as shell starts it
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
            )
        except FileNotFoundError as error:
            raise ArvSshError("no ssh program on the PATH; install the OpenSSH client") from error
        with ssh:
            too_long = threading.Timer(seconds + _ANSWER_TIMEOUT, ssh.kill)
            too_long.daemon = True
            too_long.start()
            try:
                yield ssh
            except _Ended:
                raise ArvSshError(_reason(ssh)) from None
            finally:
                too_long.cancel()
                ssh.kill()
                if ssh.stdin:
                    ssh.stdin.close()


class _Ended(Exception):
    """ssh ended before the measurement did."""


def _expect(ssh: subprocess.Popen[bytes], wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        seen += _read(ssh) or _end()


def _expect_sender(ssh: subprocess.Popen[bytes]) -> str:
    """Return the container's program for sending and receiving: cat, or the shell itself."""
    assert ssh.stdout  # noqa: S101 - a pipe was asked for
    line = b""
    while not line.endswith(b"\n"):
        line += ssh.stdout.read(1) or _end()
    return line.decode(errors="replace").strip()


def _end() -> bytes:
    raise _Ended


def _read(ssh: subprocess.Popen[bytes]) -> bytes:
    assert ssh.stdout  # noqa: S101 - a pipe was asked for
    return ssh.stdout.read(_SIZE) or b""


def _write(ssh: subprocess.Popen[bytes], data: bytes) -> None:
    assert ssh.stdin  # noqa: S101 - a pipe was asked for
    try:
        left = memoryview(data)
        while left:
            left = left[ssh.stdin.write(left) :]
    except OSError as error:
        raise _Ended from error


def _reason(ssh: subprocess.Popen[bytes]) -> str:
    """Return the last message from ssh or the gateway; status 127 means a container without a shell."""
    assert ssh.stderr  # noqa: S101 - a pipe was asked for
    lines = ssh.stderr.read().decode(errors="replace").strip().splitlines()
    own = [line for line in lines if line.startswith("arvados-client: ")]
    said = (own or lines[-1:] or ["the connection to the container went silent; try arvados-client doctor"])[0]
    if ssh.wait() == 127:
        return f"speedtest needs /bin/sh, which this container lacks ({said}); test another container"
    return said.removeprefix("arvados-client: ")


class Progress:
    """The progress on stderr: a growing bar on a terminal, otherwise a line for each measurement."""

    INTERVAL = 0.1
    _WIDTH = 30

    def __init__(self) -> None:
        self._bar = sys.stderr.isatty()
        self._shown = 0.0

    def show(self, name: str, part: float, known: str) -> None:
        """Show a measurement's progress; cheap enough to call often."""
        now = time.monotonic()
        if part < 1 and (not self._bar or now - self._shown < self.INTERVAL):
            return
        self._shown = now
        part = min(part, 1.0)
        if self._bar:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            width = max(0, min(self._WIDTH, columns - len(f"{name:<8}[] {known} ")))
            bar = ("#" * round(part * width)).ljust(width, "-")
            self._write(f"\r{f'{name:<8}[{bar}] {known}'[: columns - 1]}\x1b[K")
        elif part == 1:
            self._write(f"{name}: {known}\n")

    def done(self) -> None:
        """Clear the bar."""
        if self._bar:
            self._write("\r\x1b[K")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _rate(count: int, elapsed: float) -> str:
    return f"{count / max(elapsed, 1e-6) / 1e6:.1f} MB/s"


def _table(result: dict[str, float | str]) -> str:
    lines = [
        f"container  {result['container']}",
        f"connect    {result['connect_ms']} ms (median of {_CONNECTS})",
        f"echo       {result['echo_median_ms']} ms (median), {result['echo_p99_ms']} ms (99 of 100)",
        f"down       {result['down_mb_per_s']} MB/s{_by(result['down_by'])}",
        f"up         {result['up_mb_per_s']} MB/s{_by(result['up_by'])}",
    ]
    return "\n".join(lines)


def _by(program: float | str) -> str:
    return "" if program == "cat" else " (by the shell itself, without cat; the connection is faster)"
