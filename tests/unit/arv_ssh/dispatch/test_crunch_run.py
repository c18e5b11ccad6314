import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from arv_ssh.audit.options import Auditing
from arv_ssh.dispatch.crunch_run import CrunchRun
from arv_ssh.errors import ArvSshError, ConfigError
from arv_ssh.processes import process_lock
from arv_ssh.trust import credentials

ROOT_TOKEN = "systemusertesttoken1234567890aoeuidhtnsqjkxbmwvzpy"
UUID = "zzzzz-dz642-abcdeabcdeabcde"

PROGRAM = """#!/usr/bin/env python3
import json, os, sys
secret = None
if "--gateway-auth-secret" in sys.argv:
    argument = sys.argv[sys.argv.index("--gateway-auth-secret") + 1]
    secret = open(int(argument.removeprefix("fd:"))).read()
leads = os.getsid(0) == os.getpid()
print(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), "secret": secret, "session": leads}))
"""


@pytest.fixture
def crunch_run(tmp_path: Path) -> CrunchRun:
    program = tmp_path / "crunch-run"
    program.write_text(PROGRAM)
    program.chmod(0o700)
    return CrunchRun(
        program=program,
        system_root_token=ROOT_TOKEN,
        api_host="127.0.0.1:1",
        api_insecure=False,
        log_dir=tmp_path / "log",
    )


def test_start(crunch_run: CrunchRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """crunch-run gets its container's secret by descriptor, and the container's own token, never the root token."""
    monkeypatch.setenv("SOMETHING_PRIVATE", "x")
    monkeypatch.setenv("ARVADOS_API_TOKEN", ROOT_TOKEN)
    lock = process_lock.acquire(tmp_path / "lock")
    assert lock
    assert crunch_run.start(lock, UUID, "v2/its-own/token").wait(10) == 0
    seen = json.loads((tmp_path / "log" / UUID / "crunch-run.txt").read_text())
    secret = credentials.container_secret(ROOT_TOKEN, UUID)
    assert seen["secret"] == secret
    assert seen["argv"][0] == "--gateway-auth-secret"
    assert seen["argv"][2:] == ["--log-dir", str(tmp_path / "log" / UUID), UUID]
    assert seen["session"]
    assert (seen["env"]["ARVADOS_API_HOST"], seen["env"]["ARVADOS_API_TOKEN"]) == ("127.0.0.1:1", "v2/its-own/token")
    assert "SOMETHING_PRIVATE" not in seen["env"]
    everything = json.dumps(seen["argv"]) + json.dumps(seen["env"])
    assert secret not in everything and ROOT_TOKEN not in everything


def test_a_tunnel_is_asked_for(crunch_run: CrunchRun, tmp_path: Path) -> None:
    """Where the cluster's gateways cannot be dialled, crunch-run is told which controller to open a tunnel to."""
    lock = process_lock.acquire(tmp_path / "lock")
    assert lock
    tunnelling = replace(crunch_run, gateway_tunnel="https://10.0.0.1:8443")
    assert tunnelling.start(lock, UUID, "v2/its-own/token").wait(10) == 0
    seen = json.loads((tmp_path / "log" / UUID / "crunch-run.txt").read_text())
    assert seen["argv"][-3:] == ["--gateway-tunnel", "https://10.0.0.1:8443", UUID]


def test_auditing_is_passed_on(crunch_run: CrunchRun, tmp_path: Path) -> None:
    """crunch-run is told how the cluster wants sessions recorded, and where."""
    crunch_run = replace(crunch_run, auditing=Auditing("required", tmp_path / "audit", "tty", tmp_path / "recordings"))
    lock = process_lock.acquire(tmp_path / "lock")
    assert lock
    assert crunch_run.start(lock, UUID, "v2/its-own/token").wait(10) == 0
    seen = json.loads((tmp_path / "log" / UUID / "crunch-run.txt").read_text())
    assert seen["argv"][4:] == [
        "--audit", "required", "--audit-dir", str(tmp_path / "audit"),
        "--recording", "tty", "--recording-dir", str(tmp_path / "recordings"), UUID,
    ]  # fmt: skip


def test_the_gateways_memory(crunch_run: CrunchRun, tmp_path: Path) -> None:
    """crunch-run is told of a memory limit that is not the default."""
    lock = process_lock.acquire(tmp_path / "lock")
    assert lock
    assert replace(crunch_run, gateway_memory=1 << 30).start(lock, UUID, "v2/its-own/token").wait(10) == 0
    seen = json.loads((tmp_path / "log" / UUID / "crunch-run.txt").read_text())
    assert seen["argv"][-3:] == ["--gateway-memory", str(1 << 30), UUID]


def test_the_hold(crunch_run: CrunchRun, tmp_path: Path) -> None:
    """crunch-run is told how long a failed container may be kept up."""
    lock = process_lock.acquire(tmp_path / "lock")
    assert lock
    assert replace(crunch_run, hold_on_failure=1234567.5).start(lock, UUID, "v2/its-own/token").wait(10) == 0
    seen = json.loads((tmp_path / "log" / UUID / "crunch-run.txt").read_text())
    assert seen["argv"][-3:] == ["--hold-on-failure", "1234567.5", UUID]


def test_without_init(crunch_run: CrunchRun, tmp_path: Path) -> None:
    """crunch-run is told when containers are to have no init."""
    lock = process_lock.acquire(tmp_path / "lock")
    assert lock
    assert replace(crunch_run, container_init=False).start(lock, UUID, "v2/its-own/token").wait(10) == 0
    seen = json.loads((tmp_path / "log" / UUID / "crunch-run.txt").read_text())
    assert seen["argv"][-2:] == ["--no-container-init", UUID]


def test_no_descriptor_is_left(crunch_run: CrunchRun, tmp_path: Path) -> None:
    """Starting crunch-run leaves no pipe and no lock open in the dispatcher."""
    before = len(os.listdir("/proc/self/fd"))
    lock = process_lock.acquire(tmp_path / "lock")
    assert lock
    child = crunch_run.start(lock, UUID, "v2/its-own/token")
    assert len(os.listdir("/proc/self/fd")) == before
    child.wait(10)


def test_clean_up_needs_no_credentials(crunch_run: CrunchRun, tmp_path: Path) -> None:
    """The removal of leftovers talks to the engine only: it gets neither secret nor token."""
    lock = process_lock.acquire(tmp_path / "lock")
    assert lock
    assert crunch_run.clean_up(lock, UUID).wait(10) == 0
    seen = json.loads((tmp_path / "log" / UUID / "crunch-run.txt").read_text())
    assert seen["argv"] == ["--clean-up", UUID]
    assert "ARVADOS_API_TOKEN" not in seen["env"]


def test_a_missing_program_is_named(crunch_run: CrunchRun, tmp_path: Path) -> None:
    """A crunch-run that is not there is told at the start, and once more when it vanished later."""
    crunch_run.program.unlink()
    with pytest.raises(ConfigError, match="name the crunch-run program"):
        crunch_run.check()
    lock = process_lock.acquire(tmp_path / "lock")
    assert lock
    with lock, pytest.raises(ArvSshError, match=f"cannot start .* for container {UUID}"):
        crunch_run.start(lock, UUID, "v2/its-own/token")
