"""Logs by WebDAV and by ``arvados-client logs``, live from the gateway and after the end; ``arvados-client open``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arv_ssh.config import cluster_config
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE, wait_for

CLIENT = str(Path(sys.executable).with_name("arvados-client"))
TALKS = "echo out 1; echo err 1 >&2; while [ ! -e /tmp/end ]; do sleep 0.1; done; echo out 2; echo -n err 2 >&2; exit 3"

SAID = [("stderr", "err 1"), ("stderr", "err 2"), ("stdout", "out 1"), ("stdout", "out 2")]


class Talker:
    """A container that writes to both streams, and again when it is told to end; then it exits with 3."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self.cluster = cluster
        self.uuid = cluster.run("sh", "-c", TALKS)
        requests = cluster.api().list("container_requests", filters=[["container_uuid", "=", self.uuid]])
        self.request = str(requests["items"][0]["uuid"])
        self.url = cluster_config.load(cluster.directory.config).controller_url
        self.path = f"/arvados/v1/container_requests/{self.request}/log/{self.uuid}"

    def token(self, user: str = "active") -> str:
        """Return a user's token."""
        return self.cluster.directory.token_file(user).read_text().strip()

    def end(self) -> None:
        """Have it end, and wait for that."""
        self.cluster.ssh(self.uuid, "touch /tmp/end")
        self.cluster.wait_for_state(self.uuid, "Complete")

    def curl(self, path: str, *options: str, user: str = "active") -> tuple[str, str, str]:
        """Ask with curl; return the status, the head and the body of the answer."""
        token = ["-H", f"Authorization: Bearer {self.token(user)}"] if user else []
        done = subprocess.run(
            ["curl", "-sS", "-i", "--cacert", str(self.cluster.directory.ca), *token, *options, self.url + path],
            capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        head, _, body = done.stdout.partition("\n\n")
        return head.split()[1], head.lower(), body

    def environment(self) -> dict[str, str]:
        """Return the environment of the active user's client."""
        own = {"ARVADOS_API_TOKEN": self.token(), "SSL_CERT_FILE": str(self.cluster.directory.ca)}
        return os.environ | own | {"ARVADOS_API_HOST": self.url.removeprefix("https://")}

    def client(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run arvados-client to its end."""
        return subprocess.run(
            [CLIENT, *arguments], capture_output=True, text=True, timeout=DEADLINE, env=self.environment(),
            stdin=subprocess.DEVNULL,
        )  # fmt: skip


@pytest.fixture(scope="module")
def talker(cluster: EmbeddedCluster) -> Talker:
    """A container that is left running."""
    made = Talker(cluster)
    wait_for(lambda: cluster.log_text(made.uuid, "stderr.txt"), "its first words")
    return made


@pytest.fixture(scope="module")
def ended(cluster: EmbeddedCluster) -> Talker:
    """A container that has ended."""
    made = Talker(cluster)
    made.end()
    return made


@pytest.fixture(params=["live", "ended"])
def either(request: pytest.FixtureRequest) -> Talker:
    """A container that runs, and one that has ended: their logs are read in the same way."""
    made: Talker = request.getfixturevalue("talker" if request.param == "live" else "ended")
    return made


def test_files(either: Talker) -> None:
    """A log's files are read whole and in part, and listed; OPTIONS says what they are read with."""
    status, head, body = either.curl(f"{either.path}/stderr.txt")
    assert (status, body.split("\n")[0]) == ("200", "err 1") and "content-type: text/plain" in head
    status, head, body = either.curl(f"{either.path}/stderr.txt", "-r", "4-4")
    assert (status, body) == ("206", "1") and "content-range: bytes 4-4/" in head
    for path in (either.path, f"{either.path}/"):
        status, _, body = either.curl(path, "-X", "PROPFIND", "-H", "Depth: 1")
        assert status == "207" and f"<D:href>{either.path}/stderr.txt</D:href>" in body
        status, head, _ = either.curl(path, "-X", "OPTIONS")
        assert status == "200" and "dav: 1" in head and "access-control-allow-origin: *" in head


def test_who_may_read(either: Talker) -> None:
    """Who cannot read the request cannot read its log; a WebDAV client is told how to send a token."""
    assert either.curl(f"{either.path}/stderr.txt", user="spectator")[0] == "404"
    assert either.curl(f"{either.path}/stderr.txt", user="admin")[0] == "200"
    status, head, body = either.curl(f"{either.path}/stderr.txt", user="")
    assert (status, "www-authenticate: basic" in head) == ("401", True)
    assert "a log needs an API token" in json.loads(body)["errors"][0]
    basic = ("-u", f"none:{either.token()}")
    assert either.curl(f"{either.path}/stderr.txt", *basic, user="")[0] == "200"


@pytest.mark.parametrize(
    "path", ["/../../../config.yml", "/..%2f..%2f..%2fconfig.yml", "/%2e%2e/{other}/stderr.txt", "/nothing.txt"]
)
def test_nothing_else(either: Talker, talker: Talker, ended: Talker, path: str) -> None:
    """No path leads out of the container's own log."""
    other = talker.uuid if either is ended else ended.uuid
    assert either.curl(either.path + path.replace("{other}", other), "--path-as-is")[0] in ("400", "404")
    assert either.curl(f"{either.path.removesuffix(either.uuid)}{other}/stderr.txt")[0] == "404"


def test_read_only(either: Talker) -> None:
    """A log is not written."""
    status, head, _ = either.curl(f"{either.path}/stderr.txt", "-X", "PUT", "-d", "x")
    assert status == "405" and "allow: get, head, options, propfind" in head


def test_cross_origin(talker: Talker) -> None:
    """A browser's own question, which has no token, is answered: Workbench is another host."""
    asked = ("-X", "OPTIONS", "-H", "Origin: https://workbench.example", "-H", "Access-Control-Request-Method: GET")
    status, head, _ = talker.curl(f"{talker.path}/stderr.txt", *asked, user="")
    assert status == "200" and "access-control-allow-headers: authorization" in head


def test_rclone(either: Talker, tmp_path: Path) -> None:
    """A stock WebDAV client lists the log and copies it."""
    if shutil.which("rclone") is None:
        pytest.skip("rclone is not installed (in Debian: apt-get install rclone)")
    options = [
        "--webdav-url", f"{either.url}{either.path}/", "--webdav-bearer-token", either.token(),
        "--ca-cert", str(either.cluster.directory.ca), "--config", "", "--retries", "1",
    ]  # fmt: skip
    for command in (["lsf", ":webdav:"], ["copy", ":webdav:", str(tmp_path)]):
        done = subprocess.run(
            ["rclone", *command, *options], capture_output=True, text=True, timeout=DEADLINE, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        if command[0] == "lsf":
            assert done.stdout.split() == ["crunch-run.txt", "stderr.txt", "stdout.txt"]
    assert (tmp_path / "stderr.txt").read_text().startswith("err 1\n")


@pytest.mark.parametrize("by_request", [False, True], ids=["container", "request"])
def test_logs(either: Talker, by_request: bool) -> None:
    """``arvados-client logs`` prints what there is; the exit code is the container's once it has ended."""
    done = either.client("logs", either.request if by_request else either.uuid)
    over = either.cluster.container(either.uuid)["state"] == "Complete"
    assert (done.returncode, done.stderr) == (3 if over else 0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith('crunch-run.txt {"time": ')
    expected = ["stdout.txt     out 1", *(["stdout.txt     out 2"] if over else [])]
    expected += ["stderr.txt     err 1", *(["stderr.txt     err 2"] if over else [])]
    assert [line for line in lines if not line.startswith("crunch-run.txt")] == expected


def test_follow(cluster: EmbeddedCluster) -> None:
    """With -f the log goes on until the container ends, and nothing of it is lost or doubled."""
    made = Talker(cluster)
    with subprocess.Popen(
        [CLIENT, "logs", "-f", made.uuid], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=made.environment(),
        text=True,
    ) as client:  # fmt: skip
        assert client.stdout is not None and client.stderr is not None
        lines = (line for line in client.stdout if not line.startswith("crunch-run.txt"))
        seen = [next(lines), next(lines)]
        made.end()
        seen += lines
        assert (client.wait(DEADLINE), client.stderr.read()) == (3, "")
    assert sorted(seen) == [f"{stream}.txt     {word}\n" for stream, word in SAID]


@contextmanager
def opened(talker: Talker, *arguments: str) -> Iterator[str]:
    """Run ``arvados-client open``; give the address that it prints, and interrupt it at the end."""
    with subprocess.Popen(
        [CLIENT, "open", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=talker.environment(),
        text=True,
    ) as client:  # fmt: skip
        assert client.stdout is not None and client.stderr is not None
        try:
            yield client.stdout.readline().strip() or client.stderr.read()
        finally:
            client.send_signal(signal.SIGINT)
            assert client.wait(DEADLINE) == 0


def test_open(talker: Talker) -> None:
    """A port that has an address is opened by that; the token is in it only for who asks."""
    published = ("--publish", "8000", "--publish", "8001:public")
    uuid = talker.cluster.run("sleep", "1000000", options=published)
    port = talker.url.rpartition(":")[2]
    private, public = (f"https://{uuid}-{number}.containers.localhost:{port}/" for number in (8000, 8001))
    done = talker.client("open", uuid, "8000")
    assert (done.returncode, done.stdout) == (0, f"{private}\n") and "--with-token" in done.stderr
    done = talker.client("open", "--with-token", uuid, "8000")
    assert (done.stdout, done.stderr) == (f"{private}?arvados_api_token={talker.token().replace('/', '%2F')}\n", "")
    done = talker.client("open", uuid, "8001")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{public}\n", "")


def test_open_by_forwarding(talker: Talker, debian: str) -> None:
    """A port without an address is forwarded, and the local one printed."""
    serve = "cd /etc && exec python3 -m http.server --bind 127.0.0.1 8765 >/dev/null 2>&1"
    with subprocess.Popen(
        ["ssh", "-F", str(talker.cluster.directory.ssh_config), debian, serve], stdin=subprocess.DEVNULL
    ) as server:
        try:
            with opened(talker, debian, "8765") as address:
                assert address.startswith("http://127.0.0.1:"), address
                ask = ["curl", "-sS", "--retry", "20", "--retry-all-errors", "--retry-delay", "1", f"{address}hostname"]
                done = subprocess.run(ask, capture_output=True, text=True, timeout=DEADLINE)
                assert done.stdout.strip() == debian
        finally:
            server.kill()


def test_what_open_cannot(talker: Talker, ended: Talker) -> None:
    """A port that is none, and a container that has ended, are sentences."""
    done = talker.client("open", talker.uuid, "http")
    assert (done.returncode, done.stdout) == (255, "") and "'http' is not a port; give a number" in done.stderr
    done = talker.client("open", ended.uuid, "80")
    assert done.returncode == 255 and "is Complete, not Running" in done.stderr
