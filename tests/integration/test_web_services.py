"""Web services of containers through the controller, with curl, WebSockets and a browser: who may, who sees what."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import yaml
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from arv_ssh.config import cluster_config
from arv_ssh.net.tls import client_context
from tests.integration import web_server
from tests.integration.controllers import new_user
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.proxies import nginx
from tests.timing import DEADLINE, wait_for

SERVER = Path(web_server.__file__).read_text()
PRIVATE, PUBLIC, UNPUBLISHED, SILENT = 8000, 8001, 8002, 8003
COOKIE = "__Host-arvados_api_token"


@dataclass(frozen=True)
class Curl:
    """What curl got: the status, the headers in order with names in lower case, the body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """Return the first header of a name."""
        return next((value for found, value in self.headers if found == name), "")

    def said(self) -> dict[str, Any]:
        """Return what the container's server was asked."""
        assert self.status == 200, self.body
        answer = json.loads(self.body)
        assert isinstance(answer, dict)
        return answer


class Site:
    """A container with a web server on four ports, of which three are published and one has no server."""

    def __init__(self, cluster: EmbeddedCluster, uuid: str) -> None:
        self.cluster = cluster
        self.uuid = uuid
        self.ca = str(cluster.directory.ca)
        url = str(cluster.container(uuid)["published_ports"][str(PRIVATE)]["base_url"])
        self.suffix = urlsplit(url).netloc.partition(".")[2]
        assert url == f"https://{uuid}-{PRIVATE}.{self.suffix}/"

    def token(self, user: str) -> str:
        """Return a user's token."""
        return self.cluster.directory.token_file(user).read_text().strip()

    def url(self, port: int = PRIVATE, path: str = "/said", name: str = "") -> str:
        """Return the URL of a port, by the container's name or another."""
        return f"https://{name or f'{self.uuid}-{port}'}.{self.suffix}{path}"

    def cookie(self, user: str) -> str:
        """Return the cookie that a browser has of a user."""
        return f"{COOKIE}={urlsafe_b64encode(self.token(user).encode()).decode()}"

    def curl(self, url: str, *options: str, user: str = "", input: bytes | None = None) -> Curl:
        """Ask with curl, as ``user``'s browser."""
        command = ["curl", "-sS", "-i", "--cacert", self.ca, *options, url]
        command += ["-H", f"Cookie: {self.cookie(user)}"] if user else []
        done = subprocess.run(command, input=input, capture_output=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
        rest = done.stdout
        while True:
            head, _, rest = rest.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            if not lines[0].startswith("HTTP/1.1 1"):
                break
        pairs = (line.partition(": ") for line in lines[1:])
        return Curl(int(lines[0].split()[1]), [(name.lower(), value) for name, _, value in pairs], rest)

    def socket(self, url: str, headers: dict[str, str], port: int | None = None) -> ClientConnection:
        """Open a WebSocket, as a browser with these headers; ``port`` is that of a proxy in front."""
        plain = socket.create_connection(("127.0.0.1", port or urlsplit(url).port), DEADLINE)
        return connect(
            url.replace("https:", "wss:"), sock=plain, ssl=client_context(ca_file=self.ca), additional_headers=headers,
            open_timeout=DEADLINE,
        )  # fmt: skip


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster) -> Iterator[Site]:
    """The container, once its server serves."""
    published = ("--publish", str(PRIVATE), "--publish", f"{PUBLIC}:public", "--publish", str(SILENT))
    ports = (str(PRIVATE), str(PUBLIC), str(UNPUBLISHED))
    uuid = cluster.run("python3", "-c", SERVER, *ports, options=published, image="arv-ssh/debian:test")
    wait_for(lambda: "serving" in cluster.log_text(uuid, "stdout.txt"), "the server")
    yield Site(cluster, uuid)


def test_token_in_the_address(site: Site, tmp_path: Path) -> None:
    """A token in the address becomes a cookie, and the container sees neither; what is its own goes both ways."""
    jar = str(tmp_path / "jar")
    token = site.token("active")
    first = site.curl(site.url(path=f"/said?a=%20b&arvados_api_token={token}"))
    assert (first.status, first.header("location")) == (303, "/said?a=%20b")
    assert "HttpOnly" in first.header("set-cookie") and "Domain" not in first.header("set-cookie")
    answer = site.curl(
        site.url(path=f"/said?a=%20b&arvados_api_token={token}"), "-L", "-c", jar, "-b", "mine=2", "-A", "curl",
    )  # fmt: skip
    said = json.loads(answer.body.rpartition(b"\r\n")[2] or answer.body)
    assert (said["method"], said["path"]) == ("GET", "/said?a=%20b")
    assert token not in answer.body.decode() and urlsafe_b64encode(token.encode()) not in answer.body
    headers = said["headers"]
    assert headers["host"] == urlsplit(site.url()).netloc and headers["x-forwarded-proto"] == "https"
    assert headers["x-forwarded-for"] == "127.0.0.1" and headers["cookie"] == "mine=2"
    assert not [name for name in headers if name.startswith(("x-arvados", "x-webdav", "authorization"))]


def test_headers_of_the_answer(site: Site) -> None:
    """The container's cookies reach the browser, those of our names do not, nor what is the gateway's."""
    answer = site.curl(site.url(), user="active")
    cookies = [value for name, value in answer.headers if name == "set-cookie"]
    assert cookies[0] == "app=1" and len(cookies) == 2
    assert cookies[1].startswith(f"__Host-arvados_container_uuid={site.uuid};")
    assert not answer.header("x-arvados-authorization-response")


@pytest.mark.parametrize(
    ("port", "user", "status", "sentence"),
    [
        (PRIVATE, "active", 200, ""),
        (PRIVATE, "admin", 200, ""),
        (PRIVATE, "spectator", 404, "not found"),
        (PRIVATE, "", 401, "needs an API token"),
        (PUBLIC, "", 200, ""),
        (PUBLIC, "spectator", 200, ""),
        (UNPUBLISHED, "active", 403, "is not published; submit it with published_ports"),
        (UNPUBLISHED, "", 401, "needs an API token"),
        (SILENT, "active", 502, ""),
    ],
)
def test_who_may(site: Site, port: int, user: str, status: int, sentence: str) -> None:
    """A public port is everybody's, another only the submitter's and administrators'; each refusal is a sentence."""
    answer = site.curl(site.url(port), user=user)
    assert answer.status == status, answer.body
    assert sentence in answer.body.decode()


def test_another_reader(site: Site) -> None:
    """Who may read a container may not use its ports for that."""
    root = site.cluster.api()
    reader, token = new_user(root, "portreader")
    request = root.list("container_requests", filters=[["container_uuid", "=", site.uuid]])["items"][0]
    permission = {"link_class": "permission", "name": "can_read", "tail_uuid": reader, "head_uuid": request["uuid"]}
    root.create("links", permission)
    answer = site.curl(site.url(), "-H", f"Authorization: Bearer {token}")
    assert answer.status == 403 and b"other users submitted" in answer.body


@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "Authorization: OAuth2 {}"])
def test_token_in_a_header(site: Site, header: str) -> None:
    """Programs may send a token as they do to the API; the container does not see it."""
    said = site.curl(site.url(), "-H", header.format(site.token("active"))).said()
    assert "authorization" not in said["headers"]


def test_credentials_of_the_application(site: Site) -> None:
    """What an application has its users send is for the application."""
    said = site.curl(site.url(), "-H", "Authorization: token app", user="active").said()
    assert said["headers"]["authorization"] == "token app"


def test_words_to_the_gateway(site: Site) -> None:
    """A client cannot ask the gateway for anything else, such as its log or another port."""
    words = ("X-Webdav-Source: /log", f"X-Arvados-Container-Target-Port: {UNPUBLISHED}", "X-Arvados-No-Forward: 1")
    for word in words:
        said = site.curl(site.url(), "-H", word, user="active").said()
        assert word.partition(":")[0].lower() not in said["headers"]


@pytest.mark.parametrize("options", [(), ("-H", "Transfer-Encoding: chunked")])
def test_bodies(site: Site, options: tuple[str, ...]) -> None:
    """A body goes in whole, of known length or in chunks, and comes out whole."""
    body = b"0123456789" * 500_000
    said = site.curl(site.url(), "-X", "PUT", "--data-binary", "@-", *options, user="active", input=body).said()
    assert (said["method"], said["body"]) == ("PUT", len(body))
    assert said["sha256"] == hashlib.sha256(body).hexdigest()
    assert site.curl(site.url(path="/bytes/5000000"), user="active").body == b"x" * 5_000_000


def test_other_names(site: Site) -> None:
    """A container request's UUID leads to its container, and so does the name of a link."""
    api = site.cluster.api()
    request = api.list("container_requests", filters=[["container_uuid", "=", site.uuid]])["items"][0]["uuid"]
    link = {"link_class": "published_port", "name": "my-notebook", "head_uuid": request}
    as_active = api.with_token(site.token("active"))
    made = as_active.create("links", link | {"properties": {"port": PRIVATE}})
    for name in (f"{request}-{PRIVATE}", "my-notebook", "My-NoteBook"):
        assert site.curl(site.url(name=name), user="active").said()["path"] == "/said"
    as_active.delete("links", made["uuid"])
    wait_for(lambda: site.curl(site.url(name="my-notebook"), user="active").status == 404, "the name to be gone")
    answer = site.curl(site.url(name="my-notebook"), user="active")
    assert b"no container has published a port under the name 'my-notebook'" in answer.body


def test_websocket(site: Site) -> None:
    """A WebSocket opens, and carries texts of any length in both directions."""
    with site.socket(site.url(path="/socket"), {"Cookie": site.cookie("active")}) as opened:
        for text in ("hello", "x" * 30_000):
            opened.send(text)
            assert opened.recv(timeout=DEADLINE) == f"{text} back"


@pytest.mark.parametrize(
    "headers", [{}, {"Cookie": "", "Origin": "https://neighbour.containers.localhost"}], ids=["no token", "neighbour"]
)
def test_websocket_of_somebody_else(site: Site, headers: dict[str, str]) -> None:
    """Without a token no WebSocket opens; a page of another container cannot use the user's cookie."""
    if "Cookie" in headers:
        headers = headers | {"Cookie": site.cookie("active")}
    with pytest.raises(InvalidStatus) as refused:
        site.socket(site.url(path="/socket"), headers)
    assert refused.value.response.status_code == 401


def test_another_container_was_here(site: Site) -> None:
    """What another container left in the browser under the same name is removed before this one is seen."""
    stale = f"{site.cookie('active')}; __Host-arvados_container_uuid=zzzzz-dz642-000000000000000; app=1"
    answer = site.curl(site.url(), "-H", f"Cookie: {stale}")
    assert answer.status == 303 and answer.header("clear-site-data") == '"cache", "storage"'
    assert site.curl(site.url(), "-X", "POST", "-H", f"Cookie: {stale}").status == 404


def test_ended(cluster: EmbeddedCluster, site: Site) -> None:
    """A container that has ended, or is none, is a sentence."""
    ended = cluster.run("true", options=("--publish", "80", "--publish", "81:public"))
    cluster.wait_for_state(ended, "Complete")
    answer = site.curl(site.url(name=f"{ended}-80"), user="active")
    assert answer.status == 410 and b"has ended (Complete, exit 0" in answer.body
    answer = site.curl(site.url(name=f"{ended}-81"))
    sentence = f"container {ended} has ended; ask whoever gave you this address\n"
    assert (answer.status, answer.body.decode()) == (410, sentence)
    nobody = "zzzzz-dz642-aaaaaaaaaaaaaaa"
    assert site.curl(site.url(name=f"{nobody}-80"), user="active").status == 404
    assert site.curl(site.url(name=f"{site.uuid}-http"), user="active").status == 400


def test_behind_nginx(site: Site, tmp_path: Path) -> None:
    """Behind nginx, as the template sets it up, names, bodies and WebSockets pass, and the client's address."""
    controller = urlsplit(cluster_config.load(site.cluster.directory.config).controller_url).netloc
    with nginx(site.cluster, tmp_path, [controller, controller]) as front:
        options = ("--connect-to", f"::{front}", "-X", "PUT", "-H", "Transfer-Encoding: chunked", "--data-binary", "@-")
        said = site.curl(site.url(), *options, user="active", input=b"x" * 3_000_000).said()
        assert (said["method"], said["body"]) == ("PUT", 3_000_000)
        assert said["headers"]["host"] == urlsplit(site.url()).netloc
        assert said["headers"]["x-forwarded-for"] == "127.0.0.1, 127.0.0.1"
        cookie, port = {"Cookie": site.cookie("active")}, int(front.rpartition(":")[2])
        with site.socket(site.url(path="/socket"), cookie, port) as opened:
            opened.send("hello")
            assert opened.recv(timeout=DEADLINE) == "hello back"


@pytest.fixture(scope="module")
def by_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedCluster, Path]]:
    """A cluster whose containers share one host, and whose audit is required; and the directory of that."""
    directory = tmp_path_factory.mktemp("ports")
    cluster = EmbeddedCluster(directory / "cluster")
    cluster.configure_watching(directory / "audit", directory / "recordings")
    written = yaml.safe_load(cluster.directory.config.read_text())
    (section,) = written["Clusters"].values()
    section["Services"]["ContainerWebServices"] = {
        "ExternalURL": "https://containers.localhost", "ExternalPortMin": 18000, "ExternalPortMax": 18001,
    }  # fmt: skip
    cluster.directory.config.write_text(yaml.safe_dump(written))
    cluster.up()
    yield cluster, directory / "audit"
    cluster.down()


def test_ports_of_one_host(by_port: tuple[EmbeddedCluster, Path], tmp_path: Path) -> None:
    """Without a wildcard each port has one of the host's, as long as its container runs; and visits are recorded."""
    cluster, audit = by_port
    port = urlsplit(cluster_config.load(cluster.directory.config).controller_url).port

    def start() -> tuple[str, str]:
        options = ("--publish", "8000:public")
        uuid = cluster.run("python3", "-c", SERVER, "8000", options=options, image="arv-ssh/debian:test")
        wait_for(lambda: "serving" in cluster.log_text(uuid, "stdout.txt"), "the server")
        return uuid, str(cluster.container(uuid)["published_ports"]["8000"]["base_url"])

    def ask(url: str, *options: str) -> tuple[int, str]:
        command = ["curl", "-sS", "-k", "-w", "\n%{http_code}", "--connect-to", f"::127.0.0.1:{port}", *options, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    jar = ("-b", str(tmp_path / "jar"), "-c", str(tmp_path / "jar"))
    first, url = start()
    assert url == "https://containers.localhost:18000/"
    assert ask(f"{url}said", *jar)[0] == 200
    assert ask("https://containers.localhost:18001/")[0] == 410
    cluster.api().update("containers", first, {"state": "Cancelled"})
    wait_for(lambda: ask(f"{url}said", *jar)[0] == 410, "the container's end")
    second, again = start()
    assert again == url
    wait_for(lambda: ask(f"{url}said")[0] == 200, "the controller to look again at who has which port")
    status, head = ask(f"{url}said", "-i", *jar)  # the browser has the first one's cookies
    assert status == 303 and "Set-Cookie: app=; Path=/; Max-Age=0\n" in head
    status, body = ask(f"{url}said", *jar)
    assert status == 200 and json.loads(body)["path"] == "/said"
    cluster.down()
    events = [json.loads(line) for file in audit.glob("controller-*.jsonl") for line in file.read_text().splitlines()]
    visits = [(event["event"], event["container_uuid"]) for event in events if "visit_id" in event]
    assert [visit for visit in visits if visit[0].endswith("begin")] == [
        ("web_service.begin", first), ("web_service.begin", second)
    ]  # fmt: skip
    ends = [event for event in events if event["event"] == "web_service.end"]
    assert [(event["port"], event["user_uuid"], event["client"]) for event in ends] == [(8000, "", "127.0.0.1")] * 2
    assert all(event["requests"] >= 1 and event["bytes_to_client"] > 100 for event in ends)
    assert [event["status"] for event in events if event["event"] == "web_service.refused"][:2] == [410, 410]


def test_chromium(site: Site, tmp_path: Path) -> None:
    """A browser opens a page of the container by its name: it has the cookie, and its scripts their WebSocket."""
    address = site.url(path=f"/page?arvados_api_token={site.token('active')}")
    browse(site, tmp_path, address, f"socket: hello back; address: {site.url(path='/page')}; cookie: app=1\n")


def test_chromium_at_a_neighbours(site: Site, tmp_path: Path) -> None:
    """A page under a neighbouring name runs no script of a private port as its user, but may lead there."""
    theirs = site.url(path="/")
    then = quote(site.url(PUBLIC, f"/neighbour?of={quote(theirs)}"))
    address = site.url(path=f"/page?then={then}&arvados_api_token={site.token('active')}")
    browse(site, tmp_path, address, "their script: refused\n", f"{theirs}page?led;")


def browse(site: Site, tmp_path: Path, address: str, *expected: str) -> None:
    """Open ``address`` in a browser; wait until pages have reported what is ``expected``."""
    if shutil.which("chromium") is None:
        pytest.skip("Chromium is not installed (in Debian: apt-get install chromium)")
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--ignore-certificate-errors", f"--user-data-dir={tmp_path}/profile", address,
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    ) as browser:  # fmt: skip
        try:
            for text in expected:
                wait_for(partial(reported, site, text), f"the page's script: {text}")
        finally:
            os.killpg(browser.pid, signal.SIGKILL)


def reported(site: Site, text: str) -> bool:
    """Say whether a page has reported that."""
    return text in site.cluster.log_text(site.uuid, "stdout.txt")
