"""A controller beside a real Arvados, whose API is a process of its own that can fail: tests/stock/api.py's double.

Run as a program it is that process; its one argument is what it has to hold, as JSON.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from arv_ssh.config import cluster_config
from tests.integration.controllers import Controller, started
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import Person
from tests.stock.api import stock_api

STOCK_CONFIG = Path(__file__).parents[1] / "stock" / "config.yml"
ROOT_OF_TREE = Path(__file__).parents[2]
ACTIVE, ROOT = "zzzzz-tpzed-xurymjxw79nv3jz", "zzzzz-tpzed-000000000000000"
TOKEN_UUID = "zzzzz-gj3su-077z32aux8dg2s1"


class Api:
    """The API's process."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start it, at the port of the last time; return its URL."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.arvados", json.dumps(self._spec)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT_OF_TREE,
        )  # fmt: skip
        assert self._process.stdout is not None
        url = self._process.stdout.readline().strip()
        self._spec["port"] = int(url.rpartition(":")[2])
        return url

    def pid(self) -> int:
        """Return its pid."""
        assert self._process is not None
        return self._process.pid

    def runs(self) -> bool:
        """Say whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop it."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()


class Site:
    """The controller, and the user's way through it into ``uuid``."""

    def __init__(self, cluster: EmbeddedCluster, root: Path, one: Controller, api: Api, uuid: str, token: str) -> None:
        self.controller = one
        self.api = api
        self._cluster = cluster
        self._uuid = uuid
        self._root = root
        self.environment = Person(root / "site-home", one, token, resumes=False).environment

    def prefix_and_config(self) -> tuple[list[str], Path]:
        """Return what comes before ssh, and its config."""
        return [], self._root / "site-home" / "ssh_config"

    def new_container(self) -> str:
        """Return the container, which never ends here."""
        return self._uuid

    def crunch_run_pid(self) -> int:
        """Return the pid of its crunch-run."""
        return self._cluster.crunch_run_pid(self._uuid)


@contextmanager
def site(cluster: EmbeddedCluster, root: Path, uuid: str) -> Iterator[Site]:
    """Give a site for a container of the cluster, until the end of the block."""
    ours = cluster_config.load(cluster.directory.config)
    text = STOCK_CONFIG.read_text()
    for name, value in {"@ROOT_TOKEN@": ours.system_root_token, "@CERTIFICATE@": str(ours.tls_certificate),
                        "@KEY@": str(ours.tls_key)}.items():  # fmt: skip
        text = text.replace(name, value)
    place = root / "log" / "site"
    place.mkdir()
    (place / "config.yml").write_text(text)
    secret = secrets.token_hex(20)
    directory = cluster.directory
    api = Api({
        "certificate": str(directory.server_certificate), "key": str(directory.server_key), "port": 0,
        "secret": secret, "root": ours.system_root_token, "uuid": uuid,
        "gateway": cluster.container(uuid)["gateway_address"],
    })  # fmt: skip
    with ExitStack() as stack:
        url = api.start()
        stack.callback(api.stop)
        options = ["--config", str(place / "config.yml"), "--api", url]
        one = stack.enter_context(started(cluster, place, options))
        yield Site(cluster, root, one, api, uuid, f"v2/{TOKEN_UUID}/{secret}")


def main(spec: dict[str, Any]) -> None:
    """Be the API until killed."""
    with stock_api(Path(spec["certificate"]), Path(spec["key"]), spec["port"]) as api:
        api.add_user(ACTIVE, spec["secret"])
        api.add_user(ROOT, spec["root"], is_admin=True)
        api.add_container(spec["uuid"], spec["gateway"], {ACTIVE})
        api.add_request("zzzzz-xvhdp-000000000000000", spec["uuid"], ACTIVE)
        print(api.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
