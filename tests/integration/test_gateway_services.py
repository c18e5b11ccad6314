"""Logs and ports of containers through their gateways, as a stock Arvados controller asks for them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest
import websockets.sync.client

from arv_ssh.config import cluster_config
from tests.integration.conftest import FOREVER
from tests.integration.embedded_cluster import EmbeddedCluster, docker, docker_container
from tests.integration.gateways import ROOT_TOKEN, UUID, LoneGateway, lone_gateway
from tests.integration.inside import SERVER, running_in
from tests.stock.web import WebController, web_controller
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the gateway needs root to enter a container's namespaces")

PREFIX = f"/arvados/v1/container_requests/zzzzz-xvhdp-000000000000000/log/{UUID}"

WEB = r"""
import base64, hashlib, http.server, json, os, socketserver, sys, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, *headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket":
            return self.websocket()
        if self.path == "/away":
            return self.answer(302, b"", ("Location", "http://elsewhere.example/x"), ("Set-Cookie", "a=1"),
                               ("Set-Cookie", "b=2"), ("X-Arvados-Authorization-Response", "forged"))
        if self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"first")
            self.wfile.flush()
            state["slow"].set()
            try:
                while True:
                    time.sleep(0.05)
                    self.wfile.write(b".")
            except OSError:
                state["gone"].set()
            self.close_connection = True
            return
        if self.path == "/gone":
            return self.answer(200 if state["gone"].wait(30) else 500, b"")
        said = {"method": self.command, "path": self.path, "headers": self.headers.items(), "uid": os.getuid()}
        self.answer(200, json.dumps(said).encode(), ("Content-Type", "application/json"))

    do_HEAD = do_GET

    def do_PUT(self):
        digest, size = hashlib.sha256(), 0
        length = self.headers.get("Content-Length")
        while True:
            if length is None:
                piece = self.rfile.read(int(self.rfile.readline(), 16))
                self.rfile.readline()
            else:
                piece = self.rfile.read(min(65536, int(length) - size))
            if not piece:
                break
            digest.update(piece)
            size += len(piece)
        self.answer(201, f"{size} {digest.hexdigest()}".encode())

    def do_POST(self):  # echoes while it is still sent to
        self.send_response(200)
        self.send_header("Content-Length", self.headers["Content-Length"])
        self.end_headers()
        left = int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read1(min(left, 65536))
            left -= len(piece)
            self.wfile.write(piece)
            self.wfile.flush()

    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.wfile.write(("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Accept: " + accept + "\r\n\r\n").encode())
        while True:  # messages shorter than 126 bytes
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            mask, data = self.rfile.read(4), self.rfile.read(head[1] & 127)
            data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
            self.wfile.write(bytes([head[0], len(data)]) + data)
            if head[0] & 15 == 8:
                self.close_connection = True
                return

    def log_message(self, *_):
        pass

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

state = {"slow": threading.Event(), "gone": threading.Event()}
server = Server((sys.argv[1], 0), Handler)
print(server.server_address[1], flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
"""
"""A web server that shows what it is asked, with a WebSocket that echoes."""


@pytest.fixture(scope="module", params=["oci", "docker"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneGateway]:
    """A container without a network, and its gateway with a log directory (its parent's ``logs``)."""
    directory = tmp_path_factory.mktemp("gateway")
    logs = directory / "logs"
    logs.mkdir()
    (logs / "crunch-run.txt").write_text("begun\n")
    (logs / "link.txt").symlink_to("/etc/passwd")
    with lone_gateway(
        request.param, "debian", directory, "--user", "crunch", own=("--log-dir", str(logs))
    ) as found:
        yield found


@pytest.fixture(scope="module")
def port(gateway: LoneGateway) -> Iterator[int]:
    with running_in(gateway.container, WEB, "127.0.0.1") as found:
        yield found


@contextmanager
def asking(gateway: LoneGateway, headers: dict[str, str]) -> Iterator[WebController]:
    with web_controller(gateway.address, UUID, ROOT_TOKEN, headers) as double:
        yield double


@contextmanager
def logs_of(gateway: LoneGateway) -> Iterator[str]:
    """Give the URL of the container's logs at the double."""
    with asking(gateway, {"X-Webdav-Source": "/log", "X-Webdav-Prefix": PREFIX}) as double:
        yield f"http://127.0.0.1:{double.port}{PREFIX}"


@contextmanager
def port_of(gateway: LoneGateway, port: int) -> Iterator[str]:
    """Give the host and port of the double that leads to ``port`` of the container."""
    with asking(gateway, {"X-Arvados-Container-Target-Port": str(port)}) as double:
        yield f"127.0.0.1:{double.port}"


def curl(*arguments: str, input: bytes = b"") -> tuple[int, dict[str, list[str]], bytes]:
    """Return status, headers and body of one answer."""
    shown = '%{stderr}{"status": %{http_code}, "headers": %{header_json}}'
    command = ["curl", "--silent", "--show-error", "--max-time", str(DEADLINE), "-w", shown, *arguments]
    done = subprocess.run(command, input=input, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stderr)
    return said["status"], said["headers"], done.stdout


def said(answer: tuple[int, dict[str, list[str]], bytes]) -> str:
    """Return the sentence of an error."""
    (sentence,) = json.loads(answer[2])["errors"]
    return str(sentence)


class TestLogs:
    """The log directory by WebDAV."""

    def test_files(self, gateway: LoneGateway) -> None:
        """Files are listed and read, below the prefix that the controller names."""
        with logs_of(gateway) as url:
            status, _, body = curl("-X", "PROPFIND", "-H", "Depth: 1", url + "/")
            assert status == 207
            found = [item.text for item in ElementTree.fromstring(body).iter("{DAV:}href")]
            assert found == [f"{PREFIX}/", f"{PREFIX}/crunch-run.txt"]
            status, headers, body = curl(url + "/crunch-run.txt")
            assert (status, body, headers["content-type"]) == (200, b"begun\n", ["text/plain; charset=utf-8"])
            assert curl("-I", url + "/crunch-run.txt")[1]["content-length"] == ["6"]
            assert curl("-X", "OPTIONS", url)[1]["dav"] == ["1"]

    def test_nothing_else(self, gateway: LoneGateway) -> None:
        """No link leads out, nothing is written, and all answers are the gateway's own."""
        with logs_of(gateway) as url:
            for path in ("/link.txt", "/none", "/../x", "/%2e%2e/known_hosts", "/x/../../known_hosts"):
                assert curl("--path-as-is", url + path)[0] == 404
            for method in ("PUT", "DELETE", "MKCOL", "POST"):
                assert curl("-X", method, "--data", "x", url + "/crunch-run.txt")[0] == 405

    def test_following(self, gateway: LoneGateway) -> None:
        """A file that grows is followed by asking for what is behind the part that came already."""
        with logs_of(gateway) as url, open(gateway.directory / "logs" / "stdout.txt", "wb", buffering=0) as file:
            got = b""
            for piece in (b"", b"one\n", b"two\n" * 100_000):
                file.write(piece)
                status, _, body = curl("-H", f"Range: bytes={len(got)}-", url + "/stdout.txt")
                assert (status, body) == (206 if piece else 200, piece)
                got += body
            assert curl("-H", f"Range: bytes={len(got)}-", url + "/stdout.txt")[0] == 416


def children(pid: int) -> list[int]:
    """Return the processes that the gateway has started."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in found for word in file.read_text().split()]


class TestPorts:
    """HTTP to a port of the container's own loopback."""

    def test_request(self, gateway: LoneGateway, port: int) -> None:
        """The server sees the client's request as it was, and nothing of the proofs; it runs as any program there."""
        with port_of(gateway, port) as at:
            status, _, body = curl(
                f"http://{at}/a%2Fb//c?x=%20y", "-H", "Host: app.example:8443", "-H", "Range: bytes=1-2",
                "-H", "Cookie: a=b", "-H", "TE: trailers", "-H", "X-Arvados-Other: x",
            )  # fmt: skip
            seen = json.loads(body)
            headers = [(name.lower(), value) for name, value in seen["headers"]]
            assert (status, seen["path"], seen["uid"]) == (200, "/a%2Fb//c?x=%20y", 1000)
            assert {("host", "app.example:8443"), ("range", "bytes=1-2"), ("cookie", "a=b")} <= set(headers)
            assert not [name for name, _ in headers if name.startswith("x-arvados-") or name == "te"]
            assert curl("-I", f"http://{at}/")[2].startswith(b"HTTP/1.1 200 ")

    def test_answer(self, gateway: LoneGateway, port: int) -> None:
        """A redirect and repeated headers are untouched; only the proof that the container forged is replaced."""
        with port_of(gateway, port) as at:
            status, headers, _ = curl(f"http://{at}/away")
            assert (status, headers["location"]) == (302, ["http://elsewhere.example/x"])
            assert headers["set-cookie"] == ["a=1", "b=2"]
            assert "forged" not in headers["x-arvados-authorization-response"]

    @pytest.mark.parametrize("chunked", [False, True])
    def test_upload(self, gateway: LoneGateway, port: int, chunked: bool) -> None:
        """A body of 20 MB goes in, with a length or in chunks, after the server's 100."""
        body = os.urandom(20_000_000)
        how = ("-H", "Transfer-Encoding: chunked") if chunked else ()
        with port_of(gateway, port) as at:
            status, _, answer = curl("-T", "-", *how, "-H", "Expect: 100-continue", f"http://{at}/x", input=body)
        assert (status, answer.decode()) == (201, f"{len(body)} {hashlib.sha256(body).hexdigest()}")

    def test_both_ways_at_once(self, gateway: LoneGateway, port: int) -> None:
        """The answer's body comes while the request's is still being sent."""
        with port_of(gateway, port) as at:
            host, _, number = at.partition(":")
            with socket.create_connection((host, int(number)), DEADLINE) as sock:
                sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nfirst")
                got = b""
                while not got.endswith(b"\r\n\r\nfirst"):
                    piece = sock.recv(1000)
                    assert piece, got
                    got += piece
                sock.sendall(b"later")
                assert b"".join(iter(lambda: sock.recv(1000), b"")) == b"later"

    def test_websocket(self, gateway: LoneGateway, port: int) -> None:
        """A WebSocket opens, passes messages both ways, and closes with its handshake."""
        with port_of(gateway, port) as at, websockets.sync.client.connect(f"ws://{at}/ws", compression=None) as socket:
            for text in ("one", "two", "x" * 100):
                socket.send(text)
                assert socket.recv(DEADLINE) == text
            socket.close()
            assert socket.close_code == 1000

    def test_client_that_leaves(self, gateway: LoneGateway, port: int) -> None:
        """The server notices that a client has gone, while it is still answering."""
        with port_of(gateway, port) as at:
            host, _, number = at.partition(":")
            with socket.create_connection((host, int(number)), DEADLINE) as sock:
                sock.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
                while b"first" not in sock.recv(1000):
                    pass
            assert curl(f"http://{at}/gone")[0] == 200

    def test_nothing_listens(self, gateway: LoneGateway, port: int) -> None:
        """A port without a server is 502, with what to do; so is one that speaks no HTTP."""
        with port_of(gateway, 1) as at:
            answer = curl(f"http://{at}/")
            assert answer[0] == 502
            assert said(answer) == (
                f"nothing answers on port 1 of container {UUID} (Connection refused); start the program that is to "
                "listen there, then try again"
            )
        with running_in(gateway.container, SERVER, "greet", "127.0.0.1") as other, port_of(gateway, other) as at:
            answer = curl(f"http://{at}/")
            assert answer[0] == 502 and "does not answer in HTTP" in said(answer)

    def test_many_at_once(self, gateway: LoneGateway, port: int) -> None:
        """Dozens of requests share the broker, and each has its own answer."""
        results: list[str] = []
        with port_of(gateway, port) as at:

            def ask(number: int) -> None:
                results.append(json.loads(curl(f"http://{at}/{number}")[2])["path"])

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
        assert sorted(results) == sorted(f"/{number}" for number in range(20))

    def test_a_killed_broker_is_replaced(self, gateway: LoneGateway, port: int) -> None:
        """When the container's limits, or its root, end the broker, the next request has another one."""
        with port_of(gateway, port) as at:
            assert curl(f"http://{at}/")[0] == 200
            brokers = children(gateway.pid)
            assert brokers
            for pid in brokers:
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: curl(f"http://{at}/")[0] == 200, "a new broker")


class TestCrunchRun:
    """The same of a container that crunch-run runs."""

    @contextmanager
    def asking(self, cluster: EmbeddedCluster, uuid: str, headers: dict[str, str]) -> Iterator[str]:
        """Give the double's address, which leads to the gateway on the container's record."""
        address = cluster.container(uuid)["gateway_address"]
        root_token = cluster_config.load(cluster.directory.config).system_root_token
        with web_controller(address, uuid, root_token, headers) as double:
            yield f"http://127.0.0.1:{double.port}"

    def test_logs(self, cluster: EmbeddedCluster) -> None:
        """crunch-run's own log and what the program has written so far are there while it runs."""
        uuid = cluster.run("sh", "-c", "echo out; echo err >&2; sleep 1000000")
        with self.asking(cluster, uuid, {"X-Webdav-Source": "/log"}) as url:
            wait_for(lambda: curl(url + "/stdout.txt")[2] == b"out\n", "the output")
            wait_for(lambda: curl(url + "/stderr.txt")[2] == b"err\n", "the output to stderr")
            assert b'"container is running"' in curl(url + "/crunch-run.txt")[2]
            _, _, body = curl("-X", "PROPFIND", "-H", "Depth: 1", url)
            found = {item.text for item in ElementTree.fromstring(body).iter("{DAV:}href")}
            assert found == {"/", "/crunch-run.txt", "/stdout.txt", "/stderr.txt"}

    def test_own_address(self, cluster: EmbeddedCluster) -> None:
        """A server that listens on the address of the container alone is reached."""
        uuid = cluster.run(*FOREVER, image="arv-ssh/debian:test")
        container = docker_container(uuid)
        address = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)
        with running_in(container, WEB, address) as number:
            headers = {"X-Arvados-Container-Target-Port": str(number)}
            with self.asking(cluster, uuid, headers) as url:
                assert json.loads(curl(url + "/x")[2])["path"] == "/x"
