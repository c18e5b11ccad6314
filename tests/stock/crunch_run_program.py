"""A double of stock ``crunch-run``, the program: its arguments, locks and calls, with the gateway of gateway.py.

With ``--detach`` it takes the lock of the container below /var/lock, starts itself again with ``-no-detach`` in a
process group of its own, with the lock as descriptor 3, writes UUID and PID to stdout and into the lock file, and ends.
``--list`` shows the containers whose locks are held, and sends SIGUSR2 to their pids; ``--kill`` sends a signal. A run
creates the container with the UUID as its name, sets the record once to Running with the gateway's address, starts the
container, waits, and sets the record to Complete.

Options of the double's own: ``--certificate`` and ``--key`` of its gateway; ``--report DIR``, where each process writes
what it was started with; ``--hold FILE``: the container is started once that file is there.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

LOCKS = Path("/var/lock")
ALL = LOCKS / "crunch-run-all.lock"


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the arguments as Go's flag package does: with one hyphen or two."""
    reader = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in ("detach", "no-detach", "stdin-config", "stdin-prices", "list"):
        reader.add_argument(f"--{name}", f"-{name}", action="store_true")
    for name in ("kill", "runtime-engine", "certificate", "key", "report", "hold", "cgroup-parent-subsystem"):
        reader.add_argument(f"--{name}", f"-{name}")
    reader.add_argument("uuid", nargs="?")
    return reader.parse_args(argv)


def report(directory: str | None) -> None:
    """Write what this process was started with."""
    if directory is None:
        return
    facts = {
        "argv": sys.argv[1:], "environ": Path("/proc/self/environ").read_text().split("\0"),
        "group": os.getpgid(0), "session": os.getsid(0),
    }  # fmt: skip
    file = Path(directory, f"{os.getpid()}.json")
    file.with_suffix(".new").write_text(json.dumps(facts))
    file.with_suffix(".new").rename(file)


def lock_of(uuid: str) -> Path:
    return LOCKS / f"crunch-run-{uuid}.lock"


@contextlib.contextmanager
def all_locked() -> Any:
    with ALL.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def detach(uuid: str, argv: list[str], stdin: bytes) -> int:
    with all_locked():
        descriptor = os.open(lock_of(uuid), os.O_RDWR | os.O_CREAT, 0o700)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"flock {lock_of(uuid)}: resource temporarily unavailable", file=sys.stderr)
            return 1
        os.truncate(descriptor, 0)
    os.dup2(descriptor, 3)
    child = subprocess.Popen(
        [sys.argv[0], "-no-detach", *argv], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, pass_fds=[3], process_group=0,
    )  # fmt: skip
    told = json.dumps({"UUID": uuid, "PID": child.pid}) + "\n"
    os.write(3, told.encode())
    assert child.stdin is not None
    child.stdin.write(stdin)
    child.stdin.close()
    child.returncode = 0  # it goes on without us
    print(told, end="", flush=True)
    return 0


def list_running() -> int:
    sys.stdin.read()
    for lock in sorted(LOCKS.glob("crunch-run-*-dz642-*.lock")):
        with contextlib.suppress(FileNotFoundError, ValueError), all_locked(), lock.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found = json.load(file)
                try:
                    os.kill(found["PID"], signal.SIGUSR2)
                    print(found["UUID"])
                except ProcessLookupError:
                    print(found["UUID"], "stale")
            else:
                lock.unlink()
    return 0


def kill(number: int, uuid: str) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(json.loads(lock_of(uuid).read_text())["PID"], number)
    return 0


class Api:
    """The calls of a run, each on a connection of its own."""

    def __init__(self, token: str) -> None:
        self._host = os.environ["ARVADOS_API_HOST"]
        self._context = ssl.create_default_context()
        if os.environ.get("ARVADOS_API_HOST_INSECURE"):
            self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        connection = HTTPSConnection(self._host, context=self._context)
        connection.request(method, f"/arvados/v1/{path}", json.dumps(body) if body else None, self._headers)
        answer = connection.getresponse()
        found = json.load(answer)
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {found}")
        return found


def run(options: argparse.Namespace) -> int:
    from tests.stock.gateway import stock_gateway

    uuid = options.uuid
    record = Api(os.environ["ARVADOS_API_TOKEN"])("GET", f"containers/{uuid}")
    auth = Api(os.environ["ARVADOS_API_TOKEN"])("GET", f"containers/{uuid}/auth")
    own = Api(f"v2/{auth['uuid']}/{auth['api_token']}")
    host, _, port = os.environ["GatewayAddress"].rpartition(":")
    engine = Singularity(record) if options.runtime_engine == "singularity" else Docker(record)
    pair = Path(options.certificate), Path(options.key)
    with stock_gateway(
        *pair, "", uuid, docker_container=uuid, secret=os.environ["GatewayAuthSecret"], listen=(host, int(port)),
        log=f"running {uuid}\n",
    ) as gateway:
        signal.signal(signal.SIGTERM, lambda *_: engine.stop())
        signal.signal(signal.SIGUSR2, lambda *_: None)
        engine.create()
        changes = {"state": "Running", "gateway_address": gateway.address, "log": "d41d8cd98f00b204e9800998ecf8427e+0"}
        own("PATCH", f"containers/{uuid}", {"container": changes})
        while options.hold and not Path(options.hold).exists():
            time.sleep(0.05)
        engine.start()
        status = engine.wait()
        own("PATCH", f"containers/{uuid}", {"container": {"state": "Complete", "exit_code": status}})
        engine.remove()
        os._exit(status)  # connections of the gateway may be open


class Docker:
    """The container on the engine that DOCKER_HOST names, with the UUID as its name."""

    def __init__(self, record: dict[str, Any]) -> None:
        self._uuid = record["uuid"]
        self._record = record

    def create(self) -> None:
        image, command = self._record["container_image"], self._record["command"]
        # Debian's Podman has no init, and asks for limits that a container may not have.
        podmans = ["--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:8192"]
        options = podmans if "DOCKER_HOST" in os.environ else ["--init"]
        self._docker("create", "--name", self._uuid, *options, image, *command)

    def start(self) -> None:
        self._docker("start", self._uuid)

    def wait(self) -> int:
        return int(self._docker("wait", self._uuid))

    def stop(self) -> None:
        subprocess.Popen(["docker", "kill", self._uuid], stdout=subprocess.DEVNULL)

    def remove(self) -> None:
        self._docker("rm", "--force", self._uuid)

    @staticmethod
    def _docker(*arguments: str) -> str:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(f"docker {arguments}: {done.stderr}")
        return done.stdout


class Singularity:
    """The contained process, below the starter that makes its namespaces."""

    def __init__(self, record: dict[str, Any]) -> None:
        self._command = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child",
                         *record["command"]]  # fmt: skip

    def create(self) -> None:
        """There is nothing to create."""

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def wait(self) -> int:
        status = self._process.wait()
        return status if status >= 0 else 128 - status

    def stop(self) -> None:
        self._process.kill()

    def remove(self) -> None:
        """There is nothing to remove."""


def main() -> int:
    argv = sys.argv[1:]
    options = parse(argv)
    report(options.report)
    if options.list:
        return list_running()
    if options.kill:
        return kill(int(options.kill), options.uuid)
    stdin = sys.stdin.buffer.read() if options.stdin_config else b""
    if options.detach and not options.no_detach:
        return detach(options.uuid, argv, stdin)
    if stdin:
        os.environ.update(json.loads(stdin)["Env"])
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
