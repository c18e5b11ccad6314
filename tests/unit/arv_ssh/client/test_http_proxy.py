"""Which proxy the environment names for a host, and what CONNECT says and is told."""

from __future__ import annotations

import pytest

from arv_ssh.client import http_proxy
from arv_ssh.errors import ArvSshError, ConfigError


@pytest.mark.parametrize(
    ("text", "host", "port", "basic"),
    [
        ("http://proxy.example.org:3128", "proxy.example.org", 3128, None),
        ("proxy", "proxy", 80, None),
        ("HTTP://10.0.0.1:8080/", "10.0.0.1", 8080, None),
        ("http://[::1]:3128", "::1", 3128, None),
        ("http://ann:secret@proxy:3128", "proxy", 3128, b"YW5uOnNlY3JldA=="),
        ("http://ann:p%40ss%3Aword@proxy", "proxy", 80, b"YW5uOnBAc3M6d29yZA=="),
        ("http://ann@proxy", "proxy", 80, b"YW5uOg=="),
        ("http://ann:\udcff@proxy", "proxy", 80, b"YW5uOv8="),
    ],
)
def test_proxy(text: str, host: str, port: int, basic: bytes | None) -> None:
    """A proxy's address and credentials are read as curl reads them; the password stays out of what is shown."""
    found = http_proxy.choose("api", 443, {"HTTPS_PROXY": text})
    assert found and (found.host, found.port) == (host, port)
    request = found.request("api:443")
    assert request.startswith(b"CONNECT api:443 HTTP/1.1\r\nHost: api:443\r\n") and request.endswith(b"\r\n\r\n")
    assert (b"Proxy-Authorization" in request) == (basic is not None)
    assert basic is None or b"\r\nProxy-Authorization: Basic " + basic + b"\r\n" in request
    assert "secret" not in f"{found}{found!r}" and "HTTPS_PROXY" in str(found)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("socks5://proxy:1080", "HTTPS_PROXY names a proxy that speaks socks5; use an http:// one"),
        ("https://ann:secret@proxy", "HTTPS_PROXY names a proxy that speaks https"),
        ("http://ann:secret@proxy:99999", "HTTPS_PROXY does not name a proxy; it should be http://HOST:PORT"),
        ("http://ann:secret@", "HTTPS_PROXY does not name a proxy"),
        ("http://ann:secret@\u00fc..proxy", "HTTPS_PROXY does not name a proxy"),
    ],
)
def test_no_proxy_of_ours(text: str, sentence: str) -> None:
    """Any other text is told, without what may be a password in it."""
    with pytest.raises(ConfigError) as caught:
        http_proxy.choose("api", 443, {"HTTPS_PROXY": text})
    assert sentence in str(caught.value) and "secret" not in str(caught.value)


def test_order() -> None:
    """Lower case comes first, as in curl, and an empty variable counts as none."""
    both = {"https_proxy": "http://lower", "HTTPS_PROXY": "http://upper", "ALL_PROXY": "http://all"}
    assert getattr(http_proxy.choose("api", 443, both), "host", "") == "lower"
    assert getattr(http_proxy.choose("api", 443, both | {"https_proxy": ""}), "host", "") == "upper"
    assert getattr(http_proxy.choose("api", 443, {"ALL_PROXY": "http://all"}), "host", "") == "all"
    assert http_proxy.choose("api", 443, {"HTTP_PROXY": "http://plain"}) is None


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("api.example.org", "example.org", True),
        ("api.example.org", ".example.org", True),
        ("api.example.org", "*.example.org", True),
        ("API.Example.ORG", "other, example.ORG", True),
        ("api.example.org", "api.example.org:443", True),
        ("api.example.org", "api.example.org:8443", False),
        ("badexample.org", "example.org", False),
        ("api.example.org", "", False),
        ("api.example.org", "*", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("api.example.org", "10.0.0.0/8", False),
        ("::1", "::1", True),
        ("::1", "[::1]:443", True),
        ("::1", "[::1]:80", False),
        ("fd00::1", "fd00::/8", True),
        ("::1", "nonsense/8", False),
    ],
)
def test_excluded(host: str, no_proxy: str, direct: bool) -> None:
    """NO_PROXY names hosts, domains, networks, each with a port or without."""
    assert (http_proxy.choose(host, 443, {"HTTPS_PROXY": "p", "NO_PROXY": no_proxy}) is None) == direct


PROXY = http_proxy.Proxy("p", 80, "", "HTTPS_PROXY")
WITH_PASSWORD = http_proxy.Proxy("p", 80, "ann:secret", "HTTPS_PROXY")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 Connection established\r\n\r\n", b"HTTP/1.0 200\r\nX: y\r\n\r\n"])
def test_tunnel_is_open(answer: bytes) -> None:
    """A 2xx opens the tunnel as soon as its head is complete; what follows is the far end's."""
    for length in range(len(answer)):
        assert PROXY.answered(answer[:length], "api:443") is None
    assert PROXY.answered(answer, "api:443") == b""
    assert PROXY.answered(answer + b"\x16\x03", "api:443") == b"\x16\x03"


@pytest.mark.parametrize(
    ("proxy", "answer", "sentence"),
    [
        (PROXY, b"HTTP/1.1 407 Auth\r\n\r\n", "requires its own user name and password (407 Auth); set HTTPS_"),
        (WITH_PASSWORD, b"HTTP/1.1 407 No\r\n\r\n", "(407 No); check the user name and password there"),
        (PROXY, b"HTTP/1.1 403 Filtered\r\n\r\nx", "does not let you connect to api:443 (403 Filtered); ask its admin"),
        (PROXY, b"HTTP/1.1 502 Bad\r\n\r\n", "could not connect to api:443 (502 Bad); check ARVADOS_API_HOST"),
        (PROXY, b"SSH-2.0-x\r\n", "does not answer like an HTTP proxy; check HTTPS_PROXY"),
        (PROXY, b"HTTP/1.1 what\r\n", "does not answer like an HTTP proxy"),
        (PROXY, b"HTTP/1.1 200 ok\r\nX: " + bytes(20000), "does not answer like an HTTP proxy"),
    ],
)
def test_refusals(proxy: http_proxy.Proxy, answer: bytes, sentence: str) -> None:
    """A refusal says what the proxy said and what to do."""
    with pytest.raises(ArvSshError) as caught:
        proxy.answered(answer, "api:443")
    assert sentence in str(caught.value) and "secret" not in str(caught.value)
    assert "the proxy p:80 (HTTPS_PROXY)" in str(caught.value)
