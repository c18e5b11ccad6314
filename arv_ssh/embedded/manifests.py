r"""Manifests of collections: which files lie in which blocks of Keep. Pure.

Owns the format (Arvados' "Manifest format"): a line is a stream, ``./DIRECTORY LOCATOR… POSITION:SIZE:FILE…``, where
positions count through the stream's blocks, and names have backslash, octal escapes for what would end a word. Knows no
block's content.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from arv_ssh.errors import Unprocessable

LONGEST = 4 * 1024 * 1024
"""Characters of a manifest: some 50,000 blocks, 3 TB. A request has 8 MB at most, and a form triples some of them."""

_HASH = re.compile(r"[0-9a-f]{32}\+[0-9]+", re.ASCII)
_LOCATOR = re.compile(r"([0-9a-f]{32}\+[0-9]{1,9})(?:\+[A-Z][-A-Za-z0-9@_:.]*)*", re.ASCII)
_FILE = re.compile(r"([0-9]{1,18}):([0-9]{1,18}):(\S+)", re.ASCII)
_SIGNATURE = re.compile(r"\+A[^+\s]*", re.ASCII)
_ESCAPE = re.compile(r"\\([0-7]{3})")
_EMPTY_BLOCK = "d41d8cd98f00b204e9800998ecf8427e+0"
_EMPTY_DIRECTORY = r"\056"
"""The name that stands for "." in a stream without files."""

LARGEST_BLOCK = 64 * 1024 * 1024
"""Bytes in a block of Keep."""
MOST_SEGMENTS = 200_000
"""Parts of blocks in a manifest that is rewritten: a line of 2 MB can name each of its blocks in each of its files."""

Segment = tuple[str, int, int]
"""A part of a block: its locator, and offset and size in bytes."""
Files = dict[str, list[Segment]]
"""A collection's files by their escaped paths, without "./"."""


@dataclass(frozen=True)
class Manifest:
    """``text`` is without signatures; ``portable_data_hash`` is the same for the same content, whoever may read it."""

    text: str
    portable_data_hash: str
    file_count: int
    file_size_total: int


@dataclass(frozen=True)
class _Stream:
    """One line: files as (position, size, path), in ``blocks``."""

    blocks: list[str]
    files: list[tuple[int, int, str]]


def read(text: str) -> Manifest:
    """Return the manifest in ``text``; raise :class:`Unprocessable` saying what is wrong with it."""
    if len(text) > LONGEST:
        raise Unprocessable(f"manifest_text has {len(text)} characters; this cluster takes up to {LONGEST}")
    found = [file for stream in _streams(text) for file in stream.files]
    names = {path for _, _, path in found if path.rpartition("/")[2] != _EMPTY_DIRECTORY}
    bare = _with_locators(text, lambda found: found[1]).encode()
    digest = hashlib.md5(bare, usedforsecurity=False).hexdigest()
    unsigned = _with_locators(text, lambda found: _SIGNATURE.sub("", found[0]))
    return Manifest(unsigned, f"{digest}+{len(bare)}", len(names), sum(size for _, size, _ in found))


def is_hash(text: str) -> bool:
    """Say whether ``text`` is a portable data hash."""
    return _HASH.fullmatch(text) is not None


def without_hints(text: str) -> str:
    """Return the portable data hash at the beginning of ``text``, "" when there is none."""
    found = _LOCATOR.fullmatch(text)
    return found[1] if found else ""


def _with_locators(text: str, shown: Callable[[re.Match[str]], str]) -> str:
    """Return ``text`` with each locator as ``shown`` gives it; a file's name may look like one, with a colon before."""
    return re.sub(rf"(?<= ){_LOCATOR.pattern}(?= )", shown, text, flags=re.ASCII)


def _streams(text: str) -> list[_Stream]:
    if text and not text.endswith("\n"):
        raise Unprocessable("manifest_text does not end with a line break: it may be cut")
    found = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            found.append(_stream(line))
        except ValueError as error:
            raise Unprocessable(f"line {number} of manifest_text {error}") from None
    return found


def _stream(line: str) -> _Stream:
    """Read one line; raise ValueError saying what is wrong with it."""
    name, *words = line.split(" ")
    if name != "." and not (name.startswith("./") and _is_path(name[2:])):
        raise ValueError(f"begins with {name[:60]!r}, which is not the name of a stream")
    count = next((index for index, word in enumerate(words) if not _LOCATOR.fullmatch(word)), len(words))
    blocks, files = words[:count], [_file(word) for word in words[count:]]
    if not blocks or not files:
        raise ValueError("needs the locators of blocks, then files")
    if any(_size(block) > LARGEST_BLOCK for block in blocks):
        raise ValueError(f"has a block of over {LARGEST_BLOCK} bytes")
    end = sum(map(_size, blocks))
    for position, size, file in files:
        if position + size > end:
            raise ValueError(f"has the file {file[:60]!r} beyond the end of its blocks")
    return _Stream(blocks, [(position, size, f"{name}/{file}"[2:]) for position, size, file in files])


def _size(locator: str) -> int:
    return int(locator.split("+", 2)[1])


def _files(text: str) -> Files:
    """Return where each file's content is; raise :class:`Unprocessable` for more than :data:`MOST_SEGMENTS`."""
    found: Files = {}
    count = 0
    for stream in _streams(text):
        starts = [0, *accumulate(map(_size, stream.blocks))]
        for position, size, path in stream.files:
            segments = found.setdefault(path, [])
            for segment in _segments(stream.blocks, starts, position, size):
                segments.append(segment)
                count += 1
                if count > MOST_SEGMENTS:
                    raise Unprocessable(f"manifest_text has files in more than {MOST_SEGMENTS} parts of blocks")
    return found


def _file(token: str) -> tuple[int, int, str]:
    found = _FILE.fullmatch(token)
    if found is None or not (found[3] == _EMPTY_DIRECTORY or _is_path(found[3])):
        raise ValueError(f"has {token[:60]!r}, which is not POSITION:SIZE:FILE")
    return int(found[1]), int(found[2]), found[3]


def _is_path(escaped: str) -> bool:
    return all(_unescaped(part) not in ("", ".", "..") and "\0" not in _unescaped(part) for part in escaped.split("/"))


def _unescaped(part: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), part)


def _segments(blocks: list[str], starts: list[int], position: int, size: int) -> Iterator[Segment]:
    """Yield the parts of ``blocks``, which begin at ``starts``, that ``size`` bytes from ``position`` are in."""
    index = bisect_right(starts, position) - 1
    while size:
        offset = position - starts[index]
        taken = min(size, starts[index + 1] - position)
        if taken:
            yield blocks[index], offset, taken
        position, size, index = position + taken, size - taken, index + 1


def _write(found: Files) -> str:
    """Return the manifest of ``found``, one line a directory."""
    directories: dict[str, Files] = {}
    for path in sorted(found):
        directory, _, name = f"./{path}".rpartition("/")
        directories.setdefault(directory, {})[name] = found[path]
    return "".join(_line(directory, directories[directory]) for directory in sorted(directories))


def _line(directory: str, found: Files) -> str:
    blocks = list(dict.fromkeys(block for segments in found.values() for block, _, _ in segments)) or [_EMPTY_BLOCK]
    starts = dict(zip(blocks, accumulate(map(_size, blocks), initial=0), strict=False))
    tokens = [
        f"{starts[block] + offset}:{size}:{name}"
        for name, segments in found.items()
        for block, offset, size in segments or [(blocks[0], 0, 0)]
    ]
    return f"{' '.join([directory, *blocks, *tokens])}\n"


def with_copy(text: str, copied: str, directory: str) -> str:
    """Return the manifest ``text`` with the files of ``copied`` at its root and once more in ``directory``.

    What has the same name is replaced. ``directory`` is one name, not escaped. Raises :class:`Unprocessable` when the
    result would be too long.
    """
    under = _escaped(directory)
    kept = {path: segments for path, segments in _files(text).items() if not path.startswith(f"{under}/")}
    new = _files(copied)
    result = _write(kept | new | {f"{under}/{path}": segments for path, segments in new.items()})
    return read(result).text


def _escaped(name: str) -> str:
    return "".join(
        character if character > " " and character != "\\" else f"\\{ord(character):03o}" for character in name
    )
