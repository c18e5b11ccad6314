"""The API client against a server that notes what it is asked, and against servers that misbehave."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from arv_ssh import errors
from arv_ssh.api import client as client_module
from arv_ssh.api.client import ApiClient
from arv_ssh.cli import certificates

UUID = "zzzzz-dz642-abcdeabcdeabcde"


class Handler(BaseHTTPRequestHandler):
    """Answers with what the server is told to, and notes the request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        status, headers, content = self.server.answers.pop(0) if self.server.answers else (200, {}, "{}")
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content.encode()))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content.encode())

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A server on a free port."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, str], str]] = []
        self.answers: list[tuple[int, dict[str, str], str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that do not trust this server hang up on it."""


def serve(server: Server) -> Iterator[Server]:
    """Run a server while a test runs."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join(30)
    server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    """Give a plain HTTP server."""
    yield from serve(Server())


@pytest.fixture
def api(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiClient]:
    """Give a client of that server, which loses no time between two attempts."""
    monkeypatch.setattr(client_module, "RETRY_PAUSES", (0.0, 0.0))
    client = ApiClient(server.url, "token", timeout=30)
    yield client
    client.close()


def test_calls(server: Server, api: ApiClient) -> None:
    """Each call is Arvados' method and path, with the attributes under the record's name."""
    api.with_token("token", "req-1").current_user()
    api.get("containers", UUID, select=["uuid"])
    api.create("api_client_authorizations", {"scopes": ["all"]})
    api.update("containers", UUID, {"state": "Running"})
    api.delete("links", "zzzzz-o0j2j-abcdeabcdeabcde")
    api.lock(UUID)
    api.unlock(UUID)
    api.container_auth(UUID)
    api.get("api_client_authorizations", "current")
    assert [(method, path, body) for method, path, _, body in server.seen] == [
        ("GET", "/arvados/v1/users/current", ""),
        ("GET", f"/arvados/v1/containers/{UUID}?select=%5B%22uuid%22%5D", ""),
        ("POST", "/arvados/v1/api_client_authorizations", '{"api_client_authorization": {"scopes": ["all"]}}'),
        ("PATCH", f"/arvados/v1/containers/{UUID}", '{"container": {"state": "Running"}}'),
        ("DELETE", "/arvados/v1/links/zzzzz-o0j2j-abcdeabcdeabcde", ""),
        ("POST", f"/arvados/v1/containers/{UUID}/lock", ""),
        ("POST", f"/arvados/v1/containers/{UUID}/unlock", ""),
        ("GET", f"/arvados/v1/containers/{UUID}/auth", ""),
        ("GET", "/arvados/v1/api_client_authorizations/current", ""),
    ]
    headers = server.seen[0][2]
    assert (headers["Authorization"], headers["X-Request-Id"]) == ("Bearer token", "req-1")


def test_list(server: Server, api: ApiClient) -> None:
    """A list's parameters are JSON in the query, text where Arvados wants text; a long query goes by POST."""
    filters = [["state", "in", ["Queued"]]]
    api.list("containers", filters=filters, order=["priority desc"], limit=5, offset=0, count="none")
    api.list("containers", filters=[["uuid", "in", [UUID] * 500]])
    (method, path, _, _), (long_method, long_path, _, long_body) = server.seen
    expected = {"filters": filters, "order": ["priority desc"], "limit": 5, "offset": 0}
    query = {name: value[0] for name, value in parse_qs(urlsplit(path).query).items()}
    assert method == "GET" and query.pop("count") == "none"
    assert {name: json.loads(value) for name, value in query.items()} == expected
    assert (long_method, long_path) == ("POST", "/arvados/v1/containers")
    form = parse_qs(long_body)
    assert form["_method"] == ["GET"] and len(json.loads(form["filters"][0])[0][2]) == 500


def test_list_all(server: Server, api: ApiClient) -> None:
    """All pages are asked for, each after the last UUID of the one before, however short a server makes them."""
    pages: list[list[dict[str, Any]]] = [[{"uuid": "a"}, {"uuid": "b"}], [{"uuid": "c"}], []]
    server.answers = [(200, {}, json.dumps({"items": page})) for page in pages]
    found = api.list_all("containers", filters=[["state", "=", "Queued"]], select=["state"])
    assert [item["uuid"] for item in found] == ["a", "b", "c"]
    queries = [parse_qs(urlsplit(path).query) for _, path, _, _ in server.seen]
    assert [json.loads(query["filters"][0])[1:] for query in queries] == [
        [], [["uuid", ">", "b"]], [["uuid", ">", "c"]],
    ]  # fmt: skip
    assert json.loads(queries[0]["select"][0]) == ["state", "uuid"]


def test_list_all_but_no_more_than_needed(server: Server, api: ApiClient) -> None:
    """Whoever needs no more than some records does not ask for the pages behind."""
    pages = [[{"uuid": uuid} for uuid in page] for page in ("ab", "cd", "ef")]
    server.answers = [(200, {}, json.dumps({"items": page})) for page in pages]
    assert [item["uuid"] for item in api.list_all("containers", most=3)] == ["a", "b", "c", "d"]
    assert len(server.seen) == 2


@pytest.mark.parametrize("items", [None, "items", {"uuid": "x"}, ["x"], [None], [{}], [{"uuid": 1}]], ids=str)
def test_a_page_that_is_none(server: Server, api: ApiClient, items: Any) -> None:
    """A list of something else is the API's fault."""
    server.answers = [(200, {}, json.dumps({"items": items}))]
    with pytest.raises(errors.BadGateway, match="something other than a list of containers"):
        api.list_all("containers")


def test_a_page_that_comes_again_and_again(server: Server, api: ApiClient) -> None:
    """An API that does not heed the filters does not keep us for ever."""
    server.answers = [(200, {}, '{"items": [{"uuid": "a"}]}')] * 3
    with pytest.raises(errors.BadGateway, match="something other than a list of containers"):
        api.list_all("containers")
    assert len(server.seen) == 2


def test_an_answer_without_end(server: Server, api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer takes no more memory than its limit."""
    monkeypatch.setattr(client_module, "LARGEST_ANSWER", 1 << 20)
    server.answers = [(200, {}, "[" * (3 << 20))]
    with pytest.raises(errors.BadGateway, match="answered with more than 1 MiB"):
        api.current_user()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((401, {}, '{"errors": ["get a new token"]}'), errors.Unauthorized, "^get a new token$"),
        ((403, {}, '{"errors": ["a", "b"]}'), errors.Forbidden, "^a; b$"),
        ((404, {}, '{"errors": ["gone"]}'), errors.NotFound, "^gone$"),
        ((405, {}, '{"errors": ["no"]}'), errors.MethodNotAllowed, "^no$"),
        ((422, {}, '{"errors": ["illegal"]}'), errors.Unprocessable, "^illegal$"),
        ((500, {}, '{"errors": []}'), errors.BadGateway, "answered with status 500 and no reason$"),
        ((400, {}, "[]"), errors.BadRequest, "answered with status 400 and no reason$"),
        ((302, {"Location": "http://127.0.0.1:1/"}, ""), errors.BadGateway, "answered with status 302"),
        ((200, {}, "hello"), errors.BadGateway, "something other than a JSON record"),
        ((200, {}, "[1]"), errors.BadGateway, "something other than a JSON record"),
        ((200, {}, "<html>Please log in</html>"), errors.BadGateway, "something other than a JSON record"),
        ((200, {}, "[" * 100_000), errors.BadGateway, "something other than a JSON record"),
        ((200, {}, ""), errors.BadGateway, "something other than a JSON record"),
        ((200, {"Content-Length": "1000", "Connection": "close"}, "{"), errors.BadGateway, "invalid HTTP .*Incomplete"),
    ],
)
def test_errors(
    server: Server, api: ApiClient, answer: tuple[int, dict[str, str], str], error: type[errors.HttpError], message: str
) -> None:
    """An error is of its status and has the API's own sentence; nonsense is the API's fault."""
    server.answers = [answer]
    with pytest.raises(error, match=message):
        api.current_user()


BUSY: tuple[int, dict[str, str], str] = (503, {}, '{"errors": ["busy"]}')


@pytest.mark.parametrize("status", [502, 503, 504])
def test_safe_calls_are_tried_again(server: Server, api: ApiClient, status: int) -> None:
    """A read, or a write that may be repeated, survives a server that cannot serve yet."""
    server.answers = [(status, {}, "<html>"), BUSY, (200, {}, '{"uuid": "x"}')]
    assert api.current_user() == {"uuid": "x"}
    server.answers = [BUSY, (200, {}, "{}")]
    api.update("containers", UUID, {"state": "Running"}, repeatable=True)
    assert [method for method, *_ in server.seen] == ["GET"] * 3 + ["PATCH"] * 2


def test_attempts_have_an_end(server: Server, api: ApiClient) -> None:
    """The third failure is the caller's, with the server's words; what has no words is said so."""
    server.answers = [BUSY] * 3
    with pytest.raises(errors.Unavailable, match="^busy$"):
        api.get("containers", UUID)
    server.answers = [(503, {}, "<html>")] * 3
    with pytest.raises(errors.Unavailable, match="answered with status 503 and no reason$"):
        api.get("containers", UUID)
    assert len(server.seen) == 6


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 500])
def test_answers_to_the_question_are_final(server: Server, api: ApiClient, status: int) -> None:
    """No other answer is asked for twice."""
    server.answers = [(status, {}, '{"errors": ["no"]}')]
    with pytest.raises(errors.HttpError):
        api.current_user()
    assert len(server.seen) == 1


@pytest.mark.parametrize("call", ["create", "update", "lock", "delete"])
def test_other_calls_are_sent_once(server: Server, api: ApiClient, call: str) -> None:
    """What may not be done twice is not sent twice."""
    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: api.create("container_requests", {}),
        "update": lambda: api.update("containers", UUID, {"priority": 1}),
        "lock": lambda: api.lock(UUID),
        "delete": lambda: api.delete("container_requests", "zzzzz-xvhdp-abcdeabcdeabcde"),
    }
    server.answers = [BUSY]
    with pytest.raises(errors.Unavailable, match="^busy$"):
        calls[call]()
    assert len(server.seen) == 1


def test_cut_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read goes on after connections that are cut without an answer, as those of a restarted server are."""
    monkeypatch.setattr(client_module, "RETRY_PAUSES", (0.0, 0.0))
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_third() -> None:
            for reply in (b"", b"", answer):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve_third)
        thread.start()
        api = ApiClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "token")
        assert api.current_user() == {}
        api.close()
        thread.join(30)


def test_tokens_share_connections_and_nothing_else(server: Server, api: ApiClient) -> None:
    """with_token sends the other token; a cookie that one was given is not sent with the other."""
    server.answers = [(200, {"Set-Cookie": "session=secret"}, "{}")]
    api.current_user()
    api.with_token("other").current_user()
    api.current_user()
    sent = [headers["Authorization"] for _, _, headers, _ in server.seen]
    assert sent == ["Bearer token", "Bearer other", "Bearer token"]
    assert not any("Cookie" in headers for _, _, headers, _ in server.seen)


def test_netrc_and_proxies_are_left_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: ApiClient
) -> None:
    """A .netrc entry for the API host does not replace the token; a proxy of the environment is not asked."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    api.current_user()
    assert server.seen[0][2]["Authorization"] == "Bearer token"


@pytest.mark.parametrize("uuid", ["", "..", "current", "a/b", UUID + "/auth", "?x"])
def test_text_that_is_no_uuid(server: Server, api: ApiClient, uuid: str) -> None:
    """What is no UUID is not found, and never makes another path."""
    with pytest.raises(errors.NotFound, match="is not a UUID"):
        api.get("containers", uuid)
    assert server.seen == []


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "tökén", "a b"])
def test_token_that_cannot_be_sent(server: Server, api: ApiClient, token: str) -> None:
    """A token that could not stand in a header is a 401 with a sentence that does not repeat it."""
    with pytest.raises(errors.Unauthorized, match="copy it again") as caught:
        api.with_token(token).current_user()
    assert token not in str(caught.value) and server.seen == []


def test_nobody_listens() -> None:
    """An API host that is down is 503 with its name and the reason."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(errors.Unavailable, match=f"^the API host {host} cannot be reached .*Connection refused"):
            ApiClient(f"http://{host}", "token").current_user()


def test_name_that_does_not_resolve() -> None:
    """An API host that does not exist is 503 too."""
    with pytest.raises(errors.Unavailable, match="cannot be reached"):
        ApiClient("https://nowhere.invalid", "token").current_user()


def test_api_that_is_silent() -> None:
    """An API host that accepts and says nothing is 504 after the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = ApiClient(f"http://127.0.0.1:{silent.getsockname()[1]}", "token", timeout=0.1)
        with pytest.raises(errors.GatewayTimeout, match=r"did not answer within 0\.1 s"):
            api.current_user()


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[Server]:
    """Give an HTTPS server whose CA is in tmp_path/ca.pem."""
    issued = certificates.issue("zzzzz")
    (tmp_path / "ca.pem").write_bytes(issued.authority)
    (tmp_path / "server.pem").write_bytes(issued.server + issued.server_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    server = Server()
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.url = f"https://127.0.0.1:{server.server_port}"
    yield from serve(server)


def test_certificate(tls_server: Server, tmp_path: Path) -> None:
    """A certificate that is not trusted is one sentence with the next step; a CA file makes it good."""
    with pytest.raises(errors.BadGateway, match="is not trusted .*set SSL_CERT_FILE to its CA"):
        ApiClient(tls_server.url, "token").current_user()
    assert ApiClient(tls_server.url, "token", verify=str(tmp_path / "ca.pem")).current_user() == {}


def test_certificate_is_not_checked_when_told_so(tls_server: Server) -> None:
    """ARVADOS_API_HOST_INSECURE means no check, and no nagging."""
    assert ApiClient(tls_server.url, "token", verify=False).current_user() == {}


def test_ca_file_that_is_missing() -> None:
    """A CA file that does not exist is named before anything is asked."""
    with pytest.raises(errors.ConfigError, match="the CA file /nonexistent/ca.pem does not exist"):
        ApiClient("https://zzzzz.example.org", "token", verify="/nonexistent/ca.pem")
