"""The user's API token on the way to a container: where it is found, how a browser keeps it, how it is held back.

Without I/O: owns the cookie, its text, and which headers of a request may go on to the container. A token comes in a
query, in the cookie made of that, or in an Authorization header; the container sees none of them. Does not know who may
do what.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from urllib.parse import quote_plus, unquote_plus

from arv_ssh.errors import BadRequest
from arv_ssh.net.http_messages import Request, Response, origin_form

QUERY = "arvados_api_token"
COOKIE = "__Host-arvados_api_token"
"""Browsers take a cookie of such a name only from this very host, over TLS, for all paths (RFC 6265bis §4.1.3.2), so no
other container, under a neighbouring name, can put its own token in the place of the user's."""
STOCK_COOKIE = "arvados_api_token"
"""The name of stock Arvados' cookie, which programs send; ours never makes one."""
SHOWN = "__Host-arvados_container_uuid"
"""The cookie that says which container a browser last saw under this name, under a name that no neighbour can set.
Browsers give all ports of a host the same cookies, so there the port is a part of the name."""
STOCK_SHOWN = "arvados_container_uuid"
"""Its name in stock Arvados. A neighbour may set that, to any container's, so it means nothing here."""
LONGEST_TOKEN = 1024
_ARVADOS = re.compile(r"v2/[0-9a-z]{5}-gj3su-[0-9a-z]{15}/\S+")
"""A token that can be nothing else; older ones look like anybody's."""
_SITE = "sec-fetch-site"
_SPACE = " \t"
"""What RFC 6265 takes off around a cookie's name. With more than that, such as the "\\xa0" that Python also counts, a
name that a neighbour may set would be read as a ``__Host-`` cookie's."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Credentials:
    """The token of a request, "" without one; ``in_query`` when it must move to a cookie, ``header`` when it is in the
    Authorization header."""

    token: str = field(default="", repr=False)
    in_query: bool = False
    header: bool = False


def credentials(request: Request) -> Credentials:
    """Return the token that counts for ``request``: the query's, else the cookie's, else the Authorization header's.

    A cookie does not count for a request that a page of another host had the browser make, unless it is to show a page
    of its own: neighbouring containers are "same-site" for browsers, and could otherwise act as the user.
    """
    if token := _query_token(request):
        return Credentials(token, in_query=True)
    given = request.token()
    if _ARVADOS.fullmatch(given):
        return Credentials(given, header=True)
    if _is_of_this_host(request) and (token := _cookie_token(request)):
        return Credentials(token)
    return Credentials(given, header=bool(given))


def redirect(request: Request, clear: bool) -> Response:
    """Return the answer that has the browser ask again without a token in the address, now as a cookie.

    With ``clear``, also what another container left in the browser under this name is removed.
    """
    headers = [("Location", _without_token(request)), ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer")]
    if token := _query_token(request):
        text = base64.urlsafe_b64encode(token.encode()).decode()
        headers.append(("Set-Cookie", f"{COOKIE}={text}; Path=/; Secure; HttpOnly; SameSite=Lax"))
    if clear:
        # Not "cookies": that would remove those of every host below the same registered domain.
        headers.append(("Clear-Site-Data", '"cache", "storage"'))
        stale = {name for name, _ in _cookies(request)} - {COOKIE, STOCK_COOKIE}
        removed = sorted(stale, key=_last_ours)
        headers += [("Set-Cookie", f"{name}=; Path=/; Max-Age=0{_secure(name)}") for name in removed]
    return Response(303, b"", content_type="text/plain; charset=utf-8", headers=headers)


def _secure(name: str) -> str:
    """Return the attribute without which browsers take no cookie of some names (RFC 6265bis §4.1.3)."""
    return "; Secure" if name.lower().startswith(("__host-", "__secure-")) else ""


def has_seen_another(request: Request, container_uuid: str, external_port: int = 0) -> bool:
    """Say whether this browser last saw another container under this name, or at this port of the one host."""
    shown = _shown(external_port)
    return any(name == shown and value != container_uuid for name, value in _cookies(request))


def for_container(headers: Headers, used: Credentials) -> Headers:
    """Return the headers of a request that a container may see: those without a token."""
    kept: Headers = []
    for name, value in headers:
        if name == b"authorization" and (used.header or _holds_a_token(value, used.token)):
            continue
        if name == b"cookie":
            value = _without_ours(value)
            if not value:
                continue
        kept.append((name, value))
    return kept


def for_browser(headers: Headers, request: Request, container_uuid: str, external_port: int = 0) -> Headers:
    """Return the headers of a container's answer to ``request`` for the browser.

    It has no cookies of our names, but for the one that says whose page this is, where the browser has not got that.
    Nor may it have the browser forget the cookies of all hosts below its domain.
    """
    kept = [(name, value) for name, value in headers if not _is_beyond(name, value)]
    shown = _shown(external_port)
    if (shown, container_uuid) in _cookies(request):
        return kept
    cookie = f"{shown}={container_uuid}; Path=/; Secure; HttpOnly; SameSite=Lax"
    return [*kept, (b"set-cookie", cookie.encode())]


def _is_beyond(name: bytes, value: bytes) -> bool:
    """Say whether a header of an answer is about more than the container's own page."""
    if name == b"clear-site-data":  # browsers take cookies for the whole site's (Clear Site Data §4.2.2)
        return b"cookies" in value or b"*" in value
    return name == b"set-cookie" and _is_ours(_cookie_name(value))


def _shown(external_port: int) -> str:
    return f"{SHOWN}_{external_port}" if external_port else SHOWN


def _is_ours(name: str) -> bool:
    """Say whether a cookie is one that no container gets or sets."""
    return name in (COOKIE, STOCK_COOKIE) or name.startswith((SHOWN, STOCK_SHOWN))


def _last_ours(name: str) -> tuple[bool, str]:
    """Sort cookies: what says that others must go is to go last."""
    return _is_ours(name), name


def _holds_a_token(authorization: bytes, token: str) -> bool:
    """Say whether an Authorization header, plain or Basic, has ``token`` or another of Arvados in it."""
    text = authorization.decode("latin-1")
    scheme, _, encoded = text.partition(" ")
    if scheme.lower() == "basic":
        try:  # as leniently as the container may read it
            text = base64.b64decode(encoded.strip() + "==").decode("latin-1")
        except ValueError:
            return False
    return bool(token and token in text or _ARVADOS.search(text))


def _query_token(request: Request) -> str:
    tokens = [unquote_plus(value) for name, value in _query(request) if unquote_plus(name) == QUERY]
    token = next(filter(None, tokens), "")
    if len(token) > LONGEST_TOKEN:
        raise BadRequest(f"the {QUERY} in the address is over {LONGEST_TOKEN} characters; copy the token again")
    return token


def _query(request: Request) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (part.partition("=") for part in request.query.split("&") if part)]


def _without_token(request: Request) -> str:
    """Return path and query of a request, byte for byte as they came, but for the token."""
    path, _, query = origin_form(request.target.decode("latin-1")).partition("?")
    kept = [part for part in query.split("&") if unquote_plus(part.partition("=")[0]) != QUERY]
    path = "/" + path.lstrip("/\\")  # two slashes would lead to another host
    safe = "".join(letter if letter.isascii() and letter.isprintable() else quote_plus(letter) for letter in path)
    return f"{safe}?{'&'.join(kept)}" if query and kept else safe


def _is_of_this_host(request: Request) -> bool:
    """Say whether no page of another host is behind a request, by what only browsers set (Origin, Fetch Metadata).

    A link elsewhere may lead here, in a window of its own: that has no Origin, and its page cannot be read there. In a
    frame there, its user could be made to click in it.
    """
    headers = request.headers
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        return False
    if headers.get(_SITE, "none") in ("none", "same-origin"):
        return True
    shown = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return shown and request.method in ("GET", "HEAD")


def _cookie_token(request: Request) -> str:
    found = dict(reversed(_cookies(request)))  # the first of a name counts, as the more specific one
    # Stock's name is for programs: in a browser, a neighbour could have set the cookie, with its own token.
    text = found.get(COOKIE) or (found.get(STOCK_COOKIE) if _SITE not in request.headers else "") or ""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        return ""


def _cookies(request: Request) -> list[tuple[str, str]]:
    values = [value.decode("latin-1") for name, value in request.raw_headers if name == b"cookie"]
    pairs = (part.partition("=") for value in values for part in value.split(";"))
    return [(name.strip(_SPACE), value.strip(_SPACE).strip('"')) for name, equals, value in pairs if equals]


def _without_ours(value: bytes) -> bytes:
    parts = (raw.strip(_SPACE.encode()) for raw in value.split(b";"))
    return b"; ".join(part for part in parts if part and not _is_ours(_cookie_name(part)))


def _cookie_name(value: bytes) -> str:
    return value.partition(b"=")[0].decode("latin-1").strip(_SPACE)
