"""How long a person waits: for a login, a key's echo, fifty logins at once, ssh-proxy to begin, a long listing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from arv_ssh.processes.child_exit import exit_status
from tests.bench.places import FILES, Places
from tests.bench.rows import Comparison, Sample, Scale, percentile
from tests.bench.target import TIMEOUT, Failed, Target, run

AT_A_TIME = 10
"""Commands over one connection: sshd's default MaxSessions."""
MAY_TAKE = 3.0
"""Milliseconds that a login may take longer because its session can be resumed."""


def milliseconds(work: Callable[[], object]) -> float:
    """Return the time that ``work`` takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def cold_login(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    """Measure ``ssh UUID true`` and the same by way of sshd and docker exec."""
    ours = places.path.ssh("true", options=("-n",))
    reference = places.sshd.ssh("docker", "exec", places.engine_container, "true", options=("-n",))
    return lambda: milliseconds(lambda: run(ours)), lambda: milliseconds(lambda: run(reference))


def shared_login(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    """Measure ``ssh UUID true`` over a connection that is open, and docker exec."""
    ours = stack.enter_context(places.path.shared()).ssh("true", options=("-n",))
    reference = ["docker", "exec", places.engine_container, "true"]
    return lambda: milliseconds(lambda: run(ours)), lambda: milliseconds(lambda: run(reference))


def many_logins(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    """Measure many ``ssh … true`` side by side, to the end of the last."""

    def all_of(target: Target) -> None:
        command = target.ssh("true", options=("-n",))
        started = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(scale.parallel)
        ]
        failed = sum(exit_status(process, TIMEOUT) != 0 for process in started)
        if failed:
            raise Failed(f"{failed} of {scale.parallel} parallel logins to {target.host} failed")

    path, sshd = places.path, places.sshd
    return lambda: milliseconds(lambda: all_of(path)), lambda: milliseconds(lambda: all_of(sshd))


def shared_command(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    """Measure ``ssh UUID true`` over a connection that is open, and the same at sshd."""
    ours, reference = (
        stack.enter_context(target.shared()).ssh("true", options=("-n",)) for target in (places.path, places.sshd)
    )
    return lambda: milliseconds(lambda: run(ours)), lambda: milliseconds(lambda: run(reference))


def many_commands(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    """Measure many commands over one connection, ten at a time, to the end of the last."""
    ours, reference = (
        stack.enter_context(target.shared()).ssh("true", options=("-n",)) for target in (places.path, places.sshd)
    )

    def all_of(command: list[str]) -> None:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(run, [command] * scale.commands))

    return lambda: milliseconds(lambda: all_of(ours)), lambda: milliseconds(lambda: all_of(reference))


class Echo:
    """A session on a terminal whose line discipline sends each key back."""

    def __init__(self, target: Target, stack: ExitStack) -> None:
        process = subprocess.Popen(
            target.ssh("echo ready; exec cat >/dev/null", options=("-tt",)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin and process.stdout
        stack.enter_context(process)
        stack.callback(process.kill)
        self._keys, self._screen = process.stdin.fileno(), process.stdout.fileno()
        said = b""
        while b"ready\r\n" not in said:
            more = os.read(self._screen, 4096)
            if not more:
                raise Failed(f"the session to {target.host} ended before it began")
            said += more

    def key(self) -> float:
        """Type a key and wait for its echo; return the milliseconds."""
        return milliseconds(self._key)

    def _key(self) -> None:
        os.write(self._keys, b"x")
        if os.read(self._screen, 16) != b"x":
            raise Failed("a key's echo was not the key")


def echo(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    """Measure keys one by one, the two sides in turns."""
    return Echo(places.path, stack).key, Echo(places.chain, stack).key


def resumable_echo(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    """Measure keys of a session that outlives its connection, and of one that does not."""
    return Echo(places.path, stack).key, Echo(places.ending, stack).key


def resumable_login(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    """Measure ``ssh UUID true`` of the one kind, and of the other with :data:`MAY_TAKE` milliseconds added."""
    ours, reference = (place.ssh("true", options=("-n",)) for place in (places.path, places.ending))
    return lambda: milliseconds(lambda: run(ours)), lambda: milliseconds(lambda: run(reference)) + MAY_TAKE


def echo_beside_attack(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    """Measure keys while a client of the same gateway resizes its window without end; the reference has none."""
    ours, reference = Echo(places.path, stack), Echo(places.chain, stack)
    command = [sys.executable, "-m", "tests.hostile", str(places.cluster.directory.root), places.container_uuid]
    attack = subprocess.Popen([*command, "resizes"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    stack.enter_context(attack)
    stack.callback(attack.kill)
    assert attack.stdout
    if attack.stdout.readline() != b"connected\n":
        raise Failed("the hostile client has no connection")
    return ours.key, reference.key


def listing(places: Places, scale: Scale, stack: ExitStack, *, option: str) -> tuple[Sample, Sample]:
    """Measure sftp's ``ls`` of a large directory; the gateway and sshd list the same one."""
    ours, reference = (stack.enter_context(target.shared()) for target in (places.gateway, places.sshd))
    there = f"{FILES}/names-{scale.names}"
    run(reference.ssh(f"mkdir -p {there} && cd {there} && seq {scale.names} | xargs touch", options=("-n",)))

    def sample(target: Target) -> Sample:
        return lambda: milliseconds(lambda: run(target.sftp(), text=f"ls {option} {there}\n"))

    return sample(ours), sample(reference)


def first_byte(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    """Measure ssh-proxy from its start to its first byte on the network, and bare Python with the same modules."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.settimeout(TIMEOUT)
    settings = places.directory / "first-byte.env"
    places.cluster  # noqa: B018 - its CA file is used
    settings.write_text(
        f"ARVADOS_API_HOST=127.0.0.1:{listener.getsockname()[1]}\nARVADOS_API_TOKEN=token\n"
        f"SSL_CERT_FILE={places.cluster.directory.ca}\n"
    )
    proxy = [
        str(Path(sys.executable).with_name("arvados-client")), "ssh-proxy", "--settings", str(settings),
        "--known-hosts-dir", str(places.directory), "--user", "_", places.container_uuid,
    ]  # fmt: skip
    reference = [sys.executable, "-I", "-c", "import ssl, socket, selectors"]
    return lambda: milliseconds(lambda: _to_first_byte(listener, proxy)), lambda: milliseconds(lambda: run(reference))


def _to_first_byte(listener: socket.socket, command: list[str]) -> None:
    with _started(command):
        client, _ = listener.accept()
        with client:
            if not client.recv(1):
                raise Failed("ssh-proxy sent nothing")


@contextmanager
def _started(command: list[str]) -> Iterator[None]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield
        finally:
            process.kill()


def _logins(scale: Scale) -> int:
    return scale.logins


def _keys(scale: Scale) -> int:
    return scale.keys


ROWS = [
    Comparison(
        "login-cold", "whole path: ssh UUID true, cold", "ssh to sshd running docker exec", "ms", 1.0, 0.5, cold_login,
        repeats=_logins,
    ),
    Comparison(
        "login-shared", "the same over a ControlMaster", "docker exec CTR true", "ms", 1.2, 0.8, shared_login,
        repeats=_logins,
    ),
    Comparison(
        "command-shared", "a command over an open connection", "sshd", "ms", 3.0, 1.5, shared_command, repeats=_logins,
    ),
    Comparison(
        "commands-parallel", "commands over one connection, 10 at a time", "sshd", "ms", 3.0, 1.5, many_commands,
    ),
    Comparison(
        "echo-median", "whole path: keystroke echo, median", "C-chain", "ms", 1.5, 1.0, echo, repeats=_keys,
    ),
    Comparison(
        "echo-p99", "whole path: keystroke echo, p99", "C-chain", "ms", 1.5, 1.0, echo, percentile(0.99), _keys,
    ),
    Comparison(
        "echo-attacked", "key beside a hostile client, median", "C-chain", "ms", 20.0, 5.0, echo_beside_attack,
        repeats=_keys,
    ),
    Comparison(
        "resume-echo", "keystroke echo, resumable, median", "--no-resume", "ms", 1.05, 1.0, resumable_echo,
        repeats=_keys,
    ),
    Comparison(
        "resume-login", "ssh UUID true, resumable", f"--no-resume, and {MAY_TAKE:g} ms", "ms", 1.0, 0.97,
        resumable_login, repeats=_logins,
    ),
    Comparison(
        "directory", "gateway alone: sftp's ls -1 of a large directory", "sshd", "ms", 1.0, 0.7,
        partial(listing, option="-1"),
    ),
    Comparison(
        "directory-long", "gateway alone: sftp's ls -l of it", "sshd", "ms", 1.0, 0.7, partial(listing, option="-l"),
    ),
    Comparison("logins-parallel", "whole path: parallel ssh UUID true", "sshd", "ms", 1.0, 0.5, many_logins),
    Comparison(
        "proxy-first-byte", "ssh-proxy to first byte", "python -I -c 'import ssl, socket, selectors'", "ms", 1.5, 1.2,
        first_byte, repeats=_logins,
    ),
]  # fmt: skip
