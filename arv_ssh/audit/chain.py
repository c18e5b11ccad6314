"""The form of an audit file: one JSON record a line, numbered, each with the SHA-256 of the line before it. Pure.

Owns how a record is sealed into its line and how a file is checked. The chain reveals any change to a file unless the
whole file was written anew: that can produce a valid chain, so copies of the heads belong on another host.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

START = "audit.begin"
"""The event of a file's first record: which process writes it, and which file it continues, if any."""
END = "audit.end"
"""The event of a file's last record: its process stopped in good order, or went on in the file that ``next`` names."""


@dataclass(frozen=True)
class Head:
    """A place in a chain: the number of a record and the digest of its line; before the first one, -1 and ""."""

    number: int = -1
    digest: str = ""

    def encode(self) -> bytes:
        """Return the content of a head file: of one length, so that it is overwritten in one piece."""
        return f"{self.number:020d} {self.digest:>64}\n".encode()

    @classmethod
    def decode(cls, content: bytes) -> Head:
        """Read a head file; raise ValueError when its text is not that of one."""
        number, digest = content.decode("ascii").split()
        return cls(int(number), digest)


def seal(head: Head, record: Mapping[str, Any]) -> tuple[bytes, Head]:
    """Return the line that comes after ``head``, with its newline, and the chain's head from then on."""
    numbered = {"number": head.number + 1, "previous": head.digest, **record}
    line = json.dumps(numbered, separators=(",", ":"), default=str).encode()
    return line + b"\n", Head(head.number + 1, _digest(line))


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


@dataclass
class Report:
    """What a check found. ``first`` and ``last`` are the file's outermost whole records; ``torn``: bytes after them."""

    records: int = 0
    problems: list[str] = field(default_factory=list)
    first: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    head: Head = Head()
    torn: int = 0

    @property
    def closed(self) -> bool:
        """Say whether the file ends with the record that ends files."""
        return self.last.get("event") == END


@dataclass(frozen=True)
class _Line:
    place: int
    number: int
    previous: str
    digest: str


def check(content: Iterable[bytes], head: Head | None) -> Report:
    """Check a file's lines, each with its newline but for a torn last one; ``head`` is what the head file says."""
    report = Report()
    lines = list(_read(content, report))
    known = {line.number: line for line in reversed(lines)}  # of two with one number, the first
    report.problems += [*_misplaced(lines, known), *_changed(lines, known)]
    if lines:
        report.head = Head(lines[-1].number, lines[-1].digest)
    elif not report.problems:
        report.problems.append("there is no record in it")
    report.problems += _end(report, known, head)
    return report


def _read(content: Iterable[bytes], report: Report) -> Iterator[_Line]:
    for place, text in enumerate(content, 1):
        if not text.endswith(b"\n"):
            report.torn = len(text)
            return
        record = _record(text)
        if record is None:
            report.problems.append(f"line {place} is not an audit record: it was changed or inserted")
            continue
        report.records += 1
        report.first = report.first or record
        report.last = record
        yield _Line(place, record["number"], record["previous"], _digest(text[:-1]))


def _record(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    known = isinstance(found, dict) and type(found.get("number")) is int and isinstance(found.get("previous"), str)
    return found if known else None


def _misplaced(lines: list[_Line], known: dict[int, _Line]) -> Iterator[str]:
    """Yield what the numbers reveal: records missing, duplicated, or out of order."""
    expected = lines[0].number if lines else 0
    for line in lines:
        first = known[line.number]
        if first is not line:
            yield f"lines {first.place} and {line.place} are both record {line.number}: one of them was inserted"
            continue
        if line.number < expected:
            yield f"line {line.place} is out of order: record {line.number} comes after record {expected - 1}"
        elif line.number > expected:
            if any(expected <= number < line.number for number in known):
                yield f"line {line.place} is out of order: record {line.number} stands where {expected} belongs"
            else:
                yield f"{_records(expected, line.number - 1)} missing before line {line.place}"
        expected = max(expected, line.number + 1)


def _changed(lines: list[_Line], known: dict[int, _Line]) -> Iterator[str]:
    """Yield what the digests reveal. A record that fits neither side was changed itself, else the one before it was."""
    blamed = set()
    for line in lines:
        before, after = known.get(line.number - 1), known.get(line.number + 1)
        if before is None or before.digest == line.previous or before.place in blamed:
            continue
        wrong = line if after is not None and after.previous != line.digest else before
        blamed.add(wrong.place)
        yield f"line {wrong.place} was changed: record {wrong.number} has another checksum in the record after it"


def _end(report: Report, known: dict[int, _Line], head: Head | None) -> Iterator[str]:
    """Yield what is wrong with the end of the file, which has no next record to vouch for it."""
    if head is None:
        if not report.closed:
            yield "its head file is missing, so records removed from its end cannot be detected"
    elif report.head.number < head.number:
        yield f"{_records(report.head.number + 1, head.number)} missing at its end"
    elif head.number in known and known[head.number].digest != head.digest:
        yield f"line {known[head.number].place} was changed: record {head.number} has another checksum in the head file"


def _records(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
