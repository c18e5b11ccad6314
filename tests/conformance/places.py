"""Each runtime with the engine whose containers it executes in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from crunch_sshd.runtimes import Account, Command, Output, Process, Runtime, StartFailed, Terminal, oci
from crunch_sshd.runtimes.docker import DockerRuntime
from crunch_sshd.runtimes.namespace import NamespaceRuntime
from tests.conformance.engines import Engine
from tests.reading import read
from tests.timing import DEADLINE

NAME = "zzzzz-dz642-conformance0001"
PIECE = 64 * 1024


@dataclass(frozen=True)
class Kind:
    """A runtime: on which engine, how it is made for a container, and the options its containers need.

    ``waits_for_eof``: a program's output ends when everything that holds it has ended or closed it, as with sshd; else
    the engine decides.
    """

    engine: str
    make: Callable[[Engine, str], Runtime]
    options: tuple[str, ...] = ()
    waits_for_eof: bool = True


def _docker(engine: Engine, container: str) -> Runtime:
    return DockerRuntime(engine.client, container, NAME)


def _oci(engine: Engine, container: str) -> Runtime:
    found = oci.find(container, NAME)
    assert found is not None, "the OCI runtime's state was not found"
    return found


def _namespace(engine: Engine, container: str) -> Runtime:
    return NamespaceRuntime(engine.pid(container), NAME)


KINDS = {
    "docker": Kind("docker", _docker, waits_for_eof=False),
    "oci": Kind("docker", _oci),
    "namespace": Kind("docker", _namespace, ("--security-opt", "seccomp=unconfined")),
    "podman": Kind("podman-runc", _docker, waits_for_eof=False),
    "oci-podman": Kind("podman-runc", _oci),
    "podman-crun": Kind("podman-crun", _docker, waits_for_eof=False),
    "oci-crun": Kind("podman-crun", _oci),
}


@dataclass
class Place:
    """A container and the runtime that executes in it."""

    kind: Kind
    engine: Engine
    container: str
    runtime: Runtime = field(init=False)

    def __post_init__(self) -> None:
        self.runtime = self.kind.make(self.engine, self.container)

    def start(
        self,
        *argv: str,
        account: Account | None = None,
        terminal: Terminal | None = None,
        environment: dict[str, str] | None = None,
        directory: str | None = None,
    ) -> Running:
        who = account or self.runtime.account("")
        return Running(self.runtime.start(Command(argv, who, environment or {}, terminal, directory)))

    def shell(self, script: str, **how: object) -> Running:
        return self.start("/bin/sh", "-c", script, **how)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Result:
    out: bytes
    err: bytes
    status: int
    signal: str | None


class Running:
    """A process, read by a thread as a session does it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._output = {Output.STDOUT: bytearray(), Output.STDERR: bytearray()}
        self._changed = threading.Condition()
        self._ended = False
        self._failure: Exception | None = None
        self._reader = threading.Thread(target=self._read, name="reader", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while (output := read(self.process)) is not None:
                with self._changed:
                    self._output[output[0]] += output[1]
                    self._changed.notify_all()
        except Exception as error:
            self._failure = error  # raised again in the test's thread
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def says(self, text: bytes, times: int = 1) -> None:
        """Wait until stdout has ``text`` in it that many times."""
        with self._changed:
            seen = self._changed.wait_for(
                lambda: self._ended or self._output[Output.STDOUT].count(text) >= times, DEADLINE
            )
            assert seen and self._output[Output.STDOUT].count(text) >= times, (text, self._output, self._failure)

    def send(self, data: bytes) -> None:
        """Write all of ``data`` to the process."""
        rest = memoryview(data)
        while rest:
            assert self.process.wait_writable(DEADLINE)
            rest = rest[self.process.write(rest[:PIECE]) :]

    def result(self) -> Result:
        """Wait for the end of the output, then of the process, and close."""
        try:
            self._reader.join(DEADLINE)
            assert not self._reader.is_alive(), f"the output does not end: {self._output}"
            if self._failure is not None:
                raise self._failure
            status = self.process.wait()
        finally:
            self.process.close()
        out, err = (bytes(self._output[stream]) for stream in (Output.STDOUT, Output.STDERR))
        return Result(out, err, status, self.process.death_signal())

    def is_read_to_its_end(self) -> bool:
        self._reader.join(DEADLINE)
        return not self._reader.is_alive()


def start_failure(place: Place, *argv: str, **how: object) -> StartFailed:
    """Return the failure of a program that cannot start, at whichever moment the runtime tells."""
    try:
        found = place.start(*argv, **how).result()  # type: ignore[arg-type]
    except StartFailed as failure:
        return failure
    raise AssertionError(f"{argv} started: {found}")
