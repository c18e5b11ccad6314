"""PROPFIND's XML: what a body asks for, and what is said of a file."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from arv_ssh.errors import BadRequest
from arv_ssh.webdav import multistatus
from arv_ssh.webdav.multistatus import MAX_NAMES, Asked, read, response, text

D = 'xmlns="DAV:"'


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ("", Asked()),
        (" \n", Asked()),
        (f"<propfind {D}><allprop/></propfind>", Asked()),
        (f"<propfind {D}><allprop/><include><x/></include></propfind>", Asked()),
        (f"<propfind {D}><propname/></propfind>", Asked(only_names=True)),
        (f"<propfind {D}><prop><getetag/><a xmlns='u:'/><getetag/></prop></propfind>",
         Asked((("DAV:", "getetag"), ("u:", "a")))),
        (f"<propfind {D}><prop><a><getetag/></a></prop></propfind>", Asked((("DAV:", "a"),))),
        ('<D:propfind xmlns:D="DAV:"><D:prop><b xmlns=""/></D:prop></D:propfind>', Asked((("", "b"),))),
        (f"<propfind {D}><prop/></propfind>", Asked(())),
    ],
)  # fmt: skip
def test_read(body: str, asked: Asked) -> None:
    """A body asks for all, for names alone, or for some properties, each once."""
    assert read(body.encode()) == asked
    assert not body.strip() or read(body.encode("utf-16")) == asked


@pytest.mark.parametrize(
    "body",
    [
        "nonsense", "<propfind/>", f"<propfind {D}/>", f"<propfind {D}><other/></propfind>", f"<prop {D}/>",
        f"<propfind {D}><allprop/>", "<a:b/>", '<?xml version="1.0" encoding="none-such"?><propfind xmlns="DAV:"/>',
        f'<!DOCTYPE propfind [<!ENTITY a "b">]><propfind {D}><prop>&a;</prop></propfind>',
        f'<!DOCTYPE propfind SYSTEM "file:///etc/passwd"><propfind {D}><allprop/></propfind>',
        f"<propfind {D}><prop>{'<a/>' * 3}{''.join(f'<a{n}/>' for n in range(MAX_NAMES))}</prop></propfind>",
        f"<D:propfind xmlns:D='DAV:' xmlns:x='{'u' * 1000}'><D:prop><x:a/><x:b/></D:prop></D:propfind>",
    ],
)  # fmt: skip
def test_not_a_propfind(body: str) -> None:
    """Anything else is refused, and so is a document type, whose entities could grow without bound."""
    with pytest.raises(BadRequest):
        read(body.encode())


Stats = list[tuple[str, list[str]]]


def said(asked: Asked, properties: dict[str, str], path: bytes = b"/a b/\xff<") -> tuple[str, Stats]:
    """Return the href, and for each status the properties' names with their texts."""
    document = multistatus.HEAD + response(asked, path, properties) + multistatus.TAIL
    one = ElementTree.fromstring(document)[0]
    stats = []
    for propstat in one.findall("{DAV:}propstat"):
        prop = propstat.find("{DAV:}prop")
        assert prop is not None
        stats.append((propstat.findtext("{DAV:}status") or "", [f"{item.tag}={item.text}" for item in prop]))
    return one.findtext("{DAV:}href") or "", stats


def test_response() -> None:
    """All properties, names alone, or those asked for with those that are unknown apart; paths are encoded."""
    properties = {"displayname": text(b"a<&\x01\xff"), "getetag": '"1"'}
    found = ("HTTP/1.1 200 OK", ["{DAV:}displayname=a<&?\ufffd", '{DAV:}getetag="1"'])
    assert said(Asked(), properties) == ("/a%20b/%FF%3C", [found])
    assert said(Asked(only_names=True), properties)[1] == [
        ("HTTP/1.1 200 OK", ["{DAV:}displayname=None", "{DAV:}getetag=None"])
    ]
    asked = Asked((("DAV:", "getetag"), ("DAV:", "quota"), ("u:\"<'", "getetag"), ("", "x")))
    assert said(asked, properties)[1] == [
        ("HTTP/1.1 200 OK", ['{DAV:}getetag="1"']),
        ("HTTP/1.1 404 Not Found", ["{DAV:}quota=None", "{u:\"<'}getetag=None", "x=None"]),
    ]
    assert said(Asked(()), properties)[1] == [("HTTP/1.1 200 OK", [])]
