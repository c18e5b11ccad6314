"""Text that users and containers choose, full of what a terminal or a reader of lines would obey."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import paramiko
import pytest

from arv_ssh.net import upgrade
from tests.integration.clients import transport_over
from tests.integration.inside import execute
from tests.security.conftest import Site
from tests.timing import DEADLINE, wait_for

EVIL = '\x1b[2J\x1b]0;evil\x07\r\n{"event":"forged"}\x9b2J\u2028'
"""Clears a terminal, names it, begins a line, looks like a record, and has two more that only some programs obey."""
USER = "\x1b[31mred\x07"
"""A login name that a container's passwd may well have."""
ARV_SSH = str(Path(sys.executable).with_name("arv-ssh"))


def controls(data: bytes) -> list[str]:
    """Return what a terminal would obey, but for the ends of lines."""
    text = data.decode("utf-8", "backslashreplace")
    return [hex(ord(letter)) for letter in text if not letter.isprintable() and letter != "\n"]


def ask(site: Site, login_username: str) -> tuple[upgrade.UpgradeAnswer, Any]:
    """Ask for a session as a user who writes own requests."""
    controller = site.controller
    connection = controller.connect()
    form = {"login_username": login_username, "detach_keys": ""}
    headers = [("Authorization", f"Bearer {site.token()}")]
    path = f"/arvados/v1/containers/{site.debian}/ssh"
    connection.sendall(upgrade.request("POST", path, controller.address, headers, form))
    answer = upgrade.UpgradeAnswer("the controller")
    while not answer.receive(connection.recv(65536)):
        pass
    return answer, connection


@pytest.fixture(scope="module")
def hostile_session(site: Site) -> Iterator[paramiko.Transport]:
    """A session of a user whose name, client and everything else is hostile; all of it has been done."""
    execute(site.debian, "sh", "-c", 'printf "%s\\n" "$1:x:0:0::/:/bin/sh" >> /etc/passwd', "sh", USER)
    answer, connection = ask(site, USER)
    assert answer.status == 101, answer.body
    with closing(connection), transport_over(connection) as transport:
        transport.local_version = "SSH-2.0-\x1b[2Jclient"
        transport.start_client(timeout=DEADLINE)
        transport.auth_none(USER)
        _try_all(transport)
        yield transport


def _try_all(transport: paramiko.Transport) -> None:
    """Send hostile text wherever a client may send text."""
    channel = transport.open_session(timeout=DEADLINE)
    channel.set_environment_variable("LC_EVIL", EVIL)
    channel.get_pty(EVIL)
    channel.exec_command(f"echo '{EVIL}'; echo '{EVIL}' >&2")
    channel.settimeout(DEADLINE)
    while channel.recv(65536):
        pass
    channel.close()
    with transport.open_sftp_client() as files:
        for operation in (files.stat, files.mkdir, files.rmdir, files.unlink):
            with suppress(OSError):
                operation(f"/tmp/{EVIL}")
    for kind in ("direct-tcpip", EVIL):
        with pytest.raises(paramiko.ChannelException):
            transport.open_channel(kind, (EVIL, 80), ("127.0.0.1", 1), timeout=DEADLINE)
    with suppress(paramiko.SSHException):
        transport.request_port_forward(EVIL, 0)
    channel = transport.open_session(timeout=DEADLINE)
    with suppress(paramiko.SSHException):
        channel.invoke_subsystem(EVIL)
    channel.close()


def test_refusals(site: Site) -> None:
    """A name that the container does not have is told in an answer that no terminal obeys."""
    answer, connection = ask(site, EVIL)
    connection.close()
    assert answer.status in (400, 403) and controls(answer.body) == []
    assert controls(json.loads(answer.body)["errors"][0].encode()) == []


def test_list_of_sessions(site: Site, hostile_session: paramiko.Transport) -> None:
    """An administrator who lists the sessions sees the name, and it does nothing to the terminal."""
    done = subprocess.run(
        [ARV_SSH, "sessions", "list", "--config", str(site.cluster.directory.config)],
        env={"SSL_CERT_FILE": str(site.cluster.directory.ca)}, capture_output=True, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"?[31mred?" in done.stdout and controls(done.stdout) == []


def test_logs(site: Site, hostile_session: paramiko.Transport) -> None:
    """Each line of the programs' logs is a JSON object of theirs."""
    logs = [*site.cluster.directory.log.glob("*.log"), *site.cluster.directory.log.rglob("crunch-run.txt")]
    assert logs
    for path in logs:
        data = path.read_bytes()
        assert controls(data) == [], path
        for line in data.splitlines():
            assert "msg" in json.loads(line), (path, line)


def test_audit(site: Site, hostile_session: paramiko.Transport) -> None:
    """Audit and recordings hold the text as data: lines are records, none is forged, and the chain is whole."""

    def look() -> list[dict[str, Any]] | None:
        found = [json.loads(line) for path in site.audit.glob("*.jsonl") for line in path.read_text().splitlines()]
        return found if any("sftp" in str(one.get("subsystem")) for one in found) else None

    records = wait_for(look, "the audit of the session")
    assert "forged" not in {one["event"] for one in records}
    texts = json.dumps(records, ensure_ascii=False)
    assert "evil" in texts and "red" in texts
    for path in [*site.audit.glob("*.jsonl"), *site.recordings.rglob("*.cast")]:
        assert controls(path.read_bytes()) == [], path
        assert all(json.loads(line) for line in path.read_bytes().splitlines())
    done = subprocess.run([ARV_SSH, "audit", "verify", str(site.audit)], capture_output=True, timeout=DEADLINE)
    assert (done.returncode, controls(done.stdout)) == (0, []), done.stderr


def test_reason_of_a_kill(site: Site) -> None:
    """An administrator's reason reaches the user's terminal as one line of text."""
    with site.ssh.start("-o", "ControlPath=none", site.debian, "echo ready; exec sleep 1000000") as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        sessions = site.controller.root.shell_sessions()["items"]
        (mine,) = [one["id"] for one in sessions if one["login_username"] == ""]
        site.controller.root.kill_shell_session(mine, EVIL)
        _, shown = process.communicate(timeout=DEADLINE)
    assert b"evil" in shown and controls(shown.replace(b"\r\n", b"\n")) == []
    assert not any(line.startswith(b'{"event"') for line in shown.splitlines())
