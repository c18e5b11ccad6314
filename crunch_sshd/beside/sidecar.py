"""The sidecar of one container: serves its sessions for as long as stock crunch-run runs it, and no longer.

Owns the order of its life: find stock's process, have the container found and the record kept by
:mod:`crunch_sshd.beside.record_keeper`, serve by :mod:`crunch_sshd.run.gateway_child`, end with stock. It asks nothing
of stock and does nothing to it; where something here fails, it ends, and stock's own gateway is on the record.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from typing import Any

from arv_ssh import log
from arv_ssh.errors import ArvSshError
from arv_ssh.log import event
from arv_ssh.processes import core_dumps
from crunch_sshd.beside import record_keeper, stock_process
from crunch_sshd.beside.handover import Handover
from crunch_sshd.gateway import control
from crunch_sshd.run.gateway_child import GatewayChild
from crunch_sshd.runtimes import engine_over_ssh

logger = logging.getLogger(__name__)


class Sidecar:
    """The sidecar that ``handover`` describes; ``launcher`` is a pidfd of the process that became stock."""

    def __init__(self, handover: Handover, launcher: int) -> None:
        self._handover = handover
        self._uuid = handover.uuid
        self._launcher = launcher
        # The record's process is started first: the gateway's supervisor ends every later child that is not a gateway.
        self._record, theirs = control.pair()
        self._keeper = _spawn_keeper(theirs)
        self._gateway = GatewayChild(self._uuid, handover.secret, handover.gateway_options())
        self._record.send("begin", uuid=self._uuid, token=handover.token, engine=handover.engine)

    def run(self) -> None:
        """Serve until stock's process has ended. Raises the error of a gateway that cannot serve."""
        stock = self._stock()
        if stock is None:
            return self._stop("crunch-run did not start container {uuid}")
        pid = _pid_of(stock)
        self._record.send("stock", pid=pid)
        self._attend(stock)
        return self._stop("container {uuid} has ended")

    def _stock(self) -> int | None:
        if not self._handover.detaches:
            return self._launcher
        return stock_process.find_detached(self._uuid, self._launcher, self._handover.launcher_session)

    def _attend(self, stock: int) -> None:
        """Act on what the record's process says, until stock's process has ended, or all is in vain."""
        poll = select.poll()
        poll.register(stock, select.POLLIN)
        poll.register(self._record, select.POLLIN)
        served = False
        while stock not in (ready := dict(poll.poll())):
            message = self._record.receive() if self._record.fileno() in ready else {}
            if message.get("kind") == "found":
                self._serve(message)
            elif message.get("kind") == "recorded":
                served = True
            elif not message and not served:
                return  # nobody will come: the record does not name us
            elif not message:
                poll.unregister(self._record)

    def _serve(self, found: dict[str, Any]) -> None:
        self._gateway.start()
        self._gateway.check()
        address = self._gateway.serve(found["container"], self._moved, inner=found["inner"])
        if address:
            self._moved(address)

    def _moved(self, address: str) -> None:
        self._record.send("address", address=address)

    def _stop(self, reason: str) -> None:
        self._gateway.stop(reason.format(uuid=self._uuid))
        self._record.send("stop")
        self._record.close()
        self._keeper.wait()


def _spawn_keeper(theirs: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", record_keeper.MODULE, str(theirs.fileno())]
    with theirs:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])  # noqa: S603 - ours


def _pid_of(pidfd: int) -> int:
    """Return the pid of a pidfd (proc(5), fdinfo), -1 once the process has ended."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


def main() -> int:
    """Read the handover and be the sidecar; the descriptors are the arguments."""
    log.configure()
    core_dumps.forbid()
    engine_over_ssh.spare()
    handover = Handover.from_descriptor(int(sys.argv[1]))
    os.set_inheritable(int(sys.argv[2]), False)
    from setproctitle import setproctitle

    setproctitle(f"crunch-run-beside of {handover.uuid}")
    try:
        Sidecar(handover, int(sys.argv[2])).run()
        return 0
    except (ArvSshError, OSError) as error:
        event(logger, "the sidecar cannot serve", level=logging.ERROR, container_uuid=handover.uuid, error=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
