"""What an administrator can see of sessions: audit, recordings, metrics, logs; with stock ssh, on its own cluster."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

import config_templates
from arv_ssh.cli import cluster_up, main
from arv_ssh.config import cluster_config
from tests.integration.conftest import FOREVER, Ssh
from tests.integration.controllers import controller, started
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.inside import SERVER, running
from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="forwarding and the gateway's own SFTP need root")

Records = list[dict[str, Any]]


@dataclass
class Watched:
    """A cluster whose sessions are recorded wherever they can be, and a container of Debian in it."""

    cluster: EmbeddedCluster
    ssh: Ssh
    uuid: str
    audit: Path
    recordings: Path

    def records(self, program: str) -> Records:
        """Return the records of the files of ``program``."""
        lines = [line for path in self.audit.glob(f"{program}-*.jsonl") for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]

    def wait_for_end(self, **facts: Any) -> Records:
        """Wait until a gateway's channel with ``facts`` has ended; return all that was recorded of its connection."""

        def look() -> Records | None:
            found = self.records("gateway")
            ends = [one for one in found if one["event"] == "channel.end" and one.items() >= facts.items()]
            return [one for one in found if ends and one.get("request_id") == ends[-1]["request_id"]] or None

        return wait_for(look, f"the end of {facts}")

    def session(self, request_id: str) -> Records:
        """Return a controller's records of one session, once it has ended."""

        def look() -> Records | None:
            found = [one for one in self.records("controller") if one.get("request_id") == request_id]
            return found if any(one["event"] == "session.end" for one in found) else None

        return wait_for(look, f"the end of the session of {request_id}")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("watched")
    cluster = EmbeddedCluster(root / "cluster")
    cluster.configure_watching(root / "audit", root / "recordings")
    cluster.up()
    try:
        uuid = cluster.run(*FOREVER, image="arv-ssh/debian:test")
        yield Watched(cluster, Ssh(cluster), uuid, root / "audit", root / "recordings")
    finally:
        cluster.down()


def test_exec(watched: Watched) -> None:
    """A command is recorded by the controller and the gateway under one request id, with who, what and how it ended."""
    done = watched.ssh(watched.uuid, "wc -c; exit 7", input=b"x" * 1000)
    assert (done.returncode, done.stdout) == (7, b"1000\n")
    begin, end = watched.wait_for_end(command="wc -c; exit 7")
    assert (begin["event"], end["exit_status"], end["terminal"]) == ("channel.begin", 7, None)
    assert (end["bytes_from_client"], end["bytes_to_client"]) == (1000, 5)
    user = cluster_up.USER_UUIDS["active"]
    assert (end["user_uuid"], end["container_uuid"], end["client"]) == (user, watched.uuid, "127.0.0.1")
    opened, closed = watched.session(end["request_id"])
    assert opened["event"] == "session.begin" and opened["time"] <= begin["time"]
    assert (closed["user_uuid"], closed["login_username"]) == (user, "")
    assert closed["reason"] in ("client left", "gateway left")  # both have: whose end the controller sees first
    assert closed["bytes_from_client"] > 1000 and closed["bytes_to_client"] > 5


def test_sftp(watched: Watched, tmp_path: Path) -> None:
    """Files put, got, renamed and removed over SFTP are recorded with their sizes, each before it was done."""
    (tmp_path / "here").write_bytes(b"y" * 300_000)
    batch = "put here /tmp/there\nget /tmp/there back\nrename /tmp/there /tmp/else\nrm /tmp/else\nmkdir /tmp/dir\n"
    done = subprocess.run(
        ["sftp", *watched.ssh.command(watched.uuid)[1:3], "-b", "-", watched.uuid],
        input=batch, text=True, capture_output=True, cwd=tmp_path, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = watched.wait_for_end(subsystem="sftp")
    done_with = [one for one in found if one["event"].startswith("sftp.") and one["event"] != "sftp.request"]
    operations = [(one["event"], one["path"]) for one in done_with]
    assert operations == [
        ("sftp.open", "/tmp/there"), ("sftp.close", "/tmp/there"), ("sftp.open", "/tmp/there"),
        ("sftp.close", "/tmp/there"), ("sftp.rename", "/tmp/there"), ("sftp.remove", "/tmp/else"),
        ("sftp.mkdir", "/tmp/dir"),
    ]  # fmt: skip
    sizes = [(one["bytes_read"], one["bytes_written"]) for one in found if one["event"] == "sftp.close"]
    assert sizes == [(0, 300_000), (300_000, 0)]
    asked = [(one["operation"], one["path"]) for one in found if one["event"] == "sftp.request"]
    assert asked == [(f"{event.removeprefix('sftp.')}", path) for event, path in operations if event != "sftp.close"]


def test_forward(watched: Watched) -> None:
    """A forwarded connection is recorded with its target and its bytes."""
    with running(watched.uuid, SERVER, "greet", "127.0.0.1") as port:
        target = f"127.0.0.1:{port}"
        done = watched.ssh("-W", target, watched.uuid)
    assert done.stdout == b"hello from 127.0.0.1\n"
    _, end = watched.wait_for_end(type="direct-tcpip")
    assert (end["target"], end["bytes_to_client"]) == (f"127.0.0.1 port {port}", len(done.stdout))


def test_remote_forward(watched: Watched) -> None:
    """What a client has the container listen at is recorded, and each connection to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"hello")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        back = f"127.0.0.1:{listener.getsockname()[1]}"
        probe = "until exec 3<>/dev/tcp/127.0.0.1/8765; do sleep 0.1; done 2>/dev/null; cat <&3"
        done = watched.ssh("-R", f"8765:{back}", watched.uuid, f"bash -c '{probe}'")
    assert done.stdout == b"hello", done.stderr
    thread.join(DEADLINE)
    found = watched.wait_for_end(type="tcpip-forward")
    ends = {one["type"]: one for one in found if one["event"] == "channel.end"}
    assert ends["tcpip-forward"]["target"].endswith(" port 8765")
    assert ends["forwarded-tcpip"]["bytes_from_client"] == 5


def test_refused_user(watched: Watched) -> None:
    """A user who may not enter is recorded with the reason, and so is a token that is none."""
    spectator = watched.cluster.directory.token_file("spectator").read_text().strip()
    controller = cluster_config.load(watched.cluster.directory.config).controller_url
    url = f"{controller}/arvados/v1/containers/{watched.uuid}/ssh"
    statuses = []
    for number, token in enumerate((spectator, "nonsense")):
        headers = {"Authorization": f"Bearer {token}", "Upgrade": "ssh", "X-Request-Id": f"req-refused{number}"}
        answer = requests.post(url, headers=headers, verify=str(watched.cluster.directory.ca), timeout=DEADLINE)
        statuses.append(answer.status_code)
    refused = wait_for(
        lambda: found if len(found := [
            one for one in watched.records("controller") if str(one.get("request_id")).startswith("req-refused")
        ]) == 2 else None
    )  # fmt: skip
    assert [(one["event"], one["status"]) for one in refused] == [("session.refused", code) for code in statuses]
    assert statuses == [404, 401]
    assert refused[0]["user_uuid"] == cluster_up.USER_UUIDS["spectator"] and refused[0]["reason"]
    assert spectator.split("/")[-1] not in str(watched.records("controller"))


def test_required_without_a_place(watched: Watched, tmp_path: Path) -> None:
    """A controller that must record and cannot refuses with 503 and a sentence; nothing reaches the container."""
    (tmp_path / "audit").touch()
    access = {"Admin": True, "User": True, "Audit": "required", "AuditDirectory": str(tmp_path / "audit")}
    token = watched.cluster.directory.token_file("active").read_text().strip()
    with controller(watched.cluster, tmp_path, access) as other:
        status, sentence = other.status(watched.uuid, token)
    assert status == 503
    assert sentence.startswith("this cluster records all sessions, but the record cannot be written")
    assert "refused: cannot write the audit record" in other.log.read_text()


def test_required_without_a_place_at_the_gateway(watched: Watched, tmp_path: Path) -> None:
    """A gateway that must record and cannot starts nothing, makes no connection, and tells the user why."""
    uuid = watched.cluster.run(*FOREVER)
    aside = watched.audit.with_name("aside")
    watched.audit.rename(aside)
    watched.audit.touch()
    directory = watched.cluster.directory
    client = Path(sys.executable).with_name("arvados-client")
    try:
        with controller(watched.cluster, tmp_path, {"Admin": True, "User": True}) as other:
            environment = {
                "ARVADOS_API_HOST": other.address,
                "ARVADOS_API_TOKEN": directory.token_file("active").read_text().strip(),
                "SSL_CERT_FILE": str(directory.ca),
            }
            options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
            options.append(f"ProxyCommand={client} ssh-proxy %h")
            ssh = ["ssh", "-F", "none", *(word for option in options for word in ("-o", option)), "-l", "_"]
            done, forwarded = (
                subprocess.run([*ssh, *words], capture_output=True, timeout=DEADLINE, env=os.environ | environment)
                for words in ((uuid, "echo", "started"), ("-W", "127.0.0.1:1", uuid))
            )
    finally:
        watched.audit.unlink()
        aside.rename(watched.audit)
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"this cluster records all sessions, but the record cannot be written (File exists)" in done.stderr
    assert b"open failed: resource shortage: this cluster records all sessions" in forwarded.stderr


def test_recording(watched: Watched) -> None:
    """A session on a terminal is recorded as it looked, and stock asciinema plays it; what was typed is not in it."""
    command = "stty -echo; printf 'Password: '; read -r typed; echo; echo 'grüße €'"
    with watched.ssh.on_terminal("-t", watched.uuid, command) as terminal:
        terminal.expect("Password: ")
        terminal.type("hunter2\r")
        assert terminal.wait() == 0
    end = watched.wait_for_end(command=command)[-1]
    path = watched.recordings / end["recording"]
    assert end["recording_lost"] == 0 and path.stat().st_mode & 0o777 == 0o600
    with TerminalSession(["env", "LC_ALL=C.UTF-8", "asciinema", "cat", str(path)]) as player:  # it wants a terminal
        assert player.wait() == 0
    assert "grüße €".encode() in player.seen and b"Password: " in player.seen
    assert b"hunter2" not in path.read_bytes()
    header = json.loads(path.read_text().splitlines()[0])
    assert (header["width"], header["height"]) == (80, 24)


def test_verify(watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """verify finds nothing wrong with files that are being written, and names the line of a record that was changed."""
    assert watched.ssh(watched.uuid, "echo evil").returncode == 0
    watched.wait_for_end(command="echo evil")
    assert main.main(["audit", "verify", str(watched.audit)]) == 0
    (path,) = watched.audit.glob(f"gateway-{watched.uuid}-*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines, 1) if "echo evil" in line)
    copy = tmp_path / path.name
    copy.write_text("".join(lines).replace("echo evil", "echo good", 1))
    head = path.with_name(path.name + ".head")
    (tmp_path / head.name).write_bytes(head.read_bytes())
    assert main.main(["audit", "verify", str(copy)]) == 1
    assert f"{copy}: line {place} was changed" in capsys.readouterr().err


def metrics(watched: Watched, token: str | None = None) -> requests.Response:
    cluster = cluster_config.load(watched.cluster.directory.config)
    headers = {} if token == "" else {"Authorization": f"Bearer {token or cluster.management_token}"}
    return requests.get(
        f"{cluster.controller_url}/metrics", headers=headers, verify=str(watched.cluster.directory.ca), timeout=DEADLINE
    )


def value(watched: Watched, name: str, **labels: str) -> float:
    """Return a sample's value summed over all processes."""
    families = text_string_to_metric_families(metrics(watched).text)
    found = [one for family in families for one in family.samples if one.name == name]
    return sum(one.value for one in found if labels.items() <= one.labels.items())


def test_metrics_of_a_running_session(watched: Watched) -> None:
    """Bytes and open sessions are current while a session runs; the histograms know it afterwards."""
    before = value(watched, "arv_ssh_session_bytes_total", direction="to_client")
    with watched.ssh.start(watched.uuid, "head -c 1000000 /dev/zero; cat") as process:
        assert process.stdin and process.stdout
        assert len(process.stdout.read(1_000_000)) == 1_000_000
        assert value(watched, "arv_ssh_session_bytes_total", direction="to_client") >= before + 1_000_000
        assert value(watched, "arv_ssh_open_sessions") >= 1
        process.stdin.close()
        assert process.wait(DEADLINE) == 0
    opened = value(watched, "arv_ssh_session_requests_total", result="opened")
    assert opened >= 1
    assert value(watched, "arv_ssh_handshake_seconds_count") == opened
    wait_for(lambda: value(watched, "arv_ssh_first_byte_seconds_count") == opened, "the end to be counted")
    assert value(watched, "arv_ssh_audit_records_lost_total") == 0


def test_metrics_of_all_workers(watched: Watched, tmp_path: Path) -> None:
    """With several processes on one port, whichever is asked tells of all; each under its own pid."""
    root = cluster_config.load(watched.cluster.directory.config)
    token = watched.cluster.directory.token_file("active").read_text().strip()
    options = ["--config", str(watched.cluster.directory.config), "--workers", "2"]
    with started(watched.cluster, tmp_path, options) as other, ExitStack() as sessions:

        def read() -> dict[str, dict[str, float]]:
            headers = {"Authorization": f"Bearer {root.management_token}"}
            url = f"https://{other.address}/metrics"
            text = requests.get(url, headers=headers, verify=str(other.ca), timeout=DEADLINE).text
            found: dict[str, dict[str, float]] = {}
            for sample in (one for family in text_string_to_metric_families(text) for one in family.samples):
                found.setdefault(sample.name, {})[sample.labels["pid"]] = sample.value
            return found

        wait_for(lambda: len(read()["arv_ssh_controller_up"]) == 2)
        for _ in range(12):
            answer, connection = other.ask_for_session(watched.uuid, token)
            sessions.enter_context(connection)
            assert answer.status == 101
        for _ in range(6):  # whichever of the two the kernel gives the request to
            open_sessions = read()["arv_ssh_open_sessions"]
            assert len(open_sessions) == 2 and sum(open_sessions.values()) == 12


def test_metrics_need_the_token(watched: Watched) -> None:
    """Without the ManagementToken the answer is 401, with another 403, in a sentence."""
    for token, status in (("", 401), ("nonsense", 403)):
        answer = metrics(watched, token)
        assert answer.status_code == status
        assert "ManagementToken" in answer.json()["errors"][0]


def test_dashboard(watched: Watched) -> None:
    """Every metric that the dashboard asks for is there after a session, and its panels are such as Grafana takes."""
    assert watched.ssh(watched.uuid, "true").returncode == 0
    dashboard = json.loads((Path(config_templates.__file__).parent / "grafana-dashboard.json").read_text())
    names = {one.name for family in text_string_to_metric_families(metrics(watched).text) for one in family.samples}
    panels = dashboard["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    asked = {name for text in expressions for name in re.findall(r"\b(?:arv_ssh|process)_[a-z_]+\b", text)}
    lazy = {"arv_ssh_gateway_dial_failures_total"}  # has samples only once there was a failure
    assert asked and asked - names <= lazy
    assert len({panel["id"] for panel in panels}) == len(panels) and dashboard["schemaVersion"] >= 36
    (datasource,) = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    assert datasource["query"] == "prometheus"
    for panel in panels:
        assert panel["title"] and panel["type"] and set(panel["gridPos"]) == {"h", "w", "x", "y"}
        assert panel["datasource"]["uid"] == "${" + datasource["name"] + "}"


def test_one_request_id_in_all_logs(watched: Watched) -> None:
    """One session's request id is in the lines of the controller and of the gateway, and in both audits."""
    assert watched.ssh(watched.uuid, "echo traced").returncode == 0
    request_id = watched.wait_for_end(command="echo traced")[0]["request_id"]
    assert re.fullmatch("req-[0-9a-z]{20}", request_id)
    watched.session(request_id)
    logs = {
        "controller": (watched.cluster.directory.log / "controller.log").read_text(),
        "gateway": watched.cluster.log_text(watched.uuid, "crunch-run.txt"),
    }
    for name, log in logs.items():
        events = [one for one in map(json.loads, log.splitlines()) if one.get("request_id") == request_id]
        assert {"session opened", "session closed"} <= {one["msg"] for one in events}, name


def test_request_id_that_is_none(watched: Watched) -> None:
    """A request id that is no such thing is replaced, and never gets into a log."""
    controller = cluster_config.load(watched.cluster.directory.config).controller_url
    url = f"{controller}/arvados/v1/containers/{watched.uuid}/ssh"
    headers = {"Upgrade": "ssh", "X-Request-Id": 'req-"}\\u000a{"msg":"forged"'}
    answer = requests.post(url, headers=headers, verify=str(watched.cluster.directory.ca), timeout=DEADLINE)
    assert re.fullmatch("req-[0-9a-z]{20}", answer.headers["X-Request-Id"])
    assert "forged" not in (watched.cluster.directory.log / "controller.log").read_text()
