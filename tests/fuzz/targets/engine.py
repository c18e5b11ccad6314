"""What the Docker engine says: the frames of an exec's output, and its answer to the upgrade. And OCI bundles."""

from __future__ import annotations

import json
import socket
import tempfile
from pathlib import Path
from struct import unpack_from
from types import SimpleNamespace
from typing import Any

from arv_ssh.errors import ArvSshError, Unavailable
from crunch_sshd.runtimes import Output, StartFailed, Terminal, bundle, confinement, docker_engine, seccomp
from crunch_sshd.runtimes.docker import DockerProcess
from crunch_sshd.runtimes.host_processes import ContainerIdentity
from tests.fuzz.harness import Choices, Target, pieces
from tests.reading import read

_client: Any = SimpleNamespace(
    api=SimpleNamespace(exec_inspect=lambda number: {"Running": False, "Pid": 0, "ExitCode": 126})
)


def frames(data: bytes) -> None:
    """Each stream has its bytes, in order; a frame that is cut is ArvSshError, never a clean end."""
    expected, whole = _frames(data)
    process, theirs = _process(None)
    found = {Output.STDOUT: b"", Output.STDERR: b""}
    try:
        with theirs:
            for piece in pieces(data, 1000):
                theirs.sendall(piece)
        while (output := read(process)) is not None:
            found[output[0]] += output[1]
        assert whole, "cut, and not said"
    except ArvSshError:
        assert not whole
    except StartFailed:
        return
    finally:
        process.close()
    assert found == expected


def _process(terminal: Terminal | None) -> tuple[DockerProcess, socket.socket]:
    ours, theirs = socket.socketpair()
    marks = ContainerIdentity("c")
    return DockerProcess(_client, "c", marks, "e", "program", ours, b"", terminal), theirs


def _frames(data: bytes) -> tuple[dict[Output, bytes], bool]:
    found, at = {Output.STDOUT: b"", Output.STDERR: b""}, 0
    while len(data) - at >= 8:
        kind, size = unpack_from(">BxxxL", data, at)
        if at + 8 + size > len(data):
            break
        found[Output.STDERR if kind == 2 else Output.STDOUT] += data[at + 8 : at + 8 + size]
        at += 8 + size
    return found, at == len(data)


def upgrade(data: bytes) -> None:
    """A stream is opened with every byte behind the answer's head, or refused with one ArvSshError."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(data)
        try:
            early = docker_engine._upgraded(ours)
        except ArvSshError:
            return
        assert data.endswith(early)


def oci_bundle(data: bytes) -> None:
    """A bundle is read, its filter compiled and its limits taken, or one of the named errors says why not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_bytes(_bundle(Choices(data)) if data[:1] == b"\0" else data)
        try:
            found = bundle.read(directory)
        except ValueError:
            return
    try:
        confinement.capabilities(found.process, data[0] if data else 0)
        confinement.limits(found.process, [])
        assert isinstance(confinement.label(found.process), str)
        if found.seccomp is not None:
            assert len(seccomp.compiled(found.seccomp).program) % 8 == 0
    except (Unavailable, LookupError, TypeError, ValueError, AttributeError):
        pass  # the engine wrote it: a broken one is said, whatever the words


def _bundle(choices: Choices) -> bytes:
    choices.byte()
    actions = ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "x")
    calls = ("read", "write", "clone", "mount", "nonsense", "personality", "socket")
    caps = [f"CAP_{name}" for name in confinement.CAPABILITIES]
    rules = []
    default = actions[choices.byte() % 6]
    for _ in range(choices.byte() % 8):
        args = [
            {"index": choices.byte() % 7, "value": choices.number(), "valueTwo": choices.number(),
             "op": f"SCMP_CMP_{seccomp.OPERATORS[choices.byte() % 7]}"}
            for _ in range(choices.byte() % 4)
        ]  # fmt: skip
        names = [calls[choices.byte() % len(calls)] for _ in range(choices.byte() % 5)]
        rules.append({"names": names, "action": actions[choices.byte() % 6], "args": args})
    process = {
        "user": {"uid": choices.byte(), "gid": 0},
        "capabilities": {"bounding": [caps[choices.byte() % len(caps)] for _ in range(choices.byte() % 5)]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": choices.number(), "hard": choices.number() << 32}],
    }
    profile = {"defaultAction": default, "syscalls": rules}
    return json.dumps({"process": process, "linux": {"seccomp": profile}}).encode()


TARGETS = (
    Target("docker-frames", frames.__doc__ or "", frames),
    Target("docker-upgrade", upgrade.__doc__ or "", upgrade),
    Target("oci-bundle", oci_bundle.__doc__ or "", oci_bundle),
)
