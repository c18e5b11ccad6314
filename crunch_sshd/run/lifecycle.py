"""The life of one container: Locked record, Docker container, gateway, Running, exit status, Complete or Cancelled.

Owns the order of these steps and what happens when one of them fails: the container leaves nothing behind, and the
record says why. Knows nothing of the command line and of how the steps are done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from arv_ssh import log
from arv_ssh.errors import ArvSshError, HttpError, Unprocessable
from crunch_sshd.run import container_options
from crunch_sshd.run.address_record import AddressRecord
from crunch_sshd.run.container import Container
from crunch_sshd.run.container_record import PATIENCE, ContainerRecord
from crunch_sshd.run.events import Events
from crunch_sshd.run.gateway_child import GatewayChild
from crunch_sshd.run.hold import Hold
from crunch_sshd.runtimes import docker_engine

logger = logging.getLogger(__name__)

PATIENCE_AFTER_SIGNAL = 10.0
"""Seconds spent trying to record Cancelled after a signal: its sender waits, and otherwise the dispatcher records
it."""

KILL_BEFORE = 1
"""Seconds before a program's failure in which an engine's signal counts as its cause: then nobody wants to look."""


ENDING = 2.0
"""Seconds in which an engine notices that a container's first process is gone."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run a container.

    With ``log_dir`` the output goes to ``stdout.txt`` and ``stderr.txt`` there, and the record's ``log`` is that
    directory as a ``file:`` URI (an Arvados cluster has a collection there; this one has no Keep to put it in).
    Without it the output goes to crunch-run's own stdout and stderr, and ``log`` stays empty. ``hold_on_failure`` is
    the longest time in seconds that a container may ask to be kept up for after its program has failed. ``with_init``:
    the container's first process is the engine's init, which reaps what sessions leave behind.
    """

    uuid: str
    log_dir: Path | None
    hold_on_failure: float = 0.0
    with_init: bool = True
    records_signals: bool = True


class OutputLost(ArvSshError):
    """The command has ended, but its output is incomplete: it must not count. ``exit_code`` is the command's."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Interrupted(Exception):
    """A signal asked to stop; the text is its name."""


class Lifecycle:
    """Runs one container, in the main thread, once. With ``gateway`` None, users cannot enter."""

    def __init__(
        self, settings: Settings, record: ContainerRecord, events: Events, gateway: GatewayChild | None
    ) -> None:
        self._settings = settings
        self._record = record
        self._events = events
        self._gateway = gateway
        self._leftovers: list[str] = []
        self._addresses = AddressRecord(record)
        self._farewell = f"container {settings.uuid} was cancelled"

    def run(self) -> None:
        """Run the container to its end and record it.

        Raises :class:`ArvSshError` when it was not Locked (the record is then left alone), could not be run (the record
        is then Cancelled and says why), the end could not be recorded, or part of it could not be removed. A signal
        cancels the container without raising an error.
        """
        record = self._record.get()
        uuid, state = self._settings.uuid, record.get("state")
        if state != "Locked":
            raise Unprocessable(f"container {uuid} is {state}, not Locked: lock it before starting crunch-run for it")
        try:
            ending = self._run(record)
        except Interrupted as signal_name:
            log.event(logger, "cancelled by a signal", container_uuid=uuid, signal=str(signal_name))
            self._events.acknowledge()
            if self._settings.records_signals:
                self._cancel({}, PATIENCE_AFTER_SIGNAL)
        except OutputLost as error:
            log_uri = self._log_uri()
            self._cancel({"runtime_status": {"error": str(error)}, "exit_code": error.exit_code, **log_uri}, PATIENCE)
            raise
        except Exception as error:
            sentence = str(error) if isinstance(error, ArvSshError) else f"crunch-run failed: {type(error).__name__}"
            self._events.acknowledge()
            self._cancel({"runtime_status": {"error": sentence}}, PATIENCE)
            raise
        else:
            self._record.update({"state": "Complete", **ending})
            log.event(logger, "container is complete", container_uuid=uuid, exit_code=ending["exit_code"])
        if self._leftovers:
            raise ArvSshError(self._leftovers[-1])

    def _cancel(self, attributes: dict[str, Any], patience: float) -> None:
        try:
            self._record.update({"state": "Cancelled", **attributes}, patience)
        except HttpError as error:
            # A user's cancellation reaches the API first: the record is already final, and our token is gone.
            log.event(
                logger,
                "Cancelled is not recorded",
                level=logging.WARNING,
                container_uuid=self._settings.uuid,
                error=str(error),
            )

    def _run(self, record: dict[str, Any]) -> dict[str, Any]:
        """Run the container and remove it, whatever happens; return what to record beside Complete."""
        options = container_options.from_record(record)
        client = docker_engine.connect()
        with ExitStack() as stack:
            stdout, stderr = self._outputs(stack)
            container = Container.create(client, self._settings.uuid, options, self._settings.with_init)
            stack.callback(self._release, container.remove)
            self._check_signal()
            hold = self._prepare_hold(options.hold, container)
            stack.callback(hold.release)
            container.start(stdout, stderr)
            hold.started()
            stack.callback(self._release, container.stop)
            stack.callback(hold.release)  # first of all: a container that is kept up cannot be stopped
            address = "" if self._gateway is None else self._open_gateway(stack, self._gateway, container, hold)
            self._announce(address)
            self._addresses.start(address)
            stack.callback(self._addresses.stop)
            exit_code = self._wait(container, hold)
            self._farewell = f"container {self._settings.uuid} has ended (exit {exit_code})"
        if container.lost_output:
            raise OutputLost(
                f"{container.lost_output}; the command itself ended with exit status {exit_code}; "
                "make room for its output, then submit the container request again", exit_code,
            )  # fmt: skip
        return {"exit_code": exit_code} | self._log_uri() | hold.ending(exit_code)

    def _prepare_hold(self, asked: float, container: Container) -> Hold:
        longest = self._settings.hold_on_failure
        hold = Hold(asked, longest, lambda: container.docker_id, self._record, self._events)
        hold.prepare()
        return hold

    def _log_uri(self) -> dict[str, str]:
        log_dir = self._settings.log_dir
        return {"log": log_dir.absolute().as_uri()} if log_dir else {}

    def _open_gateway(self, stack: ExitStack, gateway: GatewayChild, container: Container, hold: Hold) -> str:
        """Have the gateway serve and return its address; "" when the container has already ended."""
        stack.callback(lambda: gateway.stop(self._farewell))
        try:
            return gateway.serve(container.docker_id, self._addresses.moved, hold.sessions)
        except ArvSshError as error:
            # A runtime looks into the container's first process: a short command may be over by then.
            if not container.ends_within(ENDING):
                raise
            log.event(logger, "ended before its gateway", container_uuid=self._settings.uuid, reason=str(error))
            return ""

    def _announce(self, gateway_address: str) -> None:
        """Record the gateway's address together with Running, so that neither is ever seen without the other."""
        self._check_signal()
        attributes: dict[str, Any] = {"state": "Running"}
        if gateway_address:
            attributes["gateway_address"] = gateway_address
        self._record.update(attributes)
        log.event(logger, "container is running", container_uuid=self._settings.uuid, **attributes)

    def _wait(self, container: Container, hold: Hold) -> int:
        """Block until the container has ended, which may be held up if its program failed.

        Raises :class:`Interrupted` when a signal comes before the program's end.
        """
        outcome = self._watch(container)
        self._wait_for(lambda: bool(outcome) or hold.is_due())
        if not outcome:
            container.watch_for_kill(int(time.time()) - KILL_BEFORE, hold.release)
            hold.keep(self._settings.uuid, lambda: bool(outcome))
            self._wait_for(lambda: bool(outcome))
        ended = outcome[0]
        if isinstance(ended, Exception):
            raise ended
        return ended

    def _watch(self, container: Container) -> list[int | Exception]:
        """Return a list that will have the container's exit status, or the failure to learn it."""
        outcome: list[int | Exception] = []

        def watch() -> None:
            try:
                outcome.append(container.wait())
            except Exception as error:
                outcome.append(error)  # raised again below, in the main thread
            self._events.notify()

        threading.Thread(target=watch, name="container-wait", daemon=True).start()
        return outcome

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        if not self._events.wait_for(condition):
            self._check_signal()

    def _check_signal(self) -> None:
        if self._events.signalled:
            raise Interrupted(self._events.signalled)

    def _release(self, step: Callable[[], None]) -> None:
        """Do one step of leaving; a failure does not undo what the container achieved, and is raised at the end."""
        try:
            step()
        except ArvSshError as error:
            log.event(
                logger, "cannot tidy up", level=logging.ERROR, container_uuid=self._settings.uuid, error=str(error)
            )
            self._leftovers.append(str(error))

    def _outputs(self, stack: ExitStack) -> tuple[BinaryIO, BinaryIO]:
        """Open the files for the container's output, unbuffered: everything it wrote is there when crunch-run dies."""
        directory = self._settings.log_dir
        if directory is None:
            return open(1, "wb", buffering=0, closefd=False), open(2, "wb", buffering=0, closefd=False)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            stdout = stack.enter_context(open(directory / "stdout.txt", "ab", buffering=0))
            stderr = stack.enter_context(open(directory / "stderr.txt", "ab", buffering=0))
        except OSError as error:
            raise ArvSshError(f"cannot write the container's output to {directory}: {error.strerror}") from error
        return stdout, stderr
