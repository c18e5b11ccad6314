"""Where a token is found, and that it goes no further."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from arv_ssh.controller.web_services import tokens
from arv_ssh.controller.web_services.tokens import Credentials, credentials, for_browser, for_container, redirect
from arv_ssh.errors import BadRequest
from arv_ssh.net.http_messages import Request

TOKEN = "v2/zzzzz-gj3su-077z32aux8dg2s1/3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi"
OLDER = "3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi"
HOST = "zzzzz-dz642-abcdeabcdeabcde-80.c.example.org"
UUID = "zzzzz-dz642-abcdeabcdeabcde"
OTHER = "zzzzz-dz642-zzzzzzzzzzzzzzz"


def request(target: str = "/", method: str = "GET", **headers: str) -> Request:
    given = {"host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    path, _, query = target.partition("?")
    return Request(method, path, query, given, b"", "192.0.2.1", "req-1", target=target.encode(), raw_headers=raw)


def cookie(token: str = TOKEN, name: str = tokens.COOKIE) -> str:
    return f"{name}={base64.urlsafe_b64encode(token.encode()).decode()}"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request(), Credentials()),
        (request(f"/?arvados_api_token={TOKEN}"), Credentials(TOKEN, in_query=True)),
        (request("/?arvados_api_token=v2%2Fzzzzz%2Fx"), Credentials("v2/zzzzz/x", in_query=True)),
        (request("/?arvados%5Fapi%5Ftoken=x"), Credentials("x", in_query=True)),
        (request(f"/?arvados_api_token={TOKEN}", cookie=cookie("other")), Credentials(TOKEN, in_query=True)),
        (request("/?arvados_api_token="), Credentials()),
        (request(cookie=f"a=b; {cookie()}; c=d"), Credentials(TOKEN)),
        (request(cookie=cookie(name=tokens.STOCK_COOKIE)), Credentials(TOKEN)),
        (request(cookie=cookie().rstrip("=")), Credentials(TOKEN)),
        (request(cookie=f"{tokens.COOKIE}=*"), Credentials()),
        (request(authorization=f"Bearer {TOKEN}"), Credentials(TOKEN, header=True)),
        (request(authorization=f"Bearer {TOKEN}", cookie=cookie("x")), Credentials(TOKEN, header=True)),
        (request(authorization=f"OAuth2 {OLDER}"), Credentials(OLDER, header=True)),
        (request(authorization="Bearer app", cookie=cookie()), Credentials(TOKEN)),
        (request(authorization="token app", cookie=cookie()), Credentials(TOKEN)),
        (request(cookie=cookie(), origin=f"https://{HOST}"), Credentials(TOKEN)),
        (request(cookie=cookie(), origin="https://neighbour.c.example.org"), Credentials()),
        (request(cookie=cookie(), origin="null"), Credentials()),
    ],
)
def test_credentials(asked: Request, expected: Credentials) -> None:
    """The query's token counts, else one that can only be Arvados', else the cookie's of this very host."""
    assert credentials(asked) == expected


def fetched(site: str, mode: str, shown: str, method: str = "GET", **headers: str) -> Request:
    """Return a browser's request, as it describes it (Fetch Metadata), with the user's cookie."""
    metadata = {"sec_fetch_site": site, "sec_fetch_mode": mode, "sec_fetch_dest": shown}
    return request(method=method, **({"cookie": cookie()} | metadata | headers))


@pytest.mark.parametrize(
    ("asked", "counts"),
    [
        (fetched("none", "navigate", "document"), True),
        (fetched("same-origin", "cors", "empty"), True),
        (fetched("same-origin", "navigate", "iframe"), True),
        (fetched("cross-site", "navigate", "document"), True),
        (fetched("same-site", "navigate", "document"), True),
        (fetched("same-site", "navigate", "document", method="POST"), False),
        (fetched("same-site", "navigate", "iframe"), False),
        (fetched("same-site", "no-cors", "script"), False),
        (fetched("same-site", "no-cors", "image"), False),
        (fetched("cross-site", "no-cors", "object"), False),
        (fetched("same-origin", "cors", "empty", origin="https://neighbour.c.example.org"), False),
    ],
)
def test_who_had_the_browser_ask(asked: Request, counts: bool) -> None:
    """A neighbour's page may lead to a page in a window of its own; as script, image or frame it gets nothing."""
    assert credentials(asked).token == (TOKEN if counts else "")


def test_a_neighbours_cookie() -> None:
    """A cookie that a neighbour can set for the whole domain neither is the user's token nor takes its place."""
    for space in "\xa0\x85\x1c":
        forged = f"{space}{cookie('theirs')}".encode("latin-1")
        asked = replace(request(), raw_headers=[(b"cookie", forged + b"; " + cookie().encode())])
        assert credentials(asked).token == TOKEN
        asked = replace(request(), raw_headers=[(b"cookie", forged)])
        assert credentials(asked).token == ""
    stocks = cookie("theirs", name=tokens.STOCK_COOKIE)
    assert credentials(fetched("same-origin", "cors", "empty", cookie=stocks)).token == ""
    assert credentials(fetched("none", "navigate", "document", cookie=f"{stocks}; {cookie()}")).token == TOKEN
    # Else all pages of other containers would redirect to themselves for ever.
    assert not tokens.has_seen_another(request(cookie=f"{tokens.STOCK_SHOWN}={OTHER}"), UUID)


def test_longest_token() -> None:
    """A token of any length would be a cookie of any length."""
    with pytest.raises(BadRequest, match="over 1024 characters"):
        credentials(request(f"/?arvados_api_token={'x' * 1025}"))


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (f"/?arvados_api_token={TOKEN}", "/"),
        (f"/a%20b?x=%2B&arvados_api_token={TOKEN}&y", "/a%20b?x=%2B&y"),
        (f"//evil.example/?arvados_api_token={TOKEN}", "/evil.example/"),
        (f"/\\evil.example?arvados_api_token={TOKEN}", "/evil.example"),
        (f"https://{HOST}/lab?arvados_api_token={TOKEN}", "/lab"),
    ],
)
def test_redirect(target: str, location: str) -> None:
    """The browser asks again under the same address without the token, which is in a cookie of this host alone."""
    answer = redirect(request(target), clear=False)
    headers = dict(answer.headers)
    assert (answer.status, answer.body, headers["Location"]) == (303, b"", location)
    assert headers["Set-Cookie"] == f"{cookie()}; Path=/; Secure; HttpOnly; SameSite=Lax"
    assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")


def test_redirect_clears() -> None:
    """What another container left is removed, and the token stays."""
    asked = request(cookie=f"{cookie()}; app=1; {tokens.SHOWN}={OTHER}")
    assert tokens.has_seen_another(asked, UUID) and not tokens.has_seen_another(asked, OTHER)
    assert not tokens.has_seen_another(asked, UUID, external_port=8000)
    headers = redirect(asked, clear=True).headers
    assert ("Clear-Site-Data", '"cache", "storage"') in headers
    removed = [value.partition("=")[0] for name, value in headers if name == "Set-Cookie"]
    assert removed == ["app", tokens.SHOWN]


def test_for_container() -> None:
    """The container gets its own cookies and credentials, and no token in any place."""
    basic = base64.b64encode(f"none:{TOKEN}".encode()).decode()
    plain = [(b"host", HOST.encode()), (b"cookie", b"a=b; c=d"), (b"authorization", b"token app")]
    cookies = f"a=b; {cookie()}; {cookie(name=tokens.STOCK_COOKIE)}; {tokens.SHOWN}_8000={UUID}; c=d".encode()
    received = [(b"host", HOST.encode()), (b"cookie", cookies), (b"authorization", b"token app")]
    assert for_container(received, Credentials(TOKEN)) == plain
    loose = f"Basic  {basic.rstrip('=')} "
    for secret in (f"Bearer {TOKEN}", f"token {TOKEN}", f"Basic {basic}", loose):
        assert for_container([(b"authorization", secret.encode())], Credentials()) == []
    assert for_container([(b"authorization", f"Bearer {OLDER}".encode())], Credentials(OLDER, header=True)) == []
    assert for_container([(b"cookie", cookie().encode())], Credentials()) == []


def test_for_browser() -> None:
    """The container sets its own cookies, and none of ours; the browser learns whose page it is, once."""
    ours = (b"set-cookie", f"{tokens.SHOWN}={UUID}; Path=/; Secure; HttpOnly; SameSite=Lax".encode())
    received = [
        (b"set-cookie", b"a=b"), (b"set-cookie", cookie().encode()), (b"set-cookie", b"arvados_api_token=x; Path=/"),
        (b"set-cookie", f"{tokens.SHOWN}={OTHER}".encode()), (b"set-cookie", f"{tokens.STOCK_SHOWN}={OTHER}".encode()),
        (b"x-a", b"1"), (b"clear-site-data", b'"cache", "cookies"'), (b"clear-site-data", b'"*"'),
        (b"clear-site-data", b'"storage"'),
    ]  # fmt: skip
    kept = [(b"set-cookie", b"a=b"), (b"x-a", b"1"), (b"clear-site-data", b'"storage"')]
    assert for_browser(received, request(), UUID) == [*kept, ours]
    assert for_browser(received, request(cookie=f"{tokens.SHOWN}={UUID}"), UUID) == kept
