import json

import pytest

from arv_ssh.audit.chain import END, Head, Report, check, seal


def chain(count: int, last: str = "x") -> tuple[list[bytes], Head]:
    """Return the lines of a chain and its head; the last record's event is ``last``."""
    lines, head = [], Head()
    for number in range(count):
        line, head = seal(head, {"event": last if number == count - 1 else "x", "text": f"record {number}"})
        lines.append(line)
    return lines, head


def problems(lines: list[bytes], head: Head | None) -> list[str]:
    return check(lines, head).problems


def test_whole_chain() -> None:
    """A chain as it was written has no problem, and its report tells its ends."""
    lines, head = chain(5)
    report = check(lines, head)
    assert report == Report(5, [], json.loads(lines[0]), json.loads(lines[-1]), head, 0)
    assert not report.closed


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (1, "line 1 was changed: record 0 has another checksum in the record after it"),
        (3, "line 3 was changed: record 2 has another checksum in the record after it"),
        (5, "line 5 was changed: record 4 has another checksum in the head file"),
    ],
)
def test_changed_record(place: int, text: str) -> None:
    """A record of which one byte was changed is named, the first and the last one too."""
    lines, head = chain(5)
    lines[place - 1] = lines[place - 1].replace(b"record", b"Record")
    assert problems(lines, head) == [text]


def test_changed_link() -> None:
    """A record whose own checksum of the one before it was changed is blamed, and not the one before it."""
    lines, head = chain(5)
    record = json.loads(lines[2])
    lines[2] = json.dumps(record | {"previous": "0" * 64}).encode() + b"\n"
    assert problems(lines, head) == ["line 3 was changed: record 2 has another checksum in the record after it"]


def test_removed_records() -> None:
    """Records missing in the middle are counted, and their place is named."""
    lines, head = chain(6)
    assert problems(lines[:2] + lines[3:], head) == ["record 2 is missing before line 3"]
    assert problems(lines[:1] + lines[4:], head) == ["records 1 to 3 are missing before line 2"]


def test_removed_and_numbered_anew() -> None:
    """Who removes a record and closes the gap in the numbers leaves a checksum that does not fit."""
    lines, head = chain(6)
    rest = enumerate(json.loads(line) for line in lines[:2] + lines[3:])
    forged = [json.dumps(one | {"number": number}, separators=(",", ":")).encode() + b"\n" for number, one in rest]
    assert "line 3 was changed: record 2 has another checksum in the record after it" in problems(forged, head)


def test_removed_end() -> None:
    """Records removed from the end are missed by the head file; without one a file must end with its last record."""
    lines, head = chain(5, END)
    assert problems(lines[:3], head) == ["records 3 to 4 are missing at its end"]
    assert problems(lines[:3], None) == ["its head file is missing, so records removed from its end cannot be detected"]
    assert problems(lines, None) == []
    assert problems([], head) == ["there is no record in it", "records 0 to 4 are missing at its end"]


def test_reordered_records() -> None:
    """Two records that changed places are out of order, and nothing else is said of them."""
    lines, head = chain(6)
    lines[2], lines[3] = lines[3], lines[2]
    assert problems(lines, head) == [
        "line 3 is out of order: record 3 stands where 2 belongs",
        "line 4 is out of order: record 2 comes after record 3",
    ]


def test_inserted_record() -> None:
    """A record put in is found: a copy, a forged one with a number of its own, and a line that is no record."""
    lines, head = chain(5)
    assert problems(lines[:3] + lines[2:], head) == ["lines 3 and 4 are both record 2: one of them was inserted"]
    forged, _ = seal(Head(1, json.loads(lines[2])["previous"]), {"event": "forged"})
    assert problems([*lines[:2], forged, *lines[2:]], head)[0].startswith("lines 3 and 4 are both record 2")
    stray = [*lines[:2], b"{}\n", *lines[2:]]
    assert problems(stray, head) == ["line 3 is not an audit record: it was changed or inserted"]


def test_torn_last_line() -> None:
    """What a killed writer left of its last record is no problem, unless the head file knows that record."""
    lines, head = chain(5)
    _, before = chain(4)
    torn = [*lines[:4], lines[4][:20]]
    assert (check(torn, before).problems, check(torn, before).torn) == ([], 20)
    assert problems(torn, head) == ["record 4 is missing at its end"]


def test_head_file_behind() -> None:
    """A writer killed between the record and the head file leaves a head that is behind, which is no problem."""
    lines, _ = chain(5)
    _, before = chain(4)
    assert problems(lines, before) == []


def test_head_content() -> None:
    """A head file's content has one length and reads back."""
    _, head = chain(3)
    assert Head.decode(head.encode()) == head
    assert len(head.encode()) == len(chain(2)[1].encode())
    with pytest.raises(ValueError):
        Head.decode(b"rubbish")
