"""The process that runs crunch-run's gateway: whatever becomes of it, the container goes on.

Owns the order in which crunch-run and the gateway talk (:mod:`crunch_sshd.gateway.control`): ``begin`` with the secret
and the options is answered by ``ready``, ``serve`` with the container by ``serving`` with the address. ``moved`` says
that a tunnel has changed the address, ``sessions`` how many are open now, ``failed`` why there is no answer; ``stop``
has the reason to show to users.

Started by :mod:`crunch_sshd.run.gateway_child`. It ends itself when crunch-run is gone.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arv_ssh import log
from arv_ssh.errors import ArvSshError
from arv_ssh.processes import core_dumps, garbage
from crunch_sshd import gateway_options, process_title
from crunch_sshd.gateway.control import Control, passed
from crunch_sshd.gateway_options import GatewayOptions

if TYPE_CHECKING:
    from crunch_sshd.gateway.gateway import Gateway
    from crunch_sshd.runtimes import Runtime

OOM_SCORE_ADJ = 1000
"""Has the kernel kill this process before all others when memory is short (proc(5)): this process is started again, a
job of days is not. A lower value would be added to the memory used, where a large job outweighs it."""


def main() -> int:
    """Serve until crunch-run says stop or is gone, or SIGTERM comes; return the exit status."""
    log.configure()
    _be_killed_first()
    core_dumps.forbid()
    control = Control(passed(int(sys.argv[1])))
    try:
        return _serve(control, control.receive())
    except (ArvSshError, OSError) as error:
        control.send("failed", error=type(error).__name__, sentence=str(error))
        return 1


def _be_killed_first() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(OOM_SCORE_ADJ))
    except OSError:
        pass  # no /proc, or a sandbox that forbids it: the memory limit still holds


def _serve(control: Control, begin: dict[str, Any]) -> int:
    uuid, options = begin["container_uuid"], GatewayOptions.from_fields(begin["options"])
    process_title.set_title("crunch-run", f"gateway of {uuid}")
    from crunch_sshd.ssh import descriptors, paramiko_doors

    descriptors.raise_limit()
    paramiko_doors.check()  # before what opens the doors is imported
    from crunch_sshd.gateway.gateway import Gateway
    from crunch_sshd.run.events import Events

    uplink = gateway_options.uplink(options.tunnel, os.environ)
    events = Events()
    events.listen()
    control.send("ready")
    serve = control.receive()
    if serve.get("kind") != "serve":
        return 0
    from arv_ssh.config import session_options
    from crunch_sshd.forwarding import policy
    from crunch_sshd.gateway.relayed import Relayed

    gateway = Gateway(
        container_uuid=uuid,
        secret=begin["secret"],
        runtime=_runtime(options.runtime, serve["container"], uuid),
        host=options.host,
        listener=None if begin["listener"] is None else passed(begin["listener"]),
        accept_unsigned_sessions=options.accept_unsigned_sessions,
        policy=policy.from_json(options.forwarding),
        options=session_options.from_json(options.sessions),
        auditing=options.auditing,
        uplink=uplink,
        moved=lambda address: control.send("moved", address=address),
        counted=lambda count: control.send("sessions", count=count),
        services=lambda served: Relayed(serve["inner"], uuid, begin["secret"], served) if serve["inner"] else served,
        memory=options.memory,
        log_directory=Path(options.log_directory) if options.log_directory else None,
    )
    address = gateway.start()
    garbage.spare_what_is_here()
    control.send("serving", address=address)
    _until_told(control, events, gateway, uuid)
    return 0


def _until_told(control: Control, events: Any, gateway: Gateway, uuid: str) -> None:
    """Wait for crunch-run's word, or for a signal from elsewhere, and stop the gateway."""
    words: list[dict[str, Any]] = []

    def listen() -> None:
        words.append(control.receive())
        events.notify()

    threading.Thread(target=listen, name="control", daemon=True).start()
    events.wait_for(lambda: bool(words))
    if not words:
        gateway.stop(f"the gateway of container {uuid} is starting again; reconnect")
    elif not words[0]:
        gateway.stop(f"the program that kept the gateway of container {uuid} is gone; reconnect")
    else:
        gateway.stop(words[0]["reason"])


def _runtime(kind: str, container_id: str, name: str) -> Runtime:
    """Return the runtime of a container by its full id, or ``namespace`` by its program's pid.

    Only that of an engine imports its SDK and connects to it.
    """
    if kind == "namespace":
        from crunch_sshd.runtimes.namespace import NamespaceRuntime

        return NamespaceRuntime(int(container_id), name)
    if kind != "docker":
        from crunch_sshd.runtimes import oci

        found = oci.find(container_id, name)
        if found is not None:
            return found
    from crunch_sshd.runtimes.choose import choose
    from crunch_sshd.runtimes.docker_engine import connect

    return choose(kind, connect(), container_id, name)


if __name__ == "__main__":
    sys.exit(main())
