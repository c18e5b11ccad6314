"""``arvados-client ls`` against the double: what is listed, what is said of each, and how it is laid out."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.timing import wait_for
from tests.unit.conftest import Run, Start
from tests.unit.controller_double import UNIT, Double, Peer

NOW = datetime.now(UTC)


def uuid(number: int, kind: str = "dz642") -> str:
    return f"zzzzz-{kind}-{number:015}"


def container(number: int, state: str = "Running", **more: Any) -> dict[str, Any]:
    ago = (NOW - timedelta(hours=number)).isoformat()
    running = {"started_at": ago, "gateway_address": "node-1:4321"} if state == "Running" else {"started_at": None}
    return {"uuid": uuid(number), "state": state, "created_at": ago, "gateway_address": None, **running, **more}


def request(number: int, name: str, **more: Any) -> dict[str, Any]:
    created = NOW.isoformat()
    return {"uuid": uuid(number, "xvhdp"), "name": name, "container_uuid": uuid(number), "created_at": created, **more}


class Site:
    """What the double serves: lists by pages, and an answer to the question who may enter."""

    def __init__(self, containers: list[dict[str, Any]], requests: list[dict[str, Any]]) -> None:
        self.records = {"containers": containers, "container_requests": requests}
        self.answers: dict[str, tuple[str, str]] = {}
        self.pages = 0

    def script(self, peer: Peer) -> None:
        url = urlsplit(peer.request.split(" ")[1])
        parts = url.path.split("/")
        if parts[-1] == "ssh":
            status, sentence = self.answers.get(parts[-2], ("200 OK", ""))
            body = {"errors": [sentence]} if sentence else {"shell": "allowed"}
            return peer.refuse(status, json.dumps(body).encode())
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        after, within = "", None
        for field, operator, value in json.loads(query["filters"]):
            after = value if (field, operator) == ("uuid", ">") else after
            within = value if (field, operator) == ("container_uuid", "in") else within
        items = sorted(self.records[parts[-1]], key=lambda record: record["uuid"])
        items = [item for item in items if item["uuid"] > after]
        items = [item for item in items if within is None or item["container_uuid"] in within]
        self.pages += 1
        return peer.refuse("200 OK", json.dumps({"items": items[: int(query["limit"])]}).encode())


@pytest.fixture
def site() -> Site:
    """Three containers: one to enter, one of others, one in the queue."""
    made = Site(
        [container(1), container(2), container(3, "Queued")],
        [request(1, "align"), request(2, "call\x1b[2Jvariants"), request(3, "report")],
    )
    made.answers = {
        uuid(2): ("403 Forbidden", f"container {uuid(2)} runs for requests that other users submitted; only a user"),
        uuid(3): ("503 Not now", f"container {uuid(3)} is not running yet (it is Queued); try again"),
    }
    return made


def ls(client: Run, server: Double, *options: str, **env: str) -> str:
    """Run ls to its good end; return its stdout."""
    process = client("ls", *options, env={**server.environment(), **env})
    out, err = process.communicate(timeout=2 * UNIT)
    assert (process.returncode, err) == (0, b"")
    return out.decode()


def test_table(double: Start, client: Run, site: Site) -> None:
    """A line for each container within 80 columns, running ones first, and why one cannot be entered."""
    lines = ls(client, double(site.script)).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[:3] == [
        "UUID                         STATE    SINCE   SHELL  NODE    NAME",
        f"{uuid(1)}  Running  1 h     yes    node-1  align",
        f"{uuid(2)}  Running  2 h     no     node-1  call?[2Jvariants",
    ]
    assert lines[3] == "    no: it runs for requests that other users submitted; only a user"
    assert lines[4:] == [f"{uuid(3)}  Queued   3 h     later  -       report"]


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_width(double: Start, client: Run, columns: int) -> None:
    """Names and nodes that are long are cut at the terminal's width, and use it."""
    server = double(Site([container(1, gateway_address=f"{50 * 'n'}:1")], [request(1, 300 * "x")]).script)
    lines = ls(client, server, COLUMNS=str(columns)).splitlines()
    assert [len(line) for line in lines[1:]] == [columns]


def test_json(double: Start, client: Run, site: Site) -> None:
    """--json has all of it, times as the API gives them, and no line cut."""
    rows = json.loads(ls(client, double(site.script), "--json"))
    assert [row["shell"] for row in rows] == ["allowed", "refused", "not yet"]
    assert rows[0] == {
        "uuid": uuid(1),
        "container_request_uuid": uuid(1, "xvhdp"),
        "name": "align",
        "state": "Running",
        "since": (NOW - timedelta(hours=1)).isoformat(),
        "node": "node-1",
        "shell": "allowed",
        "reason": None,
    }
    assert rows[1]["reason"] == site.answers[uuid(2)][1]
    assert ls(client, double(site.script), "--uuids") == f"{uuid(1)}\n"


def test_many(double: Start, client: Run) -> None:
    """More containers than a page holds come page by page, each with the newest of its requests."""
    site = Site(
        [container(number) for number in range(1, 121)],
        [request(number, f"job {number}") for number in range(1, 121)]
        + [request(7, "older", uuid=uuid(999, "xvhdp"), created_at=(NOW - timedelta(days=1)).isoformat())],
    )
    rows = json.loads(ls(client, double(site.script), "--json"))
    assert [row["uuid"] for row in rows] == [uuid(number) for number in range(1, 121)]
    assert [row["name"] for row in rows] == [f"job {number}" for number in range(1, 121)]
    assert site.pages == 3 + 5  # 50 + 50 + 20 containers; the requests of 50, 51, 20, each 50 with one more look


def test_interrupted(double: Start, client: Run) -> None:
    """Ctrl-C ends ls at once, also while a controller thinks about its answers."""
    site = Site([container(number) for number in range(1, 21)], [])

    def script(peer: Peer) -> None:
        if peer.request.split(" ")[1].endswith("/ssh"):
            peer.recv_all()
        else:
            site.script(peer)

    server = double(script)
    process = client("ls", env=server.environment())
    wait_for(lambda: sum("/ssh " in line for line in server.requests) == 8, "the first questions")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err) == (130, b"")


def test_nothing(double: Start, client: Run) -> None:
    """When nothing runs, one sentence says so; --json is an empty list."""
    server = double(Site([], []).script)
    expected = f"you can see no running or waiting container on {server.settings().authority}\n"
    assert ls(client, server) == expected
    assert json.loads(ls(client, server, "--json")) == []


@pytest.mark.parametrize(
    ("answer", "shell"),
    [
        (("404 Not Found", "Path not found"), "unknown"),
        (("405 Method Not Allowed", "no"), "unknown"),
        (("502 Bad Gateway", "the API did not tell whose it is"), "unknown"),
        (("503 Not now", "shell access is disabled on this cluster"), "refused"),
        (("410 Gone", "it has ended"), None),
    ],
)
def test_other_answers(double: Start, client: Run, answer: tuple[str, str], shell: str | None) -> None:
    """What the controller does not tell is not guessed, and what ended meanwhile is left out."""
    site = Site([container(1)], [])
    site.answers[uuid(1)] = answer
    rows = json.loads(ls(client, double(site.script), "--json"))
    assert [row["shell"] for row in rows] == ([shell] if shell else [])


def test_names_to_complete(double: Start, client: Run, site: Site, tmp_path: Path) -> None:
    """ls writes down what a shell may complete, and takes back what is no more."""
    server = double(site.script)
    ls(client, server)
    file = tmp_path / ".cache/arvados/hosts" / f"{server.settings().authority.replace(':', '_')}.conf"
    assert file.read_text() == (
        f"Host {uuid(1)} {uuid(1, 'xvhdp')} align.arv\nHost {uuid(3)} {uuid(3, 'xvhdp')} report.arv\n"
    )
    site.records["containers"] = site.records["containers"][:1]
    site.records["container_requests"][0]["name"] = "two words\nProxyCommand x"
    ls(client, server)
    assert file.read_text() == f"Host {uuid(1)} {uuid(1, 'xvhdp')} two_words_ProxyCommand_x.arv\n"
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["x"], "ls does not take 'x'; see arvados-client ls --help"),
        (["--json", "--uuids"], "--json and --uuids contradict each other: give only one; see arvados-client ls"),
        (["--cluster", "yyyyy"], "cannot read the settings file "),
    ],
)
def test_bad_arguments(client: Run, arguments: list[str], sentence: str) -> None:
    """A wrong command line is one line and exit 255."""
    process = client("ls", *arguments, env={"ARVADOS_API_HOST": "127.0.0.1:1", "ARVADOS_API_TOKEN": "x"})
    _, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err.count(b"\n")) == (255, 1)
    assert sentence in err.decode()
