"""The life of controller processes: how they find each other, come, go, and change their config."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.integration.controllers import controller
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE

POLICY = {"Mode": "default-on", "Admin": True, "User": True}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(str(self._path))


def get(path: Path, target: str, token: str) -> tuple[int, Any]:
    """Ask the private socket at ``path``; return status and JSON."""
    connection = UnixConnection(path)
    connection.request("GET", target, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    result = answer.status, json.loads(answer.read())
    connection.close()
    return result


def test_private_socket(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """A controller answers on a private socket as on its port, to those with the right token, and removes it."""
    with controller(cluster, tmp_path, POLICY, ManagementToken="the-management-token") as running:
        (path,) = (tmp_path / "run").glob("*.sock")
        assert get(path, "/_health/ping", "the-management-token") == (200, {"health": "OK"})
        assert get(path, "/_health/ping", "another")[0] == 403
        assert running.root.current_user()["is_admin"]
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_foreign_run_directory(cluster: EmbeddedCluster, tmp_path: Path, mode: int) -> None:
    """A run directory that others may enter is refused in one sentence, and nothing is left running."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    with pytest.raises(AssertionError, match=r"arv-ssh: the run directory .* with mode 0700") as refused:
        with controller(cluster, tmp_path, POLICY):
            pass
    assert "Traceback" not in str(refused.value)
