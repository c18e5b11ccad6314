"""What a browser sends to a container's web service: the name in its Host header, and a token in many places."""

from __future__ import annotations

import base64

from arv_ssh.config.web_services import WebServices
from arv_ssh.controller.web_services import names, tokens
from arv_ssh.errors import BadRequest
from arv_ssh.net.http_messages import Request
from tests.fuzz.harness import Target

TOKEN = "v2/zzzzz-gj3su-077z32aux8dg2s1/3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi"
WORDS = {b"@TOKEN@": TOKEN.encode(), b"@COOKIE@": base64.urlsafe_b64encode(TOKEN.encode()),
         b"@BASIC@": base64.b64encode(f"none:{TOKEN}".encode())}  # fmt: skip
SERVICES = (WebServices(host="*.c.example.org"), WebServices(host="*--c.example.org", port=8443),
            WebServices(host="c.example.org", port_min=8000, port_max=8010))  # fmt: skip


def web_request(data: bytes) -> None:
    """Only BadRequest is raised; no token of ours reaches the container, nor stays in the address it is read from."""
    for word, meant in WORDS.items():
        data = data.replace(word, meant)
    first, *lines = data.translate(None, b"\0\r\v\f\x7f").split(b"\n")
    target = bytes(byte for byte in first if 0x20 < byte < 0x7F)  # HTTP lets nothing else through
    raw = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
    query = target.decode("ascii", "replace").partition("?")[2]
    request = Request("GET", "/", query, headers, b"", "", "req-1", target=target, raw_headers=raw)
    for services in SERVICES:
        try:
            assert names.target(services, headers.get("host", "")).port < 65536
        except BadRequest:
            pass
    try:
        used = tokens.credentials(request)
    except BadRequest:
        return
    _check_container(tokens.for_container(raw, used), used)
    for name, value in tokens.redirect(request, clear=True).headers:
        assert "\r" not in value and "\n" not in value
        if name == "Location":
            assert value.startswith("/") and not value.startswith(("//", "/\\"))
            assert not used.in_query or TOKEN not in value or TOKEN in target.decode("latin-1").partition("?")[0]


def _check_container(headers: list[tuple[bytes, bytes]], used: tokens.Credentials) -> None:
    for name, value in headers:
        if name == b"authorization":
            assert not (used.token and used.token in value.decode("latin-1"))
        if name == b"cookie":
            found = [part.partition(b"=")[0].strip().decode("latin-1") for part in value.split(b";")]
            assert not [one for one in found if tokens._is_ours(one)]


TARGETS = (Target("web-request", web_request.__doc__ or "", web_request),)
