"""Cells of their own: helpers that a session has in the container, and stderr that was written before much stdout.

Owns these few programs and what should be seen. Each is played like a cell and gives an outcome.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import processes
from tests.faults.play import Outcome, without_names
from tests.faults.stage import Stage
from tests.timing import DEADLINE, wait_for

BIG = 192 << 20
ANSWERED = 20.0
"""Seconds in which forwarding has to be back, or ssh to say that it is gone."""
TRIES = 9
AHEAD = 1 << 20
"""Bytes of stdout after which ssh has a line of stderr that came before them: more than the gateway reads at a time."""
HELPERS = {"broker": "crunch_sshd.inside.broker", "file server": "crunch_sshd.inside.sftp"}


def helper(stage: Stage, name: str) -> int:
    """Return the pid of a session's helper."""
    gateway = stage.gateway_pid()

    def look() -> int | None:
        found = [pid for pid in processes.descendants(gateway) if HELPERS[name] in processes.command_line(pid)]
        return found[-1] if found else None

    return wait_for(look, f"the {name}")


def broker(stage: Stage, number: signal.Signals) -> Outcome:
    """End the broker while ``ssh -N -R`` stands."""
    outcome = Outcome(f"lead: the broker of ssh -N -R gets {number.name}")
    errors = stage.place_for_session()
    with socket.create_server(("127.0.0.1", 0)) as listener, errors.open("wb") as file:
        listener.settimeout(ANSWERED / 4)
        port = listener.getsockname()[1]
        *words, uuid = stage.command()
        command = [*words, "-N", "-R", f"0:127.0.0.1:{port}", uuid]
        with subprocess.Popen(command, env=stage.environment(), stderr=file, stdin=subprocess.DEVNULL) as ssh:
            try:
                there = wait_for(lambda: re.search(r"Allocated port (\d+)", errors.read_text()), "the port")
                _ask(stage, there[1], listener)
                processes.send([helper(stage, "broker")], number)
                began = time.monotonic()
                wait_for(lambda: ssh.poll() is not None or _asked(stage, there[1], listener) or
                         time.monotonic() - began > ANSWERED, "an answer")  # fmt: skip
                outcome.seconds, outcome.status = round(time.monotonic() - began, 1), ssh.poll()
                said = errors.read_text()[there.end() :].partition("\n")[2]
                outcome.said = without_names(said.replace(uuid, "UUID"))
                if outcome.status is None and outcome.seconds >= ANSWERED and not outcome.said:
                    outcome.differs.append("ssh stays up and says nothing, and its forwarding is gone")
            finally:
                ssh.kill()
    return outcome


def _ask(stage: Stage, port: str, listener: socket.socket) -> None:
    asked = subprocess.Popen(
        [*stage.command(), f"nc -w 3 127.0.0.1 {port} </dev/null"], env=stage.environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        listener.accept()[0].close()
    finally:
        asked.wait(DEADLINE)


def _asked(stage: Stage, port: str, listener: socket.socket) -> bool:
    try:
        _ask(stage, port, listener)
    except TimeoutError:
        return False
    return True


def file_server(stage: Stage, upload: bool) -> Outcome:
    """Kill the file server in mid-transfer of scp."""
    outcome = Outcome(f"lead: the file server of an scp {'to' if upload else 'from'} the container is killed")
    place = stage.place_for_session()
    place.mkdir()
    local = place / "file"
    with local.open("wb") as file:
        file.truncate(BIG if upload else 0)
    if not upload:
        assert stage.enter(f"head -c {BIG} /dev/zero >/tmp/file").returncode == 0
    *words, uuid = stage.command()
    ends = [str(local), f"{uuid}:/tmp/file"] if upload else [f"{uuid}:/tmp/file", str(local)]
    words[words.index("ssh")] = "scp"
    command = [*words, "-l", "200000", *ends]  # 25 MB/s: so that it is in mid-transfer
    with subprocess.Popen(command, env=stage.environment(), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as scp:
        processes.send([helper(stage, "file server")], signal.SIGKILL)
        began = time.monotonic()
        _, said = scp.communicate(timeout=DEADLINE)
    outcome.seconds, outcome.status = round(time.monotonic() - began, 1), scp.returncode
    outcome.said = without_names(said.decode(errors="replace").replace(uuid, "UUID").replace("\r", ""))
    if outcome.status == 0:
        outcome.differs.append("scp's exit status is 0 although the file is not whole")
    if "arv-ssh:" not in outcome.said:
        outcome.differs.append("no sentence says why")
    return outcome


def early_stderr(stage: Stage) -> Outcome:
    """Kill ssh-proxy in a download that began with a line on stderr, some times; count the lines that are missing."""
    outcome = Outcome("lead: a line on stderr before much stdout, ssh-proxy killed")
    missing = 0
    for _ in range(TRIES):
        errors = stage.place_for_session()
        with errors.open("wb") as file, subprocess.Popen(
            [*stage.command(), f"echo early >&2; head -c {BIG} /dev/zero"], env=stage.environment(), stderr=file,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        ) as ssh:  # fmt: skip
            assert ssh.stdout is not None
            ssh.stdout.read(AHEAD)  # which may be ahead of the line: they are two streams, read in turns
            (proxy,) = [pid for pid in processes.descendants(ssh.pid) if "ssh-proxy" in processes.command_line(pid)]
            processes.send([proxy], signal.SIGKILL)
            while ssh.stdout.read(1 << 20):
                pass
            outcome.status = ssh.wait(DEADLINE)
        missing += "early" not in errors.read_text()
        outcome.said = without_names(_said(errors))
    if missing:
        outcome.differs.append(f"the line is missing {missing} times in {TRIES}")
    return outcome


def _said(errors: Path) -> str:
    return errors.read_text().replace("\r", "")


def play(stage: Stage) -> list[Outcome]:
    """Play them all."""
    steps: list[Callable[[], Outcome]] = [
        lambda: early_stderr(stage),
        lambda: broker(stage, signal.SIGKILL), lambda: broker(stage, signal.SIGTERM),
        lambda: file_server(stage, True), lambda: file_server(stage, False),
    ]  # fmt: skip
    return [step() for step in steps]
