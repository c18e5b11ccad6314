"""Which part of a file a GET gets, and when none: RFC 9110 §13 and §14."""

from __future__ import annotations

import pytest

from arv_ssh.webdav.conditions import Facts, Part, part

FACTS = Facts(size=10, modified=1_700_000_000_500_000_000)
BEFORE, THEN, AFTER = (f"Tue, 14 Nov 2023 22:13:{second} GMT" for second in (19, 20, 21))


def test_facts() -> None:
    """A file that grows, or changes within a second, has another ETag."""
    assert FACTS.last_modified == THEN
    assert len({FACTS.etag, Facts(11, FACTS.modified).etag, Facts(10, FACTS.modified + 1).etag}) == 3


@pytest.mark.parametrize("year", [-1199, 33658])
def test_a_time_that_http_cannot_write(year: int) -> None:
    """One file with a nonsensical time does not make its directory unreadable."""
    date = Facts(0, (year - 1970) * 31556952 * 10**9).last_modified
    assert date.endswith(" 00:00:00 GMT") and date.split()[3] in ("0001", "9999")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("", Part(200, 0, 10)),
        ("bytes=0-", Part(206, 0, 10)),
        ("bytes=4-", Part(206, 4, 6)),
        ("bytes=4-5", Part(206, 4, 2)),
        ("Bytes= 4 - 99 ", Part(206, 4, 6)),
        ("bytes=9-9", Part(206, 9, 1)),
        ("bytes=-3", Part(206, 7, 3)),
        ("bytes=-99", Part(206, 0, 10)),
        ("bytes=10-", Part(416)),
        ("bytes=10-20", Part(416)),
        ("bytes=-0", Part(206, 10, 0)),
        ("bytes=5-4", Part(200, 0, 10)),
        ("bytes=-", Part(200, 0, 10)),
        ("bytes=0-1,4-5", Part(200, 0, 10)),
        ("lines=0-1", Part(200, 0, 10)),
        ("bytes=\u0664-", Part(200, 0, 10)),
        ("bytes=" + "9" * 1000 + "-", Part(200, 0, 10)),
    ],
)
def test_range(asked: str, expected: Part) -> None:
    """One range is a part; none, several, or what is none is the whole; beyond the end there is nothing."""
    assert part({"range": asked} if asked else {}, FACTS) == expected


def test_range_of_nothing() -> None:
    """An empty file is sent whole: who follows it asks again later."""
    assert part({"range": "bytes=0-"}, Facts(0, 0)) == Part(200, 0, 0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-none-match": FACTS.etag}, 304),
        ({"if-none-match": "W/" + FACTS.etag}, 304),
        ({"if-none-match": f'"a", {FACTS.etag}'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"a"'}, 200),
        ({"if-none-match": '"a"', "if-modified-since": AFTER}, 200),
        ({"if-modified-since": BEFORE}, 200),
        ({"if-modified-since": THEN}, 304),
        ({"if-modified-since": "yesterday"}, 200),
        ({"if-match": FACTS.etag}, 200),
        ({"if-match": '"a"'}, 412),
        ({"if-match": FACTS.etag, "if-unmodified-since": BEFORE}, 200),
        ({"if-unmodified-since": BEFORE}, 412),
        ({"if-unmodified-since": THEN}, 200),
        ({"range": "bytes=1-", "if-range": FACTS.etag}, 206),
        ({"range": "bytes=1-", "if-range": '"a"'}, 200),
        ({"range": "bytes=1-", "if-range": THEN}, 206),
        ({"range": "bytes=1-", "if-range": AFTER}, 200),
        ({"range": "bytes=1-", "if-none-match": FACTS.etag}, 304),
    ],
)
def test_conditions(headers: dict[str, str], status: int) -> None:
    """Conditions come before ranges, ETags before dates."""
    assert part(headers, FACTS).status == status
