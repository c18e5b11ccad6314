"""What a user sees when the process that serves inside the container is killed: the broker, the file server."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.inside import FETCH, execute
from tests.integration.test_forwarding import Master, greet, host_server
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the gateway needs root to enter a container's namespaces")

BROKER = "crunch_sshd.inside.broker.process"
FILE_SERVER = "crunch_sshd.inside.sftp.__main__"
KILLED = "the file server was ended by SIGKILL"


def helpers(gateway: int, module: str) -> list[int]:
    """Return the pids of a gateway's processes that run ``module``."""
    found = []
    for task in Path(f"/proc/{gateway}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
            found += [int(one) for one in children if module in Path(f"/proc/{one}/cmdline").read_text().split("\0")]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda one: one.name)
def test_broker(cluster: EmbeddedCluster, ssh: Ssh, debian: str, number: signal.Signals) -> None:
    """What is forwarded stays so, whatever ends the broker: the port of before, new ones, and connections to inside."""
    socket_file = "/tmp/helper-killed"
    master = Master(ssh, debian)
    gateway = cluster.gateway_pid(debian)
    try:
        with host_server(greet) as outside:
            inside = master.listen(f"0:127.0.0.1:{outside}")
            master("forward", "-R", f"{socket_file}:127.0.0.1:{outside}")
            (broker,) = helpers(gateway, BROKER)
            os.kill(broker, number)
            if number is not signal.SIGTERM:  # it ignores that one: it ends with its connection
                wait_for(lambda: helpers(gateway, BROKER) not in ([broker], []), "another broker")
            again = master.listen(f"0:127.0.0.1:{outside}")
            ports = [("INET", "127.0.0.1", str(port)) for port in (inside, again)]
            for target in (*ports, ("UNIX", socket_file)):
                assert execute(debian, "python3", "-c", FETCH, *target) == "hello from the client's side\n"
    finally:
        master.close()
    wait_for(lambda: not helpers(gateway, BROKER), "the broker's end")
    assert ssh(debian, f"ls {socket_file}").returncode != 0, "a file is left behind"


@pytest.mark.parametrize("program", ["scp", "sftp"])
def test_file_server(cluster: EmbeddedCluster, ssh: Ssh, debian: str, tmp_path: Path, program: str) -> None:
    """The user reads what ended a transfer, and the client's exit status says that it failed."""
    config = str(cluster.directory.ssh_config)
    gateway = cluster.gateway_pid(debian)
    assert ssh(debian, "truncate -s 20G /tmp/killed-large").returncode == 0
    target = tmp_path / "large"
    argument = f"{debian}:/tmp/killed-large"
    with subprocess.Popen(
        [program, "-F", config, argument, str(target)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        wait_for(lambda: target.exists() and target.stat().st_size, "the beginning of the transfer")
        (pid,) = helpers(gateway, FILE_SERVER)
        os.kill(pid, signal.SIGKILL)
        _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode != 0
    assert KILLED in said.decode(), said
