"""NAME.arv as a host name: which container it leads to, and what is said when it leads to none or to several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.unit.conftest import Run, Start
from tests.unit.controller_double import UNIT, Double, Peer

ME = "zzzzz-tpzed-xurymjxw79nv3jz"


def uuid(kind: str, number: int) -> str:
    return f"zzzzz-{kind}-{number:015}"


def serve(
    double: Start, requests: dict[int, str], running: set[int], *, stock: bool = False
) -> tuple[Double, list[dict[str, Any]]]:
    """Serve container requests by number, the newest first, and the containers of those in ``running``.

    ``stock`` is an API that knows no submitter.
    """
    asked: list[dict[str, Any]] = []

    def script(peer: Peer) -> None:
        url = urlsplit(peer.request.split(" ")[1])
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        asked.append(query)
        answer: dict[str, Any]
        if url.path.endswith("/users/current"):
            answer = {"uuid": ME}
        elif stock and "submitted_by_user_uuid" in query.get("filters", ""):
            return peer.refuse("422 Unprocessable Entity", b'{"errors": ["Invalid attribute in filter"]}')
        elif url.path.endswith("/container_requests"):
            answer = {
                "items": [
                    {"uuid": uuid("xvhdp", number), "name": name, "container_uuid": uuid("dz642", number)}
                    for number, name in requests.items()
                ]
            }
        elif url.path.endswith("/containers"):
            answer = {"items": [{"uuid": uuid("dz642", number)} for number in running]}
        else:
            return peer.refuse("410 Gone", b'{"errors": ["the session was for %s"]}' % url.path.encode())
        return peer.refuse("200 OK", json.dumps(answer).encode())

    return double(script), asked


@pytest.mark.parametrize(
    ("host", "requests", "running", "said"),
    [
        ("job.arv", {2: "Job", 1: "job"}, {1, 2}, [f"job.arv is {uuid('xvhdp', 2)}, the newest", uuid("dz642", 2)]),
        ("job.arv", {2: "job", 1: "job"}, {1}, [f"containers/{uuid('dz642', 1)}/ssh"]),
        ("job.arv", {2: "job two", 1: "job"}, {1, 2}, [f"containers/{uuid('dz642', 1)}/ssh"]),
        ("jo.arv", {2: "other job", 1: "job"}, {1}, [f"containers/{uuid('dz642', 1)}/ssh"]),
        ("my_job.arv", {2: "my job", 1: "my jobs"}, {1, 2}, [f"containers/{uuid('dz642', 2)}/ssh"]),
        ("jo.arv", {2: "job two", 1: "job"}, {1, 2}, ["could be any of", uuid("xvhdp", 2), uuid("xvhdp", 1)]),
        ("job.arv", {1: "job"}, set(), ["no container request called 'job' has a running container", "when it runs"]),
        ("job.arv", {}, set(), ["you have no container request called 'job'", "check the name"]),
        ("a%b.arv", {}, set(), ["'a%b' is not a container request name"]),
    ],
)
def test_name(
    double: Start, client: Run, host: str, requests: dict[int, str], running: set[int], said: list[str]
) -> None:
    """The newest running request of the very name is meant, else the only one whose name begins so."""
    server, _ = serve(double, requests, running)
    process = client("ssh-proxy", host, env=server.environment())
    out, err = process.communicate(timeout=UNIT)
    assert (process.returncode, out) == (255, b"")
    for words in said:
        assert words in err.decode()


@pytest.mark.parametrize(
    ("host", "name"), [("my.job.zzzzz.arv", "my.job"), ("my.job.fastq.arv", "my.job.fastq"), ("zzzzz.arv", "zzzzz")]
)
def test_of_another_cluster(double: Start, client: Run, tmp_path: Path, host: str, name: str) -> None:
    """NAME.zzzzz.arv is a name on the cluster zzzzz when that has settings of its own; else the dot is the name's."""
    server, asked = serve(double, {1: name}, {1})
    other, _ = serve(double, {}, set())
    directory = tmp_path / ".config" / "arvados"
    directory.mkdir(parents=True)
    here = "".join(f"{key}={value}\n" for key, value in server.environment().items())
    (directory / ("zzzzz.conf" if name == "my.job" else "settings.conf")).write_text(here)
    elsewhere = other.environment() if name == "my.job" else {}
    client("ssh-proxy", host, env=elsewhere).communicate(timeout=UNIT)
    assert json.loads(asked[1]["filters"])[0] == ["name", "ilike", f"{name}%"]
    assert not other.requests


def test_the_blocks_own_cluster(double: Start, client: Run) -> None:
    """A block of one cluster names it to ssh-proxy, for names with its id and settings from a file of any name."""
    server, asked = serve(double, {1: "job"}, {1})
    client("ssh-proxy", "--cluster", "xyzzy", "job.xyzzy.arv", env=server.environment()).communicate(timeout=UNIT)
    assert json.loads(asked[1]["filters"])[0] == ["name", "ilike", "job%"]


@pytest.mark.parametrize(
    ("options", "states"), [([], ["Running"]), (["--wait"], ["Running", "Locked", "Queued"])]
)
def test_states(double: Start, client: Run, options: list[str], states: list[str]) -> None:
    """A name leads to what runs; with --wait also to what is still in the queue."""
    server, asked = serve(double, {1: "job"}, {1})
    client("ssh-proxy", *options, "job.arv", env=server.environment()).communicate(timeout=UNIT)
    assert ["state", "in", states] in json.loads(asked[2]["filters"])


def test_only_the_callers(double: Start, client: Run) -> None:
    """Only committed requests that the caller submitted are asked for, the newest first."""
    server, asked = serve(double, {1: "job"}, {1})
    client("ssh-proxy", "job.arv", env=server.environment()).communicate(timeout=UNIT)
    filters = json.loads(asked[1]["filters"])
    assert ["submitted_by_user_uuid", "=", ME] in filters and ["state", "=", "Committed"] in filters
    assert json.loads(asked[1]["order"]) == ["created_at desc"]


def test_stock_arvados(double: Start, client: Run) -> None:
    """Where requests have no submitter, as in stock Arvados, who changed them last counts."""
    server, asked = serve(double, {1: "job"}, {1}, stock=True)
    process = client("ssh-proxy", "job.arv", env=server.environment())
    _, err = process.communicate(timeout=UNIT)
    assert f"containers/{uuid('dz642', 1)}/ssh" in err.decode()
    assert ["modified_by_user_uuid", "=", ME] in json.loads(asked[2]["filters"])


def test_no_user(double: Start, client: Run) -> None:
    """An answer without the token's user is no API's: one sentence, no traceback."""
    server = double(lambda peer: peer.refuse("200 OK", b"{}"))
    process = client("ssh-proxy", "job.arv", env=server.environment())
    _, err = process.communicate(timeout=UNIT)
    assert err.count(b"\n") == 1 and b"answered without the user of this token; check ARVADOS_API_HOST" in err
