"""The XML of PROPFIND (RFC 4918 §9.1): which properties are asked for, and those of each file.

Pure. Owns the names of the properties and the bounds on what is read. Knows no files and no connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote
from xml.parsers import expat  # noqa: S407 - no document type is accepted, so no entity is expanded
from xml.sax.saxutils import escape, quoteattr  # noqa: S406 - these write, they parse nothing

from arv_ssh.errors import BadRequest

MAX_BODY = 16 * 1024
"""Bytes of a PROPFIND's body: the longest that clients are known to send has some 1,000."""
MAX_NAMES = 100
"""Properties asked for by name; each is repeated for every file."""
LONGEST_NAME = 256
"""Characters of a property's name with its namespace, which a body may write once for all names, and answers repeat."""
DAV = "DAV:"
HEAD = b'<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">\n'
TAIL = b"</D:multistatus>\n"

Name = tuple[str, str]
"""A property's namespace and its name in that."""


@dataclass(frozen=True)
class Asked:
    """What a PROPFIND asks for: the properties ``names``, or else all; with ``only_names`` without their values."""

    names: tuple[Name, ...] | None = None
    only_names: bool = False


@dataclass
class _Reader:
    """What the parser has met so far."""

    path: list[Name] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    names: list[Name] = field(default_factory=list)

    def start(self, tag: str, _attributes: object) -> None:
        namespace, _, local = tag.rpartition(" ")
        name = namespace, local
        if not self.path and name != (DAV, "propfind"):
            raise BadRequest("the body of a PROPFIND is a propfind element of DAV:")
        if len(self.path) == 1 and namespace == DAV:
            self.kinds.append(local)
        elif len(self.path) == 2 and self.path[1] == (DAV, "prop"):
            self.names.append(name)
        if len(tag) > LONGEST_NAME:
            raise BadRequest(f"the PROPFIND has a name of more than {LONGEST_NAME} characters")
        if len(self.names) > MAX_NAMES:
            raise BadRequest(f"the PROPFIND asks for more than {MAX_NAMES} properties; ask for all of them")
        self.path.append(name)

    def end(self, _tag: str) -> None:
        self.path.pop()

    def refuse(self, *_: object) -> None:
        raise BadRequest("the body of a PROPFIND has no document type")


def read(body: bytes) -> Asked:
    """Read the body of a PROPFIND; raise :class:`BadRequest` when it is none. An empty one asks for all."""
    if not body.strip():
        return Asked()
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.StartDoctypeDeclHandler = reader.refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError: of an encoding that nobody knows
        raise BadRequest("the body of the PROPFIND is not well-formed XML") from error
    if "prop" in reader.kinds:
        return Asked(tuple(dict.fromkeys(reader.names)))
    if "propname" in reader.kinds:
        return Asked(only_names=True)
    if "allprop" in reader.kinds:
        return Asked()
    raise BadRequest("a propfind has one of prop, propname and allprop")


def response(asked: Asked, path: bytes, properties: Mapping[str, str]) -> bytes:
    """Return the element for one file; ``path`` is its own, not encoded, ``properties`` those of DAV: as XML."""
    found: list[str] = []
    missing: list[str] = []
    for namespace, local in asked.names if asked.names is not None else [(DAV, name) for name in properties]:
        if namespace == DAV and local in properties:
            value = "" if asked.only_names else properties[local]
            found.append(f"<D:{local}>{value}</D:{local}>")
        else:
            missing.append(_unknown(namespace, local))
    parts = _propstat(found, "200 OK") if found or not missing else ""
    parts += _propstat(missing, "404 Not Found") if missing else ""
    return f"<D:response><D:href>{quote(path)}</D:href>{parts}</D:response>\n".encode()


def _propstat(properties: Iterable[str], status: str) -> str:
    return (
        f"<D:propstat><D:prop>{''.join(properties)}</D:prop><D:status>HTTP/1.1 {status}</D:status></D:propstat>"
    )


def _unknown(namespace: str, local: str) -> str:
    if not namespace:
        return f'<{local} xmlns=""/>'
    return f"<D:{local}/>" if namespace == DAV else f"<x:{local} xmlns:x={quoteattr(namespace)}/>"


def text(value: bytes) -> str:
    """Return a file's name as the text of an element."""
    shown = value.decode("utf-8", "replace")
    return escape("".join(char if char >= " " and char not in "\x7f\ufffe\uffff" else "?" for char in shown))
