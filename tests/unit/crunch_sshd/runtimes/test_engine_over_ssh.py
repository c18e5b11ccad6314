"""What a process that does not reach its engine by SSH is spared."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from crunch_sshd.runtimes import engine_over_ssh
from tests.timing import DEADLINE


@pytest.mark.parametrize(("host", "spared"), [("", True), ("unix:///run/podman.sock", True), ("ssh://node", False)])
def test_spare(monkeypatch: pytest.MonkeyPatch, host: str, spared: bool) -> None:
    """SSH is spared where it is not the way to the engine."""
    monkeypatch.setenv("DOCKER_HOST", host)
    modules: dict[str, Any] = {}
    engine_over_ssh.spare(modules)
    assert (engine_over_ssh.MODULE in modules) == spared


def test_the_sdk_goes_without() -> None:
    """The Docker SDK is then imported without paramiko."""
    program = (
        "import sys; from crunch_sshd.runtimes import engine_over_ssh; engine_over_ssh.spare(); "
        "from crunch_sshd.runtimes import docker_engine; assert 'paramiko' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE)
